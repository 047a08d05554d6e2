//! A stand-in for journald: the socket of its native protocol, where the service looks for it.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::host::PATIENCE;

/// The fields of an entry. Those of the service's own begin with `F_`.
type Entry = HashMap<String, String>;

pub struct Journal {
    directory: PathBuf,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Journal {
    /// Listens in a folder below `directory`.
    pub fn listen(directory: &Path) -> Self {
        let directory = directory.join("journal");
        std::fs::create_dir(&directory).unwrap();
        let socket = UnixDatagram::bind(directory.join("socket")).unwrap();
        let entries = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&entries);
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length) = socket.recv(&mut buffer) {
                // The first is empty: the service has a look whether somebody listens.
                if length > 0 {
                    received.lock().unwrap().push(parse(&buffer[..length]));
                }
            }
        });
        Self { directory, entries }
    }

    /// Starts a command where `/run/systemd/journal` is this folder: its place is fixed in the protocol.
    pub fn wrapper(&self) -> Vec<String> {
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
            mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
        let directory = self.directory.to_str().unwrap();
        ["unshare", "--mount", "sh", "-c", script, directory].map(String::from).to_vec()
    }

    /// Waits for an entry whose line begins so, and returns the line. `fields` without their prefix.
    pub async fn has(&self, begin: &str, fields: &[(&str, &str)]) -> String {
        let found = || {
            let entries = self.entries.lock().unwrap();
            let entry = entries.iter().find(|entry| entry["MESSAGE"].starts_with(begin))?;
            for (name, value) in fields {
                assert_eq!(entry.get(&format!("F_{name}")).map(String::as_str), Some(*value), "{name} of {entry:?}");
            }
            Some(entry["MESSAGE"].clone())
        };
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = found() {
                return line;
            }
            assert!(Instant::now() < end, "no line begins with {begin:?}:\n{self}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn count(&self, begin: &str) -> usize {
        let entries = self.entries.lock().unwrap();
        entries.iter().filter(|entry| entry["MESSAGE"].starts_with(begin)).count()
    }

    /// Whatever was logged: one line, which names what its fields are about, and nothing of `secret`.
    pub fn assert_whole(&self, secret: &str) {
        for entry in self.entries.lock().unwrap().iter() {
            let line = &entry["MESSAGE"];
            assert!(!line.contains('\n'), "one line: {entry:?}");
            for name in ["F_ID", "F_SERVICE", "F_STACK", "F_NOTE"] {
                let named = entry.get(name).is_none_or(|value| line.contains(value.as_str()));
                assert!(named, "the line does not say {name}: {entry:?}");
            }
            assert!(entry.values().all(|value| !value.contains(secret)), "a secret: {entry:?}");
        }
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.lock().unwrap().iter().try_for_each(|entry| writeln!(f, "{}", entry["MESSAGE"]))
    }
}

/// Either `NAME=value`, or `NAME`, the length of the value as eight bytes, and the value; each with a newline behind.
fn parse(mut datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = datagram.iter().position(|&byte| byte == b'\n') {
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
            entry.insert(text(&line[..equals]), text(&line[equals + 1..]));
            datagram = rest;
        } else {
            let (length, rest) = rest.split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            entry.insert(text(line), text(&rest[..length]));
            datagram = &rest[length + 1..];
        }
    }
    entry
}
