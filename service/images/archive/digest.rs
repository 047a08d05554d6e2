//! Digests of manifests, configurations and layers, and readers that check them.

use std::fmt;
use std::io::{self, Read};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::{Error, shown, unsupported};
use super::limits::Meter;

/// SHA-256 of a blob of an image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// 64 hexadecimal digits of lower case, as blobs are named.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// # Errors
    /// [`Error::Unsupported`] for another algorithm or other than 64 digits of lower case.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex)
                .map_or_else(|| unsupported(format!("the image names a bad digest: {}", shown(text))), Ok),
            Some((algorithm, _)) => unsupported(format!(
                "the image names a digest of {}, only sha256 is verified here: make it anew with sha256",
                shown(algorithm)
            )),
            None => unsupported(format!("the image names a digest without an algorithm: {}", shown(text))),
        }
    }

    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(digest))
    }

    /// # Errors
    /// [`Error::Digest`] when `found` is another.
    pub(super) fn expect(self, what: &str, found: Self) -> Result<(), Error> {
        if self == found {
            return Ok(());
        }
        Err(Error::Digest { what: what.to_owned(), expected: self, found })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Hashes what is read through it, where there is something to compare it with.
pub(super) struct Hashed<R> {
    inner: R,
    hash: Option<Sha256>,
    expected: Option<Digest>,
    /// Bytes, where they are known beforehand.
    size: Option<u64>,
    passed: u64,
}

impl<R: Read> Hashed<R> {
    pub fn new(inner: R, expected: Option<Digest>, size: Option<u64>) -> Self {
        Self { inner, hash: expected.map(|_| Sha256::new()), expected, size, passed: 0 }
    }

    /// Reads to the end, and compares. Nothing is read where there is nothing to compare.
    pub fn finish(&mut self, what: &str, meter: &Meter<'_>) -> Result<(), Error> {
        let Some(expected) = self.expected else { return Ok(()) };
        io::copy(self, &mut io::sink()).map_err(|error| meter.explain(what, &error))?;
        if self.size.is_some_and(|size| self.passed < size) {
            return Err(meter.explain(what, &io::ErrorKind::UnexpectedEof.into()));
        }
        let found = self.hash.take().unwrap_or_default().finalize();
        expected.expect(what, Digest(found.into()))
    }

    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.passed += count as u64;
        if self.size.is_some_and(|size| self.passed > size) {
            return Err(io::Error::other("it is longer than the manifest says"));
        }
        if let Some(hash) = &mut self.hash {
            hash.update(buffer.get(..count).unwrap_or_default());
        }
        Ok(count)
    }
}
