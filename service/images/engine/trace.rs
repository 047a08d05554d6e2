//! What BuildKit tells of a build: `moby.buildkit.v1.StatusResponse`, of which this reads the steps and what they print.
//!
//! The few fields that are needed are read by hand: protobuf's tools would be a dozen crates more.

/// A word of BuildKit's. The texts are the engine's and the build's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Told again and again, with more that is known of it.
    Step { digest: String, name: String, started: bool, cached: bool },
    /// What a step prints: any piece of it.
    Print { step: String, text: Vec<u8> },
}

/// `None` where it is no such message.
pub(super) fn read(message: &[u8]) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(vertex)) => words.push(step(vertex)?),
            (3, Value::Bytes(log)) => words.push(print(log)?),
            _ => {}
        }
    }
    Some(words)
}

fn step(vertex: &[u8]) -> Option<Word> {
    let (mut digest, mut name, mut started, mut cached) = (String::new(), String::new(), false, false);
    for field in Fields(vertex) {
        match field? {
            (1, Value::Bytes(bytes)) => digest = text(bytes),
            (3, Value::Bytes(bytes)) => name = text(bytes),
            (4, Value::Number(number)) => cached = number != 0,
            (5, Value::Bytes(_)) => started = true,
            _ => {}
        }
    }
    Some(Word::Step { digest, name, started, cached })
}

fn print(log: &[u8]) -> Option<Word> {
    let (mut step, mut printed) = (String::new(), Vec::new());
    for field in Fields(log) {
        match field? {
            (1, Value::Bytes(bytes)) => step = text(bytes),
            (4, Value::Bytes(bytes)) => printed = bytes.to_vec(),
            _ => {}
        }
    }
    Some(Word::Print { step, text: printed })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message: number and value. `None` where the message is damaged, which is the last.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Bytes(self.bytes(8)?),
            2 => {
                let length = self.number()?;
                Value::Bytes(self.bytes(usize::try_from(length).ok()?)?)
            }
            5 => Value::Bytes(self.bytes(4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for at in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(7 * at)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;

    /// As Docker 20.10 sent it.
    const STEP: &str = "CsEBCkdzaGEyNTY6OWE1MjJjMWM4M2YwOTMzMTQ4ODg0OTNlNWU2YmVlYWIwOTA3ZDNiZmQ1OTBiMjM0YTA3M2QzOGE4ZDVjNDJkNhJHc2hhMjU2OmIzMWM2NjNlNmFhODNmODhhMGM4OTZjZjZiZGM5MjQ5ZjU2MTIzNjBjMTkyNDE4ODBiNTRjZTJmMTZkMWUwYzcaH1sxLzFdIENPUFkgdS5iaW4gL3VuaWtlcm5lbC5odnQqDAj67Y7YBhChuZ6OAg==";

    #[test]
    fn a_step_as_docker_tells_it() {
        let words = read(&BASE64_STANDARD.decode(STEP).unwrap()).unwrap();
        let [Word::Step { digest, name, started: true, cached: false }] = &words[..] else { panic!("{words:?}") };
        assert!(digest.starts_with("sha256:9a522c1c"));
        assert_eq!(name, "[1/1] COPY u.bin /unikernel.hvt");
    }

    #[test]
    fn what_a_step_prints() {
        let message = [&[0x1a, 10][..], &[0x0a, 1, b's'], &[0x18, 1], &[0x22, 3, b'o', b'n', b'e']].concat();
        assert_eq!(read(&message), Some(vec![Word::Print { step: "s".into(), text: b"one".to_vec() }]));
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        for message in [&[0x0a][..], &[0x0a, 5, 1], &[0x0b], &[0xff; 11], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert_eq!(read(message), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
