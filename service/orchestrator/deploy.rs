//! Deploy: from an image to a unikernel that is ready.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::claims::{Claim, Pin};
use super::context::Context;
use super::error::Error;
use super::jobs::Job;
use super::owner::State;
use super::request::{DeployRequest, ImageSource};
use super::workflow::{self, Flow, Step, nothing};
use super::{collect, leases, readiness, returns};
use crate::albatross::{Created, Creation, Running};
use crate::domain::{
    Change, ImageDigest, ImageRecord, Phase, Readiness, Timestamp, Unikernel, UnikernelId, UnikernelSpec,
};
use crate::images;
use crate::planning::admission::{self, Admitted, Deployment};
use crate::planning::{self, reconcile, removal, template};

/// How often an image may be removed from the store while it is read.
const IMPORT_ATTEMPTS: usize = 3;

/// Between two looks whether a link has carrier. Nobody waits for it alone: it has the time to fail besides.
const CARRIER_LOOK: Duration = Duration::from_millis(20);

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
pub async fn deploy(context: Arc<Context>, request: DeployRequest, job: &Job) -> Result<(UnikernelId, IpAddr), Error> {
    let mut deploy = Deploy::new(context, request);
    workflow::run(DEPLOY, &mut deploy, job).await?;
    deploy.outcome()
}

