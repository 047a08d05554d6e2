//! The engine as what is asked of it: images, containers, files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use tokio::time::timeout;

use super::connection::{Door, Known, Patience, Version};
use super::error::Error;

/// Docker's API, in which files begin to be built with caches: 20.10.
const BUILDKIT: Version = Version(41);

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
    known: Known,
}

impl Client {
    /// Agrees with the engine on a version of its API. What it says of itself stands above every answer; to be asked for
    /// its version takes Podman a second.
    pub async fn connect(socket: PathBuf, patience: Patience) -> Result<Self, Error> {
        const DOING: &str = "say its version";
        let door = Door { socket, patience, known: Arc::default() };
        let transport = {
            let door = door.clone();
            move |request| door.clone().transport(request)
        };
        let docker = Docker::connect_with_custom_transport(
            transport,
            Some("http://engine"),
            NEVER,
            bollard::API_DEFAULT_VERSION,
        );
        let docker = docker.map_err(|error| Error::of(DOING, &error))?;
        within(patience.answer, DOING, docker.ping()).await?;
        let nameless = || Error::Nonsense { doing: DOING, why: "it names no version 1 of the API".into() };
        let known = *door.known.get().ok_or_else(nameless)?;
        Ok(Self { docker, door, known })
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
        format!("v{}", self.known.version)
    }

    pub fn builder(&self) -> Result<Builder, Error> {
        let Known { version, podman } = self.known;
        match podman {
            Some(podman) => Ok(Builder::Buildah { caches: podman >= 4 }),
            None if version < BUILDKIT => Err(Error::TooOld { version: version.to_string() }),
            None => Ok(Builder::BuildKit),
        }
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
