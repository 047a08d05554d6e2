//! Waits for the connections of what was live before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use crate::domain::{Change, Deadline, Event, Service, Timestamp, UnikernelId};
use crate::host_network::{self, FlowChange, FlowEvents, FlowId, FlowNews};

/// To count connections takes the kernel milliseconds: the switch that made it drain is answered first.
const BREATH: Duration = Duration::from_millis(20);

/// Notifications come in bunches, and of all connections of the host: after the first, what comes within this time is
/// read together.
const SETTLE: Duration = Duration::from_millis(20);

/// Notifications that are read together: more than the socket holds.
const BATCH: usize = 4096;

/// Between two counts, and between two signals of the same one: connections close without end on some hosts.
const PACE: Duration = Duration::from_millis(100);

/// The pause after counting is this many times what it took: a host with very many connections has other work to do.
const RELIEF: u32 = 3;

/// The kernel does not tell of flows that began before the service did; they are looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Until the end of a drain is written once more.
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Drain {
    id: UnikernelId,
    address: IpAddr,
    until: Deadline,
}

/// What is known of one that drains.
#[derive(Debug)]
struct Progress {
    /// Its time is up.
    until: Instant,
    count_at: Instant,
    /// Its connections, as they were counted and without those that have ended since; `None` until it was counted.
    open: Option<BTreeSet<FlowId>>,
    /// How many were told, and when.
    told: Option<(usize, Instant)>,
}

impl Progress {
    /// When the next signal is due.
    fn tell_at(&self, now: Instant) -> Option<Instant> {
        let open = self.open.as_ref()?.len();
        match self.told {
            None => Some(now),
            Some((told, at)) => (told != open).then_some(at + PACE),
        }
    }

    fn alarm(&self) -> Instant {
        let count_at = self.count_at.min(self.until);
        self.tell_at(Instant::now()).map_or(count_at, |at| at.min(count_at))
    }

    /// What is not known is counted, and so is the end.
    fn take_in(&mut self, change: FlowChange, not_before: Instant) {
        let Some(open) = &mut self.open else { return };
        let surprising =
            if change.ended { open.remove(&change.flow) && open.is_empty() } else { !open.contains(&change.flow) };
        if surprising {
            self.count_at = self.count_at.min(not_before);
        }
    }
}

/// Follows all that drain with one subscription. Never ends.
pub async fn run(context: Arc<Context>, events: mpsc::Sender<Event>) {
    let mut drains = Drains::new(context, events);
    drains.refresh().await;
    loop {
        let alarm = drains.alarm();
        tokio::select! {
            () = drains.context.drains.notified() => drains.refresh().await,
            // Errors are the reader's.
            _ = news(&drains.news), if drains.read_at.is_none() => drains.read_at = Some(Instant::now() + SETTLE),
            () = sleep_until_some(alarm) => {
                drains.round().await;
                drains.refresh().await;
            }
        }
    }
}

async fn sleep_until_some(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => sleep_until(alarm).await,
        None => std::future::pending().await,
    }
}

async fn news(news: &Option<FlowEvents>) -> Result<(), host_network::Error> {
    match news {
        Some(news) => news.wait().await,
        None => std::future::pending().await,
    }
}

struct Drains {
    context: Arc<Context>,
    events: mpsc::Sender<Event>,
    following: BTreeMap<Drain, Progress>,
    /// While something drains that has connections.
    news: Option<FlowEvents>,
    /// When to read what has been told meanwhile: until then it is left in the socket.
    read_at: Option<Instant>,
    /// No count for notifications before.
    not_before: Instant,
}

impl Drains {
    fn new(context: Arc<Context>, events: mpsc::Sender<Event>) -> Self {
        let following = BTreeMap::new();
        Self { context, events, following, news: None, read_at: None, not_before: Instant::now() }
    }

