//! What the filters of a request may take: memory while its stream is open, and time for each flow.

use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;

/// Most filters of a request.
pub(super) const FILTERS_MAX: usize = 256;
/// Most bytes of a request's filters.
const BYTES_MAX: usize = 1 << 16;
/// Most values of a request, in all fields of all of its filters. A label selector counts as many
/// as it has parts between commas.
const VALUES_MAX: usize = 2048;
/// Most patterns of names.
const NAMES_MAX: usize = 256;
/// Most regular expressions.
const PATTERNS_MAX: usize = 16;
/// Most bytes of all regular expressions: classes like `\w` have kilobytes when they are parsed.
const PATTERN_TEXT_MAX: usize = 2048;
/// Most bytes of all regular expressions when they are compiled, with what matching takes.
const PATTERN_SIZE_MAX: usize = 1 << 19;

/// Checks the number of a request's filters.
pub(super) fn check_count(filters: usize) -> Result<(), String> {
    match filters > FILTERS_MAX {
        true => Err(format!("a request has at most {FILTERS_MAX} filters")),
        false => Ok(()),
    }
}

/// What is left for further filters of a request.
pub(super) struct Budget {
    values: usize,
    names: usize,
    patterns: usize,
    pattern_text: usize,
    pattern_size: usize,
}

impl Budget {
    /// The budget of a request with so many filters, and bytes in them.
    pub(super) fn new(filters: usize, bytes: usize) -> Result<Self, String> {
        check_count(filters)?;
        if bytes > BYTES_MAX {
            return Err(format!("the filters of a request have at most {BYTES_MAX} bytes"));
        }
        Ok(Self {
            values: VALUES_MAX,
            names: NAMES_MAX,
            patterns: PATTERNS_MAX,
            pattern_text: PATTERN_TEXT_MAX,
            pattern_size: PATTERN_SIZE_MAX,
        })
    }

    /// Takes values of a field.
    pub(super) fn take_values(&mut self, field: &str, count: usize) -> Result<(), String> {
        take(&mut self.values, field, count, VALUES_MAX, "values")
    }

    /// Takes patterns of names, which are values too.
    pub(super) fn take_names(&mut self, field: &str, count: usize) -> Result<(), String> {
        take(&mut self.names, field, count, NAMES_MAX, "patterns of names")
    }

    /// Takes regular expressions, which are values too.
    pub(super) fn take_patterns(&mut self, field: &str, texts: &[String]) -> Result<(), String> {
        take(&mut self.patterns, field, texts.len(), PATTERNS_MAX, "regular expressions")?;
        let bytes = texts.iter().map(String::len).sum();
        let what = "bytes in regular expressions";
        take(&mut self.pattern_text, field, bytes, PATTERN_TEXT_MAX, what)
    }

    /// Compiles a regular expression in RE2's syntax, which is matched in linear time.
    pub(super) fn compile(&mut self, text: &str) -> Result<Regex, String> {
        let too_large =
            || format!("the compiled patterns of a request have at most {PATTERN_SIZE_MAX} bytes");
        // Of the engines only the one that needs no memory beyond that of the pattern.
        let config = Regex::config()
            .hybrid(false)
            .dfa(false)
            .onepass(false)
            .backtrack(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(self.pattern_size));
        let built = Regex::builder().configure(config).build(text);
        let regex = built.map_err(|error| match (error.size_limit(), error.syntax_error()) {
            (Some(_), _) => too_large(),
            (None, Some(syntax)) => syntax.to_string(),
            (None, None) => error.to_string(),
        })?;
        let size = regex.memory_usage() + regex.create_cache().memory_usage();
        self.pattern_size = self.pattern_size.checked_sub(size).ok_or_else(too_large)?;
        Ok(regex)
    }
}

fn take(left: &mut usize, field: &str, count: usize, max: usize, what: &str) -> Result<(), String> {
    let limit = || format!("{field}: the filters of a request have at most {max} {what} in all");
    *left = left.checked_sub(count).ok_or_else(limit)?;
    Ok(())
}
