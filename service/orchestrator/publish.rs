//! Publish, Unpublish and Rollback: one decision each. The owner writes it down and makes the kernel follow in one
//! batch; what is left is to delete the UDP flows that conntrack still holds to the unikernel before.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{info, warn};

use super::context::Context;
use super::error::Error;
use super::jobs::Job;
use super::workflow::{Flow, Step, nothing};
use crate::domain::{Change, ServiceName, StaleFlows, Timestamp, UnikernelId};
use crate::host_network;
use crate::planning::publishing::{self, Switched, Wanted};

/// The way of a switch. A flow that could not be deleted stays in the ledger until it is.
pub const SWITCH: &[Step<Switch>] = &[
    Step { name: "switching", perform: Switch::decide, undo: Switch::take_back, cancellable: false },
    Step { name: "deleting-flows", perform: Switch::delete_flows, undo: nothing, cancellable: false },
];

/// What is to become live.
#[derive(Debug, Clone)]
pub enum To {
    Publication(Wanted),
    Nothing,
    Previous,
}

#[derive(Debug)]
pub struct Switch {
    context: Arc<Context>,
    service: ServiceName,
    to: To,
    live: Option<UnikernelId>,
    switched: Option<Switched>,
}

impl Switch {
    pub fn new(context: Arc<Context>, service: ServiceName, to: To) -> Self {
        Self { context, service, to, live: None, switched: None }
    }

    /// What a rollback went to.
    pub fn live(self) -> Result<UnikernelId, Error> {
        self.live.ok_or(Error::Defect)
    }

    fn decide<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let (service, to) = (self.service.clone(), self.to.clone());
            let (live, stale, switched) = self
                .context
                .owner
                .decide(move |state| {
                    let now = Timestamp::now();
                    let (changes, live) = match &to {
                        To::Publication(wanted) => (publishing::publish(&state.world, &service, wanted, now)?, None),
                        To::Nothing => (publishing::unpublish(&state.world, &service, now)?, None),
                        To::Previous => {
                            let (changes, live) = publishing::rollback(&state.world, &service, now)?;
                            (changes, Some(live))
                        }
                    };
                    let stale = changes.iter().any(|change| matches!(change, Change::PutStaleFlows(_)));
                    let switched = Switched::by(&changes, &state.world);
                    Ok((changes, (live, stale, switched)))
                })
                .await?;
            info!(service = %self.service, "switched");
            self.context.drains.notify_one();
            (self.live, self.switched) = (live, switched);
            Ok(if stale { Flow::Next } else { Flow::Done })
        }
        .boxed()
    }

    /// What was live before is live again, unless somebody has switched since.
    fn take_back(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let Some(switched) = self.switched.take() else { return Ok(()) };
            self.context.owner.decide(move |state| Ok((switched.take_back(&state.world), ()))).await?;
            delete_stale_flows(&self.context).await
        }
        .boxed()
    }

    fn delete_flows<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // They stand in the ledger: the switch holds without them, and the next look at Albatross tries again.
            if let Err(error) = delete_stale_flows(&self.context).await {
                warn!(%error, service = %self.service, "UDP flows to the unikernel before stay for now");
            }
            Ok(Flow::Next)
        }
        .boxed()
    }
}

/// Deletes every flow that the ledger says is stale: those of a switch just made, and what a crash left.
pub async fn delete_stale_flows(context: &Context) -> Result<(), Error> {
    let stale = context.owner.look(|state| {
        let stale = state.world.stale_flows().map(|flows| (flows.clone(), publishing::is_dead(&state.world, flows)));
        stale.collect::<Vec<_>>()
    });
    for (flows, dead) in stale.await? {
        match delete(context, &flows, dead).await {
            Ok(()) => forget(context, flows).await?,
            // The switch itself holds. What is left stands in the ledger, and is tried again at the next look.
            Err(error) => {
                warn!(%error, service = %flows.service, "flows to the unikernel before could not be deleted yet")
            }
        }
    }
    Ok(())
}

async fn delete(context: &Context, flows: &StaleFlows, dead: bool) -> Result<(), host_network::Error> {
    if !flows.ports.is_empty() {
        context.flows.delete_udp(flows.target, &flows.ports).await?;
    }
    // One that runs again answers by itself.
    if flows.half_open && dead {
        let deleted = context.flows.delete_half_open(flows.target).await?;
        info!(service = %flows.service, deleted, "connections that a dead unikernel had not answered begin anew");
    }
    Ok(())
}

async fn forget(context: &Context, flows: StaleFlows) -> Result<(), Error> {
    context.owner.decide(move |_| Ok((vec![Change::RemoveStaleFlows(flows)], ()))).await
}
