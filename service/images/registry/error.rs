//! What goes wrong with a registry.

use std::io;
use std::time::Duration;

use ureq::Timeout;

use crate::images::archive;
use crate::images::worker::{Failure, Kind};

/// The texts are for the person who named the image. What a registry says itself is not repeated: it has seen a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// May be otherwise a moment later.
    #[error("{host} {what}")]
    Passing { host: String, what: String, wait: Option<Duration> },
    #[error(
        "{host} does not speak TLS: where it is meant to be without, add it to images.insecure-registries in the configuration"
    )]
    NoTls { host: String },
    #[error("the certificate of {host} is not trusted ({why}): add who issued it to the certificates of this host")]
    Untrusted { host: String, why: String },
    #[error("{host} has no {what}, or shows it only to those whom it knows (images.auth-file in the configuration)")]
    Missing { host: String, what: String },
    #[error(
        "{host} wants to know who asks for {what}: log in with podman login --authfile FILE {host}, and name FILE as images.auth-file in the configuration"
    )]
    Unknown { host: String, what: String },
    #[error(
        "{host} wants to know who asks for {what}: the auth-file has only the helper {helper:?} for it, and helpers are not run; log in with podman login --authfile FILE {host}"
    )]
    OnlyHelper { host: String, what: String, helper: String },
    #[error(
        "{host} refuses the credentials from images.auth-file for {what}: log in anew with podman login --authfile FILE {host}, as somebody who may read it"
    )]
    Refused { host: String, what: String },
    /// Not as the protocol says.
    #[error("{host} {what}")]
    Odd { host: String, what: String },
    #[error("the image was not there after {} s", .after.as_secs())]
    Late { after: Duration },
}

impl Error {
    pub fn passing(host: &str, what: impl Into<String>) -> Self {
        Self::Passing { host: host.into(), what: what.into(), wait: None }
    }

    pub fn odd(host: &str, what: impl Into<String>) -> Self {
        Self::Odd { host: host.into(), what: what.into() }
    }

    /// What the connection to `host` failed of.
    pub fn broken(host: &str, error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(when) => Self::passing(host, silent(when)),
            ureq::Error::HostNotFound => Self::passing(host, "is not the name of any host"),
            ureq::Error::Rustls(error) => Self::tls(host, &error),
            ureq::Error::Io(error) => Self::of_io(host, &error),
            ureq::Error::LargeResponseHeader(..) => Self::odd(host, "answers with too many headers"),
            other => Self::passing(host, format!("speaks no HTTP that is understood: {other}")),
        }
    }

    /// The same, met while reading.
    pub fn of_io(host: &str, error: &io::Error) -> Self {
        let inner = error.get_ref();
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::tls(host, error);
        }
        if let Some(ureq::Error::Timeout(when)) = inner.and_then(|inner| inner.downcast_ref()) {
            return Self::passing(host, silent(*when));
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::passing(host, "cannot be reached: it refuses the connection"),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                Self::passing(host, "ended the connection before everything was there")
            }
            io::ErrorKind::TimedOut => Self::passing(host, format!("is too slow: {error}")),
            _ => Self::passing(host, format!("gives no answer: {error}")),
        }
    }

    fn tls(host: &str, error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(_) => Self::NoTls { host: host.into() },
            rustls::Error::InvalidCertificate(why) => Self::Untrusted { host: host.into(), why: why.to_string() },
            other => Self::odd(host, format!("speaks TLS in a way that is not understood: {other}")),
        }
    }
}

fn silent(when: Timeout) -> &'static str {
    match when {
        Timeout::Resolve => "has a name that was not found in time",
        Timeout::Connect => "cannot be reached: it does not answer",
        _ => "sends nothing any more",
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Kind::Unavailable, error.to_string())
    }
}

impl From<Error> for archive::Error {
    fn from(error: Error) -> Self {
        Self::Read(io::Error::other(error))
    }
}