    /// Looks what drains now. Without any, nothing is listened to.
    async fn refresh(&mut self) {
        let draining = draining(&self.context).await.unwrap_or_default();
        // One that is live again may drain anew, with less time.
        self.following.retain(|drain, _| draining.contains(drain));
        for drain in draining {
            let until = Instant::now() + drain.until.left(Timestamp::now());
            let count_at = Instant::now() + BREATH;
            self.following.entry(drain).or_insert(Progress { until, count_at, open: None, told: None });
        }
        if self.following.is_empty() {
            self.stop_listening();
        }
    }

    fn listen(&mut self) {
        match FlowEvents::open() {
            Ok(news) => {
                self.news = Some(news);
                // What ended between the count and now was told to nobody.
                self.count_all();
            }
            Err(error) => debug!(%error, "the end of connections is not told: they are counted now and then"),
        }
    }

    fn stop_listening(&mut self) {
        self.read_at = None;
        if let Some(news) = self.news.take() {
            // The kernel waits there for what nftables has still to destroy.
            tokio::task::spawn_blocking(|| drop(news));
        }
    }

    /// When there is something to do, should nothing happen.
    fn alarm(&self) -> Option<Instant> {
        self.following.values().map(Progress::alarm).chain(self.read_at).min()
    }

    /// Takes in what was told until now.
    fn read(&mut self) {
        for _ in 0..BATCH {
            let Some(news) = &mut self.news else { return };
            match news.read() {
                Ok(None) => return,
                Ok(Some(FlowNews::Of(change))) => {
                    let of_it = self.following.iter_mut().filter(|(drain, _)| drain.address == change.target);
                    of_it.for_each(|(_, progress)| progress.take_in(change, self.not_before));
                }
                Ok(Some(FlowNews::Lost)) => self.count_all(),
                Err(error) => {
                    debug!(%error, "notifications of connections");
                    self.stop_listening();
                    self.count_all();
                }
            }
        }
    }

    fn count_all(&mut self) {
        for progress in self.following.values_mut() {
            progress.count_at = progress.count_at.min(self.not_before);
        }
    }

    /// Reads what was told, counts what is due, and tells what has changed.
    async fn round(&mut self) {
        if self.read_at.is_some_and(|at| at <= Instant::now()) {
            self.read_at = None;
            self.read();
        }
        let begin = Instant::now();
        let due = |progress: &Progress| progress.count_at.min(progress.until) <= begin;
        let due = self.following.iter().filter(|(_, progress)| due(progress)).map(|(drain, _)| drain.clone());
        let due = due.collect::<Vec<_>>();
        if !due.is_empty() {
            self.count(&due).await;
            debug!(drains = due.len(), took = ?begin.elapsed(), "counted");
            self.not_before = begin + PACE.max(begin.elapsed() * (1 + RELIEF));
        }
        self.tell().await;
        // Most have none: a socket is opened only for those that have.
        if self.news.is_none() && due.iter().any(|drain| self.following.contains_key(drain)) {
            self.listen();
        }
    }

    async fn count(&mut self, due: &[Drain]) {
        let counted = self.context.flows.alive_of(&due.iter().map(|drain| drain.address).collect()).await;
        if let Err(error) = &counted {
            debug!(%error, "connections cannot be counted: what drains does so until its time is up");
        }
        let (counted, now) = (counted.ok(), Instant::now());
        let mut ended = Vec::new();
        for drain in due {
            let Some(progress) = self.following.get_mut(drain) else { continue };
            progress.count_at = now + LOOK_AGAIN;
            progress.open = counted.as_ref().and_then(|all| all.get(&drain.address).cloned());
            if progress.open.as_ref().is_some_and(BTreeSet::is_empty) || now >= progress.until {
                ended.push(drain.clone());
            }
        }
        self.end(ended).await;
    }

