//! Where in the text something stands.

use super::super::InvalidArgument;

/// What is wrong, and the byte of the text where it stands.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) reason: InvalidArgument,
}

impl Fault {
    pub(super) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, reason: InvalidArgument::new(message) }
    }

    /// The refusal for the person who wrote `text`.
    pub(super) fn within(self, text: &str) -> InvalidArgument {
        let (line, column) = line_and_column(text, self.offset);
        InvalidArgument(format!("line {line}, column {column}: {}", self.reason))
    }
}

/// Both from 1 on, columns in characters, as editors count them. An `offset` behind the end is the end.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let lines = before.iter().filter(|&&byte| byte == b'\n').count();
    // The bytes of a character behind its first one are those of the form 10xxxxxx.
    let characters = before[start..].iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    (lines + 1, characters + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let text = "a\r\näö = 1\n";
        for (offset, place) in [(0, (1, 1)), (1, (1, 2)), (3, (2, 1)), (5, (2, 2)), (7, (2, 3)), (11, (2, 7))] {
            assert_eq!(line_and_column(text, offset), place, "{offset}");
        }
        assert_eq!(line_and_column(text, text.len()), (3, 1));
        assert_eq!(line_and_column(text, 1000), (3, 1));
        assert_eq!(line_and_column("", 0), (1, 1));
    }
}
