//! Waits for the connections of what was live before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use super::connections::Count;
use super::context::Context;
use super::error::Error;
use crate::domain::{Change, Deadline, Event, Service, Timestamp, UnikernelId};
use crate::planning::draining::{self, Draining, IN_FLIGHT, SIGNAL_PACE, Verdict};

/// Connections that the kernel does not notify of are asked for this often.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long requests get that came to a unikernel which was live for a moment, before it is ended again.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

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
    began: Instant,
    /// Its time is up.
    until: Instant,
    /// When it is judged again, should no connection end until then.
    judge_at: Instant,
    /// Its end could not be written, and is not before this.
    not_before: Instant,
    /// How many connections it has; `None` where they could not be counted.
    open: Option<u32>,
    /// How many were signalled, and when.
    signalled: Option<(u32, Instant)>,
}

impl Progress {
    /// One that has just begun to drain, or that a restart of the service has found draining.
    fn new(now: Instant, left: Duration) -> Self {
        Self { began: now, until: now + left, judge_at: now, not_before: now, open: None, signalled: None }
    }

    /// When the next signal is due.
    fn signal_at(&self, now: Instant) -> Option<Instant> {
        let open = self.open?;
        match self.signalled {
            None => Some(now),
            Some((count, at)) => (count != open).then_some(at + SIGNAL_PACE),
        }
    }

    fn alarm(&self) -> Instant {
        let judge_at = self.judge_at.max(self.not_before);
        self.signal_at(Instant::now()).map_or(judge_at, |at| at.min(judge_at))
    }

    /// Whether it has ended. A count from before the switch says nothing.
    fn judge(&mut self, count: Option<&Count>, must_ask: bool, now: Instant) -> bool {
        self.open = count.filter(|count| count.at >= self.began + IN_FLIGHT).and_then(|count| count.open);
        let (age, left) = (now - self.began, self.until.saturating_duration_since(now));
        match draining::verdict(Draining { age, left, open: self.open }) {
            Verdict::Ended => true,
            Verdict::Continues(wait) => {
                let asked = age >= IN_FLIGHT && must_ask;
                self.judge_at = now + if asked { wait.min(ASK_AGAIN) } else { wait };
                false
            }
        }
    }
}

/// Follows all that drain. Never ends.
pub async fn run(context: Arc<Context>, events: mpsc::Sender<Event>) {
    let mut drains = Drains { context, events, following: BTreeMap::new() };
    drains.refresh().await;
    loop {
        let alarm = drains.alarm();
        tokio::select! {
            () = drains.context.drains.notified() => drains.refresh().await,
            () = drains.context.connections.changed(), if alarm.is_some() => drains.round().await,
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

struct Drains {
    context: Arc<Context>,
    events: mpsc::Sender<Event>,
    following: BTreeMap<Drain, Progress>,
}

impl Drains {
    /// Reads what drains now.
    async fn refresh(&mut self) {
        let draining = draining_now(&self.context).await.unwrap_or_default();
        // One that is live again may drain anew, with less time.
        self.following.retain(|drain, _| draining.contains(drain));
        for drain in draining {
            let left = drain.until.left(Timestamp::now());
            self.following.entry(drain).or_insert_with(|| Progress::new(Instant::now(), left));
        }
        self.context.connections.watch(!self.following.is_empty());
    }

    /// When there is something to do, should no connection end.
    fn alarm(&self) -> Option<Instant> {
        self.following.values().map(Progress::alarm).min()
    }

    /// Counts, ends what has drained, and signals what has changed.
    async fn round(&mut self) {
        let targets = self.following.keys().map(|drain| drain.address).collect::<BTreeSet<_>>();
        let (counts, asked) = self.context.connections.counts(targets).await;
        let now = Instant::now();
        let mut ended = Vec::new();
        for (drain, progress) in &mut self.following {
            let must_ask = asked.contains(&drain.address);
            if progress.judge(counts.get(&drain.address), must_ask, now) && progress.not_before <= now {
                ended.push(drain.clone());
            }
        }
        self.end(ended).await;
        self.signal().await;
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
                    let id = &drain.id;
                    let connections = open.unwrap_or_default();
                    info!(%id, connections, "{id} has drained, with {connections} connections left");
                }
                Err(error) => {
                    debug!(id = %drain.id, %error, "drained, but that could not be written yet");
                    let Some(progress) = self.following.get_mut(&drain) else { continue };
                    progress.not_before = Instant::now() + TRY_AGAIN;
                }
            }
        }
        if written.is_ok() {
            self.context.connections.watch(!self.following.is_empty());
            self.context.collects.notify_one();
        }
    }

    async fn signal(&mut self) {
        let now = Instant::now();
        for (drain, progress) in &mut self.following {
            let (Some(count), Some(_)) = (progress.open, progress.signal_at(now).filter(|at| *at <= now)) else {
                continue;
            };
            progress.signalled = Some((count, now));
            // The bus may be gone: then nobody listens.
            let _ = self.events.send(Event::Connections { id: drain.id.clone(), count }).await;
        }
    }
}

/// Waits until nobody is connected to these any more, which were live in a switch that is undone; not for long.
pub async fn let_finish(context: &Context, ids: Vec<UnikernelId>) {
    let look = context.owner.look(move |state| {
        ids.iter().filter_map(|id| Some(state.world.unikernel(id)?.address)).collect::<BTreeSet<_>>()
    });
    let addresses = look.await.unwrap_or_default();
    if addresses.is_empty() {
        return;
    }
    let end = Instant::now() + LAST_REQUESTS;
    while Instant::now() < end {
        // A packet may still be on its way through the rules of before.
        sleep(IN_FLIGHT).await;
        let (counts, _) = context.connections.counts(addresses.iter().copied()).await;
        if addresses.iter().all(|address| counts.get(address).is_some_and(|count| count.open == Some(0))) {
            return;
        }
    }
}

async fn draining_now(context: &Context) -> Result<BTreeSet<Drain>, Error> {
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

    fn count(open: u32, at: Instant) -> Count {
        Count { open: Some(open), at }
    }

    #[test]
    fn a_count_from_before_the_switch_ends_nothing() {
        let begin = Instant::now();
        let mut progress = Progress::new(begin, Duration::from_secs(30));
        let later = begin + 2 * IN_FLIGHT;
        assert!(!progress.judge(Some(&count(0, begin)), true, later));
        assert_eq!((progress.open, progress.judge_at), (None, later + ASK_AGAIN));
        assert!(!progress.judge(Some(&count(1, later)), false, later));
        assert_eq!((progress.open, progress.judge_at), (Some(1), progress.until));
        assert!(progress.judge(Some(&count(0, later)), false, later));
    }

    #[test]
    fn what_changes_is_signalled_and_not_too_often() {
        let now = Instant::now();
        let mut progress = Progress::new(now, Duration::from_secs(30));
        assert_eq!(progress.signal_at(now), None, "not counted yet");
        progress.open = Some(2);
        assert_eq!(progress.signal_at(now), Some(now), "the first count at once");
        progress.signalled = Some((2, now));
        assert_eq!(progress.signal_at(now), None);
        (progress.open, progress.judge_at) = (Some(1), progress.until);
        assert_eq!(progress.signal_at(now), Some(now + SIGNAL_PACE));
        assert_eq!(progress.alarm(), now + SIGNAL_PACE);
    }
}
