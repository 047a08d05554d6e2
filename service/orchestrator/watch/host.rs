//! Keeps what is known of the host's bridges and addresses true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::super::context::Context;
use super::super::owner::Trouble;
use super::SETTLE;
use crate::domain::{Network, NetworkName};
use crate::host_network::{self, Bridge};
use crate::planning::facts::{HostBridge, effective_networks};
/// How often, and how far apart, the kernel is asked for what it cannot tell at the moment.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

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

/// Looks at the host whenever something about it has changed. Never ends.
pub async fn follow(context: Arc<Context>, mut host: HostWatch) {
    let mut beat = context.beat.subscribe();
    loop {
        let present = look(&context, &host).await;
        host.route_loopback(&context, &present).await;
        tokio::select! {
            // Devices come with several events.
            () = context.host_changed.notified() => sleep(SETTLE).await,
            // Forwarding is switched without an event.
            _ = beat.changed() => {}
        }
    }
}

/// Takes in the host's addresses and bridges. Returns the bridges that are networks, with their numbers.
pub async fn look(context: &Context, watch: &HostWatch) -> Vec<(NetworkName, u32)> {
    let (bridges, addresses) = match observe(context).await {
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
    context.connections.keep_within(&networks).await;
    let observed = context.owner.observe(move |facts| {
        facts.networks = networks;
        facts.host_addresses = addresses;
    });
    if let Err(error) = observed.await {
        debug!(%error, "not taken in");
    }
    present
}

/// Bridges and addresses. While links come and go the kernel makes no list that is whole: it is asked again then.
async fn observe(context: &Context) -> Result<(Vec<Bridge>, BTreeSet<IpAddr>), host_network::Error> {
    let once = async || Ok((context.host.bridges().await?, context.host.addresses().await?));
    for _ in 0..ATTEMPTS {
        match once().await {
            Err(error) => debug!(%error, "the host's addresses"),
            observed => return observed,
        }
        sleep(PAUSE).await;
    }
    once().await
}
