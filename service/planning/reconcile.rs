//! What Albatross runs against what the ledger says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::facts::Facts;
use super::stacks::staging;
use super::starts::Starts;
use super::world::World;
use super::{publishing, removal};
use crate::domain::{
    Attempt, Change, ConsoleLine, Phase, Running, StackName, StaleFlows, Timestamp, Unikernel, UnikernelId,
};

/// The exit reason of a unikernel that is gone without a word.
const VANISHED: &str = "Albatross does not run it any more";
/// That of one whose name is another's now.
const REPLACED: &str = "somebody else started another image under its name";
/// That of one that was to be started again, and was not.
const NOT_STARTED: &str = "it was to be started again, and that was not finished";

/// Why one is failed that Albatross starts all the time.
const LOOPS: &str = "it ends again and again, and Albatross starts it again each time";
/// How often a loop is news: each time is written to disk.
const LOOP_NEWS: Duration = Duration::from_secs(5);

/// What changes by what Albatross runs now. `last_words` are the consoles' last lines of those that are gone.
///
/// Unikernels that a call works on, half-made ones and names that are not in the ledger are left alone: the first two
/// belong to their workflow, the last to somebody else.
pub fn observe(world: &World, facts: &Facts, last_words: &BTreeMap<UnikernelId, String>) -> Vec<Change> {
    let running = facts.inventory.unikernels.iter().map(|running| (&running.id, running)).collect::<BTreeMap<_, _>>();
    world
        .unikernels()
        .filter(|unikernel| is_settled(unikernel, facts))
        .filter_map(|unikernel| match running.get(&unikernel.id) {
            Some(running) if running.digest == unikernel.spec.image => seen(unikernel, running, &facts.starts),
            Some(_) => gone(unikernel, REPLACED),
            None => gone(unikernel, last_words.get(&unikernel.id).map_or(VANISHED, String::as_str)),
        })
        .flat_map(|unikernel| written(world, unikernel))
        .collect()
}

/// Connections to one that was live and has ended, where another is live: until now they could have been answered.
fn half_open(world: &World, unikernel: &Unikernel) -> Option<StaleFlows> {
    unikernel.last_live?;
    publishing::half_open(world.service(&unikernel.id.service())?, unikernel)
}

/// Those that the ledger holds for running and Albatross does not run: their consoles are worth a look.
pub fn vanished(world: &World, mut facts: Facts, now: Instant) -> Vec<UnikernelId> {
    note_starts(world, &mut facts, now);
    let changes = observe(world, &facts, &BTreeMap::new());
    let gone = changes.into_iter().filter_map(|change| match change {
        Change::PutUnikernel(unikernel) if unikernel.has_ended() => Some(unikernel.id),
        _ => None,
    });
    gone.collect()
}

/// Lines of a console that are written down of one that has ended: those of Solo5's banner, should it have been started
/// again, and those before.
pub const LAST_WORDS: usize = 24;

/// Bytes of them; the older ones go first.
const LAST_WORDS_BYTES: usize = 8 * 1024;

/// What those said that end with `changes`, to be written together with them. `consoles`: the last lines of each.
pub fn last_words(changes: &[Change], mut consoles: BTreeMap<UnikernelId, Vec<ConsoleLine>>) -> Vec<Change> {
    let ended = changes.iter().filter_map(|change| match change {
        Change::PutUnikernel(unikernel) if unikernel.has_ended() => Some(&unikernel.id),
        _ => None,
    });
    let words = ended.filter_map(|id| {
        let mut lines = consoles.remove(id).filter(|lines| !lines.is_empty())?;
        let mut bytes = 0;
        let fit = lines.iter().rev().take(LAST_WORDS).take_while(|line| {
            bytes += line.text.len();
            bytes <= LAST_WORDS_BYTES
        });
        lines.drain(..lines.len() - fit.count());
        Some(Change::PutLastWords { id: id.clone(), lines })
    });
    words.collect()
}

fn is_settled(unikernel: &Unikernel, facts: &Facts) -> bool {
    !is_half_made(unikernel) && !unikernel.removing && !facts.busy.contains(&unikernel.id)
}

/// Whether it is on its way to ready. Where no call works on it, nobody will bring it there.
pub fn is_half_made(unikernel: &Unikernel) -> bool {
    matches!(unikernel.phase, Phase::Creating | Phase::Starting | Phase::Running)
}

/// Those that run again, and whose readiness rule nobody waits for.
pub fn returned(world: &World, facts: &Facts) -> Vec<Unikernel> {
    let returned = world.unikernels().filter(|unikernel| unikernel.phase == Phase::Returned);
    returned.filter(|unikernel| is_settled(unikernel, facts)).cloned().collect()
}

