//! Deletes the conntrack entries that the ledger says are stale: right after the change that made them so, and again until
//! that has worked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::context::Context;
use super::error::Error;
use crate::domain::{Change, FlowSelector, StaleFlows};
use crate::planning::stale_flows;

/// How long a unikernel that is not live any more may take to answer the connections that are on their way to it. One that
/// is well answers within a millisecond; a client sends its SYN once more after a second, which then goes to the live one.
const TIME_TO_ANSWER: Duration = Duration::from_millis(250);

/// How long what was deleted by what is known of it waits for the kernel to look for more. Ports that are switched again and
/// again are looked for as rarely as this: it takes a core of the host 6 ms.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What is still to be done after changes of what is published, apart from the calls that made them.
#[derive(Debug, Default)]
pub struct FollowUp {
    inner: Mutex<Inner>,
    /// Wakes [`run`].
    stale: Notify,
    /// Wakes [`super::tolerance::run`].
    pub tolerance: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts what was made stale, so that the same flows made stale again are told from before.
    count: u64,
    entries: BTreeMap<StaleFlows, Entry>,
    /// Published ports were not in the kernel for some time.
    table_was_missing: bool,
}

/// How far one entry of the ledger has come. One of the run before has the default: nothing of it is deleted.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    made_stale: u64,
    /// As which number everything was deleted that need not wait, and what else was done then.
    cleared: Option<(u64, Done)>,
    /// Until when unanswered connections may still be answered.
    answer_until: Option<Instant>,
    /// Not swept before.
    sweep_at: Option<Instant>,
}

/// What was done beside the deletion of what need not wait.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    /// The kernel went through its table, so that nothing was deleted by what is known alone.
    swept: bool,
    /// Connections that nobody had answered were deleted.
    unanswered: bool,
}

impl Entry {
    /// `None` until it is cleared.
    fn done(&self) -> Option<Done> {
        self.cleared.filter(|(number, _)| *number == self.made_stale).map(|(_, done)| done)
    }

    fn is_cleared(&self) -> bool {
        self.done().is_some()
    }

    fn is_swept(&self) -> bool {
        self.done().is_some_and(|done| done.swept)
    }

    fn is_answering(&self) -> bool {
        self.answer_until.is_some_and(|until| until > Instant::now())
    }

    fn unanswered_are_deleted(&self) -> bool {
        self.done().is_some_and(|done| done.unanswered)
    }

    fn sweeps_later(&self) -> bool {
        self.is_cleared() && !self.is_swept() && self.sweep_at.is_some_and(|at| at > Instant::now())
    }
}

impl FollowUp {
    /// The table had to be put into the kernel anew.
    pub fn table_was_missing(&self) {
        self.lock().table_was_missing = true;
        self.stale.notify_one();
    }

    /// The kernel has followed `changes`, and the view is about to.
    pub fn of(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutStaleFlows(flows) => self.made_stale(flows),
                Change::PutService(service) if service.publications().any(|one| one.tolerates_until.is_some()) => {
                    self.tolerance.notify_one();
                }
                _ => {}
            }
        }
    }

    fn made_stale(&self, flows: &StaleFlows) {
        let mut inner = self.lock();
        inner.count += 1;
        let (made_stale, answer_until) = (inner.count, flows.half_open.then(|| Instant::now() + TIME_TO_ANSWER));
        let entry = inner.entries.entry(flows.clone()).or_default();
        let sweep_at = Some(entry.sweep_at.unwrap_or_else(|| Instant::now() + SWEEP_PAUSE));
        *entry = Entry { made_stale, answer_until, sweep_at, ..*entry };
        self.stale.notify_one();
    }

    fn entry(&self, flows: &StaleFlows) -> Entry {
        self.lock().entries.get(flows).copied().unwrap_or_default()
    }

    /// Everything that need not wait was deleted, as it was stale at `made_stale`, and `done`.
    fn cleared(&self, flows: &StaleFlows, made_stale: u64, done: Done) {
        let mut inner = self.lock();
        let entry = inner.entries.entry(flows.clone()).or_default();
        let before =
            entry.cleared.filter(|(number, _)| *number == made_stale).map(|(_, done)| done).unwrap_or_default();
        let all = Done { swept: before.swept || done.swept, unanswered: before.unanswered || done.unanswered };
        entry.cleared = Some((made_stale, all));
        if done.swept {
            entry.sweep_at = None;
        }
    }

    /// Forgets an entry, unless it was made stale again since `made_stale`.
    fn forget(&self, flows: &StaleFlows, made_stale: u64) -> bool {
        let mut inner = self.lock();
        let same = inner.entries.get(flows).copied().unwrap_or_default().made_stale == made_stale;
        if same {
            inner.entries.remove(flows);
        }
        same
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One entry of the ledger and what it comes down to now.
struct Work {
    flows: StaleFlows,
    at_once: Vec<FlowSelector>,
    /// The selectors of `at_once` that select UDP flows to a target which has not got their port any more.
    left: Vec<FlowSelector>,
    unanswered: Option<FlowSelector>,
    /// Nobody is left who could answer.
    dead: bool,
}

/// Deletes what can be deleted now. Errors are logged, and what is left is tried again.
pub async fn delete(context: &Context) -> Result<(), Error> {
    let all = work(context).await?;
    for work in &all {
        delete_one(context, work, Pass::Call).await;
    }
    if !all.is_empty() {
        // The ledger still has them.
        context.follow_up.stale.notify_one();
    }
    Ok(())
}

async fn work(context: &Context) -> Result<Vec<Work>, Error> {
    let look = context.owner.look(|state| {
        let work = state.world.stale_flows().map(|flows| Work {
            at_once: stale_flows::selectors(&state.world, &state.facts, flows),
            left: stale_flows::left(&state.world, flows),
            unanswered: stale_flows::unanswered(&state.world, flows),
            dead: stale_flows::is_dead(&state.world, flows.target),
            flows: flows.clone(),
        });
        work.collect()
    });
    look.await
}

/// What came of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// As it was stale at this number.
    Deleted(u64),
    /// Connections may still be answered, or it is swept later.
    Waits,
    Refused,
}

