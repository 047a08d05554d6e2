//! Waits for the connections of what was live before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use crate::domain::{Change, Service, Timestamp, UnikernelId};

/// Until the end of a drain is written once more.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Keeps one wait for each that drains. Never ends.
pub async fn run(context: Arc<Context>) {
    let mut waiting = BTreeMap::<Drain, AbortHandle>::new();
    let mut waits = JoinSet::new();
    loop {
        let draining = draining(&context).await.unwrap_or_default();
        // One that is live again may drain anew, with less time.
        waiting.retain(|drain, wait| {
            draining.contains(drain) || {
                wait.abort();
                false
            }
        });
        for drain in draining {
            waiting.entry(drain).or_insert_with_key(|drain| waits.spawn(wait(Arc::clone(&context), drain.clone())));
        }
        tokio::select! {
            () = context.drains.notified() => {}
            Some(ended) = waits.join_next() => {
                if let Ok(drain) = ended {
                    waiting.remove(&drain);
                }
            }
        }
    }
}

/// To count connections takes the kernel milliseconds: the switch that made it drain is answered first.
const BREATH: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Drain {
    id: UnikernelId,
    address: IpAddr,
    until: Timestamp,
}

async fn draining(context: &Context) -> Result<BTreeSet<Drain>, Error> {
    context
        .owner
        .look(|state| {
            let drains = state.world.services().flat_map(|service| &service.draining);
            let drain = drains.filter_map(|(id, until)| {
                let address = state.world.unikernel(id)?.address;
                Some(Drain { id: id.clone(), address, until: *until })
            });
            drain.collect()
        })
        .await
}

/// Ends when no connection to it is left, or its time is up.
async fn wait(context: Arc<Context>, drain: Drain) -> Drain {
    let left = u64::try_from(drain.until.0.saturating_sub(Timestamp::now().0)).unwrap_or(0);
    let until = Instant::now() + Duration::from_micros(left);
    tokio::time::sleep_until(until.min(Instant::now() + BREATH)).await;
    let drained = match context.flows.count(drain.address).await {
        // Most have none: to listen for the end of one takes a socket, and to close that makes the kernel wait for
        // what nftables has still to destroy.
        Ok(0) => Ok(true),
        _ => context.flows.drained(drain.address, until).await,
    };
    if let Err(error) = drained {
        debug!(id = %drain.id, %error, "its connections cannot be watched: it drains until its time is up");
        tokio::time::sleep_until(until).await;
    }
    match end(&context, &drain).await {
        Ok(()) => {
            info!(id = %drain.id, "drained");
            context.collects.notify_one();
        }
        Err(error) => {
            debug!(id = %drain.id, %error, "drained, but that could not be written yet");
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
    drain
}

async fn end(context: &Context, drain: &Drain) -> Result<(), Error> {
    let (id, until) = (drain.id.clone(), drain.until);
    context
        .owner
        .decide(move |state| {
            let Some(service) = state.world.service(&id.service()) else { return Ok((Vec::new(), ())) };
            let mut after: Service = service.clone();
            // A drain of the same unikernel that began later has another time, and is waited for anew.
            after.draining.retain(|entry| *entry != (id.clone(), until));
            let changed = after != *service;
            Ok((if changed { vec![Change::PutService(Box::new(after))] } else { Vec::new() }, ()))
        })
        .await
}
