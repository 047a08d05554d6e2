//! One console as its follower fills it and its readers see it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::BOUNDS;
use super::known::Known;
use crate::domain::{ConsoleLine, Timestamp};
use crate::tail::Tail;

/// How long the history may take to come, and a console to become quiet.
pub const MOMENT: Duration = Duration::from_millis(500);

/// The history comes without a pause as long as this.
const PAUSE: Duration = Duration::from_millis(20);

/// Lines that are looked at in one go.
const AT_A_TIME: usize = 64;

/// What has become of its subscription.
#[derive(Debug, Clone, Copy, Default)]
struct Subscription {
    /// When the console daemon first confirmed, or could first not be reached.
    tried: Option<Instant>,
    /// The unikernel's record is gone.
    removed: bool,
}

/// From where on lines count as those of this start of the unikernel. Not the number alone: those of an earlier life can
/// still be on their way from the console daemon.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub number: u64,
    pub at: Timestamp,
}

#[derive(Debug)]
pub struct Console {
    pub tail: Arc<Tail>,
    start: Mutex<Start>,
    subscription: watch::Sender<Subscription>,
}

impl Default for Console {
    fn default() -> Self {
        let start = Start { number: 0, at: Timestamp(i64::MIN) };
        Self { tail: Arc::new(Tail::new(BOUNDS)), start: Mutex::new(start), subscription: watch::Sender::default() }
    }
}

impl Console {
    /// The last lines, at most `count`.
    pub fn last(&self, count: usize) -> Vec<ConsoleLine> {
        let ring = self.tail.ring();
        ring.from(ring.back(count)).1.cloned().collect()
    }

    /// Takes in lines as they came, but those that are `known`.
    pub fn print(&self, lines: Vec<ConsoleLine>, known: &mut Known) {
        self.tail.push(lines.into_iter().filter(|line| known.is_new(line)));
    }

    /// The console daemon has confirmed, or could not be reached.
    pub fn tried(&self) {
        self.subscription.send_if_modified(|subscription| {
            let first = subscription.tried.is_none();
            subscription.tried.get_or_insert_with(Instant::now);
            first
        });
    }

    pub fn remove(&self) {
        self.subscription.send_modify(|subscription| subscription.removed = true);
    }

    /// The unikernel is about to be started.
    pub fn begin(&self) {
        let number = self.tail.ring().next();
        // Lines have the time of their millisecond.
        *self.start.lock().unwrap_or_else(PoisonError::into_inner) =
            Start { number, at: Timestamp::now().to_milliseconds() };
    }

    /// The unikernel was started at `at`.
    pub fn begun(&self, at: Timestamp) {
        let number = self.tail.ring().in_order_since(at);
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        // A start that has yet to come is of before the clock was set back.
        if start.at < at || start.at > Timestamp::now() {
            *start = Start { number, at };
        }
    }

    pub fn start(&self) -> Start {
        *self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a line that `matches` from the number `cursor` on, for some lines. Continues with where to go on.
    pub fn find(&self, cursor: u64, matches: impl Fn(&ConsoleLine) -> bool) -> ControlFlow<(), u64> {
        let ring = self.tail.ring();
        let (lost, lines) = ring.from(cursor);
        let mut next = cursor + lost;
        for line in lines.take(AT_A_TIME) {
            if matches(line) {
                return ControlFlow::Break(());
            }
            next += 1;
        }
        ControlFlow::Continue(next)
    }

    /// Waits until the record is gone.
    pub async fn removed(&self) {
        // An error would be the end of the sender, which is here.
        let _ = self.subscription.subscribe().wait_for(|subscription| subscription.removed).await;
    }

    /// Waits until no line has come for `pause`, at most a moment.
    pub async fn quiet(&self, pause: Duration) {
        self.quiet_until(pause, Instant::now() + MOMENT).await;
    }

    /// Waits until no line has come for `pause`, at most until `end`.
    pub async fn quiet_until(&self, pause: Duration, end: Instant) {
        let mut news = self.tail.news();
        while Instant::now() < end && timeout(pause, news.changed()).await.is_ok() {}
    }

    /// Waits until the history from before is there, as far as it comes within a moment.
    pub async fn settled(&self) {
        let mut subscription = self.subscription.subscribe();
        let tried = subscription.wait_for(|subscription| subscription.tried.is_some());
        let tried = timeout_at(Instant::now() + MOMENT, tried).await;
        let tried = tried.ok().and_then(|subscription| subscription.ok()?.tried);
        if let Some(tried) = tried {
            self.quiet_until(PAUSE, tried + MOMENT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn line(text: &str) -> ConsoleLine {
        ConsoleLine { at: Timestamp(1), text: text.into() }
    }

    #[test]
    fn a_start_after_the_clock_was_set_back_has_its_own_lines() {
        let now = Timestamp::now().to_milliseconds();
        let ahead = Timestamp(now.0 + 3_600_000_000_000);
        let console = Console::default();
        console.begun(ahead);
        let line = |at, text: &str| ConsoleLine { at, text: text.into() };
        console.print(vec![line(ahead, "ready"), line(ahead, "bye")], &mut Known::default());
        // Albatross starts it again, by the clock of now.
        console.print(vec![line(now, "boots")], &mut Known::default());
        console.begun(now);
        assert_eq!((console.start().number, console.start().at), (2, now));
        // One that began later is not taken back.
        console.begun(Timestamp(now.0 - 1));
        assert_eq!((console.start().number, console.start().at), (2, now));
    }

    #[tokio::test]
    async fn the_history_is_waited_for_once() {
        let console = Console::default();
        let begin = Instant::now();
        console.settled().await;
        assert!(begin.elapsed() >= MOMENT, "nobody has tried");
        // On a machine that is busy one of several takes less than a moment.
        let mut fastest = Duration::MAX;
        for _ in 0..10 {
            let console = Console::default();
            console.tried();
            let begin = Instant::now();
            console.settled().await;
            assert!(begin.elapsed() >= PAUSE, "{:?}", begin.elapsed());
            fastest = fastest.min(begin.elapsed());
        }
        assert!(fastest < MOMENT, "{fastest:?}");
        console.tried();
        tokio::time::sleep(MOMENT).await;
        assert!(console.settled().now_or_never().is_some(), "it waits once more");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_stops_printing_is_not_waited_for_long() {
        let console = std::sync::Arc::new(Console::default());
        let printing = std::sync::Arc::clone(&console);
        tokio::spawn(async move {
            loop {
                printing.print(vec![line("x")], &mut Known::default());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let begin = Instant::now();
        console.quiet(Duration::from_millis(100)).await;
        let took = begin.elapsed();
        assert!(took >= MOMENT && took < Duration::from_secs(20), "{took:?}");
    }
}
