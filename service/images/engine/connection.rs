//! A connection to the engine's socket for each request, with a bound on all that can come by it.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bollard::BollardRequest;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How long the engine is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Until it takes a connection.
    pub connect: Duration,
    /// For one whole answer.
    pub answer: Duration,
    /// Between two pieces of a file.
    pub pause: Duration,
    /// Between two words of a build, which may take long over a step that says nothing.
    pub silence: Duration,
    /// For everything.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            pause: Duration::from_secs(60),
            silence: Duration::from_secs(600),
            whole: Duration::from_secs(3 * 3600),
        }
    }
}

/// Bytes of a head, and of what is read at a time.
const BUFFER: usize = 64 << 10;

/// Bytes of an answer of the engine: a list of thousands of images is a few million.
const ANSWER: u64 = 32 << 20;

/// Bytes of an error's text.
const ERROR: u64 = 64 << 10;

/// How a connection ended that the engine did not end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{error}")]
    Connect { socket: PathBuf, error: io::Error },
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("it has more than {0} bytes")]
    TooMuch(u64),
}

impl Broken {
    /// The one at the bottom of an error of HTTP.
    pub fn find<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut error = Some(error);
        while let Some(this) = error {
            let inner = this.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(broken) = inner.and_then(|inner| inner.downcast_ref()) {
                return Some(broken);
            }
            error = this.source();
        }
        None
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        Self::other(broken)
    }
}

/// What one answer may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub bytes: u64,
    /// Without a byte in either direction.
    pub silence: Duration,
}

/// Where the engine listens.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub socket: PathBuf,
    pub patience: Patience,
    /// Who is there, once it was asked.
    pub known: Arc<OnceLock<Known>>,
}

/// Minor versions of the API, all of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// What is newer is not asked for.
const NEWEST: Version = Version(48);

/// What an engine says of itself in every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// In which it is asked from now on.
    pub version: Version,
    /// Podman's own version, the first number of it.
    pub podman: Option<u32>,
}

impl Known {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let version = text("Api-Version")?.strip_prefix("1.")?.parse().ok()?;
        let podman = text("Libpod-Api-Version").and_then(|version| version.split('.').next()?.parse().ok());
        Some(Self { version: Version(version).min(NEWEST), podman })
    }
}

impl Door {
    /// What bollard sends its requests by.
    pub async fn transport(self, request: BollardRequest) -> Result<Response<Incoming>, bollard::errors::Error> {
        let is_file = request.method() == Method::GET && request.uri().path().ends_with("/archive");
        let bytes = if is_file { u64::MAX } else { ANSWER };
        let silence = if is_file { self.patience.pause } else { self.patience.answer };
        let (mut head, body) = request.into_parts();
        head.uri = versioned(&head.uri, self.known.get())?;
        let request = Request::from_parts(head, body);
        let response = self.send(request, Bounds { bytes, silence }).await?;
        if let Some(known) = Known::read(response.headers()) {
            // The first to be heard of holds.
            let _ = self.known.set(known);
        }
        Ok(response)
    }

    /// Asks, and returns when the head of the answer has come.
    pub async fn send<B>(
        &self,
        mut request: Request<B>,
        bounds: Bounds,
    ) -> Result<Response<Incoming>, bollard::errors::Error>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let left = Arc::new(AtomicU64::new(bounds.bytes));
        let stream = self.open().await?;
        let guarded = Guarded { stream, bounds, left: Arc::clone(&left), deadline: None };
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(guarded)).await?;
        // It ends with the answer, or when that is dropped; what became of it, the answer tells.
        tokio::spawn(connection.with_upgrades());
        request.headers_mut().insert(HOST, HeaderValue::from_static("engine"));
        let response = sender.send_request(request).await?;
        if !(response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            left.fetch_min(ERROR, Ordering::Relaxed);
        }
        Ok(response)
    }

    async fn open(&self) -> Result<UnixStream, io::Error> {
        let opened = timeout(self.patience.connect, UnixStream::connect(&self.socket)).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        opened.map_err(|error| Broken::Connect { socket: self.socket.clone(), error }.into())
    }
}

/// As it stands in a request's first line. Bollard leaves the version out, and without one an engine of another version may
/// answer as it likes.
fn versioned(uri: &Uri, known: Option<&Known>) -> Result<Uri, hyper::http::Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let named = path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')).map(|(_, rest)| format!("/{rest}"));
    let path = named.unwrap_or_else(|| path.to_owned());
    Ok(known.map_or(path.clone(), |known| format!("/v{}{path}", known.version)).parse::<Uri>()?)
}

/// Ends with [`Broken`] when too much comes, or nothing.
struct Guarded {
    stream: UnixStream,
    bounds: Bounds,
    left: Arc<AtomicU64>,
    /// While something is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let silence = self.bounds.silence;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + silence)));
        deadline.as_mut().poll(context).map(|()| Broken::Silent(silence).into())
    }

    fn count(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        left.map(drop).map_err(|_| Broken::TooMuch(self.bounds.bytes).into())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.poll_silence(context).map(Err),
            Poll::Ready(read) => {
                self.deadline = None;
                read?;
                Poll::Ready(self.count(buffer.filled().len() - before))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.deadline = None;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_version_that_was_agreed_on() {
        let known = Known { version: Version(41), podman: None };
        for (asked, known, sent) in [
            ("http://engine/v1.48/_ping", None, "/_ping"),
            ("http://engine/_ping", None, "/_ping"),
            ("http://engine/images/a/b:1/json?x=y", Some(&known), "/v1.41/images/a/b:1/json?x=y"),
            ("http://engine/v1.48/containers/json", Some(&known), "/v1.41/containers/json"),
        ] {
            assert_eq!(versioned(&asked.parse().unwrap(), known).unwrap(), sent);
        }
    }

    #[test]
    fn an_engine_says_what_it_is() {
        for (api, libpod, known) in [
            ("1.41", None, Some((41, None))),
            ("1.52", None, Some((48, None))),
            ("1.41", Some("4.3.1"), Some((41, Some(4)))),
            ("2.0", None, None),
            ("new", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("Api-Version", api.parse().unwrap());
            libpod.map(|libpod: &str| headers.insert("Libpod-Api-Version", libpod.parse().unwrap()));
            let known = known.map(|(version, podman)| Known { version: Version(version), podman });
            assert_eq!(Known::read(&headers), known, "{api}");
        }
    }
}
