//! The taps of unikernels, as the kernel tells of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::LinkEvent;

/// Taps of Albatross: `vmmtap0` and so on.
const NAME: &str = "vmmtap";

/// Which of them have carrier. A tender gives its tap carrier when it opens it.
#[derive(Debug, Default)]
pub struct Taps {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The kernel counts links up and gives no number twice.
    newest: u32,
    carrier: BTreeMap<u32, bool>,
}

/// A moment: taps that come after it have a higher number.
#[derive(Debug, Clone, Copy)]
pub struct Moment(u32);

impl Taps {
    /// Whether a link of this name is one.
    pub fn is_one(name: &str) -> bool {
        name.starts_with(NAME)
    }

    pub fn take_in(&self, event: &LinkEvent) {
        let mut inner = self.lock();
        match event {
            LinkEvent::Changed { name, index, carrier, .. } if Self::is_one(name) => {
                inner.newest = inner.newest.max(*index);
                inner.carrier.insert(*index, *carrier);
            }
            LinkEvent::Vanished { index, .. } => drop(inner.carrier.remove(index)),
            // What is not known does not keep anybody waiting.
            LinkEvent::Lost => inner.carrier.clear(),
            _ => return,
        }
        drop(inner);
        self.changed.send_replace(());
    }

    pub fn now(&self) -> Moment {
        Moment(self.lock().newest)
    }

    /// Waits until every tap that has come since `moment` has carrier, for ever if need be. Whose they are the kernel does
    /// not say: of two unikernels that are created at the same time each waits for both.
    pub async fn carry_since(&self, moment: Moment) {
        let mut changed = self.changed.subscribe();
        while self.lock().carrier.range(moment.0.saturating_add(1)..).any(|(_, carrier)| !carrier) {
            // An error would be the end of the sender, which is here.
            let _ = changed.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn tap(index: u32, carrier: bool) -> LinkEvent {
        LinkEvent::Changed { name: format!("vmmtap{index}"), index, carrier, master: Some(1) }
    }

    async fn carries(taps: &Taps, moment: Moment) -> bool {
        timeout(Duration::from_millis(10), taps.carry_since(moment)).await.is_ok()
    }

    #[tokio::test]
    async fn only_taps_that_came_since_are_waited_for() {
        let taps = Taps::default();
        taps.take_in(&tap(7, false));
        let moment = taps.now();
        assert!(carries(&taps, moment).await, "an older one is another's");
        taps.take_in(&tap(8, false));
        taps.take_in(&LinkEvent::Changed { name: "eth1".into(), index: 9, carrier: false, master: None });
        assert!(!carries(&taps, moment).await);
        taps.take_in(&tap(8, true));
        assert!(carries(&taps, moment).await);
        taps.take_in(&tap(10, false));
        assert!(!carries(&taps, moment).await);
        taps.take_in(&LinkEvent::Vanished { name: "vmmtap10".into(), index: 10 });
        assert!(carries(&taps, moment).await);
        taps.take_in(&tap(11, false));
        taps.take_in(&LinkEvent::Lost);
        assert!(carries(&taps, moment).await, "nobody waits for what is not known");
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let taps = Taps::default();
        let moment = taps.now();
        taps.take_in(&tap(3, false));
        let told = async { taps.take_in(&tap(3, true)) };
        let both = async { tokio::join!(taps.carry_since(moment), told) };
        assert!(timeout(Duration::from_secs(5), both).await.is_ok());
    }
}
