//! Points in time as the bus shows them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since the epoch: the unit of every time on the bus and in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock. With the feature `fault-injection`, `ALBATROSS_DEPLOYER_CLOCK` says how many seconds it is wrong.
    pub fn now() -> Self {
        let now = Self::from(SystemTime::now());
        Self(now.0.saturating_add(wrong_by()))
    }

    /// The instant that lies `later` after this one; the last representable one where there is none.
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The millisecond that it lies in, as Albatross tells times.
    pub fn to_milliseconds(self) -> Self {
        Self(self.0 - self.0.rem_euclid(1000))
    }
}

/// Microseconds by which a test has the clock wrong.
#[cfg(feature = "fault-injection")]
fn wrong_by() -> i64 {
    let seconds = std::env::var("ALBATROSS_DEPLOYER_CLOCK").ok().and_then(|text| text.parse::<i64>().ok());
    seconds.unwrap_or(0).saturating_mul(1_000_000)
}

#[cfg(not(feature = "fault-injection"))]
fn wrong_by() -> i64 {
    0
}

/// A point in time until which something may take, and how long that was when it was set.
///
/// It holds over restarts of the service, so it is of the wall clock: no other goes on while the service does not run. A
/// clock that is set back would make it last as much longer, therefore no more is left of it than there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "StoredDeadline")]
pub struct Deadline {
    at: Timestamp,
    given: Duration,
}

impl Deadline {
    /// `given` from `now` on.
    pub fn new(now: Timestamp, given: Duration) -> Self {
        Self { at: now.after(given), given }
    }

    /// How much time is left; none once it has passed.
    pub fn left(self, now: Timestamp) -> Duration {
        let left = u64::try_from(self.at.0.saturating_sub(now.0)).unwrap_or(0);
        Duration::from_micros(left).min(self.given)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StoredDeadline {
    /// Schema 3 and earlier: how long it was is not known.
    Bare(Timestamp),
    Whole {
        at: Timestamp,
        given: Duration,
    },
}

impl From<StoredDeadline> for Deadline {
    fn from(stored: StoredDeadline) -> Self {
        match stored {
            StoredDeadline::Bare(at) => Self { at, given: Duration::MAX },
            StoredDeadline::Whole { at, given } => Self { at, given },
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        // Before the epoch only on a host whose clock was never set: zero then, not a panic.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_left_of_a_deadline_than_there_was() {
        let (set, given) = (Timestamp(5_000_000), Duration::from_secs(30));
        let deadline = Deadline::new(set, given);
        let hour = Duration::from_secs(3600);
        for (what, now, left) in [
            ("at once", set, given),
            ("ten seconds later", Timestamp(15_000_000), Duration::from_secs(20)),
            ("when it is over", set.after(given), Duration::ZERO),
            ("after it, or with a clock set forward", set.after(hour), Duration::ZERO),
            ("with a clock set back", Timestamp(-3_600_000_000), given),
        ] {
            assert_eq!(deadline.left(now), left, "{what}");
        }
    }

    #[test]
    fn deadlines_of_earlier_ledgers_are_read() {
        let deadline = Deadline::new(Timestamp(9), Duration::from_millis(30_000));
        let stored = serde_json::to_string(&deadline).unwrap();
        assert_eq!(stored, r#"{"at":30000009,"given":{"secs":30,"nanos":0}}"#);
        assert_eq!(serde_json::from_str::<Deadline>(&stored).unwrap(), deadline);
        let bare = serde_json::from_str::<Deadline>("30000009").unwrap();
        assert_eq!(bare.left(Timestamp(9)), Duration::from_secs(30));
        assert_eq!(serde_json::from_str::<Deadline>(&serde_json::to_string(&bare).unwrap()).unwrap(), bare);
    }
}
