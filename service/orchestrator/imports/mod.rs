//! How an image comes into the store for a call, and leaves it again where nothing has come of the call.

mod chain;
mod engine;
mod git;
mod registry;
mod saved;
mod secret;
mod sources;
mod tidying;
mod trust;
mod workshop;

use std::fs::File;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use self::trust::Claim;
use super::claims::Pin;
use super::collect;
use super::context::Context;
use super::error::{Error, ErrorKind};
use super::jobs::Job;
use super::request::ImageSource;
use crate::domain::{Caller, ImageDigest, ImageOptions, ImageRecord, ImageReference, Origin, SavedImage};
use crate::images::worker::{Form, Wanted};
use crate::images::{self, Store};

pub use sources::Sources;
pub use workshop::clear as clear_workshop;

/// How often an image may be removed from the store while it is read.
const GONE: usize = 2;

/// Why what was imported is imported once more.
#[derive(Debug, Default)]
struct Again {
    gone: usize,
    cache_was_emptied: bool,
}

impl Again {
    /// Whether there is hope: whoever removed the image at this moment had not seen that it is wanted again, and the cache
    /// of layers gives way to the store.
    async fn after(&mut self, error: &Error, context: &Context) -> bool {
        match error {
            Error::ImageGone(_) => {
                self.gone += 1;
                self.gone <= GONE
            }
            Error::Image(images::Error::NoSpace { .. }) if !self.cache_was_emptied => {
                self.cache_was_emptied = true;
                let cache = context.sources.cache.clone();
                spawn_blocking(move || images::registry::empty_cache(&cache)).await.unwrap_or(false)
            }
            _ => false,
        }
    }
}

/// An image of the store that a call works with: it stays there until this is dropped.
#[derive(Debug)]
pub struct Imported {
    pub record: ImageRecord,
    pin: Pin,
    /// The store did not have it before.
    brought: bool,
    told: Told,
}

/// What the workers that brought it have told of it.
#[derive(Debug, Default)]
struct Told {
    /// See [`Origin::meant`].
    meant: Option<String>,
    signature: Option<String>,
    answer: Option<String>,
}

impl Imported {
    /// As [`Self::drop_unused`], where nobody can be told that it failed.
    async fn give_back(self, context: &Context) {
        let digest = self.record.digest;
        if let Err(error) = self.drop_unused(context).await {
            warn!(%error, %digest, "image {digest}, which nothing uses, stays in the store: {error}");
        }
    }

    /// Takes it out of the store where this call brought it and nothing uses it.
    pub async fn drop_unused(self, context: &Context) -> Result<(), Error> {
        drop(self.pin);
        if self.brought {
            collect::drop_unused_image(context, self.record.digest).await?;
        }
        Ok(())
    }
}

/// Makes sure that the store has the image of `source`, and that it may be used.
///
/// In a task of its own, which comes to its end also where the call does not wait for that: it hears of a cancellation
/// itself, and what it has brought by then goes again.
pub async fn import(context: &Arc<Context>, source: ImageSource, job: &Job) -> Result<Imported, Error> {
    let (sender, outcome) = oneshot::channel();
    let (importing, job) = (Arc::clone(context), job.clone());
    tokio::spawn(async move {
        let outcome = bring(&importing, source, &job).await;
        // It comes back where nobody waits.
        let _ = sender.send(outcome.map(|imported| OnItsWay { imported: Some(imported), context: importing }));
    });
    outcome.await.unwrap_or(Err(Error::Defect))?.arrived()
}

/// An image between its import and the call, which may be gone by then: dropped, it is given back.
#[derive(Debug)]
struct OnItsWay {
    imported: Option<Imported>,
    context: Arc<Context>,
}

impl OnItsWay {
    fn arrived(mut self) -> Result<Imported, Error> {
        self.imported.take().ok_or(Error::Defect)
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        // Without a runtime the service has ended, and its next start tidies up.
        if let (Some(imported), Ok(runtime)) = (self.imported.take(), Handle::try_current()) {
            let context = Arc::clone(&self.context);
            runtime.spawn(async move { imported.give_back(&context).await });
        }
    }
}

