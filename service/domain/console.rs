//! What a unikernel prints, and a pattern that says which line of it is waited for.

use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A line of a unikernel's console, or of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleLine {
    /// When the console daemon read it, or it was logged.
    pub at: Timestamp,
    /// Any bytes but a newline, also such as are not UTF-8.
    #[serde(with = "latin1")]
    pub text: Vec<u8>,
}

impl ConsoleLine {
    /// For a person, and for D-Bus: what is not UTF-8 is replaced, and so is NUL, which no text of D-Bus may hold.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.text).replace('\0', "\u{fffd}")
    }
}

/// Bytes as the text with the characters of the same numbers: readable in the ledger, and none is lost.
mod latin1 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&bytes.iter().map(|&byte| char::from(byte)).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
        bytes.map_err(|_| D::Error::custom("a character that stands for no byte"))
    }
}

/// The longest pattern in bytes.
const LONGEST: usize = 1024;

/// Bytes of a compiled pattern, and of what the engine remembers while it matches.
const COMPILED: usize = 1 << 20;

/// How deep a pattern may be nested.
const NESTED: u32 = 64;

/// A regular expression of which one line is waited for. Parsed, it is one that compiles; out of a ledger that another
/// version wrote it need not be.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsolePattern(String);

impl ConsolePattern {
    /// Matches a line's bytes in time linear in their number.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn compile(&self) -> Result<Regex, InvalidPattern> {
        let mut builder = RegexBuilder::new(&self.0);
        builder.size_limit(COMPILED).dfa_size_limit(COMPILED).nest_limit(NESTED);
        builder.build().map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => InvalidPattern::TooLarge(limit),
            error => InvalidPattern::Syntax(one_line(&error.to_string())),
        })
    }
}

impl FromStr for ConsolePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        match text.len() {
            0 => Err(InvalidPattern::Empty),
            1..=LONGEST => {
                let pattern = Self(text.to_owned());
                pattern.compile().map(|_| pattern)
            }
            length => Err(InvalidPattern::TooLong(length)),
        }
    }
}

impl fmt::Display for ConsolePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConsolePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The engine shows the pattern with a mark below the place, and then says in a last line what is wrong there.
fn one_line(message: &str) -> String {
    let last = message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let column = message.lines().find(|line| line.trim_start().starts_with('^')).and_then(|line| line.find('^'));
    // The pattern stands four columns to the right.
    let place = column.and_then(|column| column.checked_sub(3)).map(|at| format!(", at character {at}"));
    let what = last.trim().trim_start_matches("error: ");
    format!("{}{}", what.chars().take(200).collect::<String>(), place.unwrap_or_default())
}

/// A pattern that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("the expression is empty, and would hold for any line: write running for that")]
    Empty,
    #[error("the expression is {0} bytes long: at most {LONGEST} can be")]
    TooLong(usize),
    #[error("the expression takes more than {0} bytes when it is compiled: use smaller repetitions or classes")]
    TooLarge(usize),
    #[error("not a regular expression: {0}")]
    Syntax(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pattern: &str) -> String {
        pattern.parse::<ConsolePattern>().unwrap_err().to_string()
    }

    #[test]
    fn patterns_match_bytes() {
        let regex = "^listening on [0-9]+$".parse::<ConsolePattern>().unwrap().compile().unwrap();
        assert!(regex.is_match(b"listening on 80") && !regex.is_match(b"not listening on 80"));
        assert!("caf. .*bin".parse::<ConsolePattern>().is_ok());
        let invalid = r"(?-u)\xff\xfe".parse::<ConsolePattern>().unwrap().compile().unwrap();
        assert!(invalid.is_match(b"caf\xc3\xa9 \xff\xfe\0bin"));
    }

    #[test]
    fn a_bad_pattern_is_told_what_is_wrong() {
        assert!(refused("").contains("empty"));
        assert!(refused(&"x".repeat(1025)).contains("1025 bytes long: at most 1024"));
        assert!(refused(r"(\w{500}){500}").contains("compiled"), "{}", refused(r"(\w{500}){500}"));
        assert_eq!(refused("ab(c"), "not a regular expression: unclosed group, at character 3");
        assert!(refused(&format!("{}x{}", "(".repeat(200), ")".repeat(200))).contains("nest"));
        assert!(refused("a{1000}{1000}").contains("compiled"));
        assert!(refused(r"(?P<x>a)\1").contains("backreference"), "{}", refused(r"(a)\1"));
        for pattern in ["*", "[", "a{2,1}", "\\", "(?z)", "\0(", "ä{"] {
            assert!(refused(pattern).starts_with("not a regular expression: "), "{}", refused(pattern));
        }
    }

    #[test]
    fn one_that_does_not_compile_is_still_read() {
        let kept: ConsolePattern = serde_json::from_str("\"ab(c\"").unwrap();
        assert!(kept.compile().is_err());
        assert_eq!(serde_json::to_string(&kept).unwrap(), "\"ab(c\"");
    }

    #[test]
    fn lines_keep_their_bytes_in_the_ledger() {
        let line = ConsoleLine { at: Timestamp(7), text: b"caf\xc3\xa9 \xff\xfe\0bin".to_vec() };
        let written = serde_json::to_string(&line).unwrap();
        assert!(written.starts_with(r#"{"at":7,"text":"caf"#), "{written}");
        assert_eq!(serde_json::from_str::<ConsoleLine>(&written).unwrap(), line);
        assert_eq!(line.lossy(), "café \u{fffd}\u{fffd}\u{fffd}bin");
        assert!(serde_json::from_str::<ConsoleLine>(r#"{"at":7,"text":"\u0100"}"#).is_err());
    }
}
