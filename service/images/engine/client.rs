//! The engine as what is asked of it: images, containers, files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::{ClientVersion, Docker};
use tokio::time::timeout;

use super::connection::{Door, Patience};
use super::error::Error;

/// What is newer is not asked for.
const NEWEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 48 };

/// Docker's API, in which files begin to be built with caches: 20.10.
const BUILDKIT: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// More than any deadline of this module's own.
const NEVER: u64 = 24 * 3600;

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Builder {
    /// Docker's.
    BuildKit,
    /// Podman's.
    Buildah { caches: bool },
}

pub(super) struct Client {
    pub docker: Docker,
    pub door: Door,
}

impl Client {
    /// Agrees with the engine on a version of its API.
    pub async fn connect(socket: PathBuf, patience: Patience) -> Result<Self, Error> {
        const DOING: &str = "say its version";
        let door = Door { socket, patience, version: Arc::default() };
        let transport = {
            let door = door.clone();
            move |request| door.clone().transport(request)
        };
        let docker = Docker::connect_with_custom_transport(transport, Some("http://engine"), NEVER, &NEWEST);
        let docker = docker.map_err(|error| Error::of(DOING, &error))?;
        let docker = within(patience.answer, DOING, docker.negotiate_version()).await?;
        let version = docker.client_version().to_string();
        let _ = door.version.set(version);
        Ok(Self { docker, door })
    }

    /// Waits for an answer.
    pub async fn ask<T>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Error> {
        within(self.door.patience.answer, doing, answer).await
    }

    /// The part of a request's path that names the version.
    pub fn version(&self) -> String {
        format!("v{}", self.docker.client_version())
    }

    pub async fn builder(&self) -> Result<Builder, Error> {
        let version = self.ask("say its version", self.docker.version()).await?;
        let podman = version.components.iter().flatten().find(|component| component.name.starts_with("Podman"));
        if let Some(podman) = podman {
            let major = podman.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
            return Ok(Builder::Buildah { caches: major.is_none_or(|major| major >= 4) });
        }
        let version = self.docker.client_version();
        if version < BUILDKIT { Err(Error::TooOld { version: version.to_string() }) } else { Ok(Builder::BuildKit) }
    }
}

async fn within<T>(
    after: Duration,
    doing: &'static str,
    answer: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, Error> {
    match timeout(after, answer).await {
        Ok(answer) => answer.map_err(|error| Error::of(doing, &error)),
        Err(_) => Err(Error::Late { doing, after }),
    }
}
