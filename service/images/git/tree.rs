//! What is in a commit: the answer of `git ls-tree -z`, read as it comes.

use super::Error;

/// Counts entries, and refuses what will not be in the tar stream.
pub(super) struct Entries {
    limit: u64,
    count: u64,
    /// Of the entry that has not ended.
    begun: Vec<u8>,
}

/// Bytes of one entry: 4096 are the longest path that can be unpacked.
const MAX_ENTRY: usize = 8192;

impl Entries {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, count: 0, begun: Vec::new() }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for part in bytes.split_inclusive(|byte| *byte == 0) {
            self.begun.extend_from_slice(part);
            if self.begun.len() > MAX_ENTRY {
                return Err(Error::Answer { what: "ls-tree" });
            }
            if self.begun.pop_if(|last| *last == 0).is_some() {
                self.entry()?;
                self.begun.clear();
            }
        }
        Ok(())
    }

    /// Mode, kind and object, a tab, and the path.
    fn entry(&mut self) -> Result<(), Error> {
        self.count += 1;
        if self.count > self.limit {
            return Err(Error::TooMany { limit: self.limit });
        }
        let text = String::from_utf8_lossy(&self.begun);
        let (head, path) = text.split_once('\t').ok_or(Error::Answer { what: "ls-tree" })?;
        if head.split(' ').nth(1) == Some("commit") {
            return Err(Error::Submodule(path.chars().take(120).collect()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"100644 blob 00\tconfig.ml\x00040000 tree 00\tsrc\x00120000 blob 00\tsrc/l\n\xff\0";

    #[test]
    fn entries_are_counted_however_they_come() {
        for size in 1..LIST.len() {
            let read = |limit| {
                let mut entries = Entries::new(limit);
                LIST.chunks(size).try_for_each(|chunk| entries.read(chunk)).map(|()| entries.count)
            };
            assert_eq!(read(3).unwrap(), 3);
            assert!(matches!(read(2), Err(Error::TooMany { limit: 2 })));
        }
    }

    #[test]
    fn submodules_and_nonsense_are_refused() {
        let read = |bytes: &[u8]| Entries::new(9).read(bytes);
        let submodule = read(b"160000 commit 00\tvendor/x\0").unwrap_err().to_string();
        assert!(submodule.contains("vendor/x") && submodule.contains("submodule"), "{submodule}");
        // A file may be called so.
        assert!(read(b"100644 blob 00\tx commit y\0").is_ok());
        assert!(matches!(read(b"nonsense\0"), Err(Error::Answer { .. })));
        assert!(matches!(read(&vec![b'x'; MAX_ENTRY + 1]), Err(Error::Answer { .. })));
    }
}
