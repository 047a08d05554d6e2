//! One key of a file with its value: reads it as what is expected, or says where it stands and what would be right.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Error;

/// Where a key stands, for what is judged after all files are read.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) key: String,
}

impl Place {
    pub(super) fn invalid(self, message: impl Into<String>) -> Error {
        Error::Invalid { file: self.file, line: self.line, key: Some(self.key), message: message.into() }
    }
}

/// A file's name and text: what turns an offset into a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn parse(self) -> Result<Spanned<DeTable<'a>>, Error> {
        DeTable::parse(self.text).map_err(|error| Error::Invalid {
            file: self.file.into(),
            line: self.line(error.span().map_or(0, |span| span.start)),
            key: None,
            message: error.message().into(),
        })
    }

    fn line(self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
    }
}

/// A key and what it is set to.
#[derive(Debug, Clone)]
pub(super) struct Setting<'a> {
    source: Source<'a>,
    /// Without the tables it stands in.
    pub(super) name: &'a str,
    path: String,
    key_offset: usize,
    value: &'a Spanned<DeValue<'a>>,
}

/// The keys of a table; `path` is what it is called in messages, empty for the whole file.
pub(super) fn settings<'a>(
    source: Source<'a>,
    path: &str,
    table: &'a DeTable<'a>,
) -> impl Iterator<Item = Setting<'a>> {
    table.iter().map(move |(key, value)| {
        let name = key.get_ref().as_ref();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        Setting { source, name, path, key_offset: key.span().start, value }
    })
}

impl<'a> Setting<'a> {
    /// Where the key itself stands.
    pub(super) fn place(&self) -> Place {
        self.place_at(self.key_offset)
    }

    pub(super) fn value(&self) -> &DeValue<'a> {
        self.value.get_ref()
    }

    /// The refusal of a key that does not exist.
    pub(super) fn unknown(&self, known: &[&str]) -> Error {
        self.place().invalid(format!("unknown key, expected one of {}", known.join(", ")))
    }

    pub(super) fn table(&self) -> Result<Vec<Setting<'a>>, Error> {
        match self.value.get_ref() {
            DeValue::Table(table) => Ok(settings(self.source, &self.path, table).collect()),
            _ => Err(self.expected("a table")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Error> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.expected("true or false")),
        }
    }

    pub(super) fn text(&self, what: &str) -> Result<&'a str, Error> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.expected(what)),
        }
    }

    /// A text that `accept` takes.
    pub(super) fn checked(&self, what: &str, accept: impl Fn(&str) -> bool) -> Result<&'a str, Error> {
        let text = self.text(what)?;
        if accept(text) { Ok(text) } else { Err(self.expected(what)) }
    }

    /// A text in the form of a type, in whose own words it is refused.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, what: &str) -> Result<T, Error> {
        self.text(what)?.parse().map_err(|error: T::Err| self.place_of_value().invalid(error.to_string()))
    }

    pub(super) fn list<T>(&self, what: &str, read: impl Fn(&Self) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        match self.value.get_ref() {
            DeValue::Array(values) => values
                .iter()
                .map(|value| read(&Self { key_offset: value.span().start, value, ..self.clone() }))
                .collect(),
            _ => Err(self.expected(&format!("a list of {what}"))),
        }
    }

    pub(super) fn number(&self, what: &str, range: RangeInclusive<u64>) -> Result<u64, Error> {
        self.integer()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.expected(&format!("{what} from {} to {}", range.start(), range.end())))
    }

    pub(super) fn milliseconds(&self, range: RangeInclusive<u64>) -> Result<Duration, Error> {
        self.number("milliseconds, a whole number", range).map(Duration::from_millis)
    }

    /// Bytes: a whole number, or one with a unit.
    pub(super) fn size(&self) -> Result<u64, Error> {
        let size = match self.value.get_ref() {
            DeValue::String(text) => bytes(text),
            _ => self.integer(),
        };
        let expected =
            "a size of at least one byte such as \"256 MiB\" (KiB, MiB, GiB or TiB) or a whole number of bytes";
        size.filter(|&size| size > 0).ok_or_else(|| self.expected(expected))
    }

    /// The refusal of a value, with it as it is written.
    pub(super) fn expected(&self, what: &str) -> Error {
        let written = self.source.text.get(self.value.span()).unwrap_or_default();
        let shown: String = written.chars().take_while(|&character| character != '\n').take(60).collect();
        self.place_of_value().invalid(format!("{shown} is not valid here, expected {what}"))
    }

    fn place_of_value(&self) -> Place {
        self.place_at(self.value.span().start)
    }

    fn place_at(&self, offset: usize) -> Place {
        Place { file: self.source.file.into(), line: self.source.line(offset), key: self.path.clone() }
    }

    fn integer(&self) -> Option<u64> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        }
    }
}

/// `256 MiB` in bytes. Powers of 1024 only: whoever writes MB may mean either.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, expected) in [
            ("256 MiB", Some(256 << 20)),
            ("2GiB", Some(2 << 30)),
            ("0 B", Some(0)),
            ("16777215 TiB", Some(16_777_215 << 40)),
            ("16777216 TiB", None),
            ("1 MB", None),
            ("1", None),
            ("MiB", None),
            ("-1 MiB", None),
            ("1.5 GiB", None),
            ("99999999999999999999 B", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
