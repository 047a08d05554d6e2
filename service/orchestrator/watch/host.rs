//! Keeps what is known of the host's bridges and addresses true.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::sleep;
use tracing::debug;

use super::super::bridges::patiently;
use super::super::context::Context;
use super::super::host_ports;
use super::super::owner::Trouble;
use super::SETTLE;
use crate::domain::Network;
use crate::host_network::{self, conntrack_fill, drops_forwarded, forwarding};
use crate::planning::facts::effective_networks;
use crate::planning::host_health::Host;

/// What a look at the host needs.
#[derive(Debug)]
pub struct HostWatch {
    configured: Vec<Network>,
}

impl HostWatch {
    /// `configured`: networks as the configuration has them.
    pub fn new(configured: Vec<Network>) -> Self {
        Self { configured }
    }
}

/// Looks at the host whenever something about it has changed, and when a network comes into use or is used no longer. Never
/// ends.
pub async fn follow(context: Arc<Context>, host: HostWatch) {
    let mut beat = context.beat.subscribe();
    let mut in_use = context.owner.networks_in_use();
    loop {
        look(&context, &host).await;
        context.bridges.settle(&context).await;
        host_ports::observe(&context).await;
        tokio::select! {
            // Devices come with several events.
            () = context.host_changed.notified() => sleep(SETTLE).await,
            // How many connections there are, and what iptables-legacy does, comes without an event.
            _ = beat.changed() => {}
            changed = in_use.changed() => if changed.is_err() { return },
        }
    }
}

/// Takes in the host's addresses, bridges and settings.
pub async fn look(context: &Context, watch: &HostWatch) {
    let (host, addresses) = match patiently(|| observe(context)).await {
        Ok(observed) => observed,
        Err(error) => {
            let note = format!("the host's addresses are not known: {error}");
            return context.owner.trouble(Trouble::HostNetwork, Some(note)).await;
        }
    };
    context.owner.trouble(Trouble::HostNetwork, None).await;
    let networks = effective_networks(&watch.configured, &host.bridges);
    let are_configured = !watch.configured.is_empty();
    let observed = context.owner.observe(move |facts| {
        facts.networks = networks;
        facts.networks_are_configured = are_configured;
        facts.host_addresses = addresses;
        facts.host = Some(host);
    });
    if let Err(error) = observed.await {
        debug!(%error, "not taken in");
    }
}

async fn observe(context: &Context) -> Result<(Host, BTreeSet<IpAddr>), host_network::Error> {
    let host = Host {
        bridges: context.host.bridges().await?,
        links: context.host.addressed_links().await?,
        forwards: forwarding(),
        legacy_drops: drops_forwarded().unwrap_or(false),
        conntrack: conntrack_fill(),
    };
    Ok((host, context.host.addresses().await?))
}
