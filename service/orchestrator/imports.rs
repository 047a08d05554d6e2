//! How an image comes into the store for a call, and leaves it again where nothing has come of the call.

use std::fs::File;

use super::claims::Pin;
use super::collect;
use super::context::Context;
use super::error::Error;
use super::jobs::Job;
use super::request::ImageSource;
use crate::domain::{ImageDigest, ImageRecord};
use crate::images::{self, archive, worker};

/// How often an image may be removed from the store while it is read.
const ATTEMPTS: usize = 3;

/// An image of the store that a call works with: it stays there until this is dropped.
#[derive(Debug)]
pub struct Imported {
    pub record: ImageRecord,
    pin: Pin,
    /// The store did not have it before.
    brought: bool,
}

impl Imported {
    /// Takes it out of the store where this call brought it and nothing uses it.
    pub async fn drop_unused(self, context: &Context) -> Result<(), Error> {
        drop(self.pin);
        if self.brought {
            collect::drop_unused_image(context, self.record.digest).await?;
        }
        Ok(())
    }
}

/// Makes sure that the store has the image of `source`.
pub async fn import(context: &Context, source: ImageSource, job: &Job) -> Result<Imported, Error> {
    match source {
        ImageSource::Imported(record) => {
            let pin = context.claims.pin(record.digest);
            Ok(Imported { record, pin, brought: false })
        }
        ImageSource::Stored(digest) => stored(context, digest).await,
        ImageSource::Descriptor(file) => receive(context, file, job).await,
        ImageSource::Saved { path, form, name, unikernel, caller } => {
            let file = images::open_as(path, &caller).await?;
            let paths = match unikernel {
                Some(path) => vec![path.to_string()],
                None => archive::DEFAULT_PATHS.map(str::to_owned).to_vec(),
            };
            let task = worker::Task { form, tag: name, paths, limit: context.store.limit() };
            extract(context, file, &task, job).await
        }
        ImageSource::Path { path, caller } => receive(context, images::open_as(path, &caller).await?, job).await,
    }
}

/// Takes the unikernel out of a saved image. What the worker says of the image goes before what the store says of the
/// bytes that came.
async fn extract(context: &Context, archive: File, task: &worker::Task, job: &Job) -> Result<Imported, Error> {
    let total = archive.metadata().map(|file| file.len()).unwrap_or_default();
    let (unikernel, running) = worker::start(task, archive.into()).await?;
    let progress = job.progress();
    let read = move |bytes: u64| {
        if total > 0 {
            progress((bytes as f64 / total as f64).min(1.0));
        }
    };
    let (imported, outcome) = tokio::join!(receive_once(context, unikernel, job), running.outcome(read));
    match (imported, outcome) {
        (imported, Ok(true)) => imported,
        (Err(error), Ok(false)) => Err(error),
        (Err(Error::Image(images::Error::Cancelled)), _) => Err(Error::Cancelled),
        (Err(_), Err(error)) => Err(error.into()),
        (Ok(imported), not_read) => {
            imported.drop_unused(context).await?;
            Err(not_read.err().map_or(Error::Defect, Error::from))
        }
    }
}

async fn stored(context: &Context, digest: ImageDigest) -> Result<Imported, Error> {
    let pin = context.claims.pin(digest);
    let known = context.owner.look(move |state| state.world.image(digest).cloned()).await?;
    let record = known.ok_or(images::Error::NotStored(digest))?;
    Ok(Imported { record, pin, brought: false })
}

/// Copies the image into the store. Whoever removes it at this moment had not seen that it is wanted again: a file is
/// read once more then, a pipe cannot be.
async fn receive(context: &Context, file: File, job: &Job) -> Result<Imported, Error> {
    for _ in 0..ATTEMPTS {
        let Ok(again) = file.try_clone() else { break };
        match receive_once(context, again, job).await {
            Err(Error::ImageGone(_)) if file.metadata().is_ok_and(|kind| kind.is_file()) => {}
            outcome => return outcome,
        }
    }
    receive_once(context, file, job).await
}

/// Pins what it copied before Collect can look at it again.
async fn receive_once(context: &Context, file: File, job: &Job) -> Result<Imported, Error> {
    let progress = job.progress();
    let counted = move |bytes: u64, total: Option<u64>| {
        if let Some(total) = total.filter(|&total| total > 0) {
            progress(bytes as f64 / total as f64);
        }
    };
    let record = context.store.import(file, counted, job.cancelled()).await?;
    let _gate = context.store_gate.lock().await;
    let pin = context.claims.pin(record.digest);
    // A Collect between the import and the gate took an image that was stored before, and unused.
    context.store.get(record.digest).await.map_err(|_| Error::ImageGone(record.digest))?;
    let digest = record.digest;
    let brought = context.owner.look(move |state| state.world.image(digest).is_none()).await?;
    Ok(Imported { record, pin, brought })
}
