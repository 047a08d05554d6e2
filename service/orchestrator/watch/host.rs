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
use crate::host_network::{self, conntrack_fill, drops_forwarded, forwarding};
use crate::planning::facts::effective_networks;
use crate::planning::host_health::Host;

/// Looks at the host whenever something about it has changed, and when a network comes into use or is used no longer. Never
/// ends.
pub async fn follow(context: Arc<Context>) {
    let mut beat = context.beat.subscribe();
    let mut in_use = context.owner.networks_in_use();
    loop {
        look(&context).await;
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
pub async fn look(context: &Context) {
    let (host, addresses) = match patiently(|| observe(context)).await {
        Ok(observed) => observed,
        Err(error) => {
            let note = format!("the host's addresses are not known: {error}");
            return context.owner.trouble(Trouble::HostNetwork, Some(note)).await;
        }
    };
    context.owner.trouble(Trouble::HostNetwork, None).await;
    let in_use = context.owner.networks_in_use().borrow().clone();
    let networks = effective_networks(&context.config.get().networks, &host.bridges);
    context.connections.keep_within(&networks, &in_use).await;
    let config = Arc::clone(&context.config);
    let observed = context.owner.observe(move |facts| {
        facts.host = Some(host);
        // By the configuration that holds at this moment: the owner may just have taken over another one.
        facts.configure(&config.get().networks);
        facts.host_addresses = addresses;
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
