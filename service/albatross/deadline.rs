//! How long Albatross may take to answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A time that can be changed while others read it. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Deadline(Arc<AtomicU64>);

impl Deadline {
    pub(super) fn new(deadline: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(milliseconds(deadline))))
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, deadline: Duration) {
        self.0.store(milliseconds(deadline), Ordering::Relaxed);
    }
}

fn milliseconds(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)
}