async fn bring(context: &Context, source: ImageSource, job: &Job) -> Result<Imported, Error> {
    let (imported, claim) = match source {
        // Neither is asked who signed it: see `trust`.
        ImageSource::Imported(record) => {
            let pin = context.claims.pin(record.digest);
            return Ok(Imported { record, pin, brought: false, told: Told::default() });
        }
        ImageSource::Stored(digest) => return stored(context, digest, job).await,
        ImageSource::Descriptor { file, signature } => {
            (receive(context, file, job).await?, Claim::by_option(signature))
        }
        ImageSource::Named { image, options, caller } => {
            let claim = Claim::of(context, &image, &options, &caller).await;
            (named(context, image, &options, caller, job).await?, claim)
        }
    };
    trust::verified(context, imported, claim, job).await
}

/// Removes what a run of the service that was killed has left elsewhere.
pub async fn tidy(context: Arc<Context>) {
    let socket = context.config.get().images.docker_socket.clone();
    context.sources.tidier.after_others(socket, context.sources.instance.clone()).await;
}

/// With where it came from in its record.
async fn named(
    context: &Context,
    image: ImageReference,
    options: &ImageOptions,
    caller: Caller,
    job: &Job,
) -> Result<Imported, Error> {
    if let ImageReference::Stored(digest) = image {
        return stored(context, digest, job).await;
    }
    let mut imported = fetch(context, &image, options, &caller, job).await?;
    let (options, meant) = (options.clone(), imported.told.meant.take());
    imported.record.origin = Some(Box::new(Origin { image, options, caller, meant }));
    Ok(imported)
}

/// And once more, where there is hope.
async fn fetch(
    context: &Context,
    image: &ImageReference,
    options: &ImageOptions,
    caller: &Caller,
    job: &Job,
) -> Result<Imported, Error> {
    let mut again = Again::default();
    loop {
        match fetch_once(context, image.clone(), options, caller, job).await {
            Err(error) if again.after(&error, context).await => {}
            outcome => return outcome,
        }
    }
}

async fn fetch_once(
    context: &Context,
    image: ImageReference,
    options: &ImageOptions,
    caller: &Caller,
    job: &Job,
) -> Result<Imported, Error> {
    match image {
        ImageReference::Stored(digest) => Err(images::Error::NotStored(digest).into()),
        ImageReference::Path(path) => {
            let file = images::open_as(path, caller).await?;
            receive_once(context, &context.store, file, job.counter(), job).await
        }
        ImageReference::DockerArchive(SavedImage { path, name }) => {
            let name = name.map(|name| name.to_string());
            saved::from_file(context, path, Form::Docker, name, options, caller, job).await
        }
        ImageReference::OciArchive(SavedImage { path, name }) => {
            let name = name.map(|name| name.to_string());
            saved::from_file(context, path, Form::OciArchive, name, options, caller, job).await
        }
        ImageReference::OciLayout(saved) => saved::from_folder(context, saved, options, caller, job).await,
        ImageReference::Engine(image) => engine::import(context, image, options, job).await,
        ImageReference::Registry(image) => registry::import(context, image, options, job).await,
        ImageReference::Git(source) => git::import(context, source, options, caller, job).await,
    }
}

/// What a worker takes out of an image for this call.
fn wanted(context: &Context, options: &ImageOptions) -> Wanted {
    let signature = !context.config.get().images.keys.is_empty() && options.signature.is_none();
    let (paths, named) = (options.image_paths(), options.image_path.is_some());
    Wanted { paths, named, limit: context.store.limit(), signature }
}

