//! Ports of the host that somebody wants to publish, and the processes that listen there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::debug;

use super::context::Context;
use super::error::Error;
use super::owner::State;
use crate::domain::{HostPort, Listener};
use crate::host_network::process_of;
use crate::planning;
use crate::planning::host_ports::NamedListener;

/// Takes in the host's addresses where `addresses` names one that was not seen yet: who has just added it is not refused.
pub async fn learn(context: &Context, addresses: BTreeSet<IpAddr>) -> Result<(), Error> {
    if addresses.is_empty() || context.owner.look(move |state| addresses.is_subset(&state.facts.host_addresses)).await?
    {
        return Ok(());
    }
    let own = context.host.addresses().await?;
    context.owner.observe(move |facts| facts.host_addresses = own).await
}

/// Refuses ports on which a process of the host listens, before anything is begun for them. The owner checks again when it
/// puts them into the kernel.
pub async fn check(context: &Context, ports: &BTreeSet<HostPort>) -> Result<(), Error> {
    if ports.is_empty() {
        return Ok(());
    }
    let listeners = context.listeners.on(ports).await?;
    match context.limits().ports.check_listeners(ports, &listeners) {
        Ok(()) => Ok(()),
        Err(error) => Err(named(error.into()).await),
    }
}

/// The same error with the name of the process that listens, where it is about one.
pub async fn named(error: Error) -> Error {
    match error {
        Error::Refused(planning::Error::PortListened { port, listener, process: None }) => {
            let process = name(listener.clone()).await;
            planning::Error::PortListened { port, listener, process }.into()
        }
        other => other,
    }
}

/// Names that are looked for at a time: each takes a thread.
static NAMING: Semaphore = Semaphore::const_new(2);

async fn name(listener: Listener) -> Option<String> {
    let _place = NAMING.acquire().await.ok()?;
    spawn_blocking(move || process_of(&listener)).await.ok()
}

/// Looks which processes of the host listen on published ports.
pub async fn observe(context: &Arc<Context>) {
    if let Err(error) = try_to_observe(context).await {
        debug!(%error, "sockets that listen");
    }
}

async fn try_to_observe(context: &Context) -> Result<(), Error> {
    let listeners = match context.owner.look(|state: &State| state.world.publications().next().is_none()).await? {
        true => Vec::new(),
        false => context.listeners.all().await?,
    };
    let ports = context.limits().ports.clone();
    let overshadowed = context.owner.look(move |state| {
        let overshadowed = ports.overshadowed(&state.world, &listeners).into_iter().take(MAX_NAMED);
        (overshadowed.cloned().collect::<Vec<_>>(), state.facts.overshadowed.clone())
    });
    let (overshadowed, before) = overshadowed.await?;
    let mut all = Vec::new();
    for listener in overshadowed {
        let known = before.iter().find(|named| named.listener == listener);
        let process = match known {
            Some(known) => Some(known.process.clone()),
            None => name(listener.clone()).await,
        };
        all.extend(process.map(|process| NamedListener { listener, process }));
    }
    if all == before {
        return Ok(());
    }
    context.owner.observe(move |facts| facts.overshadowed = all).await
}

/// Listeners that are named at a time: each name can take a while.
const MAX_NAMED: usize = 16;
