//! What imports share: folders of the state directory, places for what works at the same time, who tidies up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::warn;

use super::tidying::Tidier;
use super::{engine, secret};

/// What no reload changes; the rest each import takes from the configuration that holds.
#[derive(Debug, Clone)]
pub struct Sources {
    /// This run of the service, in the labels of what it makes in the engine.
    pub instance: String,
    /// Who removes what calls have left there.
    pub tidier: Tidier,
    /// The cache of layers, in the state directory.
    pub cache: PathBuf,
    /// Where repositories are fetched to, in the state directory.
    pub workshop: PathBuf,
    /// In the names of the caches that builds use.
    pub secret: String,
    /// Rows of workers that work at the same time for what comes from an engine, a registry or a repository.
    pub far: Arc<Semaphore>,
    /// And for what was saved on this host.
    pub near: Arc<Semaphore>,
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
    pub fn new(state_directory: &Path) -> Self {
        // Workers are in another folder. It fails only where this process is in none.
        let state_directory = std::path::absolute(state_directory).unwrap_or_else(|_| state_directory.into());
        let secret = secret(&state_directory);
        Self {
            instance: engine::instance(&secret),
            tidier: Tidier::default(),
            cache: state_directory.join("layers"),
            workshop: state_directory.join("workshop"),
            secret,
            far: Arc::new(Semaphore::new(FAR)),
            near: Arc::new(Semaphore::new(NEAR)),
            build_slots: Arc::new(Semaphore::new(BUILDS)),
        }
    }
}

fn secret(state_directory: &Path) -> String {
    let path = state_directory.join("secret");
    secret::open(&path).unwrap_or_else(|error| {
        let path = path.display();
        warn!(%error, %path, "builds begin with empty caches, and leftovers in the engine stay: {path}: {error}");
        secret::random().unwrap_or_default()
    })
}
