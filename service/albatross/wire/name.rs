//! Albatross's names: `path:path:label`.

use std::fmt;
use std::str::FromStr;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Malformed, Unsayable};
use crate::domain::UnikernelId;

/// One word of a name: 1 to 63 of `a-z 0-9 - .`, not beginning with `-`. Capitals are made small when it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Where a name lies; the root is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(Vec<Label>);

/// A unikernel or block device (with a label), or a path (without): `:` is the root, `:label` lies at the root,
/// `path:` is a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub path: Path,
    pub label: Option<Label>,
}

/// Why a name or path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name of Albatross: write words of 1 to 63 letters, digits, '-' and '.', not beginning with '-', \
     with ':' between them"
)]
pub struct InvalidAlbatrossName(String);

impl InvalidAlbatrossName {
    fn new(text: &str) -> Self {
        Self(text.chars().take(80).collect())
    }
}

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = InvalidAlbatrossName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=63).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidAlbatrossName::new(text)) }
    }
}

impl From<&UnikernelId> for Label {
    fn from(id: &UnikernelId) -> Self {
        // An id is at most 52 + 1 + 10 characters of a label's alphabet in lower case, and begins with none but a
        // letter or digit.
        Self(id.as_str().to_owned())
    }
}

impl FromStr for Path {
    type Err = InvalidAlbatrossName;

    /// `""` is the root, `a:b` a path; a `:` in front or behind changes nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if matches!(text, "" | ":") {
            return Ok(Self::default());
        }
        let inner = text.strip_prefix(':').unwrap_or(text);
        let inner = inner.strip_suffix(':').unwrap_or(inner);
        let labels: Result<_, _> = inner.split(':').map(str::parse).collect();
        labels.map(Self).map_err(|_: InvalidAlbatrossName| InvalidAlbatrossName::new(text))
    }
}

impl Path {
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path, the one above it, and so on up to the root.
    pub fn upwards(&self) -> impl Iterator<Item = Path> + '_ {
        (0..=self.0.len()).rev().map(|length| Path(self.0[..length].to_vec()))
    }

    /// The name `label` at this path.
    pub fn name(&self, label: Label) -> Name {
        Name { path: self.clone(), label: Some(label) }
    }
}

impl From<Path> for Name {
    fn from(path: Path) -> Self {
        Self { path, label: None }
    }
}

impl Name {
    /// The full name of one that came in an answer to `self`.
    ///
    /// Albatross answers a question about `path:` with names relative to the path, and one about the root or an exact
    /// name with full names.
    pub fn resolve(&self, answered: Name) -> Name {
        if self.label.is_some() {
            return answered;
        }
        let path = self.path.0.iter().cloned().chain(answered.path.0).collect();
        Name { path: Path(path), label: answered.label }
    }

    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.text(self.to_string().as_bytes())
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let text = decoder.text()?;
        let text = std::str::from_utf8(&text.0).map_err(|_| Malformed::new("a name is not text"))?;
        text.parse().map_err(|invalid: InvalidAlbatrossName| Malformed(invalid.to_string()))
    }
}

impl FromStr for Name {
    type Err = InvalidAlbatrossName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |_| InvalidAlbatrossName::new(text);
        // Without a path there is still its ':', so the first word of `:label` is empty and means nothing.
        let words = text.strip_prefix(':').unwrap_or(text);
        let (path, label) = words.rsplit_once(':').map_or((None, words), |(path, label)| (Some(path), label));
        let path: Result<Vec<Label>, _> = path.map_or(Ok(Vec::new()), |path| path.split(':').map(str::parse).collect());
        // Only a ':' can stand in front of no label.
        let label = if label.is_empty() && !text.is_empty() { None } else { Some(label.parse().map_err(invalid)?) };
        Ok(Self { path: Path(path.map_err(invalid)?), label })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{label}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.label.as_ref().map_or("", Label::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_read_and_written() {
        for text in [":", ":net", "foo:", "foo:bar", "foo:bar:baz.1"] {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("net"), name(":net"));
        assert_eq!(name(":Foo:BAR"), name("foo:bar"));
        for bad in ["", "::", ":::", "foo::", "foo::bar", ":-a", "a_b", "a b:", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn answers_about_a_path_are_relative_to_it() {
        assert_eq!(name("foo:").resolve(name(":bar")), name("foo:bar"));
        assert_eq!(name("foo:").resolve(name("sub:bar")), name("foo:sub:bar"));
        assert_eq!(name(":").resolve(name("foo:bar")), name("foo:bar"));
        assert_eq!(name("foo:bar").resolve(name("foo:bar")), name("foo:bar"));
    }

    #[test]
    fn paths() {
        let path: Path = "foo:bar".parse().unwrap();
        let upwards: Vec<_> = path.upwards().map(|path| path.to_string()).collect();
        assert_eq!(upwards, ["foo:bar", "foo", ""]);
        assert_eq!(Name::from(path.clone()).to_string(), "foo:bar:");
        assert_eq!(path.name("x".parse().unwrap()).to_string(), "foo:bar:x");
        for (text, same) in [("foo:", "foo"), (":foo", "foo"), (":", "")] {
            assert_eq!(text.parse::<Path>(), same.parse::<Path>());
        }
        for bad in ["a::b", "::", "a b", "-a"] {
            assert!(bad.parse::<Path>().is_err(), "{bad}");
        }
    }
}
