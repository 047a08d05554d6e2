//! Images of registries.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use tokio::task::spawn_blocking;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::{Imported, wanted};
use crate::domain::{ImageName, ImageOptions};
use crate::images;
use crate::images::registry::{Access, Insecure, Patience, Request, access};
use crate::images::worker::Task;

/// Bytes of the file with credentials.
const AUTH_FILE: u64 = 1 << 20;

pub(super) async fn import(
    context: &Context,
    image: ImageName,
    options: &ImageOptions,
    job: &Job,
) -> Result<Imported, Error> {
    let (sources, config) = (&context.sources, context.config.get());
    let registry = image.registry.as_ref().map(ToString::to_string).unwrap_or_default();
    let (cache, auth_file) = (sources.cache.clone(), config.images.auth_file.clone());
    let repository = image.repository.to_string();
    let prepared = spawn_blocking(move || prepare(&cache, auth_file.as_deref(), &registry, &repository)).await;
    let request = Request {
        insecure: Insecure(config.images.insecure_registries.clone()),
        access: prepared.map_err(|_| Error::Defect)??,
        image,
        cache: sources.cache.clone(),
        cache_limit: config.images.cache_size,
        wanted: wanted(context, options),
        patience: patience(),
    };
    through(context, &sources.far, None, vec![Link::from(Task::Registry(request))], job).await
}

/// What the worker cannot do itself: it sees no file but those of the cache.
fn prepare(cache: &Path, auth_file: Option<&Path>, registry: &str, repository: &str) -> Result<Access, images::Error> {
    let failed = |error| images::Error::Io { what: format!("make the cache {}", cache.display()), error };
    DirBuilder::new().recursive(true).mode(0o700).create(cache).map_err(failed)?;
    std::fs::set_permissions(cache, Permissions::from_mode(0o700)).map_err(failed)?;
    auth_file.map_or(Ok(Access::Anyone), |file| credential(file, registry, repository))
}

fn credential(file: &Path, registry: &str, repository: &str) -> Result<Access, images::Error> {
    let wrong = |what: String| {
        let file = file.display();
        images::Error::Unavailable(format!(
            "images.auth-file {file} {what}: write it with podman login --authfile {file} {registry}, or take it out of \
             the configuration"
        ))
    };
    let bytes = read(file).map_err(|error| wrong(format!("cannot be read ({error})")))?;
    access::of_file(&bytes, registry, repository).map_err(|error| wrong(format!("is broken, {error}")))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(AUTH_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > AUTH_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Tests wait for a bad registry as many milliseconds as `ALBATROSS_DEPLOYER_PATIENCE` says.
#[cfg(feature = "fault-injection")]
fn patience() -> Patience {
    use std::time::Duration;
    let told = std::env::var("ALBATROSS_DEPLOYER_PATIENCE").ok().and_then(|text| text.parse().ok());
    told.map(Duration::from_millis).map_or_else(Patience::default, |silence| Patience {
        silence,
        pause: Patience::default().pause.min(silence / 10),
        whole: silence * 20,
        ..Patience::default()
    })
}

#[cfg(not(feature = "fault-injection"))]
fn patience() -> Patience {
    Patience::default()
}
