//! Which rules of a list may match a request, found without trying each of them.
//!
//! # How
//! An automaton reads the path of a request, then its host, then its method. Its state is the set
//! of rules that may still match, each with the state of its own DFA in the field that is read. The
//! automaton is built from these DFAs, so it knows nothing of patterns. Where only a [`FEW`] rules
//! are left it stops, and these are tried one by one.
//!
//! It narrows down which rules are tried, and allows nothing by itself.
//!
//! # Bounds
//! Time and memory of building it are proportional to the number of rules ([`Budget`]). When the
//! budget is spent, a set of rules isn't divided further, and all rules of the set are tried. That
//! happens if hundreds of patterns begin with `.*`, so that none of them is ruled out before the
//! value ends.

use std::collections::HashMap;

use regex_automata::util::primitives::StateID;

use super::super::http1::HttpRequest;
use super::http::HttpRule;
use super::pattern::Pattern;

/// Rules that are tried one by one rather than divided.
const FEW: usize = 2;

/// The fields of a request, in the order in which they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Path,
    Host,
    Method,
}

impl Part {
    const ALL: [Self; 3] = [Self::Path, Self::Host, Self::Method];

    const fn of<'a>(self, request: &HttpRequest<'a>) -> &'a [u8] {
        match self {
            Self::Path => request.path,
            Self::Host => request.host,
            Self::Method => request.method,
        }
    }

    const fn pattern(self, rule: &HttpRule) -> Option<&Pattern> {
        match self {
            Self::Path => rule.path.as_ref(),
            Self::Host => rule.host.as_ref(),
            Self::Method => rule.method.as_ref(),
        }
    }
}

/// The transition from a state on a symbol: to another state, or to a list of rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Next(u32);

/// Set in [`Next`] if the rest is a position in [`Index::lists`], and not the first of a state's
/// entries in [`Index::states`].
const IS_LIST: u32 = 1 << 31;

/// The list of all rules.
const ALL_RULES: Next = Next(IS_LIST);

/// The automaton.
#[derive(Clone)]
pub(super) struct Index {
    /// Fields that some rule has a pattern for.
    parts: Vec<Part>,
    /// The symbol of each byte. Bytes that no pattern distinguishes have the same.
    symbols: [u8; 256],
    /// The symbol after a field: one more than the greatest of a byte.
    end: usize,
    start: Next,
    /// For each state, what follows on each symbol.
    states: Vec<Next>,
    /// Positions of rules, ascending.
    lists: Vec<Box<[u32]>>,
}

/// Work and memory that are left for building an automaton.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Steps of a pattern's DFA by one symbol: per rule, fewer than it took to build the rule's
    /// DFA.
    steps: usize,
    /// Entries of [`Index::states`], of four bytes.
    entries: usize,
    /// Entries of [`Index::lists`], of four bytes, and [`LIST_HEAD`] for each list.
    listed: usize,
}

/// What a list costs in addition to its entries.
const LIST_HEAD: usize = 8;

impl Budget {
    /// The memory of the automaton is at most 16 KiB and 1.25 KiB for each rule; while it is built,
    /// about twice as much.
    const fn of(rules: usize) -> Self {
        Self {
            steps: 64 * 1024 + 8 * 1024 * rules,
            entries: 4096 + 256 * rules,
            listed: 64 * rules,
        }
    }
}

impl Index {
    pub(super) fn new(rules: &[HttpRule]) -> Self {
        Self::with_budget(rules, Budget::of(rules.len()))
    }

    fn with_budget(rules: &[HttpRule], budget: Budget) -> Self {
        let has_pattern = |part: &Part| rules.iter().any(|rule| part.pattern(rule).is_some());
        let parts: Vec<Part> = Part::ALL.into_iter().filter(has_pattern).collect();
        let (symbols, bytes) = divide(rules, &parts);
        let index = Self {
            end: bytes.len(),
            parts,
            symbols,
            start: ALL_RULES,
            states: Vec::new(),
            lists: vec![(0..rules.len() as u32).collect()],
        };
        let builder = Builder {
            rules,
            bytes,
            budget,
            index,
            known_states: HashMap::new(),
            known_lists: HashMap::new(),
            queue: Vec::new(),
        };
        builder.build()
    }

    /// Positions of the rules that may match a request, ascending. No other rule matches it.
    pub(super) fn candidates(&self, request: &HttpRequest<'_>) -> &[u32] {
        let mut at = self.start;
        for part in &self.parts {
            for byte in part.of(request) {
                if at.0 & IS_LIST != 0 {
                    return self.list(at);
                }
                at = self.states[at.0 as usize + usize::from(self.symbols[usize::from(*byte)])];
            }
            if at.0 & IS_LIST != 0 {
                return self.list(at);
            }
            at = self.states[at.0 as usize + self.end];
        }
        self.list(at)
    }

    fn list(&self, at: Next) -> &[u32] {
        &self.lists[(at.0 & !IS_LIST) as usize]
    }
}

