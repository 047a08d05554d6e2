//! How an image comes into the store for a call, and leaves it again where nothing has come of the call.

mod chain;
mod engine;
mod git;
mod registry;
mod saved;
mod sources;
mod workshop;

use std::fs::File;
use std::sync::Arc;

use super::claims::Pin;
use super::collect;
use super::context::Context;
use super::error::Error;
use super::jobs::Job;
use super::request::ImageSource;
use crate::domain::{Caller, ImageDigest, ImageOptions, ImageRecord, ImageReference, SavedImage};
use crate::images::worker::{Form, Wanted};
use crate::images::{self, Store};

pub use sources::Sources;
pub use workshop::clear as clear_workshop;

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
        ImageSource::Descriptor { file, signature: _ } => receive(context, file, job).await,
        ImageSource::Named { image, options, caller } => named(context, image, &options, caller, job).await,
    }
}

/// Removes what a run of the service that was killed has left elsewhere.
pub async fn tidy(context: Arc<Context>) {
    engine::tidy_others(&context).await;
}

async fn named(
    context: &Context,
    image: ImageReference,
    options: &ImageOptions,
    caller: Caller,
    job: &Job,
) -> Result<Imported, Error> {
    match image {
        ImageReference::Stored(digest) => stored(context, digest).await,
        ImageReference::Path(path) => receive(context, images::open_as(path, &caller).await?, job).await,
        ImageReference::DockerArchive(SavedImage { path, name }) => {
            let name = name.map(|name| name.to_string());
            saved::from_file(context, path, Form::Docker, name, options, &caller, job).await
        }
        ImageReference::OciArchive(SavedImage { path, name }) => {
            let name = name.map(|name| name.to_string());
            saved::from_file(context, path, Form::OciArchive, name, options, &caller, job).await
        }
        ImageReference::OciLayout(saved) => saved::from_folder(context, saved, options, caller, job).await,
        ImageReference::Engine(image) => engine::import(context, image, options, job).await,
        ImageReference::Registry(image) => registry::import(context, image, options, job).await,
        ImageReference::Git(source) => git::import(context, source, options, caller, job).await,
    }
}

/// What a worker takes out of an image for this call.
fn wanted(context: &Context, options: &ImageOptions) -> Wanted {
    let signature = !context.sources.keys.is_empty() && options.signature.is_none();
    Wanted { paths: options.image_paths(), limit: context.store.limit(), signature }
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
        match receive_once(context, &context.store, again, job).await {
            Err(Error::ImageGone(_)) if file.metadata().is_ok_and(|kind| kind.is_file()) => {}
            outcome => return outcome,
        }
    }
    receive_once(context, &context.store, file, job).await
}

/// Pins what it copied before Collect can look at it again.
async fn receive_once(context: &Context, store: &Store, file: File, job: &Job) -> Result<Imported, Error> {
    let progress = job.progress();
    let counted = move |bytes: u64, total: Option<u64>| {
        if let Some(total) = total.filter(|&total| total > 0) {
            progress(bytes as f64 / total as f64);
        }
    };
    let record = store.import(file, counted, job.cancelled()).await?;
    let digest = record.digest;
    // A Collect between the import and the gate took an image that was stored before, and unused.
    hold(context, digest).await.map_err(|error| match error {
        Error::Image(_) => Error::ImageGone(digest),
        other => other,
    })
}

/// An image whose file is in the store.
async fn hold(context: &Context, digest: ImageDigest) -> Result<Imported, Error> {
    let _gate = context.store_gate.lock().await;
    let pin = context.claims.pin(digest);
    let (_, record) = context.store.get(digest).await?;
    let brought = context.owner.look(move |state| state.world.image(digest).is_none()).await?;
    Ok(Imported { record, pin, brought })
}
