//! Where each key stands, for who refuses a value that is well-formed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::Error;
use super::reading::{self, Setting};

/// The line of every key, by the tables that it stands in: `network.br0.prefix`. Of a key that several files set, that of the
/// last.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The first file, for what stands in none.
    file: PathBuf,
    lines: BTreeMap<String, (PathBuf, usize)>,
}

impl Places {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), lines: BTreeMap::new() }
    }

    /// Adds a key and those below it.
    pub(super) fn add(&mut self, setting: &Setting) {
        let reading::Place { file, line, key } = setting.place();
        self.lines.insert(key, (file, line));
        if let DeValue::Table(_) = setting.value() {
            setting.table().into_iter().flatten().for_each(|below| self.add(&below));
        }
    }

    /// The error that refuses `key`, with its line or that of the closest table around it.
    pub fn refuse(&self, key: &str, message: String) -> Error {
        let around = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(table, _)| table));
        let place = around.filter_map(|key| self.lines.get(key)).next().cloned();
        let key = key.to_owned();
        match place {
            Some((file, line)) => Error::Invalid { file, line, key: Some(key), message },
            None => Error::Absent { file: self.file.clone(), key, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load_with_places;

    #[test]
    fn the_closest_line_of_the_last_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[network.br0]\nprefix = \"10.0.0.0/24\"\n\n[publish]\ndrain = 1\n").unwrap();
        std::fs::create_dir(folder.path().join("config.toml.d")).unwrap();
        std::fs::write(folder.path().join("config.toml.d/10.toml"), "\n\npublish.drain = 2\n").unwrap();
        let (_, places) = load_with_places(&file).unwrap();
        for (key, expected) in [
            ("network.br0.prefix", "config.toml:2: network.br0.prefix: no"),
            ("network.br0.gateway", "config.toml:1: network.br0.gateway: no"),
            ("publish.drain", "config.toml.d/10.toml:3: publish.drain: no"),
            ("albatross.path", "config.toml: albatross.path: no"),
        ] {
            let error = places.refuse(key, "no".into()).to_string();
            assert_eq!(error.replace(&format!("{}/", folder.path().display()), ""), expected);
        }
    }
}
