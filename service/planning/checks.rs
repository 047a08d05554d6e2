//! Whether live unikernels still meet their readiness rules, where `check` of their deployment asks for that.
//!
//! ```text
//!                    `failures` checks in a row fail
//!        answering ────────────────────────────────► failing: named by Degraded; with fall-back, the one
//!            ▲                                          │     before is asked, and goes live when it answers
//!            └────────────── one check succeeds ────────┘
//! ```
//!
//! It is known of one start of a unikernel and one rule: one that is started again begins anew, and so does one whose
//! rule is another.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::facts::Facts;
use super::publishing;
use super::stacks::moves;
use super::world::World;
use crate::domain::{Phase, Readiness, Timestamp, Unikernel, UnikernelId};

/// One start of a unikernel.
pub type Start = (UnikernelId, Option<Timestamp>);

/// What is to be asked, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub start: Start,
    pub address: IpAddr,
    pub readiness: Readiness,
    pub interval: Duration,
    /// Before the first question.
    pub delay: Duration,
}

/// What the checks have shown since the start of the service.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// Counts all checks: their order needs no clock.
    count: u64,
    seen: BTreeMap<Start, Health>,
    /// Those that were started again and did not become ready in the time that they may take.
    late: BTreeSet<Start>,
}

#[derive(Debug, Clone)]
struct Health {
    rule: Readiness,
    failed_in_a_row: u32,
    failing: Option<Failing>,
    /// The number of the last check that succeeded.
    answered: Option<u64>,
}

/// Why a unikernel counts as failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Of the check that was one too many.
    pub reason: String,
    /// The number of that check.
    since: u64,
}

/// What a check has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Failing,
    Recovered,
}

impl Checks {
    /// Takes in the outcome of a check; `limit`: so many failures in a row are no coincidence, `None`: they never count.
    fn note(&mut self, asked: &Asked, outcome: Result<(), String>, limit: Option<NonZeroU32>) -> Option<News> {
        self.count += 1;
        let rule = &asked.readiness;
        let new = || Health { rule: rule.clone(), failed_in_a_row: 0, failing: None, answered: None };
        let health = self.seen.entry(asked.start.clone()).or_insert_with(new);
        if health.rule != *rule {
            *health = new();
        }
        match outcome {
            Ok(()) => {
                health.failed_in_a_row = 0;
                health.answered = Some(self.count);
                health.failing.take().map(|_| News::Recovered)
            }
            Err(reason) => {
                health.failed_in_a_row = health.failed_in_a_row.saturating_add(1);
                let fails =
                    health.failing.is_none() && limit.is_some_and(|limit| health.failed_in_a_row >= limit.get());
                fails.then(|| {
                    health.failing = Some(Failing { reason, since: self.count });
                    News::Failing
                })
            }
        }
    }

    /// `start` is one again that was not ready in time: what is live is asked from now on as if it had been.
    pub fn note_late(&mut self, start: Start) {
        self.late.insert(start);
    }

    /// Why `unikernel` counts as failing; `None` where it does not, or is not to be checked any more.
    pub fn failing(&self, unikernel: &Unikernel) -> Option<&Failing> {
        unikernel.check?;
        self.health(unikernel)?.failing.as_ref()
    }

    fn health(&self, unikernel: &Unikernel) -> Option<&Health> {
        self.seen.get(&start(unikernel)).filter(|health| health.rule == unikernel.readiness)
    }

    pub fn any_failing(&self) -> bool {
        self.seen.values().any(|health| health.failing.is_some())
    }

    /// Whether `previous` can take over from `live`: that has ended, or fails while `previous` answers.
    pub fn may_take_over(&self, live: &Unikernel, previous: &Unikernel) -> bool {
        if live.has_ended() {
            return true;
        }
        let answered = || self.health(previous).and_then(|health| health.answered);
        self.failing(live).is_some_and(|failing| {
            !previous.readiness.is_repeatable() || answered().is_some_and(|answered| answered > failing.since)
        })
    }

    /// Forgets starts that are over.
    pub fn forget(&mut self, world: &World) {
        let lasts = |(id, started): &Start| {
            world.unikernel(id).is_some_and(|unikernel| unikernel.started_at == *started && !unikernel.has_ended())
        };
        self.seen.retain(|start, _| lasts(start));
        self.late.retain(|start| lasts(start));
    }
}

fn start(unikernel: &Unikernel) -> Start {
    (unikernel.id.clone(), unikernel.started_at)
}

/// Takes in the outcome of a check. One of a unikernel that a call works on, that was started again or that has got another
/// rule meanwhile, says nothing.
pub fn note(world: &World, facts: &mut Facts, asked: &Asked, outcome: Result<(), String>) -> Option<News> {
    let unikernel = world.unikernel(&asked.start.0).filter(|unikernel| !unikernel.has_ended())?;
    if unikernel.started_at != asked.start.1 || unikernel.readiness != asked.readiness {
        return None;
    }
    if unikernel.removing || facts.busy.contains(&unikernel.id) {
        return None;
    }
    facts.checks.note(asked, outcome, unikernel.check.map(|check| check.failures))
}

/// All that is to be asked now. `fall_back`: also those that would take over from what fails.
pub fn asked(world: &World, facts: &Facts, fall_back: bool) -> Vec<Asked> {
    let live = world.checked().filter(|unikernel| world.serves(&unikernel.id) && has_come_up(unikernel, facts));
    let live = live.filter_map(|unikernel| {
        let interval = unikernel.check?.interval;
        Some(question(unikernel, interval, spread(&unikernel.id, interval)))
    });
    let mut asked = live.map(|asked| (asked.start.0.clone(), asked)).collect::<BTreeMap<_, _>>();
    if fall_back && facts.checks.any_failing() {
        for (live, previous) in publishing::fallen(world, facts).chain(moves::fallen_members(world, facts)) {
            let interval = live.check.map(|check| check.interval);
            if let Some(interval) = interval.filter(|_| !live.has_ended() && previous.readiness.is_repeatable()) {
                let question = question(previous, interval, Duration::ZERO);
                asked.entry(previous.id.clone()).or_insert(question);
            }
        }
    }
    asked.into_values().collect()
}

/// Whether it is ready, or started again and had the time that it may take to become ready.
fn has_come_up(unikernel: &Unikernel, facts: &Facts) -> bool {
    let late = || facts.checks.late.contains(&start(unikernel));
    !unikernel.removing && (unikernel.phase == Phase::Ready || unikernel.phase == Phase::Returned && late())
}

fn question(unikernel: &Unikernel, interval: Duration, delay: Duration) -> Asked {
    let (address, readiness) = (unikernel.address, unikernel.readiness.clone());
    Asked { start: start(unikernel), address, readiness, interval, delay }
}

/// When within its first interval a unikernel is asked: after a start of the service not all are at once.
fn spread(id: &UnikernelId, interval: Duration) -> Duration {
    const PARTS: u32 = 1024;
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % u64::from(PARTS)).unwrap_or_default();
    interval / PARTS * (part + 1)
}

#[cfg(test)]
mod tests;
