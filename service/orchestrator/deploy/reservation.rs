//! The place of a deployment: its id, its lease and its record in the ledger, before Albatross hears of it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::super::error::Error;
use super::super::jobs::Job;
use super::super::owner::State;
use super::super::workflow::Flow;
use super::super::{leases, returns};
use super::Deploy;
use crate::domain::{Phase, Timestamp, Unikernel};
use crate::planning::admission::{self, Admitted, Deployment};
use crate::planning::{self, order, reconcile, removal};

impl Deploy {
    /// Two calls with the same configuration: the second waits, and then finds what the first has made.
    pub(super) fn claim<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
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

    pub(super) fn reserve<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let deployment = self.deployment()?.clone();
            self.settle(&deployment).await?;
            let image = deployment.image.digest;
            let (chosen, chosen_address) = oneshot::channel();
            let admitted = self.context.owner.decide(move |state| {
                let (changes, admitted) = admission::admit(&deployment, &state.world, &state.facts, Timestamp::now())?;
                if let Admitted::Start { unikernel, revived: false, .. } = &admitted {
                    let _ = chosen.send((unikernel.spec.network.clone(), unikernel.address));
                }
                Ok((changes, admitted))
            });
            // Both change nothing, and take as long as the disk does.
            let probe = async {
                let (network, address) = chosen_address.await.ok()?;
                Some((address, leases::answers(&self.context, &network, address).await))
            };
            let open = self.context.store.open_stored(image);
            let (admitted, probed, opened) = tokio::join!(admitted, probe, open);
            (self.probed, self.opened) = (probed, opened.ok());
            match admitted? {
                Admitted::AlreadyThere { unikernel, counts_as } => {
                    if unikernel.phase == Phase::Returned || unikernel.readiness != self.deployment()?.readiness {
                        self.wait_by_this_rule(&unikernel, job).await?;
                    }
                    self.take_over_rule().await?;
                    if let Some(counts_as) = counts_as {
                        let id = unikernel.id.clone();
                        let found = move |state: &State| Ok((order::deployed_as(&state.world, &id, counts_as), ()));
                        self.context.owner.decide(found).await?;
                    }
                    self.unikernel = Some(unikernel);
                    Ok(Flow::Done)
                }
                Admitted::Start { unikernel, revived, counts_as } => {
                    self.unikernel = Some(unikernel);
                    (self.revived, self.counts_as) = (revived, counts_as);
                    Ok(Flow::Next)
                }
            }
        }
        .boxed()
    }

    /// Waits, by this call's rule, for one that runs again, or was ready by another rule.
    async fn wait_by_this_rule(&mut self, unikernel: &Unikernel, job: &Job) -> Result<(), Error> {
        let (readiness, timeout) = (self.request.configuration.readiness.clone(), self.request.configuration.timeout);
        let asked = Unikernel { readiness, timeout, ..unikernel.clone() };
        // Whoever only waits does not keep other services from being deployed.
        self.slot = None;
        job.step("waiting").await;
        tokio::select! {
            ready = returns::confirm(&self.context, &asked) => ready,
            () = job.cancelled() => Err(Error::Cancelled),
        }
    }

    async fn take_over_rule(&self) -> Result<(), Error> {
        let deployment = self.deployment()?.clone();
        let take_over = move |state: &State| Ok((admission::take_over_rule(&deployment, &state.world), ()));
        self.context.owner.decide(take_over).await
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
            let forget = move |state: &State| Ok((removal::forget(&state.world, &id), ()));
            return self.context.owner.decide(forget).await;
        }
        // Its death, or that it runs again, may not have been noticed yet. Where Albatross does not answer, what was seen
        // last holds.
        let Ok(found) = self.context.albatross.unikernel(&id).await else { return Ok(()) };
        let seen = found.and_then(|running| running.seen());
        let notice = move |state: &State| {
            Ok(match seen {
                Some(running) => (reconcile::runs(&state.world, &state.facts, &running), ()),
                None => (reconcile::died(&state.world, &id, None), ()),
            })
        };
        self.context.owner.decide(notice).await
    }

    /// Takes the lease and the intent back; where Albatross may still have the unikernel, leaves both until it has not.
    pub(super) fn release(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let Some(unikernel) = self.unikernel.clone().filter(|_| !self.maybe_created) else { return Ok(()) };
            let consoles = self.context.last_words(&unikernel.id).await;
            self.context
                .owner
                .decide(move |state| {
                    let (id, reason) = (&unikernel.id, &unikernel.exit_reason);
                    let mut changes = reconcile::undo_deploy(&state.world, id, reason);
                    changes.extend(reconcile::last_words(&changes, consoles));
                    Ok((changes, ()))
                })
                .await
        }
        .boxed()
    }

    /// What was there before under the same name, half-made or about to be started again by Albatross, would refuse its
    /// place to the new one, and answer on its address.
    pub(super) fn clear<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            self.maybe_created = self.revived;
            self.destroy().await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    /// An address that answers although nobody leased it is somebody's: the next one is tried.
    pub(super) fn probe<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
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
        let (unikernel, exclude) = (self.unikernel()?.clone(), self.request.configuration.exclude.clone());
        let moved = self.context.owner.decide(move |state| {
            Ok(admission::move_lease(&unikernel, &exclude, &state.world, &state.facts, Timestamp::now())?)
        });
        self.unikernel = Some(moved.await?);
        Ok(())
    }
}
