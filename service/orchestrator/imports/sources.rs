//! What the configuration says of where images come from.

use std::path::{Path, PathBuf};

use super::engine::{self, Tidiers};
use crate::config;

/// Places and limits, for every import.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The API of the local engine.
    pub engine: PathBuf,
    /// This run of the service, in the labels of what it makes in the engine.
    pub instance: String,
    /// Who removes what calls have left there.
    pub tidiers: Tidiers,
    /// `HOST:PORT` of registries without TLS.
    pub insecure_registries: Vec<String>,
    /// Docker's and Podman's `auth.json`.
    pub auth_file: Option<PathBuf>,
    /// When there are any, an image needs a signature by one of them.
    pub keys: Vec<String>,
    /// The cache of layers, in the state directory.
    pub cache: PathBuf,
    /// Bytes.
    pub cache_limit: u64,
    /// Where repositories are fetched to, in the state directory.
    pub workshop: PathBuf,
}

impl Sources {
    /// Blocks: for the start of the service.
    pub fn new(images: &config::Images, state_directory: &Path) -> Self {
        Self {
            engine: images.docker_socket.clone(),
            instance: engine::instance(),
            tidiers: Tidiers::default(),
            insecure_registries: images.insecure_registries.clone(),
            auth_file: images.auth_file.clone(),
            keys: images.keys.clone(),
            cache: state_directory.join("layers"),
            cache_limit: images.cache_size,
            workshop: state_directory.join("workshop"),
        }
    }
}