/// A deployment on its way.
#[derive(Debug)]
pub struct Deploy {
    context: Arc<Context>,
    request: DeployRequest,
    slot: Option<OwnedSemaphorePermit>,
    image: Option<(ImageRecord, Pin)>,
    /// The store did not have the image before.
    brought_image: bool,
    deployment: Option<Deployment>,
    /// The image, opened while the ledger was written.
    opened: Option<(File, ImageRecord)>,
    /// The address that was asked for on the network while the ledger was written, and whether somebody answered.
    probed: Option<(IpAddr, bool)>,
    claim: Option<Claim>,
    unikernel: Option<Unikernel>,
    revived: bool,
    created: Option<Created>,
    /// Links on the network before it was created.
    ports_before: BTreeSet<u32>,
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
            brought_image: false,
            deployment: None,
            opened: None,
            probed: None,
            claim: None,
            unikernel: None,
            revived: false,
            created: None,
            ports_before: BTreeSet::new(),
            maybe_created: false,
        }
    }

    /// What came of it, once the table has run.
    pub fn outcome(self) -> Result<(UnikernelId, IpAddr), Error> {
        let unikernel = self.unikernel.ok_or(Error::Defect)?;
        Ok((unikernel.id, unikernel.address))
    }

    fn wait_for_slot<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // Before anything is read: a template that cannot be filled in needs no image.
            template::check(&self.request.arguments)?;
            self.slot = Some(self.free_slot().await?);
            Ok(Flow::Next)
        }
        .boxed()
    }

    async fn free_slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.context.deploy_slots).acquire_owned().await.map_err(|_| Error::Stopping)
    }

    fn import<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
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
                exclude: self.request.exclude.clone(),
                readiness: self.request.readiness.clone(),
                timeout: self.request.timeout,
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
    async fn receive(&mut self, file: std::fs::File, job: &Job) -> Result<(ImageRecord, Pin), Error> {
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
    async fn receive_once(&mut self, file: std::fs::File, job: &Job) -> Result<(ImageRecord, Pin), Error> {
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
        let network = self.request.network.clone();
        let network = self.context.owner.look(move |state| match network {
            Some(name) => state.facts.network(&name).map(|network| network.name.clone()),
            None => state.facts.default_network().map(|network| network.name.clone()),
        });
        Ok(UnikernelSpec {
            image,
            arguments: self.request.arguments.clone(),
            memory: self.request.memory,
            network: network.await??,
            cpu: self.request.cpu,
            block_devices: self.request.block_devices.clone(),
            restart: self.request.restart.clone(),
            address: self.request.address.clone(),
        })
    }

    /// An image that this call brought and nothing uses goes again.
    fn drop_image(&mut self) -> BoxFuture<'_, Result<(), Error>> {
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

    /// Two calls with the same configuration: the second waits, and then finds what the first has made.
    fn claim<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let deployment = self.deployment()?;
            let id = deployment.spec.id(&deployment.service);
            self.claim = Some(match self.context.claims.claim(&id) {
                Some(claim) => claim,
                None => {
                    // Whoever only waits does not keep other services from being deployed.
                    self.slot = None;
                    let claim = self.context.claims.claim_in_turn(&id).await;
                    self.slot = Some(self.free_slot().await?);
                    claim
                }
            });
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn reserve<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let deployment = self.deployment()?.clone();
            self.settle(&deployment).await?;
            let image = deployment.image.digest;
            let (chosen, chosen_address) = oneshot::channel();
            let admitted = self.context.owner.decide(move |state| {
                let (changes, admitted) = admission::admit(&deployment, &state.world, &state.facts, Timestamp::now())?;
                if let Admitted::Start { unikernel, revived: false } = &admitted {
                    let _ = chosen.send((unikernel.spec.network.clone(), unikernel.address));
                }
                Ok((changes, admitted))
            });
            // Both change nothing, and take as long as the disk does.
            let probe = async {
                let (network, address) = chosen_address.await.ok()?;
                Some((address, leases::answers(&self.context, &network, address).await))
            };
            let open = self.context.store.get(image);
            let (admitted, probed, opened) = tokio::join!(admitted, probe, open);
            (self.probed, self.opened) = (probed, opened.ok());
            match admitted? {
                Admitted::AlreadyThere(unikernel) => {
                    if unikernel.phase == Phase::Returned {
                        let asked = Unikernel {
                            readiness: self.request.readiness.clone(),
                            timeout: self.request.timeout,
                            ..unikernel.clone()
                        };
                        returns::confirm(&self.context, &asked).await?;
                    }
                    self.unikernel = Some(unikernel);
                    Ok(Flow::Done)
                }
                Admitted::Start { unikernel, revived } => {
                    self.unikernel = Some(unikernel);
                    self.revived = revived;
                    Ok(Flow::Next)
                }
            }
        }
        .boxed()
    }

    /// What the ledger holds of it already is brought up to date first. The claim is ours, so a removal that is in it is one
    /// that could not be finished: it is now, or there is no use in asking Albatross for more.
    async fn settle(&self, deployment: &Deployment) -> Result<(), Error> {
        let id = deployment.spec.id(&deployment.service);
        let wanted = id.clone();
        let Some(there) = self.context.owner.look(move |state| state.world.unikernel(&wanted).cloned()).await? else {
            return Ok(());
        };
        if there.removing {
            self.context.albatross.destroy(&id).await?;
            let forget = move |state: &State| Ok((removal::forget(&state.world, &id, Timestamp::now()), ()));
            return self.context.owner.decide(forget).await;
        }
        // Its death may not have been noticed yet. Where Albatross does not answer, what was seen last holds.
        match self.context.albatross.unikernel(&id).await {
            Ok(None) => self.context.owner.decide(move |state| Ok((reconcile::missed(&state.world, &id), ()))).await,
            _ => Ok(()),
        }
    }

    /// Takes the lease and the intent back; where Albatross may still have the unikernel, leaves both until it has not.
    fn release(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let Some(unikernel) = self.unikernel.clone().filter(|_| !self.maybe_created) else { return Ok(()) };
            let consoles = self.context.last_words(&unikernel.id).await;
            self.context
                .owner
                .decide(move |state| {
                    let (id, reason) = (&unikernel.id, &unikernel.exit_reason);
                    let mut changes = reconcile::undo_deploy(&state.world, id, reason, Timestamp::now());
                    changes.extend(reconcile::last_words(&changes, consoles));
                    Ok((changes, ()))
                })
                .await
        }
        .boxed()
    }

    /// What was there before under the same name, half-made or about to be started again by Albatross, would refuse its
    /// place to the new one, and answer on its address.
    fn clear<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            self.maybe_created = self.revived;
            self.destroy().await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    /// An address that answers although nobody leased it is somebody's: the next one is tried.
    fn probe<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            for _ in 0..leases::PROBES {
                let unikernel = self.unikernel()?.clone();
                let (network, address) = (unikernel.spec.network, unikernel.address);
                let answers = match self.probed.take_if(|(probed, _)| *probed == address) {
                    Some((_, answers)) => answers,
                    None => leases::answers(&self.context, &network, address).await,
                };
                if !answers {
                    return Ok(Flow::Next);
                }
                if self.revived || unikernel.spec.address.address.is_some() {
                    return Err(planning::Error::AddressAnswers { address, network }.into());
                }
                self.move_on().await?;
            }
            let prefix = self.unikernel()?.address;
            Err(planning::Error::AddressAnswers { address: prefix, network: self.unikernel()?.spec.network.clone() }
                .into())
        }
        .boxed()
    }

    /// Leases another address than the one that answered.
    async fn move_on(&mut self) -> Result<(), Error> {
        let (unikernel, exclude) = (self.unikernel()?.clone(), self.request.exclude.clone());
        let moved = self.context.owner.decide(move |state| {
            Ok(admission::move_lease(&unikernel, &exclude, &state.world, &state.facts, Timestamp::now())?)
        });
        self.unikernel = Some(moved.await?);
        Ok(())
    }

    fn create<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let unikernel = self.unikernel()?.clone();
            let opened = self.opened.take();
            let (record, _) = self.image.as_ref().ok_or(Error::Defect)?;
            let creation = self.creation(&unikernel, record).await?;
            let (file, size) = match opened {
                Some((file, stored)) => (file, stored.size),
                // For the error that says why it could not be opened.
                None => self.context.store.get(record.digest).await.map(|(file, stored)| (file, stored.size))?,
            };
            self.ports_before = self.ports().await?;
            self.maybe_created = true;
            self.context.consoles.begin(&unikernel.id);
            let created = self.context.albatross.create(&unikernel.id, &creation, file, size).await;
            match created {
                Ok(created) => {
                    self.created = Some(created);
                    Ok(Flow::Next)
                }
                Err(error) => {
                    self.maybe_created = !error.is_final();
                    if self.maybe_created {
                        self.context.claims.may_come_late(&unikernel.id);
                    }
                    Err(error.into())
                }
            }
        }
        .boxed()
    }

    async fn creation(&self, unikernel: &Unikernel, image: &ImageRecord) -> Result<Creation, Error> {
        let expanding = unikernel.clone();
        let arguments = self.context.owner.look(move |state| {
            let network = state.facts.network(&expanding.spec.network)?;
            admission::arguments(&expanding, network)
        });
        Ok(Creation {
            digest: image.digest,
            arguments: arguments.await??,
            memory: unikernel.spec.memory,
            cpu: unikernel.cpu,
            network: unikernel.spec.network.clone(),
            device: image.network_device.clone(),
            block_devices: unikernel.spec.block_devices.clone(),
            restart: unikernel.spec.restart.clone(),
        })
    }

    fn destroy(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            if self.maybe_created {
                let id = self.unikernel()?.id.clone();
                self.context.albatross.destroy(&id).await?;
                self.maybe_created = false;
            }
            Ok(())
        }
        .boxed()
    }

    /// Albatross has started its process; whether it runs it says when it is asked.
    fn confirm<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // Neither state is worth the disk's time: to a start of the service both are as half-made as one that is
            // being created.
            let starting = Unikernel { phase: Phase::Starting, ..self.unikernel()?.clone() };
            self.context.owner.show(starting.clone()).await?;
            let running = match self.created.take() {
                Some(Created::Running(running)) => Some(running),
                _ => self.context.albatross.unikernel(&starting.id).await?,
            };
            let Some(running) = running else {
                return Err(self.context.not_ready(&starting, "it exited at once".into()).await);
            };
            let running = Unikernel { phase: Phase::Running, ..running_now(starting, &running) };
            self.unikernel = Some(running.clone());
            self.context.owner.show(running).await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn record_ready<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // Ours keeps the reason why it had ended before: should this be undone, that is what it goes back to.
            let unikernel = Unikernel { phase: Phase::Ready, exit_reason: String::new(), ..self.unikernel()?.clone() };
            let id = unikernel.id.clone();
            self.context
                .owner
                .decide(move |state| {
                    // A switch can have written there meanwhile when it was live.
                    let last_live = state.world.unikernel(&unikernel.id).and_then(|now| now.last_live);
                    Ok((vec![Change::PutUnikernel(Box::new(Unikernel { last_live, ..unikernel }))], ()))
                })
                .await?;
            info!(%id, "deployed");
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn wait_until_ready<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let unikernel = self.unikernel()?;
            self.link_has_carrier(unikernel).await?;
            match readiness::wait(&self.context, unikernel).await {
                Ok(()) => Ok(Flow::Next),
                Err(reason) => Err(self.context.not_ready(unikernel, reason).await),
            }
        }
        .boxed()
    }

    /// Waits until every link that has come to the network with this one has carrier: a tender gives it to its tap when it
    /// opens it. Whose link it is the kernel does not say; of two that are created at the same time each waits for both.
    /// What answers over the network has it.
    async fn link_has_carrier(&self, unikernel: &Unikernel) -> Result<(), Error> {
        if unikernel.readiness != Readiness::Running {
            return Ok(());
        }
        let deadline = Instant::now() + unikernel.timeout;
        loop {
            let ports = self.context.host.ports(&unikernel.spec.network).await.unwrap_or_default();
            if ports.iter().all(|port| port.carrier || self.ports_before.contains(&port.index)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.context.not_ready(unikernel, "its link has no carrier".into()).await);
            }
            sleep(CARRIER_LOOK).await;
        }
    }

    /// The links on the network, where it matters which come.
    async fn ports(&self) -> Result<BTreeSet<u32>, Error> {
        let unikernel = self.unikernel()?;
        if unikernel.readiness != Readiness::Running {
            return Ok(BTreeSet::new());
        }
        let ports = self.context.host.ports(&unikernel.spec.network).await?;
        Ok(ports.into_iter().map(|port| port.index).collect())
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
