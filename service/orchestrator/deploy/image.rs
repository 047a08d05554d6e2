//! The image of a deployment: how it comes into the store, and how it leaves it again.

use std::fs::File;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::claims::Pin;
use super::super::collect;
use super::super::error::Error;
use super::super::jobs::Job;
use super::super::request::ImageSource;
use super::super::workflow::Flow;
use super::Deploy;
use crate::domain::{ImageDigest, ImageRecord, UnikernelSpec};
use crate::images;
use crate::planning::admission::{self, Deployment};

/// How often an image may be removed from the store while it is read.
const IMPORT_ATTEMPTS: usize = 3;

impl Deploy {
    pub(super) fn import<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let used_up = ImageSource::Stored(ImageDigest([0; 32]));
            let (record, pin) = match std::mem::replace(&mut self.request.image, used_up) {
                ImageSource::Stored(digest) => self.stored(digest).await?,
                ImageSource::Descriptor(file) => self.receive(file, job).await?,
                ImageSource::Path { path, caller } => {
                    let file = images::open_as(path, &caller).await?;
                    self.receive(file, job).await?
                }
            };
            self.image = Some((record.clone(), pin));
            let spec = self.specification(record.digest).await?;
            admission::check_devices(&spec, &record)?;
            self.deployment = Some(Deployment {
                service: self.request.service.clone(),
                spec,
                image: record,
                exclude: self.request.configuration.exclude.clone(),
                readiness: self.request.configuration.readiness.clone(),
                timeout: self.request.configuration.timeout,
                stack: self.request.stack.clone(),
            });
            Ok(Flow::Next)
        }
        .boxed()
    }

    async fn stored(&self, digest: ImageDigest) -> Result<(ImageRecord, Pin), Error> {
        let pin = self.context.claims.pin(digest);
        let known = self.context.owner.look(move |state| state.world.image(digest).cloned()).await?;
        Ok((known.ok_or(images::Error::NotStored(digest))?, pin))
    }

    /// Copies the image into the store. Whoever removes it at this moment had not seen that it is wanted again: a file is
    /// read once more then, a pipe cannot be.
    async fn receive(&mut self, file: File, job: &Job) -> Result<(ImageRecord, Pin), Error> {
        for _ in 0..IMPORT_ATTEMPTS {
            let Ok(again) = file.try_clone() else { break };
            match self.receive_once(again, job).await {
                Err(Error::ImageGone(_)) if file.metadata().is_ok_and(|kind| kind.is_file()) => {}
                outcome => return outcome,
            }
        }
        self.receive_once(file, job).await
    }

    /// Pins what it copied before Collect can look at it again.
    async fn receive_once(&mut self, file: File, job: &Job) -> Result<(ImageRecord, Pin), Error> {
        let progress = job.progress();
        let counted = move |bytes: u64, total: Option<u64>| {
            if let Some(total) = total.filter(|&total| total > 0) {
                progress(bytes as f64 / total as f64);
            }
        };
        let record = self.context.store.import(file, counted, job.cancelled()).await?;
        let _gate = self.context.store_gate.lock().await;
        let pin = self.context.claims.pin(record.digest);
        // A Collect between the import and the gate took an image that was stored before, and unused.
        self.context.store.get(record.digest).await.map_err(|_| Error::ImageGone(record.digest))?;
        let digest = record.digest;
        self.brought_image = self.context.owner.look(move |state| state.world.image(digest).is_none()).await?;
        Ok((record, pin))
    }

    async fn specification(&self, image: ImageDigest) -> Result<UnikernelSpec, Error> {
        let network = self.request.configuration.network.clone();
        let network = self.context.owner.look(move |state| match network {
            Some(name) => state.facts.network(&name).map(|network| network.name.clone()),
            None => state.facts.default_network().map(|network| network.name.clone()),
        });
        Ok(UnikernelSpec {
            image,
            arguments: self.request.configuration.arguments.clone(),
            memory: self.request.configuration.memory,
            network: network.await??,
            cpu: self.request.configuration.cpu,
            block_devices: self.request.configuration.block_devices.clone(),
            restart: self.request.configuration.restart.clone(),
            address: self.request.configuration.address.clone(),
        })
    }

    /// An image that this call brought and nothing uses goes again.
    pub(super) fn drop_image(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let Some((record, pin)) = self.image.take() else { return Ok(()) };
            drop(pin);
            if self.brought_image {
                collect::drop_unused_image(&self.context, record.digest).await?;
            }
            Ok(())
        }
        .boxed()
    }
}