/// The readiness rule of `id` holds since that start of it.
pub fn ready_again(world: &World, id: &UnikernelId, started: Option<Timestamp>) -> Vec<Change> {
    let same = |unikernel: &&Unikernel| unikernel.phase == Phase::Returned && unikernel.started_at == started;
    let unikernel = world.unikernel(id).filter(same);
    let ready =
        unikernel.map(|unikernel| Unikernel { phase: Phase::Ready, exit_reason: String::new(), ..unikernel.clone() });
    ready.map(|ready| Change::PutUnikernel(Box::new(ready))).into_iter().collect()
}

/// `id` has ended, whatever the ledger says; `reason`: why, where that is known.
pub fn died(world: &World, id: &UnikernelId, reason: Option<&str>) -> Vec<Change> {
    let settled = world.unikernel(id).filter(|unikernel| !is_half_made(unikernel) && !unikernel.removing);
    let gone = settled.and_then(|unikernel| gone(unikernel, reason.unwrap_or(VANISHED)));
    gone.map(|gone| written(world, gone).collect()).unwrap_or_default()
}

/// Albatross runs it, whatever the ledger says.
pub fn runs(world: &World, facts: &Facts, running: &Running) -> Vec<Change> {
    let ours = |unikernel: &&Unikernel| {
        !is_half_made(unikernel) && !unikernel.removing && unikernel.spec.image == running.digest
    };
    let known = world.unikernel(&running.id).filter(ours);
    let seen = known.and_then(|unikernel| seen(unikernel, running, &facts.starts));
    seen.map(|unikernel| Change::PutUnikernel(Box::new(unikernel))).into_iter().collect()
}

/// What is written of one that is other than it was.
fn written(world: &World, unikernel: Unikernel) -> impl Iterator<Item = Change> {
    let stale = half_open(world, &unikernel).map(Change::PutStaleFlows);
    std::iter::once(Change::PutUnikernel(Box::new(unikernel))).chain(stale)
}

fn gone(unikernel: &Unikernel, reason: &str) -> Option<Unikernel> {
    (!unikernel.has_ended()).then(|| Unikernel {
        phase: Phase::Exited,
        exit_reason: reason.into(),
        ..unikernel.clone()
    })
}

fn seen(unikernel: &Unikernel, running: &Running, starts: &Starts) -> Option<Unikernel> {
    let started = running.started.or(unikernel.started_at);
    let mut after = Unikernel { mac: running.mac.or(unikernel.mac), started_at: started, ..unikernel.clone() };
    let again = unikernel.started_at.filter(|&before| started != Some(before));
    if let Some(before) = again {
        after.restarts = unikernel.restarts.saturating_add(starts.since(&unikernel.id, before).max(1));
        after.phase = Phase::Returned;
    }
    if starts.is_loop(&unikernel.id) {
        after.phase = Phase::Failed;
        after.exit_reason = LOOPS.into();
        // One that was started before the last one is of a clock that was set back: how long that was ago is not known.
        let lately = |before: Timestamp| started.is_some_and(|at| (before..before.after(LOOP_NEWS)).contains(&at));
        if unikernel.phase == Phase::Failed && again.is_some_and(lately) {
            return None;
        }
    } else if unikernel.has_ended() {
        // Back without our doing: by Albatross's own list after its restart, or by its client.
        after.phase = Phase::Returned;
        after.exit_reason = String::new();
    }
    (after != *unikernel).then_some(after)
}

/// Notes every start again that `facts` shows. Those by calls are not Albatross's.
pub fn note_starts(world: &World, facts: &mut Facts, now: Instant) {
    for running in facts.inventory.unikernels.iter().filter(|running| !facts.busy.contains(&running.id)) {
        let before = world.unikernel(&running.id).and_then(|unikernel| unikernel.started_at);
        if let (Some(before), Some(started)) = (before, running.started)
            && before != started
        {
            facts.starts.note(&running.id, started, now);
        }
    }
    facts.starts.forget(now);
}

/// Those that end as soon as they are started, and are started at once.
pub fn looping<'a>(world: &'a World, facts: &'a Facts) -> impl Iterator<Item = &'a Unikernel> {
    world.unikernels().filter(|unikernel| unikernel.phase == Phase::Failed && facts.starts.is_loop(&unikernel.id))
}

/// Takes a deployment back that did not come to its end, once Albatross does not have the unikernel: until then the
/// record stays half-made, with its lease. One that has run before is what it was, ended, and keeps its lease; `reason`:
/// why it had ended, when the deployment began.
pub fn undo_deploy(world: &World, id: &UnikernelId, reason: &str) -> Vec<Change> {
    let Some(unikernel) = world.unikernel(id) else { return Vec::new() };
    let ended_before = !reason.is_empty();
    if ended_before || unikernel.last_live.is_some() || world.is_live(id) {
        let (phase, reason) = if ended_before { (Phase::Exited, reason) } else { (Phase::Failed, NOT_STARTED) };
        let (exit_reason, brought_image, provisional) = (reason.into(), false, None);
        let ended = Unikernel { phase, exit_reason, brought_image, provisional, ..unikernel.clone() };
        return vec![Change::PutUnikernel(Box::new(ended))];
    }
    removal::forget_record(world, id)
}

