//! Asks a registry, as the distribution specification says.

use std::cell::RefCell;
use std::io::Read;
use std::time::{Duration, Instant};
use std::{iter, thread};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::http::{HeaderMap, HeaderValue, Response, Uri};
use ureq::{Agent, Body};

use super::challenge::{Challenge, challenges};
use super::download::Watched;
use super::error::Error;
use super::{Access, Credential, Insecure, Patience, Request, redirect, trust};
use crate::images::archive::Digest;

/// Places that one question is sent on to.
const REDIRECTS: usize = 5;

/// Bytes of an answer with a token.
const TOKEN: u64 = 64 << 10;

/// What a registry may ask for before it is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Manifests and indexes that are understood.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Whether a part of this kind is asked for as a manifest.
pub(super) fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

/// A manifest or an index.
pub(super) struct Document {
    /// One byte more than the limit where it is too long.
    pub bytes: Vec<u8>,
    /// What it is announced as, or nothing.
    pub media_type: String,
}

/// One registry, asked for one repository.
pub(super) struct Client {
    agent: Agent,
    /// As the image's name has it.
    host: String,
    /// Of the repository, without the last part.
    base: Uri,
    repository: String,
    insecure: Insecure,
    access: Access,
    patience: Patience,
    began: Instant,
    /// What was asked for last time.
    authorization: RefCell<Option<HeaderValue>>,
}

impl Client {
    /// Asks nothing yet, but a registry that may be without TLS, whether it is.
    ///
    /// # Errors
    /// [`Error::Odd`] where the name makes no address.
    pub fn new(request: &Request) -> Result<Self, Error> {
        let host = request.image.registry.as_ref().map(ToString::to_string).unwrap_or_default();
        let (address, repository) = place(&host, request.image.repository.as_str());
        let patience = request.patience;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, where it is seen to that nothing secret goes along.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(trust::configuration())
            .timeout_resolve(Some(patience.silence))
            .timeout_connect(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .timeout_recv_response(Some(patience.silence))
            .build()
            .new_agent();
        let scheme = if request.insecure.has(&host) && !speaks_tls(&agent, &address) { "http" } else { "https" };
        let base = format!("{scheme}://{address}/v2/{repository}/");
        let base = base.parse().map_err(|_| Error::odd(&host, "is not the address of a registry"))?;
        let (access, insecure) = (request.access.clone(), request.insecure.clone());
        let authorization = RefCell::default();
        Ok(Self { agent, host, base, repository, insecure, access, patience, began: Instant::now(), authorization })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    pub fn attempts(&self) -> Attempts {
        Attempts { left: self.patience.attempts, pause: self.patience.pause }
    }

    /// # Errors
    /// [`Error::Late`] where it has taken too long in all.
    pub fn in_time(&self) -> Result<(), Error> {
        let after = self.patience.whole;
        if self.began.elapsed() < after { Ok(()) } else { Err(Error::Late { after }) }
    }

    /// A manifest by its tag or digest. `what` it is for messages. It is not compared with its digest. `limit`: bytes.
    ///
    /// # Errors
    /// Whatever the last attempt failed of.
    pub fn manifest(&self, reference: &str, what: &str, limit: u64) -> Result<Document, Error> {
        let mut attempts = self.attempts();
        loop {
            match self.manifest_once(reference, what, limit) {
                Err(error) => attempts.again(self, error)?,
                document => return document,
            }
        }
    }

    fn manifest_once(&self, reference: &str, what: &str, limit: u64) -> Result<Document, Error> {
        let answer = self.get(&format!("manifests/{reference}"), &MANIFESTS.join(", "), 0, what)?;
        let media_type = self.manifest_type(answer.headers())?;
        Ok(Document { bytes: self.read(answer, limit)?, media_type })
    }

    fn manifest_type(&self, headers: &HeaderMap) -> Result<String, Error> {
        let announced = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = announced.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            known if is_manifest(known) => Ok(media_type),
            "" | "application/json" => Ok(String::new()),
            old if old.starts_with("application/vnd.docker.distribution.manifest.v1") => {
                Err(Error::odd(&self.host, "has the image only in a form of before 2017: push it anew"))
            }
            other => {
                let other: String = other.chars().take(80).collect();
                Err(Error::odd(
                    &self.host,
                    format!("answers with {other} where a manifest should be: is it a registry?"),
                ))
            }
        }
    }

    /// A part of an image from the byte `from` on. One attempt.
    pub fn blob(&self, digest: Digest, from: u64) -> Result<Response<Body>, Error> {
        self.get(&format!("blobs/{digest}"), "*/*", from, &digest.to_string())
    }

    /// The whole of a small answer; one byte more than `limit` where it is too long.
    fn read(&self, answer: Response<Body>, limit: u64) -> Result<Vec<u8>, Error> {
        let body = answer.into_body();
        let body = Watched::new(body.content_length(), body.into_reader(), self.patience);
        let mut bytes = Vec::new();
        let read = body.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| Error::of_io(&self.host, &error))?;
        Ok(bytes)
    }

