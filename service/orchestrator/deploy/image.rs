//! The image of a deployment: how it comes into the store, and how it leaves it again.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::error::Error;
use super::super::imports;
use super::super::jobs::Job;
use super::super::owner::State;
use super::super::request::ImageSource;
use super::super::workflow::Flow;
use super::Deploy;
use crate::domain::ImageDigest;
use crate::planning::admission::{self, Deployment};

impl Deploy {
    pub(super) fn import<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let used_up = ImageSource::Stored(ImageDigest([0; 32]));
            let source = std::mem::replace(&mut self.request.image, used_up);
            // What has to be fetched or built may take hours, in which others deploy.
            let is_far = source.is_far();
            self.slot = self.slot.take().filter(|_| !is_far);
            let imported = imports::import(&self.context, source, job).await?;
            let record = imported.record.clone();
            // Before anything else is waited for: a cancellation takes it away again.
            self.image = Some(imported);
            if is_far {
                self.slot = Some(self.free_slot().await?);
            }
            let (configuration, digest) = (self.request.configuration.clone(), record.digest);
            let look = move |state: &State| admission::specification(&configuration, digest, &state.facts);
            let spec = self.context.owner.look(look).await??;
            admission::check_devices(&spec, &record)?;
            self.deployment = Some(Deployment {
                service: self.request.service.clone(),
                spec,
                image: record,
                exclude: self.request.configuration.exclude.clone(),
                readiness: self.request.configuration.readiness.clone(),
                timeout: self.request.configuration.timeout,
                check: self.request.configuration.check,
                stack: self.request.stack.clone(),
                keeps: self.request.keeps,
            });
            Ok(Flow::Next)
        }
        .boxed()
    }

    /// An image that this call brought and nothing uses goes again.
    pub(super) fn drop_image(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            match self.image.take() {
                Some(imported) => imported.drop_unused(&self.context).await,
                None => Ok(()),
            }
        }
        .boxed()
    }
}
