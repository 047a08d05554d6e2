//! Deaths by their taps. Albatross deletes the tap of a unikernel when its process is gone, and answers nobody until the
//! kernel has done that, which takes some 20 ms; that the tap vanishes is told at once. Whose it was is known by the
//! bridge, which has learned behind which port each unikernel's MAC address is. Albatross is asked afterwards, as always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::debug;

use super::super::context::Context;
use super::super::error::Error;
use super::words;
use crate::domain::{MacAddress, NetworkName, UnikernelId};
use crate::planning::reconcile;

/// Taps, by the kernel's numbers, and the unikernels behind them, as far as they are known.
#[derive(Debug, Default)]
pub struct Taps(Mutex<BTreeMap<u32, UnikernelId>>);

impl Taps {
    fn put(&self, index: u32, id: UnikernelId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(index, id);
    }

    /// Whose it was that has vanished.
    pub fn take(&self, index: u32) -> Option<UnikernelId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&index)
    }

    fn known(&self) -> BTreeSet<UnikernelId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Asks the bridges for the taps of those whose are not known yet. One that has not sent anything for five minutes is not
/// found: its death is told when Albatross has answered.
pub async fn learn(context: &Context) {
    let known = context.taps.known();
    let unknown = context.owner.look(move |state| {
        let running = state.world.unikernels().filter(|unikernel| !unikernel.has_ended());
        let unknown = running.filter(|unikernel| !known.contains(&unikernel.id));
        let by_mac = unknown.filter_map(|u| Some((u.mac?, (u.id.clone(), u.spec.network.clone()))));
        by_mac.collect::<BTreeMap<MacAddress, (UnikernelId, NetworkName)>>()
    });
    let unknown = unknown.await.unwrap_or_default();
    let networks = unknown.values().map(|(_, network)| network).collect::<BTreeSet<_>>();
    for network in networks {
        match context.host.stations(network).await {
            Ok(stations) => {
                let found = stations.into_iter().filter_map(|(mac, port)| Some((port, &unknown.get(&mac)?.0)));
                found.for_each(|(port, id)| context.taps.put(port, id.clone()));
            }
            Err(error) => debug!(%error, %network, "whose taps there are is not known"),
        }
    }
}

/// The tap of `id` has vanished.
pub async fn died(context: Arc<Context>, id: UnikernelId) {
    // A call that works on it finds out by itself. Otherwise this is one, so that what a look has seen before is not
    // believed any more.
    let Some(_claim) = context.claims.claim(&id) else { return };
    if let Err(error) = record(&context, &id).await {
        debug!(%id, %error, "its tap has vanished: the next look at Albatross says what that means");
    }
}

async fn record(context: &Context, id: &UnikernelId) -> Result<(), Error> {
    let (mut reasons, consoles) = words::of(context, vec![id.clone()]).await?;
    let (id, reason) = (id.clone(), reasons.remove(id));
    context
        .owner
        .decide(move |state| {
            let mut changes = reconcile::died(&state.world, &id, reason.as_deref());
            changes.extend(reconcile::last_words(&changes, consoles));
            Ok((changes, ()))
        })
        .await
}
