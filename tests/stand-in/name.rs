//! Names of unikernels and paths: `path:path:label`, `:label`, `path:`, `:`.

use crate::der::{self, Malformed};

/// A path of labels, and the label of a unikernel unless the path itself is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Name {
    pub path: Vec<String>,
    pub label: Option<String>,
}

impl Name {
    pub fn parse(text: &str) -> der::Result<Self> {
        if text.is_empty() {
            return Err(Malformed("empty name"));
        }
        let (path_only, text) = text.strip_suffix(':').map_or((false, text), |path| (true, path));
        let mut parts: Vec<&str> = text.split(':').collect();
        if parts.first() == Some(&"") {
            parts.remove(0);
        }
        let mut path = parts.into_iter().map(label).collect::<der::Result<Vec<_>>>()?;
        let label = if path_only { None } else { Some(path.pop().ok_or(Malformed("empty name"))?) };
        Ok(Self { path, label })
    }

    pub fn of_path(path: &[String]) -> Self {
        Self { path: path.to_vec(), label: None }
    }

    /// The block device `device` that a unikernel of this name may use.
    pub fn sibling(&self, device: &str) -> Self {
        Self { path: self.path.clone(), label: Some(device.to_owned()) }
    }

    pub fn is_below(&self, path: &[String]) -> bool {
        self.path.starts_with(path)
    }

    /// As the answer to an info on `path` calls it.
    pub fn relative_to(&self, path: &[String]) -> Self {
        Self { path: self.path[path.len()..].to_vec(), label: self.label.clone() }
    }

    /// Albatross lists parents before what is below them, and siblings backwards.
    pub fn listing_order(&self, other: &Self) -> std::cmp::Ordering {
        let (mine, others) = (self.labels(), other.labels());
        match mine.iter().zip(&others).find(|(mine, others)| mine != others) {
            Some((mine, others)) => others.cmp(mine),
            None => mine.len().cmp(&others.len()),
        }
    }

    fn labels(&self) -> Vec<&String> {
        self.path.iter().chain(&self.label).collect()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.path.join(":"), self.label.as_deref().unwrap_or_default())
    }
}

fn label(text: &str) -> der::Result<String> {
    let valid = |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '.';
    if (1..64).contains(&text.len()) && !text.starts_with('-') && text.chars().all(valid) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Malformed("invalid label"))
    }
}