/// An image of the store, which must still be what it was.
async fn stored(context: &Context, digest: ImageDigest, job: &Job) -> Result<Imported, Error> {
    let pin = context.claims.pin(digest);
    let known = context.owner.look(move |state| state.world.image(digest).cloned()).await?;
    let record = known.ok_or(images::Error::NotStored(digest))?;
    match context.store.verify(digest).await {
        Ok(true) => Ok(Imported { record, pin, brought: false, told: Told::default() }),
        Ok(false) | Err(images::Error::NotStored(_)) => again(context, record, job).await,
        Err(error) => Err(error.into()),
    }
}

/// Gets an image from where it came from, since what was stored is damaged. What has it open goes on with it as it is.
async fn again(context: &Context, damaged: ImageRecord, job: &Job) -> Result<Imported, Error> {
    let digest = damaged.digest;
    warn!(%digest, "image {digest} is damaged in the store");
    let Some(origin) = damaged.origin else { return Err(Error::ImageDamaged { digest, origin: None }) };
    let shown = origin.to_string();
    let image = origin.pinned();
    let Origin { options, caller, .. } = *origin;
    let fetched = Box::pin(fetch(context, &image, &options, &caller, job)).await;
    let failed = |source| Error::ImageDamaged { digest, origin: Some((shown, source)) };
    match fetched {
        Ok(imported) if imported.record.digest == digest => {
            info!(%digest, "image {digest} was damaged, and is fetched again from its source");
            Ok(imported)
        }
        Ok(other) => {
            other.drop_unused(context).await?;
            Err(failed(None))
        }
        Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
        Err(error) => Err(failed(Some(Box::new(error)))),
    }
}

/// Drops what nothing uses, where one more image may be one too many.
async fn make_room(context: &Context) -> Result<(), Error> {
    if !context.store.is_nearly_full().await? {
        return Ok(());
    }
    let images = context.owner.look(|state| state.world.images().map(|image| image.digest).collect::<Vec<_>>()).await?;
    for digest in images {
        if collect::drop_unused_image(context, digest).await? {
            info!(%digest, "image {digest}, which nothing uses, is removed to make room");
        }
    }
    Ok(())
}

/// Copies what a client has opened into the store. As with [`fetch`], a file is read once more, a pipe cannot be.
async fn receive(context: &Context, file: File, job: &Job) -> Result<Imported, Error> {
    let mut again = Again::default();
    loop {
        let copy = file.try_clone().map_err(|error| images::Error::Io { what: "keep the image open".into(), error })?;
        match receive_once(context, &context.store, copy, job.counter(), job).await {
            Err(error) if is_file(&file).await && again.after(&error, context).await => {}
            outcome => return outcome,
        }
    }
}

/// Asked on another thread: its file system may have stopped answering.
async fn is_file(file: &File) -> bool {
    let Ok(file) = file.try_clone() else { return false };
    spawn_blocking(move || file.metadata().is_ok_and(|kind| kind.is_file())).await.unwrap_or(false)
}

/// Pins what it copied before Collect can look at it again.
async fn receive_once(
    context: &Context,
    store: &Store,
    file: File,
    counted: impl Fn(u64, Option<u64>) + Send,
    job: &Job,
) -> Result<Imported, Error> {
    make_room(context).await?;
    let record = store.import(file, counted, job.cancelled()).await?;
    // A Collect between the import and the gate took an image that was stored before, and unused.
    let digest = record.digest;
    hold(context, record).await.map_err(|error| match error {
        Error::Image(_) => Error::ImageGone(digest),
        other => other,
    })
}

/// An image whose file is in the store.
async fn hold(context: &Context, record: ImageRecord) -> Result<Imported, Error> {
    let digest = record.digest;
    let _gate = context.store_gate.lock().await;
    let pin = context.claims.pin(digest);
    context.store.open_stored(digest).await?;
    let known = context.owner.look(move |state| state.world.image(digest).cloned()).await?;
    let brought = known.is_none();
    let signature = known.and_then(|known| known.signature);
    Ok(Imported { record: ImageRecord { signature, ..record }, pin, brought, told: Told::default() })
}
