//! Publish, Unpublish and Rollback: one decision each. The owner writes it down and makes the kernel follow in one
//! batch; what is left is to delete the flows that conntrack still sends elsewhere.
//!
//! A unikernel that is not ready yet is waited for, and one to go back to that has ended is deployed again; then it is
//! decided anew, for much may have happened meanwhile.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{info, warn};

use super::context::Context;
use super::deploy::deploy;
use super::drains;
use super::error::Error;
use super::jobs::Job;
use super::request::DeployRequest;
use super::returns;
use super::stale_flows;
use super::workflow::{Flow, Step, nothing};
use crate::domain::{Caller, Change, ServiceName, Timestamp, UnikernelId};
use crate::planning::host_ports;
use crate::planning::publishing::{self, Decision, Obstacle, Switched, Wanted};
use crate::planning::reconcile;

/// The way of a switch. A flow that could not be deleted stays in the ledger until it is.
pub const SWITCH: &[Step<Switch>] = &[
    Step { name: "switching", perform: Switch::decide, undo: Switch::take_back, cancellable: false },
    Step { name: "deleting-flows", perform: Switch::delete_flows, undo: nothing, cancellable: false },
];

/// What is to become live.
#[derive(Debug, Clone)]
pub enum To {
    /// As this caller may.
    Publication(Wanted, Caller),
    Nothing,
    Previous,
}

/// What came of one attempt.
enum Tried {
    /// `stale`: flows to the unikernel before are to be deleted.
    Switched {
        stale: bool,
    },
    After(Obstacle),
}

/// Why one has ended that was started again for a switch.
const NOT_SWITCHED: &str = "it was started again to be put live, and that failed";

/// How often something may come between a unikernel's being ready and its being put live.
const OBSTACLES: usize = 4;

#[derive(Debug)]
pub struct Switch {
    context: Arc<Context>,
    service: ServiceName,
    to: To,
    live: Option<UnikernelId>,
    switched: Option<Switched>,
    /// What had ended, and was started again to be switched to.
    revived: Option<UnikernelId>,
}

impl Switch {
    pub fn new(context: Arc<Context>, service: ServiceName, to: To) -> Self {
        Self { context, service, to, live: None, switched: None, revived: None }
    }

    /// What a rollback went to.
    pub fn live(self) -> Result<UnikernelId, Error> {
        self.live.ok_or(Error::Defect)
    }

