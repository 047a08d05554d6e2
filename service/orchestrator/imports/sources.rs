//! What the configuration says of where images come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;

use super::tidying::Tidier;
use super::{engine, secret};
use crate::config::Config;
use crate::images::git::Access;
use crate::images::recipe::BaseImages;
use crate::images::signature::Key;

/// Places and limits, for every import.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The API of the local engine.
    pub engine: PathBuf,
    /// This run of the service, in the labels of what it makes in the engine.
    pub instance: String,
    /// Who removes what calls have left there.
    pub tidier: Tidier,
    /// `HOST:PORT` of registries that may be without TLS.
    pub insecure_registries: Vec<String>,
    /// Docker's and Podman's `auth.json`.
    pub auth_file: Option<PathBuf>,
    /// When there are any, an image needs a signature by one of them.
    pub keys: Arc<[Key]>,
    /// The cache of layers, in the state directory.
    pub cache: PathBuf,
    /// Bytes.
    pub cache_limit: u64,
    /// Where repositories are fetched to, in the state directory.
    pub workshop: PathBuf,
    /// With what repositories are reached that are not everybody's.
    pub access: Access,
    pub bases: BaseImages,
    /// In the names of the caches that builds use.
    pub secret: String,
    /// Rows of workers that work at the same time for what comes from an engine, a registry or a repository.
    pub far: Arc<Semaphore>,
    /// And for what was saved on this host.
    pub near: Arc<Semaphore>,
    /// For one build.
    pub build_deadline: Duration,
    /// Builds that work at the same time.
    pub build_slots: Arc<Semaphore>,
}

/// Builds at a time: each has an import of the store to itself meanwhile, and all the processors that the engine gives it.
const BUILDS: usize = 4;

/// Rows of workers at a time: together fewer than the imports of the store, so that files and descriptors always find a
/// place there, and what was saved on this host does not wait for a slow registry.
const FAR: usize = 8;
const NEAR: usize = 4;

impl Sources {
    /// Blocks: for the start of the service.
    pub fn new(config: &Config, state_directory: &Path) -> Self {
        let Config { images, git, build, .. } = config;
        // Workers are in another folder. It fails only where this process is in none.
        let state_directory = std::path::absolute(state_directory).unwrap_or_else(|_| state_directory.into());
        let secret = secret(&state_directory);
        Self {
            engine: images.docker_socket.clone(),
            instance: engine::instance(&secret),
            tidier: Tidier::new(images.docker_socket.clone()),
            insecure_registries: images.insecure_registries.clone(),
            auth_file: images.auth_file.clone(),
            keys: images.keys.clone().into(),
            cache: state_directory.join("layers"),
            cache_limit: images.cache_size,
            workshop: state_directory.join("workshop"),
            access: Access {
                ssh_key: git.ssh_key.clone(),
                known_hosts: git.known_hosts.clone(),
                certificates: git.certificates.clone(),
            },
            bases: build.bases.clone(),
            secret,
            far: Arc::new(Semaphore::new(FAR)),
            near: Arc::new(Semaphore::new(NEAR)),
            build_deadline: build.deadline,
            build_slots: Arc::new(Semaphore::new(BUILDS)),
        }
    }
}

fn secret(state_directory: &Path) -> String {
    let path = state_directory.join("secret");
    secret::open(&path).unwrap_or_else(|error| {
        warn!(%error, path = %path.display(), "builds begin with empty caches, and what earlier runs have left in the engine stays");
        secret::random().unwrap_or_default()
    })
}