    fn get(&self, path: &str, accept: &str, from: u64, what: &str) -> Result<Response<Body>, Error> {
        self.in_time()?;
        let uri = format!("{}{path}", self.base).parse().map_err(|_| Error::odd(&self.host, "has no such address"))?;
        let (asked, answer) = self.follow(Uri::clone(&uri), accept, from)?;
        // Only to the registry itself is said who we are.
        if answer.status() != 401 || !redirect::is_same_place(&asked, &self.base) {
            return self.judge(answer, what);
        }
        self.authenticate(answer.headers(), what)?;
        let (_, answer) = self.follow(uri, accept, from)?;
        self.judge(answer, what)
    }

    /// Asks, and goes where it is sent.
    fn follow(&self, mut uri: Uri, accept: &str, from: u64) -> Result<(Uri, Response<Body>), Error> {
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&uri).header(ACCEPT, accept);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let authorization = self.authorization.borrow().clone();
            if let Some(authorization) = authorization.filter(|_| redirect::is_same_place(&uri, &self.base)) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let place = uri.authority().map(ToString::to_string).unwrap_or_default();
            let answer = request.call().map_err(|error| Error::broken(&place, error))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((uri, answer));
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            uri = redirect::target(&uri, location, &self.insecure)
                .map_err(|why| Error::odd(&place, format!("sends {why}")))?;
        }
        Err(Error::odd(&self.host, "sends from one address to the next without end"))
    }

    fn judge(&self, answer: Response<Body>, what: &str) -> Result<Response<Body>, Error> {
        let host = self.host.clone();
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            401 | 403 => Err(self.not_let_in(what)),
            404 => Err(Error::Missing { host, what: what.into() }),
            status @ (408 | 425 | 429 | 500..) => {
                let what = format!("cannot answer now (HTTP status {status}): try again later");
                Err(Error::Passing { host, what, wait: wait(answer.headers()) })
            }
            status => Err(Error::odd(&host, format!("answers with HTTP status {status}, which a registry should not"))),
        }
    }

    fn not_let_in(&self, what: &str) -> Error {
        let (host, what) = (self.host.clone(), what.to_owned());
        match &self.access {
            Access::Anyone => Error::Unknown { host, what },
            Access::Helper(helper) => Error::OnlyHelper { host, what, helper: helper.clone() },
            Access::Known(_) => Error::Refused { host, what },
        }
    }

    /// Makes what is said with the next questions, as the registry wants to have it.
    fn authenticate(&self, headers: &HeaderMap, what: &str) -> Result<(), Error> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let wanted: Vec<Challenge> = values.flat_map(challenges).collect();
        let bearer = wanted.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            Challenge::Basic => None,
        });
        let said = match (bearer, &self.access) {
            (Some((realm, service)), _) => format!("Bearer {}", self.token(realm, service.as_deref(), what)?),
            (None, Access::Known(Credential::Password { user, password })) if wanted.contains(&Challenge::Basic) => {
                basic(user, password)
            }
            _ => return Err(self.not_let_in(what)),
        };
        let mut said = HeaderValue::try_from(said).map_err(|_| Error::odd(&self.host, "gives a token of no use"))?;
        said.set_sensitive(true);
        self.authorization.replace(Some(said));
        Ok(())
    }

    /// From where the registry says: with a name and a password, or one that everybody gets.
    fn token(&self, realm: &str, service: Option<&str>, what: &str) -> Result<String, Error> {
        let odd = |why: String| Error::odd(&self.host, format!("sends for a token {why}"));
        let uri: Uri = realm.parse().map_err(|_| odd("to what is no address".into()))?;
        redirect::check(&uri, &self.insecure).map_err(odd)?;
        let place = uri.authority().map(ToString::to_string).unwrap_or_default();
        let scope = format!("repository:{}:pull", self.repository);
        let fields = iter::once(("scope", scope.as_str())).chain(service.map(|service| ("service", service)));
        let answer = match &self.access {
            Access::Known(Credential::IdentityToken(token)) => {
                let more =
                    [("grant_type", "refresh_token"), ("client_id", "albatross-deployer"), ("refresh_token", token)];
                self.agent.post(uri).send_form(fields.chain(more))
            }
            Access::Known(Credential::Password { user, password }) => {
                self.agent.get(uri).header(AUTHORIZATION, basic(user, password)).query_pairs(fields).call()
            }
            Access::Anyone | Access::Helper(_) => self.agent.get(uri).query_pairs(fields).call(),
        };
        let answer = answer.map_err(|error| Error::broken(&place, error))?;
        let bytes = match answer.status().as_u16() {
            // As some answer that do not know the user.
            400 => return Err(self.not_let_in(what)),
            _ => self.read(self.judge(answer, what)?, TOKEN)?,
        };
        let given: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = given.and_then(|given| given.token.or(given.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| Error::odd(&place, "gives no token where one should be had"))
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Whether a registry that may be asked without TLS has it all the same. One that cannot be asked so is as good as without:
/// the next question will say what is wrong. One whose certificate is not believed is not asked without.
fn speaks_tls(agent: &Agent, address: &str) -> bool {
    match agent.get(format!("https://{address}/v2/")).call() {
        Ok(_) => true,
        Err(error) => !matches!(Error::broken(address, error), Error::NoTls { .. } | Error::Passing { .. }),
    }
}

/// In seconds, as registries say it.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Where a registry answers, and what it calls the repository. Docker's is elsewhere than its name says.
fn place(host: &str, repository: &str) -> (String, String) {
    match host {
        "docker.io" | "index.docker.io" if !repository.contains('/') => {
            ("registry-1.docker.io".into(), format!("library/{repository}"))
        }
        "docker.io" | "index.docker.io" => ("registry-1.docker.io".into(), repository.into()),
        _ => (host.into(), repository.into()),
    }
}

/// How often the same is tried once more.
#[derive(Debug)]
pub(super) struct Attempts {
    left: u32,
    pause: Duration,
}

impl Attempts {
    /// Waits before the next attempt.
    ///
    /// # Errors
    /// `error`, where another attempt would not help, or there were enough.
    pub fn again(&mut self, client: &Client, error: Error) -> Result<(), Error> {
        let Error::Passing { wait, .. } = &error else { return Err(error) };
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Err(error);
        }
        client.in_time()?;
        thread::sleep(wait.unwrap_or(self.pause));
        self.pause = self.pause.saturating_mul(2).min(LONGEST_WAIT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_registries_answer() {
        assert_eq!(place("docker.io", "debian"), ("registry-1.docker.io".into(), "library/debian".into()));
        assert_eq!(place("docker.io", "a/b"), ("registry-1.docker.io".into(), "a/b".into()));
        assert_eq!(place("ghcr.io", "debian"), ("ghcr.io".into(), "debian".into()));
    }
}
