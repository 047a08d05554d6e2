//! Images of registries: the distribution protocol, and the cache of layers.

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::worker::{Failure, Kind, Voice, Wanted};
use crate::domain::ImageName;

/// One image of a registry.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    /// With its registry.
    pub image: ImageName,
    /// Without TLS.
    pub insecure: bool,
    pub credential: Option<Credential>,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Bytes that the cache may have.
    pub cache_limit: u64,
    pub wanted: Wanted,
}

/// Who the registry is told that we are. Never shown: it is a secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credential {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("image", &self.image).finish_non_exhaustive()
    }
}

/// Downloads what is not in the cache, and writes the unikernel to `output`.
pub(super) fn run(request: &Request, output: File, voice: &mut Voice) -> Result<(), Failure> {
    let _ = (request, output, voice);
    Err(Failure::new(Kind::Unavailable, "docker:// images cannot be read yet"))
}
