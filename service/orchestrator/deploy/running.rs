//! The unikernel of a deployment: created by Albatross, confirmed to run, and ready.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::super::error::Error;
use super::super::jobs::Job;
use super::super::owner::{State, Trouble};
use super::super::watch::TAP;
use super::super::workflow::Flow;
use super::super::{readiness, stale_flows, watch};
use super::{Deploy, running_now};
use crate::albatross::{Created, Creation};
use crate::domain::{ImageRecord, Phase, Readiness, Unikernel};
use crate::host_network::Port;
use crate::planning::{admission, degraded};

/// How often the kernel is asked for the links of a network that change meanwhile.
const LISTS: usize = 5;

/// Between two looks whether a link has carrier. Nobody waits for it alone: it has the time to fail besides.
const CARRIER_LOOK: Duration = Duration::from_millis(4);

impl Deploy {
    pub(super) fn create<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let unikernel = self.unikernel()?.clone();
            let opened = self.opened.take();
            let record = &self.image.as_ref().ok_or(Error::Defect)?.record;
            let creation = self.creation(&unikernel, record).await?;
            let (file, size) = match opened {
                Some(opened) => opened,
                // For the error that says why it could not be opened.
                None => self.context.store.open_stored(record.digest).await?,
            };
            self.context.bridges.prepare(&self.context, &unikernel.spec.network).await;
            let (ports, ()) = tokio::join!(self.ports(), stale_flows::clear_address(&self.context, unikernel.address));
            self.ports_before = ports?;
            self.maybe_created = true;
            self.context.consoles.begin(&unikernel.id);
            let created = self.context.albatross.create(&unikernel.id, &creation, file, size).await;
            match created {
                Ok(created) => {
                    self.context.owner.trouble(Trouble::AlbatrossConsole, None).await;
                    self.created = Some(created);
                    Ok(Flow::Next)
                }
                Err(error) => {
                    if error.is_console_lost() {
                        let note = degraded::CONSOLE_LOST.to_string();
                        self.context.owner.trouble(Trouble::AlbatrossConsole, Some(note)).await;
                    }
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

    pub(super) fn destroy(&mut self) -> BoxFuture<'_, Result<(), Error>> {
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
    pub(super) fn confirm<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
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

    pub(super) fn record_ready<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // Ours keeps the reason why it had ended before: should this be undone, that is what it goes back to.
            let (unikernel, counts_as) = (self.unikernel()?.clone(), self.counts_as);
            let (id, address) = (unikernel.id.clone(), unikernel.address);
            let ready = move |state: &State| Ok((admission::ready(&state.world, unikernel, counts_as), ()));
            self.context.owner.decide(ready).await?;
            info!(%id, %address, "{id} is deployed at {address} and ready");
            // Should it die at once, that is to be known by its tap.
            let context = Arc::clone(&self.context);
            tokio::spawn(async move { watch::learn_taps(&context).await });
            Ok(Flow::Next)
        }
        .boxed()
    }

    pub(super) fn wait_until_ready<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
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
        let Some(before) = &self.ports_before else { return Ok(()) };
        let deadline = Instant::now() + unikernel.timeout;
        loop {
            let carries = |port: &Port| port.carrier || !port.name.starts_with(TAP) || before.contains(&port.index);
            // A list that could not be made, for links came and went meanwhile, is made again.
            if self.context.host.ports(&unikernel.spec.network).await.is_ok_and(|ports| ports.iter().all(carries)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.context.not_ready(unikernel, "its link has no carrier".into()).await);
            }
            sleep(CARRIER_LOOK).await;
        }
    }

    /// The links on the network, where it matters which come. While links come and go without end the kernel makes no list
    /// of them, and carriers are not waited for.
    async fn ports(&self) -> Result<Option<BTreeSet<u32>>, Error> {
        let unikernel = self.unikernel()?;
        if unikernel.readiness != Readiness::Running {
            return Ok(None);
        }
        for _ in 0..LISTS {
            match self.context.host.ports(&unikernel.spec.network).await {
                Ok(ports) => return Ok(Some(ports.into_iter().map(|port| port.index).collect())),
                Err(error) => debug!(%error, "which links there are before one is created"),
            }
        }
        Ok(None)
    }
}
