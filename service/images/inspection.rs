//! Who looks at what an image's headers and notes say: a worker, since whoever made the image has chosen them.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Error;
use super::solo5::{self, Devices};
use super::worker::{self, Heard, Next, Task};
use crate::domain::ImageDigest;

/// A few pages are read.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub(super) enum Inspector {
    Worker,
    Here,
}

/// What images were found to have, each looked at once.
#[derive(Debug)]
pub(super) struct Inspection {
    inspector: Inspector,
    known: Mutex<BTreeMap<ImageDigest, Devices>>,
}

impl Inspection {
    pub(super) fn new(inspector: Inspector) -> Self {
        Self { inspector, known: Mutex::default() }
    }

    /// The devices of the image that `open` opens for reading.
    pub(super) async fn devices(
        &self,
        digest: ImageDigest,
        open: impl FnOnce() -> Result<File, Error>,
    ) -> Result<Devices, Error> {
        if let Some(devices) = self.lock().get(&digest) {
            return Ok(devices.clone());
        }
        let image = open()?;
        match self.inspector {
            Inspector::Worker => timeout(DEADLINE, by_worker(image)).await.unwrap_or_else(|_| Err(silent())),
            Inspector::Here => spawn_blocking(move || solo5::inspect(image)).await.unwrap_or_else(|_| Err(silent())),
        }
    }

    /// Of an image that is in the store now.
    pub(super) fn remember(&self, digest: ImageDigest, devices: &Devices) {
        self.lock().insert(digest, devices.clone());
    }

    pub(super) fn forget(&self, digest: ImageDigest) {
        self.lock().remove(&digest);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ImageDigest, Devices>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent() -> Error {
    Error::Unavailable("what the image needs could not be found out: the process that reads it does not end".into())
}

async fn by_worker(image: File) -> Result<Devices, Error> {
    let (_nothing, mut worker) = worker::start(&Task::Inspect.into(), Some(image.into())).await?;
    let mut devices = None;
    loop {
        match worker.next(0).await? {
            Next::Heard(Heard::Answer(answer)) => devices = serde_json::from_str(&answer).ok(),
            Next::Heard(_) => {}
            Next::Ended { .. } => return devices.ok_or_else(silent),
        }
    }
}
