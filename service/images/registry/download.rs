//! A part of an image on its way from the registry: where the way breaks off, it goes on from there.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use ureq::BodyReader;
use ureq::http::header::CONTENT_RANGE;
use ureq::http::{HeaderMap, StatusCode};

use super::Patience;
use super::client::{Attempts, Client};
use super::error::Error;
use crate::images::archive;
use crate::images::archive::Digest;

/// Bytes after which it is as if nothing had failed before.
const PROGRESS: u64 = 1 << 20;

/// Reads as many bytes as were announced, and one more where more come: who compares the digest hears of it.
pub(super) struct Download<'c> {
    client: &'c Client,
    digest: Digest,
    size: u64,
    at: u64,
    body: Option<Watched>,
    attempts: Attempts,
    /// Where the last failure was.
    failed_at: u64,
}

impl<'c> Download<'c> {
    /// Waits for the first byte.
    ///
    /// # Errors
    /// [`archive::Error::Malformed`] where the registry has something of another size.
    pub fn start(client: &'c Client, digest: Digest, size: u64) -> Result<Self, archive::Error> {
        let attempts = client.attempts();
        let mut download = Self { client, digest, size, at: 0, body: None, attempts, failed_at: 0 };
        download.connect_patiently()?;
        let announced = download.body.as_ref().and_then(|body| body.announced);
        if let Some(announced) = announced.filter(|announced| *announced != size) {
            let host = client.host();
            return Err(archive::Error::Malformed(format!(
                "{host} has {announced} bytes where the manifest says {size}, of {digest}"
            )));
        }
        Ok(download)
    }

    fn connect_patiently(&mut self) -> Result<(), Error> {
        while let Err(error) = self.connect() {
            self.attempts.again(self.client, error)?;
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), Error> {
        let response = self.client.blob(self.digest, self.at)?;
        let host = self.client.host();
        let (head, body) = response.into_parts();
        let mut body = Watched::new(body.content_length(), body.into_reader(), self.client.patience());
        if head.status == StatusCode::PARTIAL_CONTENT {
            if range_start(&head.headers) != Some(self.at) {
                return Err(Error::odd(host, "sends another part than it was asked for"));
            }
        } else {
            // It has no parts: what was read is passed over.
            let passed = io::copy(&mut body.by_ref().take(self.at), &mut io::sink());
            passed.map_err(|error| Error::of_io(host, &error))?;
        }
        self.body = Some(body);
        Ok(())
    }

    /// Some bytes, none at the end.
    fn more(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            let host = self.client.host();
            let Some(body) = &mut self.body else {
                self.connect_patiently()?;
                continue;
            };
            let is_whole = self.at >= self.size;
            let error = match body.read(buffer) {
                Ok(0) if !is_whole => Error::of_io(host, &ErrorKind::UnexpectedEof.into()),
                Ok(count) => return Ok(count),
                // Everything is there: how the connection ends does not matter.
                Err(_) if is_whole => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Error::of_io(host, &error),
            };
            self.body = None;
            if self.at.saturating_sub(self.failed_at) >= PROGRESS {
                self.attempts = self.client.attempts();
            }
            self.failed_at = self.at;
            self.attempts.again(self.client, error)?;
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.size.saturating_add(1).saturating_sub(self.at);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        self.client.in_time().map_err(io::Error::other)?;
        let count = self.more(buffer).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// `bytes FIRST-LAST/ALL`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// What a registry sends, given up where it sends too little.
pub(super) struct Watched {
    body: BodyReader<'static>,
    /// Bytes that it says it has.
    announced: Option<u64>,
    patience: Patience,
    waited: Duration,
    got: u64,
}

impl Watched {
    pub fn new(announced: Option<u64>, body: BodyReader<'static>, patience: Patience) -> Self {
        Self { body, announced, patience, waited: Duration::ZERO, got: 0 }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let before = Instant::now();
        let count = self.body.read(buffer)?;
        // Only what is waited for here: whoever takes the bytes may be slow as well.
        self.waited += before.elapsed();
        self.got = self.got.saturating_add(count as u64);
        if self.waited >= self.patience.silence {
            if count > 0 && self.got < self.patience.slowest {
                let (got, waited) = (self.got, self.waited.as_secs_f32());
                let slow = format!("it sent {got} bytes in {waited:.1} s");
                return Err(io::Error::new(ErrorKind::TimedOut, slow));
            }
            (self.waited, self.got) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}
