//! Deaths by their taps, told before Albatross is asked, and confirmed by asking it.
//!
//! Albatross deletes the tap of a unikernel when its process is gone, and answers nobody until the kernel has done that,
//! which takes some 20 ms; that the tap vanishes is told at once. Whose it was is known by the bridge, which has learned
//! behind which port each unikernel's MAC address is. Should Albatross say otherwise, it is back at that look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::debug;

use super::super::context::Context;
use super::super::error::Error;
use super::words;
use crate::domain::{MacAddress, NetworkName, Timestamp, UnikernelId};
use crate::planning::reconcile;

/// One start of a unikernel.
type Start = (UnikernelId, Option<Timestamp>);

/// Taps, by the kernel's numbers, and the unikernels behind them, as far as they are known.
#[derive(Debug, Default)]
pub struct Taps(Mutex<BTreeMap<u32, Start>>);

impl Taps {
    fn put(&self, index: u32, start: Start) {
        let mut taps = self.lock();
        // Of one that was started again the tap before is gone, whether that was told or not.
        taps.retain(|_, (id, _)| *id != start.0);
        taps.insert(index, start);
    }

    /// Whose it was that has vanished.
    pub fn take(&self, index: u32) -> Option<UnikernelId> {
        self.lock().remove(&index).map(|(id, _)| id)
    }

    /// What has vanished may not have been told.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn known(&self) -> BTreeSet<Start> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Start>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the bridges for the taps of those whose are not known yet. One that has not sent anything for five minutes is not
/// found: its death is told when Albatross has answered.
pub async fn learn(context: &Context) {
    let known = context.taps.known();
    let unknown = context.owner.look(move |state| {
        let mut unknown = BTreeMap::<NetworkName, BTreeMap<MacAddress, Start>>::new();
        for unikernel in state.world.unikernels().filter(|unikernel| !unikernel.has_ended()) {
            let start = (unikernel.id.clone(), unikernel.started_at);
            if let Some(mac) = unikernel.mac.filter(|_| !known.contains(&start)) {
                unknown.entry(unikernel.spec.network.clone()).or_default().insert(mac, start);
            }
        }
        unknown
    });
    for (network, starts) in unknown.await.unwrap_or_default() {
        match context.host.stations(&network).await {
            Ok(stations) => found(stations, &starts).for_each(|(port, start)| context.taps.put(port, start)),
            Err(error) => debug!(%error, %network, "whose taps there are is not known"),
        }
    }
}

/// Ports behind which there is one of `starts` and nothing else.
fn found(stations: Vec<(MacAddress, u32)>, starts: &BTreeMap<MacAddress, Start>) -> impl Iterator<Item = (u32, Start)> {
    let mut behind = BTreeMap::<u32, Vec<MacAddress>>::new();
    for (mac, port) in stations {
        behind.entry(port).or_default().push(mac);
    }
    behind.into_iter().filter_map(|(port, macs)| match macs[..] {
        [mac] => Some((port, starts.get(&mac)?.clone())),
        _ => None,
    })
}

/// The tap of `id` has vanished. A call that works on it finds out by itself.
pub async fn died(context: Arc<Context>, id: UnikernelId) {
    if !context.claims.touch(&id) {
        return;
    }
    if let Err(error) = record(&context, &id).await {
        debug!(%id, %error, "its tap has vanished: the next look at Albatross says what that means");
    }
    // What was seen before is not believed any more.
    context.look.notify_one();
}

async fn record(context: &Context, id: &UnikernelId) -> Result<(), Error> {
    let wanted = id.clone();
    let start = context.owner.look(move |state| state.world.unikernel(&wanted).map(|u| u.started_at)).await?;
    let (mut reasons, consoles) = words::of(context, vec![id.clone()]).await?;
    let (id, reason) = (id.clone(), reasons.remove(id));
    context
        .owner
        .decide(move |state| {
            // A call may have taken it up meanwhile, or have started it again.
            let same = state.world.unikernel(&id).map(|unikernel| unikernel.started_at) == start;
            if !same || state.facts.busy.contains(&id) {
                return Ok((Vec::new(), ()));
            }
            let mut changes = reconcile::died(&state.world, &id, reason.as_deref());
            changes.extend(reconcile::last_words(&changes, consoles));
            Ok((changes, ()))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ones_own_or_nobodys() {
        let mac = |number| MacAddress([0, 0x80, 0x41, 0, 0, number]);
        let start = |service: &str| (UnikernelId::new(&service.parse().unwrap(), &[0; 32]), Some(Timestamp(1)));
        let starts = BTreeMap::from([(mac(1), start("one")), (mac(2), start("two"))]);
        let stations = vec![(mac(1), 7), (mac(2), 8), (mac(9), 8), (mac(3), 9)];
        assert_eq!(found(stations, &starts).collect::<Vec<_>>(), [(7, start("one"))]);
    }

    #[test]
    fn a_new_start_has_a_new_tap() {
        let taps = Taps::default();
        let id = UnikernelId::new(&"website".parse().unwrap(), &[0; 32]);
        taps.put(4, (id.clone(), Some(Timestamp(1))));
        taps.put(5, (id.clone(), Some(Timestamp(2))));
        assert_eq!((taps.take(4), taps.take(5), taps.take(5)), (None, Some(id), None));
    }
}
