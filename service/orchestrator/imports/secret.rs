//! A text that only this installation knows, for names that nobody else is to guess.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Another text each time that it is read, of letters, digits and '-'.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// Characters of such a text.
const LENGTH: usize = 36;

/// The secret in this file, which is made where it is not there. Blocks: for the start of the service.
pub(super) fn open(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // What is no text is no secret of ours either.
        let _ = file.take(LENGTH as u64 + 1).read_to_string(&mut text);
    }
    if text.len() != LENGTH {
        text = random()?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
    }
    Ok(text)
}

/// Letters, digits and '-', 36 in all. Out of the kernel's memory: nothing to wait for.
pub(super) fn random() -> io::Result<String> {
    Ok(fs::read_to_string(RANDOM)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_and_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        let secret = open(&one).unwrap();
        assert_eq!(secret.len(), LENGTH);
        assert_eq!(open(&one).unwrap(), secret);
        assert_ne!(open(&other).unwrap(), secret);
        for damaged in [&b""[..], b"short", &[b'x'; 100], &[0xff; LENGTH]] {
            fs::write(&one, damaged).unwrap();
            let new = open(&one).unwrap();
            assert!(new.len() == LENGTH && new != secret, "{new}");
            assert_eq!(open(&one).unwrap(), new);
        }
    }
}
