//! How often Albatross has started a unikernel lately. It starts one that ends again at once, and never gives up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::{Timestamp, UnikernelId};

/// So many starts again within [`WITHIN`] are a loop: of what is that often away nobody has any use.
const LOOP: usize = 5;
pub const WITHIN: Duration = Duration::from_secs(60);

/// Starts of one unikernel that are remembered. Albatross has been seen to make 200 in a second.
const REMEMBERED: usize = 64;

/// The starts again that were seen within the last minute.
#[derive(Debug, Clone, Default)]
pub struct Starts(BTreeMap<UnikernelId, VecDeque<Timestamp>>);

impl Starts {
    /// `id` was started again at `started`.
    pub fn note(&mut self, id: &UnikernelId, started: Timestamp) {
        let starts = self.0.entry(id.clone()).or_default();
        if starts.back() == Some(&started) {
            return;
        }
        if starts.len() == REMEMBERED {
            starts.pop_front();
        }
        starts.push_back(started);
    }

    /// Forgets those that are older than a minute.
    pub fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, starts| {
            starts.retain(|started| started.after(WITHIN) > now);
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

    /// How often it was seen to be started after `before`.
    pub fn since(&self, id: &UnikernelId, before: Timestamp) -> u32 {
        let starts = self.0.get(id).into_iter().flatten().filter(|&&started| started > before).count();
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
        let mut starts = Starts::default();
        for second in 0..5 {
            assert!(!starts.is_loop(&id()));
            starts.note(&id(), Timestamp(second * SECOND));
            starts.note(&id(), Timestamp(second * SECOND));
            starts.forget(Timestamp(second * SECOND));
        }
        assert!(starts.is_loop(&id()));
        assert_eq!(starts.since(&id(), Timestamp(2 * SECOND)), 2);
        starts.forget(Timestamp(60 * SECOND));
        assert!(!starts.is_loop(&id()), "the first is a minute ago");
    }

    #[test]
    fn now_and_then_is_no_loop_and_many_cost_little() {
        let mut starts = Starts::default();
        for start in 0..100 {
            let now = Timestamp(start * 20 * SECOND);
            starts.note(&id(), now);
            starts.forget(now);
            assert!(!starts.is_loop(&id()));
        }
        (0..10_000).for_each(|start| starts.note(&id(), Timestamp(start)));
        assert_eq!(starts.since(&id(), Timestamp(0)), 64);
    }
}