    fn decide<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            self.admit().await?;
            let mut tried = self.try_once().await?;
            for _ in 0..OBSTACLES {
                let Tried::After(obstacle) = tried else { break };
                self.overcome(obstacle, job).await?;
                job.step("switching").await;
                tried = self.try_once().await?;
            }
            match tried {
                Tried::Switched { stale: true } => Ok(Flow::Next),
                Tried::Switched { stale: false } => Ok(Flow::Done),
                Tried::After(Obstacle::NotReadyYet(unikernel) | Obstacle::Ended(unikernel)) => {
                    Err(self.context.not_ready(&unikernel, "it does not stay up".into()).await)
                }
            }
        }
        .boxed()
    }

    /// Refuses ports that can never be published, before anything is waited for.
    async fn admit(&self) -> Result<(), Error> {
        let To::Publication(wanted, caller) = self.to.clone() else { return Ok(()) };
        super::host_ports::learn(&self.context, wanted.addresses.clone()).await?;
        let policy = self.context.limits().ports.clone();
        let added = self.context.owner.look(move |state| {
            policy.admit(&state.facts, &caller, &wanted.ports, &wanted.addresses)?;
            Ok::<_, Error>(host_ports::added_by(&state.world, &wanted.ports, &wanted.addresses))
        });
        super::host_ports::check(&self.context, &added.await??).await
    }

    async fn try_once(&mut self) -> Result<Tried, Error> {
        let (service, to) = (self.service.clone(), self.to.clone());
        let (live, tried, switched) = self
            .context
            .owner
            .decide(move |state| {
                let now = Timestamp::now();
                let (decision, live) = match &to {
                    To::Publication(wanted, _) => (publishing::publish(&state.world, &service, wanted, now)?, None),
                    To::Nothing => (publishing::unpublish(&state.world, &service, now)?.into(), None),
                    To::Previous => {
                        let (decision, live) = publishing::rollback(&state.world, &service, now)?;
                        (decision, Some(live))
                    }
                };
                let changes = match decision {
                    Decision::Now(changes) => changes,
                    Decision::After(obstacle) => return Ok((Vec::new(), (live, Tried::After(obstacle), None))),
                };
                // Also those that a call before this one has left: who is told that a service is switched, by whichever
                // call, sends no datagram to the one before.
                let stale = changes.iter().any(|change| matches!(change, Change::PutStaleFlows(_)))
                    || state.world.stale_flows().any(|flows| flows.service == service);
                let switched = Switched::by(&changes, &state.world);
                Ok((changes, (live, Tried::Switched { stale }, switched)))
            })
            .await?;
        if let Tried::Switched { .. } = tried {
            self.log(switched.as_ref());
            self.context.drains.notify_one();
            (self.live, self.switched) = (live, switched);
        }
        Ok(tried)
    }

    fn log(&self, switched: Option<&Switched>) {
        let service = &self.service;
        match switched {
            Some(switched) => {
                let [from, to] = [switched.live_before(), switched.live()].map(|id| id.map(tracing::field::display));
                info!(%service, from, to, "service {service}: {switched}");
            }
            None => info!(%service, "service {service} is published already as it was asked for"),
        }
    }

    /// Makes that go away which keeps a unikernel from being put live.
    async fn overcome(&mut self, obstacle: Obstacle, job: &Job) -> Result<(), Error> {
        match obstacle {
            Obstacle::NotReadyYet(unikernel) => {
                job.step("waiting").await;
                tokio::select! {
                    ready = returns::until_ready(&self.context, &unikernel) => ready,
                    () = job.cancelled() => Err(Error::Cancelled),
                }
            }
            Obstacle::Ended(unikernel) => {
                let again = DeployRequest::again(*unikernel);
                let outcome = deploy(Arc::clone(&self.context), again, job).await?;
                self.revived = outcome.started.then_some(outcome.id);
                Ok(())
            }
        }
    }

    /// What was live before is live again, unless somebody has switched since.
    fn take_back(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            if let Some(switched) = self.switched.take() {
                self.context.owner.take_back(move |state| Ok((switched.take_back(&state.world), ()))).await?;
                stale_flows::delete(&self.context).await?;
                drains::let_finish(&self.context, self.revived.iter().cloned().collect()).await;
            }
            match self.revived.take() {
                Some(revived) => self.end_again(revived).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    /// What was started for this switch alone is what it was before. Somebody who works on it meanwhile has other plans.
    async fn end_again(&self, id: UnikernelId) -> Result<(), Error> {
        let Some(_claim) = self.context.claims.claim(&id) else { return Ok(()) };
        let wanted = id.clone();
        // Written before it is done: from here on nobody puts it live.
        let ended = self.context.owner.decide(move |state| {
            let live = state.world.is_live(&wanted);
            let changes = if live { Vec::new() } else { reconcile::died(&state.world, &wanted, Some(NOT_SWITCHED)) };
            Ok((changes, !live))
        });
        if ended.await? { Ok(self.context.albatross.destroy(&id).await?) } else { Ok(()) }
    }

    fn delete_flows<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // They stand in the ledger: the switch holds without them, and they are tried again.
            if let Err(error) = stale_flows::delete(&self.context).await {
                let service = &self.service;
                warn!(%error, %service, "service {service}: flows to the unikernel before stay for now: {error}");
            }
            Ok(Flow::Next)
        }
        .boxed()
    }
}
