//! A build by the engine.
//!
//! Asked for without bollard: that keeps a line of the answer whatever its length, and knows BuildKit only with fifty
//! crates more.

use std::fmt::Write;
use std::fs::File;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response};

use super::answers::{Told, step_of};
use super::client::{Builder, Client};
use super::connection::Bounds;
use super::context::{self, Context};
use super::error::{Error, clean};
use super::session::Session;
use super::{Dockerfile, LABEL};
use crate::images::worker::Voice;

const DOING: &str = "build";

/// Bytes of one line of the engine's: what a step prints in a moment may stand in one.
const LINE: usize = 4 << 20;

/// Times that the step of a build is told: more than any real Dockerfile has, however fast a build prints what looks like
/// steps.
const STEPS: usize = 1000;

/// Bytes of all that a build says.
const ALL: u64 = 1 << 30;

/// Returns the engine's id of what it has built, which has the label.
pub(super) async fn build(
    client: &Client,
    label: &str,
    dockerfile: &Dockerfile,
    context: File,
    voice: &mut Voice,
) -> Result<String, Error> {
    let context = Context::begin(context).await?;
    let builder = client.builder()?;
    let session = match builder {
        Builder::BuildKit => Some(Session::open(client, label).await?),
        Builder::Buildah { .. } => None,
    };
    let (name, before) = prepared(dockerfile, builder, label)?;
    let uri = format!("/{}/build?{}", client.version(), query(&name, label, session.as_ref()));
    let request = Request::builder().method(Method::POST).uri(uri).header(CONTENT_TYPE, "application/x-tar");
    let request = request.body(StreamBody::new(context.body(before)));
    let request = request.map_err(|error| Error::Nonsense { doing: DOING, why: error.to_string() })?;
    voice.step("building")?;
    let bounds = Bounds { bytes: ALL, silence: client.door.patience.silence };
    let response = client.door.send(request, bounds).await.map_err(|error| Error::of(DOING, &error))?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    follow(response.into_body(), voice).await
}

/// The Dockerfile's name in the context, and what stands in front of that.
fn prepared(dockerfile: &Dockerfile, builder: Builder, label: &str) -> Result<(String, Vec<u8>), Error> {
    let text = match (dockerfile, builder) {
        (Dockerfile::OfContext(name), _) => return Ok((name.clone(), Vec::new())),
        (Dockerfile::Text { plain, .. }, Builder::Buildah { caches: false }) => plain,
        (Dockerfile::Text { with_caches, .. }, _) => with_caches,
    };
    // Of two entries of a name the later one holds: nobody knows this one before.
    let name = format!(".dockerfile-{}", label.rsplit('.').next().unwrap_or(label));
    let entry = context::entry(&name, text)?;
    Ok((name, entry))
}

fn query(dockerfile: &str, label: &str, session: Option<&Session>) -> String {
    let labels = serde_json::json!({ LABEL: label }).to_string();
    let mut query = format!("dockerfile={}&labels={}&rm=true&forcerm=true", escaped(dockerfile), escaped(&labels));
    if let Some(session) = session {
        let _ = write!(query, "&version=2&session={}", escaped(&session.id));
    }
    query
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        let _ = write!(escaped, "%{byte:02X}");
        escaped
    })
}

/// An answer that is no build: the engine does not like the Dockerfile, or the context.
async fn refused(response: Response<Incoming>) -> Error {
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Error::of_transport(DOING, &error),
    };
    let message = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let message = message.as_ref().and_then(|answer| answer.get("message")).and_then(|message| message.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    Error::Build(format!("the build failed: {}", clean(&text)))
}

async fn follow(answers: Incoming, voice: &mut Voice) -> Result<String, Error> {
    let mut told = Told::default();
    let mut steps = 0..STEPS;
    let mut answers = Lines { body: answers, buffer: Vec::new() };
    while let Some(answer) = answers.next().await? {
        let nonsense = || Error::Nonsense { doing: DOING, why: clean(&String::from_utf8_lossy(&answer)) };
        for line in told.hear(&answer).ok_or_else(nonsense)? {
            voice.line(&line)?;
            if let Some((this, all)) = step_of(&line).filter(|_| steps.next().is_some()) {
                voice.step(&format!("building {this}/{all}"))?;
            }
        }
    }
    match told {
        Told { error: None, image: Some(image), .. } => Ok(image),
        mut told => Err(Error::Build(told.failure())),
    }
}

/// Lines of a body.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// Without what ends it, and none that is empty.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut searched = 0;
        loop {
            let unsearched = self.buffer.get(searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            searched = self.buffer.len();
            if searched > LINE {
                let why = format!("it says a line of more than {LINE} bytes");
                return Err(Error::Nonsense { doing: DOING, why });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Err(Error::of_transport(DOING, &error)),
                None => {
                    let last = std::mem::take(&mut self.buffer);
                    return Ok(Some(last).filter(|last| !last.trim_ascii().is_empty()));
                }
            }
        }
    }
}
