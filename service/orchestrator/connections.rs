//! Counts the connections through published ports: from the kernel's notifications, after one walk of conntrack at the
//! start. Where notifications are switched off or were lost, by another walk, and not often. Of UDP flows it knows as well what
//! the kernel finds them by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::context::Context;
use super::owner::Trouble;
use crate::domain::{Network, NetworkName};
use crate::host_network::{self, Census, EventsWaiter, FlowEvents, FlowLists, FlowNews, Listed, events_enabled};
use crate::planning::draining;

/// How long notifications may wait to be read: while something drains, and else.
const WATCHED: Duration = Duration::from_millis(20);
const UNWATCHED: Duration = Duration::from_millis(250);

/// Notifications that are read before other tasks get their turn: 0.3 ms.
const AT_ONCE: usize = 256;

/// Notifications that are read at a time, should they never end: four times what the socket holds.
const MOST: usize = 100_000;

/// After a walk, which takes a core of the host 10 ms and more, none for this many times what it took, within these
/// limits: a service that has to wait for the processor takes its time, too.
const WALK_RELIEF: u32 = 50;
const WALK_PAUSE: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);

/// After connections of whose end nobody tells were asked for, not again for this long, and for this many times what it
/// took.
const CONFIRM_PAUSE: Duration = Duration::from_secs(1);
const CONFIRM_RELIEF: u32 = 20;

/// The kernel deletes by a filter as long as this in 262,144 buckets, and as many flows one by one in that time.
const A_WALK: Duration = Duration::from_millis(6);
const FEWER_THAN_A_WALK: usize = 2_000;

/// Between two attempts at what the kernel refuses.
const TRY_AGAIN: Duration = Duration::from_secs(1);

const SWITCHED_OFF: &str = "the kernel does not notify of connections, so that they are counted by walking its table, and \
     draining is noticed late: set net.netfilter.nf_conntrack_events=2 in /etc/sysctl.d";

/// How many connections are open, and when that was so.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// `None`: more than can be kept.
    pub open: Option<u32>,
    pub at: Instant,
}

/// The connections to the unikernels, counted as they come and go.
#[derive(Debug)]
pub struct Connections {
    counting: Mutex<Counting>,
    waiter: EventsWaiter,
    /// Somebody waits for the end of connections.
    watched: AtomicBool,
    /// Notified when counts may be other than they were.
    changed: Notify,
}

#[derive(Debug)]
struct Counting {
    events: FlowEvents,
    lists: FlowLists,
    census: Census,
    /// When the last walk began; without a `loss` the census is of now.
    walked: Option<Instant>,
    /// Notifications were lost since, or are switched off.
    loss: bool,
    /// No walk before.
    walk_again: Instant,
    /// The census may be another than when somebody was notified last.
    changed: bool,
    /// Until when the unreported connections of a target are not asked for again.
    confirm_again: BTreeMap<IpAddr, Instant>,
}

impl Connections {
    /// Everything that begins and ends from now on is counted.
    pub fn open() -> Result<Self, host_network::Error> {
        let events = FlowEvents::open()?;
        let waiter = events.waiter()?;
        let counting = Counting {
            events,
            lists: FlowLists::open()?,
            census: Census::default(),
            walked: None,
            loss: true,
            walk_again: Instant::now(),
            changed: false,
            confirm_again: BTreeMap::new(),
        };
        Ok(Self { counting: Mutex::new(counting), waiter, watched: AtomicBool::new(false), changed: Notify::new() })
    }

    /// The open connections to each of `targets`, and the targets whose connections have to be asked for again, because
    /// the kernel does not tell of their end. All notifications of what happened until now have been read then.
    pub async fn counts(
        &self,
        targets: impl IntoIterator<Item = IpAddr>,
    ) -> (BTreeMap<IpAddr, Count>, BTreeSet<IpAddr>) {
        let mut counting = self.counting.lock().await;
        counting.refresh().await;
        let (mut counts, mut asked) = (BTreeMap::new(), BTreeSet::new());
        for target in targets {
            if counting.confirm(target).await || counting.loss {
                asked.insert(target);
            }
            let at = if counting.loss { counting.walked } else { Some(Instant::now()) };
            counts.extend(at.map(|at| (target, Count { open: counting.census.alive(target), at })));
        }
        // What was read here is no news for whoever reads next.
        if counting.take_changed() {
            self.changed.notify_one();
        }
        (counts, asked)
    }

    /// The UDP flows to `target` that came to this port of the host, or to any, each with what the kernel finds it by. `None`
    /// where they are not all known, or so many that the kernel deletes them faster by a walk.
    pub async fn udp_flows(&self, target: IpAddr, host_port: Option<u16>) -> Option<Vec<Listed>> {
        let mut counting = timeout(A_WALK, self.counting.lock()).await.ok()?;
        let complete = counting.catch_up().await && !counting.loss;
        if counting.take_changed() {
            self.changed.notify_one();
        }
        counting.census.udp(target, host_port, FEWER_THAN_A_WALK).filter(|_| complete)
    }

