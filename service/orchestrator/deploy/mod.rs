//! Deploy: from an image to a unikernel that is ready.

mod image;
mod reservation;
mod running;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::claims::Claim;
use super::context::Context;
use super::error::Error;
use super::imports::Imported;
use super::jobs::Job;
use super::request::DeployRequest;
use super::workflow::{self, Flow, Step, nothing};
use crate::albatross::{Created, Running};
use crate::domain::{Ordinal, Unikernel, UnikernelId};
use crate::planning::admission::Deployment;
use crate::planning::template;

/// The way of a deployment, and back.
pub const DEPLOY: &[Step<Deploy>] = &[
    Step { name: "queued", perform: Deploy::wait_for_slot, undo: nothing, cancellable: true },
    Step { name: "importing", perform: Deploy::import, undo: Deploy::drop_image, cancellable: true },
    Step { name: "claiming", perform: Deploy::claim, undo: nothing, cancellable: true },
    Step { name: "reserving", perform: Deploy::reserve, undo: Deploy::release, cancellable: false },
    Step { name: "clearing", perform: Deploy::clear, undo: Deploy::destroy, cancellable: false },
    Step { name: "probing", perform: Deploy::probe, undo: nothing, cancellable: true },
    Step { name: "creating", perform: Deploy::create, undo: Deploy::destroy, cancellable: false },
    Step { name: "starting", perform: Deploy::confirm, undo: nothing, cancellable: false },
    Step { name: "waiting", perform: Deploy::wait_until_ready, undo: nothing, cancellable: true },
    Step { name: "finishing", perform: Deploy::record_ready, undo: nothing, cancellable: false },
];

/// Returns when the unikernel is ready. What could not be undone of one that failed is when Albatross answers.
pub async fn deploy(context: Arc<Context>, request: DeployRequest, job: &Job) -> Result<Outcome, Error> {
    let mut deploy = Deploy::new(context, request);
    workflow::run(DEPLOY, &mut deploy, job).await?;
    deploy.outcome()
}

/// A unikernel that is ready.
#[derive(Debug)]
pub struct Outcome {
    pub id: UnikernelId,
    pub address: IpAddr,
    /// This deployment has started it; otherwise it was there.
    pub started: bool,
}

/// A deployment on its way.
#[derive(Debug)]
pub struct Deploy {
    context: Arc<Context>,
    request: DeployRequest,
    slot: Option<OwnedSemaphorePermit>,
    image: Option<Imported>,
    deployment: Option<Deployment>,
    /// The image, opened while the ledger was written.
    opened: Option<(File, u64)>,
    /// The address that was asked for on the network while the ledger was written, and whether somebody answered.
    probed: Option<(IpAddr, bool)>,
    claim: Option<Claim>,
    unikernel: Option<Unikernel>,
    revived: bool,
    /// Its place among the deployments of its service, where it gets that once it is ready.
    counts_as: Option<Ordinal>,
    created: Option<Created>,
    /// Links on the network before it was created, where its rule is that its own has carrier.
    ports_before: Option<BTreeSet<u32>>,
    /// Albatross may have been asked to create it, and has not said that it is gone.
    maybe_created: bool,
}

impl Deploy {
    pub fn new(context: Arc<Context>, request: DeployRequest) -> Self {
        Self {
            context,
            request,
            slot: None,
            image: None,
            deployment: None,
            opened: None,
            probed: None,
            claim: None,
            unikernel: None,
            revived: false,
            counts_as: None,
            created: None,
            ports_before: None,
            maybe_created: false,
        }
    }

    /// What came of it, once the table has run.
    pub fn outcome(self) -> Result<Outcome, Error> {
        let unikernel = self.unikernel.ok_or(Error::Defect)?;
        Ok(Outcome { id: unikernel.id, address: unikernel.address, started: self.maybe_created })
    }

    fn wait_for_slot<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // Before anything is read: a template that cannot be filled in needs no image.
            template::check(&self.request.configuration.arguments)?;
            self.slot = Some(self.free_slot().await?);
            Ok(Flow::Next)
        }
        .boxed()
    }

    pub(super) async fn free_slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.context.deploy_slots.acquire().await
    }

    fn deployment(&self) -> Result<&Deployment, Error> {
        self.deployment.as_ref().ok_or(Error::Defect)
    }

    fn unikernel(&self) -> Result<&Unikernel, Error> {
        self.unikernel.as_ref().ok_or(Error::Defect)
    }
}

/// The record of a unikernel that Albatross says it runs.
pub fn running_now(unikernel: Unikernel, running: &Running) -> Unikernel {
    Unikernel { mac: running.mac.or(unikernel.mac), started_at: running.started, ..unikernel }
}