/// When something is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// A call waits for it: flows that the service knows are deleted by what the kernel finds them by, which it does at once.
    Call,
    /// Nobody waits: the kernel goes through its table, and finds what the service has not heard of.
    After,
}

async fn delete_one(context: &Context, work: &Work, pass: Pass) -> Outcome {
    let entry = context.follow_up.entry(&work.flows);
    let waits = work.unanswered.is_some() && !work.dead && entry.is_answering();
    let sweeps_later = pass == Pass::After && entry.sweeps_later() && !work.left.is_empty();
    let mut selectors = match pass {
        Pass::Call if entry.is_cleared() => Vec::new(),
        Pass::After if entry.is_swept() || sweeps_later => Vec::new(),
        // What was deleted from a target that has got the port back is its own by now.
        Pass::After if entry.is_cleared() => work.left.clone(),
        Pass::Call | Pass::After => work.at_once.clone(),
    };
    let mut swept = !entry.is_cleared() || pass == Pass::After && !sweeps_later;
    if pass == Pass::Call {
        let asked = selectors.len();
        selectors = delete_known(context, selectors, &work.left).await;
        swept &= selectors.len() == asked;
    }
    selectors.extend(work.unanswered.filter(|_| !waits && !entry.unanswered_are_deleted()));
    match context.flows.delete_all(&selectors).await {
        Ok(()) => {
            context.follow_up.cleared(&work.flows, entry.made_stale, Done { swept, unanswered: !waits });
            if waits || sweeps_later { Outcome::Waits } else { Outcome::Deleted(entry.made_stale) }
        }
        // The change itself holds. What is left stands in the ledger, and is tried again.
        Err(error) => {
            let (service, target) = (&work.flows.service, work.flows.target);
            warn!(%error, %service, %target, "connections of {service} to {target} still go there: {error}");
            Outcome::Refused
        }
    }
}

/// Deletes UDP flows to targets that are `left` by all of them. Returns the other selectors.
async fn delete_known(context: &Context, selectors: Vec<FlowSelector>, left: &[FlowSelector]) -> Vec<FlowSelector> {
    let mut unknown = Vec::new();
    for selector in selectors {
        if !left.contains(&selector) || !delete_those_known(context, selector).await {
            unknown.push(selector);
        }
    }
    unknown
}

/// Whether that could be done.
async fn delete_those_known(context: &Context, selector: FlowSelector) -> bool {
    let FlowSelector::RedirectedUdp { target, host_port } = selector else { return false };
    let Some(flows) = context.connections.udp_flows(target, host_port).await else { return false };
    match context.flows.delete_listed(&flows).await {
        Ok(()) => {
            context.connections.deleted(&flows).await;
            true
        }
        Err(error) => {
            debug!(%error, "flows are not deleted one by one");
            false
        }
    }
}

/// Deletes what had to wait, and removes from the ledger what is done. Never ends.
///
/// Apart from the calls: those need not wait for the disk once more.
pub async fn run(context: Arc<Context>) {
    // Of the run before.
    context.follow_up.stale.notify_one();
    loop {
        context.follow_up.stale.notified().await;
        sleep(TIME_TO_ANSWER).await;
        match finish(&context).await {
            Ok(true) => {}
            Ok(false) => context.follow_up.stale.notify_one(),
            Err(error) => debug!(%error, "stale flows stay in the ledger for now"),
        }
    }
}

/// Whether nothing was left for another time. What the kernel refused is tried again with the next look at Albatross.
async fn finish(context: &Context) -> Result<bool, Error> {
    if let Err(error) = delete_missed(context).await {
        warn!(%error, "clients that sent while ports were not in the kernel are not redirected yet: {error}");
    }
    let (mut done, mut waits) = (Vec::new(), false);
    for work in work(context).await? {
        match delete_one(context, &work, Pass::After).await {
            Outcome::Deleted(made_stale) => done.push((work.flows, made_stale)),
            Outcome::Waits => waits = true,
            Outcome::Refused => {}
        }
    }
    let follow_up = Arc::clone(&context.follow_up);
    context
        .owner
        .decide(move |_| {
            // What was made stale again since then has flows that were not there to be deleted.
            let forget = done.into_iter().filter(|(flows, made_stale)| follow_up.forget(flows, *made_stale));
            Ok((forget.map(|(flows, _)| Change::RemoveStaleFlows(flows)).collect(), ()))
        })
        .await?;
    Ok(!waits)
}

/// Deletes the flows of whoever had `address` before: they are not those of its next holder.
pub async fn clear_address(context: &Context, address: IpAddr) {
    if let Err(error) = context.flows.delete_all(&stale_flows::of_address(address)).await {
        warn!(%error, %address, "flows of the former holder of {address} stay: {error}");
    }
}

/// What came to published ports while they were not in the kernel was not redirected, and would not be for as long as its
/// clients send.
async fn delete_missed(context: &Context) -> Result<(), Error> {
    if !std::mem::take(&mut context.follow_up.lock().table_was_missing) {
        return Ok(());
    }
    let missed = context.owner.look(|state| {
        let publications = state.world.publications().map(|(_, publication)| publication.as_ref());
        stale_flows::missed(&state.facts, publications)
    });
    let deleted = context.flows.delete_all(&missed.await?).await;
    if deleted.is_err() {
        context.follow_up.lock().table_was_missing = true;
    }
    Ok(deleted?)
}
