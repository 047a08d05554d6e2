//! The order of events.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The place of a decision in the order of all that were made: a later one has a greater number.
///
/// Times do not say what came first, because clocks are set back: by NTP, by hand, and by whoever restores a virtual
/// machine. The numbers are counted from 1 in the ledger, which never gives one of them again; 0 is before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ordinal(pub u64);

impl Ordinal {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The place of an event of which the ledger has only the time: schema 3 and earlier had times in place of numbers.
/// Microseconds since the epoch are numbers like others, and counting goes on from the greatest of them.
impl From<Timestamp> for Ordinal {
    fn from(time: Timestamp) -> Self {
        Self(u64::try_from(time.0).unwrap_or(0))
    }
}
