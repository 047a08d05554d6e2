//! Looks at the world outside: when the kernel says that something has happened, and every 30 s besides.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::context::Context;
use super::error::Error;
use super::owner::{Seen, Trouble};
use super::{publish, recover};
use crate::albatross;
use crate::domain::{ConsoleLine, Inventory, Network, NetworkName, Policy, Running, UnikernelId};
use crate::host_network::nftables::{ForeignChange, ForeignChanges, Table};
use crate::host_network::{Bridge, LinkEvent, LinkEvents};
use crate::planning::facts::{HostBridge, effective_networks};
use crate::planning::{reconcile, redaction};

/// Between two looks at everything when nothing happens. Deaths are told by the kernel; this is for what it cannot tell.
const BEAT: Duration = Duration::from_secs(30);

/// Pauses between two looks at what does not answer: from the first to the second.
const PAUSES_WHILE_AWAY: (Duration, Duration) = (Duration::from_secs(1), BEAT);

/// From what is no death to the look at it: a call that creates a unikernel has Albatross to itself meanwhile, for the
/// daemon does one thing at a time.
const SOON: Duration = Duration::from_millis(250);

/// Events of one death (carrier down, up again, link gone) come within this time.
const SETTLE: Duration = Duration::from_millis(4);

/// The last words of one that died are printed before its device vanishes: what is on its way to us comes before a pause
/// as long as this.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// One beat for all that is looked at without being told: a service that is idle wakes up once for all of it. From a thread
/// that does nothing else, for tokio's timers wake up a few times on the way to one that is so far off.
pub fn beat(beat: watch::Sender<()>) -> std::io::Result<()> {
    let beats = move || {
        loop {
            std::thread::sleep(BEAT);
            if beat.send(()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("beat".into()).stack_size(BEATS_STACK).spawn(beats).map(drop)
}

/// It sleeps.
const BEATS_STACK: usize = 64 * 1024;

/// Taps of Albatross: `vmmtap0` and so on.
const TAP: &str = "vmmtap";

/// Keeps what is known of Albatross true. Never ends.
pub async fn follow_albatross(context: Arc<Context>) {
    let (mut beat, mut pace) = (context.beat.subscribe(), Pace::new(Instant::now()));
    let mut pause_while_away = PAUSES_WHILE_AWAY.0;
    loop {
        let answers = look_at_albatross(&context).await;
        let away = async {
            if answers {
                pending::<()>().await;
            }
            sleep(pause_while_away).await;
        };
        tokio::select! {
            () = context.look.notified() => sleep(SETTLE).await,
            // What happened to the unikernel while a call worked on it was left to that call.
            () = async { context.claims.ended().await; sleep(SOON).await } => {}
            () = async { context.look_soon.notified().await; sleep(SOON).await } => {}
            _ = beat.changed() => {}
            () = away => {}
        }
        pause_while_away = if answers { PAUSES_WHILE_AWAY.0 } else { (pause_while_away * 2).min(PAUSES_WHILE_AWAY.1) };
        sleep(pace.next(Instant::now())).await;
    }
}

/// Keeps looks apart where one event follows the other, as with a unikernel that ends whenever it is started: a few are
/// made at once, and then one every 20 ms.
#[derive(Debug)]
struct Pace {
    /// When all that may be made at once can be again.
    full: Instant,
}

impl Pace {
    const EVERY: Duration = Duration::from_millis(20);
    const AT_ONCE: u32 = 8;

    fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// How long a look that is wanted now has to wait.
    fn next(&mut self, now: Instant) -> Duration {
        self.full = self.full.max(now) + Self::EVERY;
        self.full.saturating_duration_since(now + Self::EVERY * Self::AT_ONCE)
    }
}

async fn look_at_albatross(context: &Arc<Context>) -> bool {
    context.claims.begin_look();
    let mut inventory = match context.albatross.inventory().await {
        Ok(running) => inventory(running),
        Err(error) => {
            let note = format!("{error}. What is published stays, and nothing can be deployed until it answers");
            context.owner.trouble(Trouble::Albatross, Some(note)).await;
            return false;
        }
    };
    context.owner.trouble(Trouble::Albatross, None).await;
    context.consoles.try_again();
    if let Some(dialect) = context.albatross.understood() {
        context.owner.albatross_version(dialect.to_string()).await;
    }
    recover::end_late_ones(context, &mut inventory).await;
    if let Err(error) = take_in(context, inventory).await {
        debug!(%error, "not taken in");
    }
    context.looked.notify_one();
    if let Err(error) = publish::delete_stale_flows(context).await {
        debug!(%error, "stale flows stay for now");
    }
    true
}

/// What Albatross said, sorted into what may be ours and what is somebody else's.
fn inventory(running: Vec<albatross::Running>) -> Inventory {
    let mut inventory = Inventory::default();
    for one in running {
        match one.id() {
            Some(id) => inventory.unikernels.push(Running {
                id,
                digest: one.digest,
                started: one.started,
                mac: one.mac,
                cpus: one.cpuids,
            }),
            None => inventory.foreign_cpus.extend(one.cpuids),
        }
    }
    inventory
}

async fn take_in(context: &Context, inventory: Inventory) -> Result<(), Error> {
    let (policy, words) = tokio::join!(policy(context), words(context, &inventory));
    let (last_words, consoles) = words?;
    context.owner.seen(Seen { inventory, policy, last_words, consoles }).await?;
    // What it asks the owner comes after what was just told.
    context.returns.notify_one();
    context.drains.notify_one();
    context.collects.notify_one();
    Ok(())
}

async fn policy(context: &Context) -> Option<Policy> {
    match context.albatross.policy().await {
        Ok(policy) => Some(Policy { cpus: policy.cpuids.into_iter().collect() }),
        Err(error) => {
            debug!(%error, "no policy");
            None
        }
    }
}

/// What those said last that are gone: in one line why they ended, and as it was.
async fn words(context: &Context, inventory: &Inventory) -> Result<(Reasons, Consoles), Error> {
    let (seen, touched) = (inventory.clone(), context.claims.touched());
    let gone = context.owner.look(move |state| {
        let mut facts = state.facts.clone();
        facts.inventory = seen;
        facts.busy.extend(touched);
        reconcile::vanished(&state.world, &facts)
    });
    let consoles = last_lines(context, gone.await?).await;
    Ok((last_words(context, &consoles).await?, consoles))
}

type Reasons = BTreeMap<UnikernelId, String>;
type Consoles = BTreeMap<UnikernelId, Vec<ConsoleLine>>;

/// What those said last that are gone; all at the same time, for they may have died together.
async fn last_lines(context: &Context, gone: Vec<UnikernelId>) -> Consoles {
    let lines = gone.into_iter().map(|id| async move {
        let lines = context.last_lines(&id, LAST_WORDS).await;
        (id, lines)
    });
    join_all(lines).await.into_iter().collect()
}

/// Why they ended, by the last line of their consoles: with Solo5 it names the exit code.
async fn last_words(context: &Context, consoles: &Consoles) -> Result<Reasons, Error> {
    let said = consoles.iter().map(|(id, lines)| (id.clone(), lines.iter().map(ConsoleLine::lossy).collect()));
    let said = said.collect::<Vec<(UnikernelId, Vec<String>)>>();
    if said.is_empty() {
        return Ok(BTreeMap::new());
    }
    let words = context.owner.look(move |state| {
        let words = said.into_iter().filter_map(|(id, lines)| {
            let arguments = state.world.unikernel(&id).map(|unikernel| &unikernel.spec.arguments)?;
            let last = redaction::without_arguments(lines, arguments).pop()?;
            Some((id, format!("exited; its console said last: {last}")))
        });
        words.collect()
    });
    words.await
}

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
pub async fn follow_host(context: Arc<Context>, mut host: HostWatch, mut events: LinkEvents) {
    let mut beat = context.beat.subscribe();
    // Taps that were seen with carrier.
    let mut carrying = carrying_ports(&context).await;
    loop {
        let present = look_at_host(&context, &host).await;
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
                    sleep(PAUSES_WHILE_AWAY.0).await;
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
pub async fn look_at_host(context: &Context, watch: &HostWatch) -> Vec<(NetworkName, u32)> {
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

/// Puts our table back when somebody else touched it, and says which other table drops our traffic. Never ends.
pub async fn follow_table(context: Arc<Context>, reader: Table, mut changes: ForeignChanges) {
    loop {
        // Somebody else's transaction may be in the way: what was refused a moment ago is taken now.
        while !context.owner.repair_table().await.unwrap_or(true) {
            sleep(PAUSES_WHILE_AWAY.0).await;
        }
        match next_change(&context, &reader, &mut changes).await {
            Ok(change) => {
                info!(
                    process = change.process,
                    "somebody else changed the table: looking whether it is as it should be"
                );
            }
            Err(error) => {
                warn!(%error, "nftables notifications");
                sleep(PAUSES_WHILE_AWAY.0).await;
            }
        }
    }
}

/// Waits for a change of our table, and meanwhile looks what other tables do to our traffic.
async fn next_change(
    context: &Context,
    reader: &Table,
    changes: &mut ForeignChanges,
) -> Result<ForeignChange, crate::host_network::Error> {
    let mut beat = context.beat.subscribe();
    loop {
        note_other_tables(context, reader).await;
        tokio::select! {
            change = changes.next() => return change,
            _ = beat.changed() => {}
        }
    }
}

async fn note_other_tables(context: &Context, reader: &Table) {
    let note = match reader.interfering_tables().await {
        Ok(tables) if tables.is_empty() => None,
        Ok(tables) => Some(format!(
            "other tables drop what is forwarded by default: {}. Allow there what is published (ct status dnat accept)",
            tables.join("; ")
        )),
        Err(error) => {
            debug!(%error, "other tables cannot be read");
            None
        }
    };
    context.owner.trouble(Trouble::OtherTables, note).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_at_once_and_then_apart() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..Pace::AT_ONCE {
            assert_eq!(pace.next(now), Duration::ZERO);
        }
        assert_eq!(pace.next(now), Pace::EVERY);
        assert_eq!(pace.next(now + Pace::EVERY), Pace::EVERY);
        assert_eq!(pace.next(now + Duration::from_secs(1)), Duration::ZERO);
    }
}
