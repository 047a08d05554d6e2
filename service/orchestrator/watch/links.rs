//! Follows what the kernel tells of links: taps of unikernels, bridges and addresses.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::warn;

use super::super::context::Context;
use super::{TAP, TRY_AGAIN, deaths};
use crate::host_network::{LinkEvent, LinkEvents};

/// Passes on what is told. Never ends.
pub async fn follow(context: Arc<Context>, mut events: LinkEvents) {
    // Taps that were seen with carrier.
    let mut carrying = carrying_ports(&context).await;
    loop {
        match events.next().await {
            Ok(LinkEvent::Vanished { name, index }) if name.starts_with(TAP) => {
                carrying.remove(&index);
                if let Some(id) = context.taps.take(index) {
                    tokio::spawn(deaths::died(Arc::clone(&context), id));
                }
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
            Ok(
                LinkEvent::AddressesChanged
                | LinkEvent::SettingsChanged
                | LinkEvent::Changed { .. }
                | LinkEvent::Vanished { .. },
            ) => {
                context.host_changed.notify_one();
            }
            // Events were dropped: look at everything afresh.
            Ok(LinkEvent::Lost) => {
                context.taps.clear();
                carrying = carrying_ports(&context).await;
                context.look.notify_one();
                context.host_changed.notify_one();
            }
            Err(error) => {
                warn!(%error, "changes of network devices may be noticed late: {error}");
                sleep(TRY_AGAIN).await;
                context.look.notify_one();
                context.host_changed.notify_one();
            }
        }
    }
}

/// The links on the networks that have carrier now.
async fn carrying_ports(context: &Context) -> BTreeSet<u32> {
    let networks = context.owner.look(|state| state.facts.networks.clone()).await.unwrap_or_default();
    let ports = join_all(networks.iter().map(|network| context.host.ports(&network.name))).await;
    ports.into_iter().flatten().flatten().filter(|port| port.carrier).map(|port| port.index).collect()
}
