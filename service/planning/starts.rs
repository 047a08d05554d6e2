//! How often Albatross has started a unikernel lately. It starts one that ends again at once, and never gives up.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::domain::{Timestamp, UnikernelId};

/// So many starts again within [`WITHIN`] are a loop: of what is that often away nobody has any use.
const LOOP: usize = 5;
pub const WITHIN: Duration = Duration::from_secs(60);

/// Starts of one unikernel that are remembered. Albatross has been seen to make 200 in a second.
const REMEMBERED: usize = 64;

/// The starts again that were seen within the last minute.
#[derive(Debug, Clone, Default)]
pub struct Starts(BTreeMap<UnikernelId, VecDeque<Start>>);

/// One start. A minute is measured from when it was seen: Albatross's times are those of a clock that can be set.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// As Albatross tells it: which one it is.
    started: Timestamp,
    seen: Instant,
}

impl Starts {
    /// `id` was started again at `started`, as it is seen `now`.
    pub fn note(&mut self, id: &UnikernelId, started: Timestamp, now: Instant) {
        let starts = self.0.entry(id.clone()).or_default();
        if starts.back().is_some_and(|last| last.started == started) {
            return;
        }
        if starts.len() == REMEMBERED {
            starts.pop_front();
        }
        starts.push_back(Start { started, seen: now });
    }

    /// Forgets those that were seen more than a minute ago.
    pub fn forget(&mut self, now: Instant) {
        self.0.retain(|_, starts| {
            starts.retain(|start| now.saturating_duration_since(start.seen) < WITHIN);
            !starts.is_empty()
        });
    }

    /// `id` is started by a call: what it was before is no matter.
    pub fn begin_anew(&mut self, id: &UnikernelId) {
        self.0.remove(id);
    }

    pub fn is_loop(&self, id: &UnikernelId) -> bool {
        self.0.get(id).is_some_and(|starts| starts.len() >= LOOP)
    }

    /// How often it was seen to be started after the start at `before`. Where that is not remembered, all are later.
    pub fn since(&self, id: &UnikernelId, before: Timestamp) -> u32 {
        let starts = self.0.get(id).into_iter().flatten().rev().take_while(|start| start.started != before).count();
        u32::try_from(starts).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn id() -> UnikernelId {
        UnikernelId::new(&"website".parse().unwrap(), &[7; 32])
    }

    #[test]
    fn a_loop_is_many_starts_within_a_minute() {
        let (mut starts, begin) = (Starts::default(), Instant::now());
        let at = |second: u64| begin + Duration::from_secs(second);
        for second in 0..5 {
            assert!(!starts.is_loop(&id()));
            starts.note(&id(), Timestamp(second * SECOND), at(second.unsigned_abs()));
            starts.note(&id(), Timestamp(second * SECOND), at(second.unsigned_abs()));
            starts.forget(at(second.unsigned_abs()));
        }
        assert!(starts.is_loop(&id()));
        assert_eq!(starts.since(&id(), Timestamp(2 * SECOND)), 2);
        starts.forget(at(60));
        assert!(!starts.is_loop(&id()), "the first is a minute ago");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_loop_and_hides_no_start() {
        let (mut starts, begin) = (Starts::default(), Instant::now());
        for started in [3600, 1, 2] {
            starts.note(&id(), Timestamp(started * SECOND), begin);
        }
        starts.forget(begin);
        assert_eq!(starts.since(&id(), Timestamp(3600 * SECOND)), 2);
        // Twice a minute is no loop, however far apart or close the clock has them.
        for round in 1..10 {
            let seen = begin + Duration::from_secs(30 * round);
            starts.note(&id(), Timestamp(3600 * SECOND - i64::try_from(round).unwrap()), seen);
            starts.forget(seen);
            assert!(!starts.is_loop(&id()), "{round}");
        }
    }

    #[test]
    fn now_and_then_is_no_loop_and_many_cost_little() {
        let (mut starts, begin) = (Starts::default(), Instant::now());
        for start in 0..100 {
            let seen = begin + Duration::from_secs(20 * start);
            starts.note(&id(), Timestamp(i64::try_from(start).unwrap()), seen);
            starts.forget(seen);
            assert!(!starts.is_loop(&id()));
        }
        (100..10_000).for_each(|start| starts.note(&id(), Timestamp(start), begin));
        assert_eq!(starts.since(&id(), Timestamp(0)), 64);
    }
}