    /// These were deleted, of which the kernel may not tell.
    pub async fn deleted(&self, flows: &[Listed]) {
        self.counting.lock().await.census.confirm(flows, &BTreeSet::new());
    }

    /// Says whether somebody waits for the end of connections, so that notifications are read soon.
    pub fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Relaxed);
    }

    /// Waits until counts may be other than they were; for one who waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn read(&self) -> Result<usize, host_network::Error> {
        let mut counting = self.counting.lock().await;
        counting.loss |= !events_enabled();
        let read = counting.read().await;
        counting.loss |= read.is_err();
        if counting.take_changed() {
            self.changed.notify_one();
        }
        read.map(|(read, _)| read)
    }

    /// Counts only what goes to these.
    pub async fn keep_within(&self, networks: &[Network], in_use: &BTreeSet<NetworkName>) {
        let prefixes = networks.iter().map(|network| network.prefix).collect();
        let used = networks.iter().filter(|network| in_use.contains(&network.name)).map(|network| network.prefix);
        let mut counting = self.counting.lock().await;
        counting.loss |= counting.census.keep_within(prefixes, &used.collect::<Vec<_>>());
    }
}

impl Counting {
    fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Reads everything that is queued. Returns how many notifications, and whether none is left.
    async fn read(&mut self) -> Result<(usize, bool), host_network::Error> {
        for read in 0..MOST {
            match self.events.read()? {
                None => return Ok((read, true)),
                Some(FlowNews::Of(change)) => {
                    self.census.apply(change);
                    self.changed = true;
                }
                Some(FlowNews::Lost) => {
                    self.changed = true;
                    debug!("notifications of connections were lost");
                    self.loss = true;
                }
            }
            if read % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
        }
        Ok((MOST, false))
    }

    /// Reads everything that is queued, and notes whether something was not told. `false` where something is left: the kernel
    /// may still be dropping what comes.
    async fn catch_up(&mut self) -> bool {
        self.loss |= !events_enabled();
        match self.read().await {
            Ok((_, all)) => all,
            Err(error) => {
                debug!(%error, "notifications of connections");
                self.loss = true;
                true
            }
        }
    }

    /// Makes the census that of now, where that can be.
    async fn refresh(&mut self) {
        if self.catch_up().await && self.loss && self.walk_again <= Instant::now() {
            self.walk().await;
        }
    }

    /// What comes meanwhile stays in the socket, and is read after.
    async fn walk(&mut self) {
        let (begin, enabled) = (Instant::now(), events_enabled());
        match self.lists.walk().await {
            Ok(listed) => {
                debug!(connections = listed.len(), took = ?begin.elapsed(), "counted");
                self.census.replace(listed);
                self.changed = true;
                self.walked = Some(begin);
                self.loss = !enabled;
            }
            Err(error) => debug!(%error, "connections cannot be counted"),
        }
        self.walk_again =
            Instant::now() + (begin.elapsed() * WALK_RELIEF).clamp(*WALK_PAUSE.start(), *WALK_PAUSE.end());
        self.catch_up().await;
    }

    /// Asks for the connections to `target` of whose end nobody tells. Returns whether there are any.
    async fn confirm(&mut self, target: IpAddr) -> bool {
        let begin = Instant::now();
        self.confirm_again.retain(|_, again| *again > begin);
        if !self.census.has_unreported(target) {
            return false;
        }
        if self.confirm_again.contains_key(&target) {
            return true;
        }
        let asked = self.census.unreported(target);
        match self.lists.still_alive(&asked).await {
            Ok(alive) => {
                self.changed |= alive.len() < asked.len();
                self.census.confirm(&asked, &alive);
            }
            Err(error) => debug!(%error, %target, "connections from before cannot be asked for"),
        }
        let pause = CONFIRM_PAUSE.max(begin.elapsed() * CONFIRM_RELIEF);
        self.confirm_again.insert(target, Instant::now() + pause);
        true
    }
}

/// Reads notifications before they are too many. Never ends; sleeps while no connection begins or ends.
pub async fn read(context: Arc<Context>) {
    let connections = &context.connections;
    connections.counting.lock().await.refresh().await;
    let mut pause = WATCHED;
    loop {
        let waited = connections.waiter.wait().await;
        sleep(pause).await;
        let longest = if connections.watched.load(Ordering::Relaxed) { WATCHED } else { UNWATCHED };
        match waited.and(connections.read().await) {
            Ok(read) => pause = draining::reading_pause(pause, read, longest),
            Err(error) => {
                warn!(%error, "open connections may be counted late: {error}");
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Says when the kernel does not notify of connections. Never ends.
pub async fn follow_setting(context: Arc<Context>) {
    let mut beat = context.beat.subscribe();
    loop {
        let note = (!events_enabled()).then(|| SWITCHED_OFF.to_string());
        if note.is_some() {
            // What began meanwhile is not told of later either.
            context.connections.counting.lock().await.loss = true;
        }
        context.owner.trouble(Trouble::Connections, note).await;
        if beat.changed().await.is_err() {
            return;
        }
    }
}
