//! Keeps the bridges of networks in use as unikernels need them: with MAC addresses of their own, and reachable from
//! localhost.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use super::owner::{State, Trouble};
use crate::domain::{Bridge, Change, NetworkName};
use crate::host_network::{self, boot_id};
use crate::planning::bridge_settings::{Step, Wanted, steps};
use crate::planning::networks;

/// How often, and how far apart, the kernel is asked for what it cannot tell at the moment.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// What was done to bridges since the start, by their kernel's numbers. Held while something is done to them.
#[derive(Debug, Default)]
pub struct Bridges(Mutex<Done>);

#[derive(Debug, Default)]
struct Done {
    /// To set a MAC address again is an event of the link: without this each look would cause the next.
    own_mac: BTreeSet<u32>,
    /// Those that lack nothing, with somebody on them.
    ready: BTreeSet<u32>,
}

impl Bridges {
    /// Makes the bridge of a network ready for its next tap. Where that does not work `Degraded` says so; a bridge that is
    /// not there is for Albatross to refuse.
    pub async fn prepare(&self, context: &Context, network: &NetworkName) {
        match context.host.index_of(network).await {
            Ok(index) if self.0.lock().await.ready.contains(&index) => {}
            _ => self.settle(context).await,
        }
    }

    /// Does what is missing on all bridges, and takes back what is not wanted any more.
    pub async fn settle(&self, context: &Context) {
        let mut done = self.0.lock().await;
        let bridges = match patiently(|| context.host.bridges()).await {
            Ok(bridges) => bridges,
            Err(error) => return debug!(%error, "no list of bridges"),
        };
        let is_there = |index: &u32| bridges.iter().any(|bridge| bridge.index == *index);
        done.own_mac.retain(is_there);
        done.ready.clear();
        let (seen, own_mac, loopback) = (bridges.clone(), done.own_mac.clone(), context.limits().ruleset.loopback);
        let decided = context.owner.look(move |state| decide(state, &seen, loopback, &own_mac)).await;
        let Ok((steps, populated)) = decided else { return };
        if done.perform(context, steps).await {
            let ready = bridges.iter().filter(|bridge| populated.contains(&bridge.name));
            done.ready.extend(ready.map(|bridge| bridge.index));
        }
    }
}

fn decide(
    state: &State,
    bridges: &[Bridge],
    loopback: bool,
    own_mac: &BTreeSet<u32>,
) -> (Vec<Step>, BTreeSet<NetworkName>) {
    let populated = networks::populated(&state.world, &state.facts);
    let in_use = if loopback { networks::in_use(&state.world, &state.facts) } else { BTreeSet::new() };
    let wanted = Wanted { own_mac: &populated, loopback: &in_use, boot: &boot_id() };
    (steps(bridges, &wanted, state.world.loopback_routes(), own_mac), populated)
}

impl Done {
    /// Whether all was done.
    async fn perform(&mut self, context: &Context, steps: Vec<Step>) -> bool {
        let routes = steps.iter().any(|step| matches!(step, Step::RouteLoopback { .. }));
        // With the guard chain in the kernel, and not before.
        let guarded = !routes || context.owner.repair_table().await.unwrap_or(false);
        let (mut mac_note, mut loopback_note) = (None, None);
        for step in steps {
            match step {
                Step::SetMac { network, bridge, mac } => match context.host.set_mac(bridge, mac).await {
                    Ok(()) => {
                        info!(%network, %mac, "the bridge of network {network} keeps {mac} as its MAC address");
                        self.own_mac.insert(bridge);
                    }
                    Err(error) => {
                        mac_note = Some(format!(
                            "the bridge of network {network} changes its MAC address with its ports, and connections are \
                             lost then: {error}. Set it: ip link set {network} address {mac}"
                        ));
                    }
                },
                Step::RouteLoopback { .. } if !guarded => {}
                step => {
                    if let Err(error) = route_loopback(context, step).await {
                        loopback_note = Some(format!("published ports may not answer on localhost: {error}"));
                    }
                }
            }
        }
        let complete = guarded && mac_note.is_none() && loopback_note.is_none();
        context.owner.trouble(Trouble::BridgeMac, mac_note).await;
        context.owner.trouble(Trouble::Loopback, loopback_note).await;
        complete
    }
}

/// Intent before act on the way there, and the other way round back: the ledger knows of every bridge where it is on by our
/// doing.
async fn route_loopback(context: &Context, step: Step) -> Result<(), Error> {
    let forget = match step {
        Step::RouteLoopback { route, noted } => {
            let bridge = route.bridge;
            if !noted {
                context.owner.decide(move |_| Ok((vec![Change::PutLoopbackRoute(route)], ()))).await?;
            }
            return Ok(context.host.route_loopback(bridge, true).await?);
        }
        Step::StopLoopback { network, bridge } => {
            context.host.route_loopback(bridge, false).await?;
            network
        }
        Step::Forget(network) => network,
        Step::SetMac { .. } => return Ok(()),
    };
    context.owner.decide(move |_| Ok((vec![Change::RemoveLoopbackRoute(forget)], ()))).await
}

/// Asks the kernel again, since it makes no list that is whole while links come and go.
pub async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, host_network::Error>
where
    F: Future<Output = Result<T, host_network::Error>>,
{
    for _ in 0..ATTEMPTS {
        match ask().await {
            Err(error) => debug!(%error, "asking the kernel again"),
            answer => return answer,
        }
        sleep(PAUSE).await;
    }
    ask().await
}
