//! Why an image gave no unikernel.

use std::io;

use super::digest::Digest;

/// The texts are for the person who named the image: what is wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image breaks the rules of its format, or is cut off.
    #[error("{0}")]
    Malformed(String),
    /// Well-formed perhaps, but of a kind that is not read here.
    #[error("{0}")]
    Unsupported(String),
    #[error("{what} is damaged: it should have the digest {expected} and has {found}")]
    Digest { what: String, expected: Digest, found: Digest },
    /// More of something than [`Limits`](super::Limits) allows.
    #[error("{0}")]
    TooLarge(String),
    /// The unikernel itself is larger than the caller takes.
    #[error("the file in the image has {size} bytes, more than the limit of {limit}")]
    OutputTooLarge { size: u64, limit: u64 },
    /// The image is good, but has nothing at the wanted paths.
    #[error("{0}")]
    NotFound(String),
    /// There is no image that was asked for, or more than one: the text lists what there is.
    #[error("{0}")]
    Choice(String),
    /// The observer has ended it.
    #[error("reading the image was cancelled")]
    Cancelled,
    /// The observer has ended it.
    #[error("the image was not read in time")]
    Deadline,
    #[error("the image cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("the file from the image cannot be handed on: {0}")]
    Write(#[source] io::Error),
}

pub(super) fn malformed<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Malformed(text.into()))
}

pub(super) fn unsupported<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Unsupported(text.into()))
}

/// A name from an image, fit for a message: no control characters, at most 120 characters.
pub(super) fn shown(name: impl AsRef<[u8]>) -> String {
    let name = name.as_ref();
    let start = name.get(..480).unwrap_or(name);
    let mut text: String = String::from_utf8_lossy(start).chars().flat_map(char::escape_debug).take(120).collect();
    if start.len() < name.len() || text.chars().count() == 120 {
        text.push('…');
    }
    text
}
