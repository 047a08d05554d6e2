//! Follows links and addresses of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::super::context::Context;
use super::super::owner::Trouble;
use super::{SETTLE, TRY_AGAIN};
use crate::domain::{Network, NetworkName};
use crate::host_network::{Bridge, LinkEvent, LinkEvents};
use crate::planning::facts::{HostBridge, effective_networks};
/// Taps of Albatross: `vmmtap0` and so on.
const TAP: &str = "vmmtap";

/// What a look at the host needs, and what it remembers.
#[derive(Debug)]
pub struct HostWatch {
    configured: Vec<Network>,
    /// Bridges, by their kernel's numbers, that loopback connections may leave by. To say so again is an event of the
    /// link: without this each look would cause the next.
    routed: BTreeMap<NetworkName, u32>,
}

impl HostWatch {
    /// `configured`: networks as the configuration has them.
    pub fn new(configured: Vec<Network>) -> Self {
        Self { configured, routed: BTreeMap::new() }
    }

    /// Lets connections from localhost reach the bridges that are new: with the guard chain in the kernel, and not before.
    async fn route_loopback(&mut self, context: &Context, present: &[(NetworkName, u32)]) {
        self.routed.retain(|name, index| present.iter().any(|(there, now)| there == name && now == index));
        if !context.limits.ruleset.loopback {
            return;
        }
        let new = present.iter().filter(|(name, _)| !self.routed.contains_key(name)).cloned().collect::<Vec<_>>();
        let guarded = !new.is_empty() && context.owner.repair_table().await.unwrap_or(false);
        let mut note = None;
        for (name, index) in new.into_iter().filter(|_| guarded) {
            match context.host.allow_loopback_routing(&name).await {
                Ok(()) => drop(self.routed.insert(name, index)),
                Err(error) => {
                    note = Some(format!("published ports of network {name} do not answer on localhost: {error}"));
                }
            }
        }
        context.owner.trouble(Trouble::Loopback, note).await;
    }
}

/// Follows links and addresses of the host. Never ends.
pub async fn follow(context: Arc<Context>, mut host: HostWatch, mut events: LinkEvents) {
    let mut beat = context.beat.subscribe();
    // Taps that were seen with carrier.
    let mut carrying = carrying_ports(&context).await;
    loop {
        let present = look(&context, &host).await;
        host.route_loopback(&context, &present).await;
        let mut addresses_changed = false;
        while !addresses_changed {
            let event = tokio::select! {
                event = events.next() => event,
                // Forwarding is switched without an event.
                _ = beat.changed() => break,
            };
            match event {
                Ok(LinkEvent::AddressesChanged) => addresses_changed = true,
                Ok(LinkEvent::Lost) => {
                    // Events were dropped: look at everything afresh.
                    context.look.notify_one();
                    addresses_changed = true;
                }
                Ok(LinkEvent::Vanished { name, index }) if name.starts_with(TAP) => {
                    carrying.remove(&index);
                    context.look.notify_one();
                }
                // A process that ends closes its tap, which loses its carrier by that and vanishes a little later.
                Ok(LinkEvent::Changed { name, index, carrier, .. }) if name.starts_with(TAP) => {
                    let lost = !carrier && carrying.remove(&index);
                    if carrier {
                        carrying.insert(index);
                    }
                    if lost { context.look.notify_one() } else { context.look_soon.notify_one() }
                }
                // A bridge that comes or goes takes its addresses along.
                Ok(_) => addresses_changed = true,
                Err(error) => {
                    warn!(%error, "link notifications");
                    sleep(TRY_AGAIN).await;
                    addresses_changed = true;
                }
            }
        }
        // Devices come with several events.
        sleep(SETTLE).await;
    }
}

/// The links on the networks that have carrier now.
async fn carrying_ports(context: &Context) -> BTreeSet<u32> {
    let networks = context.owner.look(|state| state.facts.networks.clone()).await.unwrap_or_default();
    let ports = join_all(networks.iter().map(|network| context.host.ports(&network.name))).await;
    ports.into_iter().flatten().flatten().filter(|port| port.carrier).map(|port| port.index).collect()
}

/// Takes in the host's addresses and bridges. Returns the bridges that are networks, with their numbers.
pub async fn look(context: &Context, watch: &HostWatch) -> Vec<(NetworkName, u32)> {
    let observed = async {
        let bridges = context.host.bridges().await?;
        let addresses = context.host.addresses().await?;
        Ok::<_, crate::host_network::Error>((bridges, addresses))
    };
    let (bridges, addresses) = match observed.await {
        Ok(observed) => observed,
        Err(error) => {
            let note = format!("the host's addresses are not known: {error}");
            context.owner.trouble(Trouble::HostNetwork, Some(note)).await;
            return Vec::new();
        }
    };
    let host_bridge = |bridge: &Bridge| HostBridge { name: bridge.name.clone(), addresses: bridge.addresses.clone() };
    let networks = effective_networks(&watch.configured, &bridges.iter().map(host_bridge).collect::<Vec<_>>());
    let is_network = |bridge: &&Bridge| networks.iter().any(|network| network.name == bridge.name);
    let present = bridges.iter().filter(is_network).map(|bridge| (bridge.name.clone(), bridge.index)).collect();
    context.owner.trouble(Trouble::HostNetwork, None).await;
    let note = (!crate::host_network::forwarding()).then(|| {
        "the host does not forward IPv4: publications are reached from the host alone. Set net.ipv4.ip_forward=1 in \
         /etc/sysctl.d"
            .to_string()
    });
    context.owner.trouble(Trouble::Forwarding, note).await;
    let observed = context.owner.observe(move |facts| {
        facts.networks = networks;
        facts.host_addresses = addresses;
    });
    if let Err(error) = observed.await {
        debug!(%error, "not taken in");
    }
    present
}