    /// All in one decision: the members of a stack end together.
    async fn end(&mut self, ended: Vec<Drain>) {
        if ended.is_empty() {
            return;
        }
        let written = end(&self.context, ended.clone()).await;
        for drain in ended {
            match &written {
                Ok(()) => {
                    let open = self.following.remove(&drain).and_then(|progress| progress.open);
                    info!(id = %drain.id, connections = open.as_ref().map(BTreeSet::len), "drained");
                }
                Err(error) => {
                    debug!(id = %drain.id, %error, "drained, but that could not be written yet");
                    let Some(progress) = self.following.get_mut(&drain) else { continue };
                    progress.count_at = Instant::now() + TRY_AGAIN;
                    progress.until = progress.until.max(progress.count_at);
                }
            }
        }
        if written.is_ok() {
            self.context.collects.notify_one();
        }
    }

    async fn tell(&mut self) {
        let now = Instant::now();
        for (drain, progress) in &mut self.following {
            let (Some(open), Some(_)) = (&progress.open, progress.tell_at(now).filter(|at| *at <= now)) else {
                continue;
            };
            let count = u32::try_from(open.len()).unwrap_or(u32::MAX);
            progress.told = Some((open.len(), now));
            // The bus may be gone: then nobody listens.
            let _ = self.events.send(Event::Connections { id: drain.id.clone(), count }).await;
        }
    }
}

async fn draining(context: &Context) -> Result<BTreeSet<Drain>, Error> {
    context
        .owner
        .look(|state| {
            let drains = state.world.services().flat_map(|service| &service.draining);
            let drain = drains.filter_map(|(id, until)| {
                let address = state.world.unikernel(id)?.address;
                Some(Drain { id: id.clone(), address, until: *until })
            });
            drain.collect()
        })
        .await
}

async fn end(context: &Context, ended: Vec<Drain>) -> Result<(), Error> {
    context
        .owner
        .decide(move |state| {
            let mut after = BTreeMap::<_, Service>::new();
            for Drain { id, until, .. } in ended {
                let Some(service) = state.world.service(&id.service()) else { continue };
                // A drain of the same unikernel that began later has another time, and is waited for anew.
                if service.draining.contains(&(id.clone(), until)) {
                    let after = after.entry(service.name.clone()).or_insert_with(|| service.clone());
                    after.draining.retain(|entry| *entry != (id.clone(), until));
                }
            }
            Ok((after.into_values().map(|service| Change::PutService(Box::new(service))).collect(), ()))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(flow: u32, ended: bool) -> FlowChange {
        FlowChange { target: IpAddr::from([10, 0, 0, 2]), flow: FlowId(flow), ended }
    }

    fn progress(open: &[u32]) -> Progress {
        let later = Instant::now() + LOOK_AGAIN;
        let open = Some(open.iter().copied().map(FlowId).collect());
        Progress { until: later + LOOK_AGAIN, count_at: later, open, told: None }
    }

    #[test]
    fn only_the_unexpected_and_the_end_are_counted() {
        let now = Instant::now();
        let mut progress = progress(&[1, 2]);
        for expected in [change(1, false), change(1, true), change(1, true), change(9, true)] {
            progress.take_in(expected, now);
            assert!(progress.count_at > now, "{expected:?}");
        }
        assert_eq!(progress.open.as_ref().unwrap().len(), 1);
        progress.take_in(change(2, true), now);
        assert_eq!(progress.count_at, now, "the last one has ended");
        let mut progress = self::progress(&[1]);
        progress.take_in(change(3, false), now);
        assert_eq!(progress.count_at, now, "nobody knew of this one");
        progress.open = None;
        progress.take_in(change(3, true), now);
    }

    #[test]
    fn what_changes_is_told_and_not_too_often() {
        let now = Instant::now();
        let mut progress = progress(&[1, 2]);
        assert_eq!(progress.tell_at(now), Some(now), "the first count at once");
        progress.told = Some((2, now));
        assert_eq!(progress.tell_at(now), None);
        progress.take_in(change(1, true), now);
        assert_eq!(progress.tell_at(now), Some(now + PACE));
        assert_eq!(progress.alarm(), now + PACE);
    }
}
