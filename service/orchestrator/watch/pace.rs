//! Looks that are wanted one after the other.

use std::time::Duration;

use tokio::time::Instant;

/// Keeps looks apart where one event follows the other, as with a unikernel that ends whenever it is started: a few are
/// made at once, and then one every 20 ms.
#[derive(Debug)]
pub struct Pace {
    /// When all that may be made at once can be again.
    full: Instant,
}

impl Pace {
    const EVERY: Duration = Duration::from_millis(20);
    const AT_ONCE: u32 = 8;

    pub fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// How long a look that is wanted now has to wait.
    pub fn next(&mut self, now: Instant) -> Duration {
        self.full = self.full.max(now) + Self::EVERY;
        self.full.saturating_duration_since(now + Self::EVERY * Self::AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_at_once_and_then_apart() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..Pace::AT_ONCE {
            assert_eq!(pace.next(now), Duration::ZERO);
        }
        assert_eq!(pace.next(now), Pace::EVERY);
        assert_eq!(pace.next(now + Pace::EVERY), Pace::EVERY);
        assert_eq!(pace.next(now + Duration::from_secs(1)), Duration::ZERO);
    }
}
