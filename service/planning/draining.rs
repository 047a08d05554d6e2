//! When a unikernel that was live before has drained, and when its connections are counted.

use std::time::Duration;

/// How long after a switch a count of 0 means that nothing is left. A packet that was on its way through the NAT rules
/// while they changed goes to the unikernel before, and its connection begins microseconds later.
pub const IN_FLIGHT: Duration = Duration::from_millis(50);

/// Between two signals of the count of one unikernel: connections close without end on some hosts.
pub const SIGNAL_PACE: Duration = Duration::from_millis(100);

/// What is known of a unikernel that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draining {
    /// How long it has drained.
    pub age: Duration,
    /// How long it may still drain.
    pub left: Duration,
    /// Its open connections, as of a moment at least [`IN_FLIGHT`] after the switch; `None` where they are not known.
    pub open: Option<u32>,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has drained, or its time is up.
    Ended,
    /// It goes on, and nothing is to be decided before this time is over, should no connection end until then.
    Continues(Duration),
}

/// Whether a drain has ended. Where connections cannot be counted it lasts until its time is up.
pub fn verdict(draining: Draining) -> Verdict {
    let settled = draining.age >= IN_FLIGHT;
    match draining {
        Draining { left: Duration::ZERO, .. } => Verdict::Ended,
        Draining { open: Some(0), .. } if settled => Verdict::Ended,
        Draining { age, left, .. } if !settled => Verdict::Continues(left.min(IN_FLIGHT - age)),
        Draining { left, .. } => Verdict::Continues(left),
    }
}

/// How long notifications may wait to be read, after `read` of them were read for which `last` was waited. As long as
/// they fill a small part of their room they wait longer, up to `longest`.
pub fn reading_pause(last: Duration, read: usize, longest: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(10);
    /// A quarter and a sixteenth of the room.
    const MANY: usize = 6_000;
    const FEW: usize = 1_500;
    let pause = match read {
        MANY.. => last / 2,
        0..FEW => last * 2,
        _ => last,
    };
    pause.clamp(SHORTEST, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_drain_ends_without_connections_or_when_its_time_is_up() {
        for (age, left, open, wanted) in [
            (0, 30_000, Some(0), Verdict::Continues(ms(50))),
            (49, 30_000, Some(0), Verdict::Continues(ms(1))),
            (50, 30_000, Some(0), Verdict::Ended),
            (50, 30_000, Some(1), Verdict::Continues(ms(30_000))),
            (50, 30_000, None, Verdict::Continues(ms(30_000))),
            (10, 20, Some(0), Verdict::Continues(ms(20))),
            (50, 0, Some(7), Verdict::Ended),
            (0, 0, None, Verdict::Ended),
        ] {
            let draining = Draining { age: ms(age), left: ms(left), open };
            assert_eq!(verdict(draining), wanted, "{draining:?}");
        }
    }

    #[test]
    fn notifications_wait_longer_the_fewer_they_are() {
        for (last, read, longest, wanted) in [
            (10, 0, 250, 20),
            (200, 10, 250, 250),
            (200, 10, 20, 20),
            (250, 3_000, 250, 250),
            (250, 10_000, 250, 125),
            (15, 100_000, 250, 10),
        ] {
            assert_eq!(reading_pause(ms(last), read, ms(longest)), ms(wanted), "{last} {read} {longest}");
        }
    }
}
