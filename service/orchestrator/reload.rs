//! The configuration, read again while the service runs: taken over whole, or refused whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info};

use super::context::Context;
use super::owner::Trouble;
use super::{Orchestrator, imports};
use crate::config::{self, Config, Places};
use crate::planning::reload::Refusal;

/// What the file system may take to give the files.
const READING: Duration = Duration::from_secs(20);

/// Why the configuration stays what it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its message begins with file, line and key.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The same, where the key stands in no file.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{} was not read within {} s: its file system does not answer", .0.display(), READING.as_secs())]
    Late(PathBuf),
    #[error("the kernel does not take the table as the configuration has it, the line before says why: reload again")]
    Kernel,
    #[error("the service is stopping")]
    Stopping,
}

impl Orchestrator {
    /// Reads the configuration again and acts by it from then on. Calls that work go on; each takes a setting when it needs
    /// it. What is refused, and why, goes to the log and, until a reload succeeds, to Degraded.
    ///
    /// # Errors
    /// All is as before.
    pub async fn reload(&self, file: &Path) -> Result<(), Error> {
        let outcome = reload(&self.context, file).await;
        let note = outcome.as_ref().err().map(|why| {
            error!(%why, "the configuration is not taken over, and the one before holds: {why}");
            format!("the configuration is not taken over, and the one before holds until a reload or restart succeeds: {why}")
        });
        if outcome.is_ok() {
            let file = file.display();
            info!(%file, "the configuration was read again, and holds: {file}");
        }
        self.context.owner.trouble(Trouble::Configuration, note).await;
        outcome
    }
}

async fn reload(context: &Arc<Context>, file: &Path) -> Result<(), Error> {
    let path = file.to_owned();
    let reading = spawn_blocking(move || config::load_with_places(&path));
    let read = timeout(READING, reading).await.map_err(|_| Error::Late(file.to_owned()))?;
    let (config, places) = read.map_err(|_| Error::Stopping)??;
    let (before, config) = (context.config.get(), Arc::new(config));
    context.owner.reconfigure(Arc::clone(&config)).await.map_err(|error| placed(error, &places))?;
    apply(context, &before, &config);
    Ok(())
}

/// A key that is refused, with its file and line.
fn placed(error: Error, places: &Places) -> Error {
    match error {
        Error::Refused(Refusal { key, message }) => places.refuse(&key, message).into(),
        other => other,
    }
}

/// Hands on what is kept elsewhere than in the configuration, and wakes up those that may have something to do by it.
fn apply(context: &Arc<Context>, before: &Config, config: &Config) {
    let limits = &config.limits;
    context.store.set_limits(limits.image_size, limits.store_size);
    context.jobs.set_history(limits.job_history);
    context.deploy_slots.resize(u32::try_from(limits.concurrent_deploys).unwrap_or(u32::MAX));
    context.albatross.set_deadline(config.albatross.deadline);
    if before.images.docker_socket != config.images.docker_socket {
        tokio::spawn(imports::tidy(Arc::clone(context)));
    }
    config.warn_of_ignored();
    // A bridge that is a network now, a collection that is automatic, a live unikernel that has ended.
    context.host_changed.notify_one();
    context.collects.notify_one();
    context.look.notify_one();
}