/// The symbol of each byte, and one byte for each symbol.
fn divide(rules: &[HttpRule], parts: &[Part]) -> ([u8; 256], Vec<u8>) {
    // Classes of a pattern are ranges of bytes.
    let mut is_first = [false; 256];
    for pattern in rules.iter().flat_map(|rule| parts.iter().filter_map(|part| part.pattern(rule)))
    {
        for byte in 1..=u8::MAX {
            is_first[usize::from(byte)] |= pattern.is_class_start(byte);
        }
    }
    let (mut symbols, mut bytes) = ([0; 256], vec![0]);
    for byte in 1..=u8::MAX {
        if is_first[usize::from(byte)] {
            bytes.push(byte);
        }
        symbols[usize::from(byte)] = (bytes.len() - 1) as u8;
    }
    (symbols, bytes)
}

/// A rule that may still match, and the state of its pattern for the field that is read, if it has
/// one.
type Open = (u32, Option<StateID>);

/// A position in [`Index::parts`], and the rules that may still match there.
type Set = (usize, Box<[Open]>);

/// What is needed to build an [`Index`], and no longer.
struct Builder<'a> {
    rules: &'a [HttpRule],
    /// A byte of each symbol.
    bytes: Vec<u8>,
    budget: Budget,
    index: Index,
    known_states: HashMap<Set, Next>,
    known_lists: HashMap<Box<[u32]>, Next>,
    /// Sets of the states, in their order.
    queue: Vec<Set>,
}

impl Builder<'_> {
    fn build(mut self) -> Index {
        let all = (0..self.rules.len() as u32).filter_map(|rule| self.open(0, rule)).collect();
        self.index.start = self.next(0, all);
        let mut done = 0;
        // Breadth first: sets that a short prefix of the path divides come before the rest.
        while let Some((part, open)) = self.queue.get(done).cloned() {
            for symbol in 0..self.bytes.len() {
                let byte = self.bytes[symbol];
                let open = open.iter().filter_map(|open| self.step(part, *open, byte)).collect();
                let next = self.next(part, open);
                self.index.states.push(next);
            }
            let matching = open.iter().filter(|open| self.matches_here(part, **open));
            let open = matching.filter_map(|(rule, _)| self.open(part + 1, *rule)).collect();
            let next = self.next(part + 1, open);
            self.index.states.push(next);
            done += 1;
        }
        self.index.states.shrink_to_fit();
        self.index.lists.shrink_to_fit();
        self.index
    }

    fn pattern(&self, part: usize, rule: u32) -> Option<&Pattern> {
        self.index.parts.get(part)?.pattern(&self.rules[rule as usize])
    }

    /// A rule before the first byte of a field. [`None`] if its pattern matches nothing.
    fn open(&self, part: usize, rule: u32) -> Option<Open> {
        match self.pattern(part, rule) {
            None => Some((rule, None)),
            Some(pattern) => Some((rule, Some(pattern.start()?))),
        }
    }

    fn step(&self, part: usize, (rule, state): Open, byte: u8) -> Option<Open> {
        match self.pattern(part, rule).zip(state) {
            None => Some((rule, None)),
            Some((pattern, state)) => Some((rule, Some(pattern.next(state, byte)?))),
        }
    }

    fn matches_here(&self, part: usize, (rule, state): Open) -> bool {
        let pattern = self.pattern(part, rule).zip(state);
        pattern.is_none_or(|(pattern, state)| pattern.matches_at_end(state))
    }

    /// The state of a set, or its list if it is not divided further.
    fn next(&mut self, part: usize, open: Box<[Open]>) -> Next {
        if open.len() <= FEW || part == self.index.parts.len() {
            return self.list(&open);
        }
        let set = (part, open);
        if let Some(known) = self.known_states.get(&set) {
            return *known;
        }
        let symbols = self.bytes.len() + 1;
        let steps = set.1.len() * symbols;
        if self.budget.steps < steps || self.budget.entries < symbols {
            return self.list(&set.1);
        }
        self.budget.steps -= steps;
        self.budget.entries -= symbols;
        let next = Next((self.queue.len() * symbols) as u32);
        self.known_states.insert(set.clone(), next);
        self.queue.push(set);
        next
    }

    fn list(&mut self, open: &[Open]) -> Next {
        let rules: Box<[u32]> = open.iter().map(|(rule, _)| *rule).collect();
        if let Some(known) = self.known_lists.get(&rules) {
            return *known;
        }
        let cost = rules.len() + LIST_HEAD;
        if rules.len() == self.rules.len() || self.budget.listed < cost {
            return ALL_RULES;
        }
        self.budget.listed -= cost;
        let next = Next(self.index.lists.len() as u32 | IS_LIST);
        self.index.lists.push(rules.clone());
        self.known_lists.insert(rules, next);
        next
    }
}

#[cfg(test)]
mod tests;