/// Whether `id` is live, or of a stack's live or staged chain: where it runs it is not to be ended.
pub fn is_needed(world: &World, id: &UnikernelId) -> bool {
    world.is_live(id) || world.stack_needing(id).is_some()
}

/// One that was to be started again, by a call that failed, runs all the same: its readiness rule is waited for.
pub fn taken_up_again(world: &World, running: &Running) -> Vec<Change> {
    let half_made = world.unikernel(&running.id).filter(|unikernel| is_half_made(unikernel));
    let same = half_made.filter(|unikernel| unikernel.spec.image == running.digest);
    let returned = same.map(|unikernel| Unikernel {
        phase: Phase::Returned,
        started_at: running.started,
        mac: running.mac.or(unikernel.mac),
        exit_reason: String::new(),
        brought_image: false,
        provisional: None,
        ..unikernel.clone()
    });
    returned.map(|unikernel| Change::PutUnikernel(Box::new(unikernel))).into_iter().collect()
}

/// What a start finds half-done.
#[derive(Debug, PartialEq, Eq)]
pub enum HalfDone {
    /// A deployment whose caller never got an answer: to be undone.
    Deploy(UnikernelId),
    /// A removal that has begun: to be finished.
    Removal(UnikernelId),
    /// An Apply that did not come to its end: what was made for it is to be taken away.
    Apply(StackName),
    /// A removal of a stack that has begun: to be finished.
    StackRemoval(StackName),
}

impl fmt::Display for HalfDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy(id) => write!(f, "the deployment of {id}"),
            Self::Removal(id) => write!(f, "the removal of {id}"),
            Self::Apply(stack) => write!(f, "the apply of stack {stack}"),
            Self::StackRemoval(stack) => write!(f, "the removal of stack {stack}"),
        }
    }
}

/// Everything that was under way when the service ended.
pub fn half_done(world: &World, facts: &Facts) -> Vec<HalfDone> {
    let free = world.unikernels().filter(|unikernel| !facts.busy.contains(&unikernel.id));
    let found = free.filter_map(|unikernel| {
        if unikernel.removing {
            return Some(HalfDone::Removal(unikernel.id.clone()));
        }
        is_half_made(unikernel).then(|| HalfDone::Deploy(unikernel.id.clone()))
    });
    found.chain(half_done_stacks(world, facts)).collect()
}

fn half_done_stacks(world: &World, facts: &Facts) -> impl Iterator<Item = HalfDone> {
    let free = world.stacks().filter(|stack| !facts.busy_stacks.contains(&stack.name));
    free.filter_map(|stack| {
        if stack.removing {
            return Some(HalfDone::StackRemoval(stack.name.clone()));
        }
        let left = stack.attempt == Attempt::Working || !staging::left_behind(world, &stack.name).0.is_empty();
        left.then(|| HalfDone::Apply(stack.name.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the ledger has it.
    fn unikernel(id: &UnikernelId) -> Unikernel {
        let image = format!("sha256:{}", "01".repeat(32));
        let spec = serde_json::json!({
            "image": image, "arguments": [], "memory": 32, "network": "br0", "cpu": null, "block_devices": [],
            "restart": "never", "address": {"prefix": null, "address": null},
        });
        let unikernel = serde_json::json!({
            "id": id, "spec": spec, "readiness": "running", "timeout": {"secs": 30, "nanos": 0}, "phase": "ready",
            "brought_image": true, "removing": false, "address": "10.0.0.2", "mac": null, "cpu": 0, "created_at": 0,
            "started_at": null, "restarts": 0, "exit_reason": "", "last_live": null,
        });
        serde_json::from_value(unikernel).unwrap()
    }

    #[test]
    fn last_words_are_few_and_short() {
        let id: UnikernelId = "web.0123456789".parse().unwrap();
        let consoles = |count: usize, bytes: usize| {
            let lines = (0..count).map(|at| ConsoleLine { at: Timestamp(at as i64), text: vec![b'x'; bytes] });
            BTreeMap::from([(id.clone(), lines.collect::<Vec<_>>())])
        };
        let kept = |phase: Phase, count: usize, bytes: usize| {
            let ended = Unikernel { phase, ..unikernel(&id) };
            let changes = [Change::PutUnikernel(Box::new(ended))];
            match &last_words(&changes, consoles(count, bytes))[..] {
                [] => None,
                [Change::PutLastWords { id: said, lines }] => {
                    assert_eq!(said, &id);
                    assert_eq!(lines.last().unwrap().at, Timestamp(count as i64 - 1), "the last ones");
                    Some(lines.len())
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(kept(Phase::Exited, 3, 10), Some(3));
        assert_eq!(kept(Phase::Failed, 1000, 10), Some(LAST_WORDS));
        assert_eq!(kept(Phase::Exited, 24, 512), Some(16));
        assert_eq!((kept(Phase::Ready, 3, 10), kept(Phase::Exited, 0, 0)), (None, None));
    }
}
