//! The syntax tree of a pattern.

use regex_syntax::hir::Look;

use super::code_points::CodePoints;
use super::cursor::PatternError;

/// Deepest nesting of a pattern. It bounds the recursion of functions that walk the tree.
const NESTING_MAX: usize = 250;

/// A part of a pattern. Whether a repetition is greedy makes no difference to whether a whole
/// value matches, so it is not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Empty,
    /// One code point.
    Literal(u32),
    /// One code point of a set.
    Class(CodePoints),
    AnyByte,
    Look(Look),
    /// A capturing group.
    Capture(Box<Node>),
    /// At least `min` and at most `max` times.
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
    /// At least two nodes, none of which is a concatenation.
    Concat(Vec<Node>),
    /// At least two nodes, none of which is an alternation.
    Alternate(Vec<Node>),
}

impl Node {
    const fn is_character(&self) -> bool {
        matches!(self, Self::Literal(_) | Self::Class(_))
    }

    /// What the node matches, if that is one character.
    fn points(&self) -> CodePoints {
        match self {
            Self::Literal(point) => CodePoints::new([(*point, *point)]),
            Self::Class(points) => points.clone(),
            _ => CodePoints::default(),
        }
    }
}

/// A node, and what bounds it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) node: Node,
    /// Nodes from this one down to the deepest one.
    nesting: usize,
    /// Most copies that counted repetitions make of a node in here.
    copies: u32,
}

impl Item {
    pub(super) const fn leaf(node: Node) -> Self {
        Self { node, nesting: 1, copies: 1 }
    }

    pub(super) fn capture(self) -> Result<Self, PatternError> {
        let nesting = nested(self.nesting)?;
        Ok(Self { node: Node::Capture(Box::new(self.node)), nesting, copies: self.copies })
    }

    /// Most copies of a node in here, when this one is repeated.
    pub(super) fn copies(&self, min: u32, max: Option<u32>) -> u32 {
        self.copies.saturating_mul(max.unwrap_or(min).max(1))
    }

    pub(super) fn repeat(self, min: u32, max: Option<u32>) -> Result<Self, PatternError> {
        let copies = self.copies(min, max);
        let nesting = nested(self.nesting)?;
        let node = Node::Repeat { node: Box::new(self.node), min, max };
        Ok(Self { node, nesting, copies })
    }
}

fn nested(nesting: usize) -> Result<usize, PatternError> {
    if nesting >= NESTING_MAX {
        let text = format!("the pattern is nested more than {NESTING_MAX} deep");
        return Err(PatternError::Unsupported(text));
    }
    Ok(nesting + 1)
}

/// Joins items to one node, by `join` if they are more than one. `flatten` takes apart those that
/// are of the same kind.
fn join(
    mut items: Vec<Item>,
    flatten: impl Fn(Node) -> Vec<Node>,
    join: impl FnOnce(Vec<Node>) -> Result<Node, PatternError>,
) -> Result<Item, PatternError> {
    if items.len() <= 1 {
        return Ok(items.pop().unwrap_or(Item::leaf(Node::Empty)));
    }
    let nesting = nested(items.iter().map(|item| item.nesting).max().unwrap_or(1))?;
    let copies = items.iter().map(|item| item.copies).max().unwrap_or(1);
    let nodes = items.into_iter().flat_map(|item| flatten(item.node)).collect();
    Ok(Item { node: join(nodes)?, nesting, copies })
}

/// One item after the other.
pub(super) fn concat(items: Vec<Item>) -> Result<Item, PatternError> {
    let flatten = |node| match node {
        Node::Concat(nodes) => nodes,
        node => vec![node],
    };
    join(items, flatten, |nodes| Ok(Node::Concat(nodes)))
}

/// One of the items.
///
/// # Errors
/// Alternatives of one character each, side by side, are a class in RE2 (`re2/parse.cc`,
/// `FactorAlternation`). It then matches more than each of them:
/// - `[Kk]` is `k` without case to RE2, and U+212A (KELVIN SIGN) is another case of it. So `[Kk]|x`
///   matches that character, and `[Kk]` does not. The same goes for `[Ss]` and U+017F.
/// - `é|[^é]` is the class of all characters, which also matches bytes that are not UTF-8 (module
///   `hir`); neither alternative matches them.
///
/// Which alternatives become a class depends on the prefixes that all of them have in common. An
/// author can't have meant such a match, so these alternatives are rejected.
pub(super) fn alternate(items: Vec<Item>) -> Result<Item, PatternError> {
    let flatten = |node| match node {
        Node::Alternate(nodes) => nodes,
        node => vec![node],
    };
    join(items, flatten, |nodes| {
        let is_joined = |a: &Node, b: &Node| {
            let ((a, before_a), (b, before_b)) = (last(a), last(b));
            a.is_character() && b.is_character() && before_a == before_b && a != b
        };
        for run in nodes.chunk_by(is_joined).filter(|run| run.len() > 1) {
            let run: Vec<_> = run.iter().map(|node| last(node).0.points()).collect();
            check_joined(&run)?;
        }
        Ok(Node::Alternate(nodes))
    })
}

/// Checks alternatives that RE2 may join to one class.
fn check_joined(run: &[CodePoints]) -> Result<(), PatternError> {
    for letters in ["Kk", "Ss"] {
        let class = letters.bytes().map(|letter| (u32::from(letter), u32::from(letter)));
        if run.contains(&CodePoints::new(class)) {
            let (upper, lower) = letters.split_at(1);
            return Err(PatternError::Unsupported(format!(
                "RE2 matches more than two letters with `[{letters}]` as an alternative beside \
                 another character; write `{upper}|{lower}`"
            )));
        }
    }
    let all = CodePoints::new(run.iter().flat_map(CodePoints::ranges).copied());
    if all.has_all_beyond_ascii() && !run.iter().any(CodePoints::has_all_beyond_ascii) {
        return Err(PatternError::Unsupported(
            "RE2 matches more than characters with alternatives that have all characters beyond \
             ASCII together; write them as one class"
                .into(),
        ));
    }
    Ok(())
}

/// The last node of a concatenation, and those before it.
fn last(node: &Node) -> (&Node, &[Node]) {
    match node {
        Node::Concat(nodes) => nodes.split_last().unwrap_or((node, &[])),
        node => (node, &[]),
    }
}
