//! Fills one console: reads its subscription always, and subscribes again when it has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::console::Console;
use super::known::Known;
use crate::albatross::{self, Client, ConsoleHistory};
use crate::domain::UnikernelId;

/// How long the console daemon may take to confirm a subscription.
const CONFIRMED: Duration = Duration::from_secs(5);

/// Pauses between two attempts grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A subscription that has stood so long did not end because others take each other's places.
const STOOD: Duration = Duration::from_secs(60);

/// What one that was destroyed says last comes before a pause as long as this.
const FAREWELL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Follower {
    pub console: Arc<Console>,
    pub albatross: Client,
    pub id: UnikernelId,
    /// Changes when an attempt has a better chance than the one before.
    pub again: watch::Receiver<()>,
}

impl Follower {
    /// Ends when the unikernel's record is gone.
    pub async fn run(mut self) {
        let console = Arc::clone(&self.console);
        tokio::select! {
            never = self.follow() => match never {},
            () = async { console.removed().await; console.quiet(FAREWELL).await } => console.tail.end(),
        }
    }

    async fn follow(&mut self) -> Infallible {
        let mut pause = PAUSES.0;
        loop {
            self.again.mark_unchanged();
            let begin = Instant::now();
            match self.read().await {
                Ok(never) => match never {},
                Err(error) => debug!(id = %self.id, %error, "the console is not read"),
            }
            self.console.tried();
            if begin.elapsed() > STOOD {
                pause = PAUSES.0;
            }
            let _ = timeout(pause, self.again.changed()).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Reads one subscription to its end. No timer runs meanwhile.
    async fn read(&self) -> Result<Infallible, albatross::Error> {
        let (history, mut known) = {
            let ring = self.console.tail.ring();
            (ring.last().map_or(ConsoleHistory::All, |last| ConsoleHistory::Since(last.at)), Known::of(&ring))
        };
        let mut stream = self.albatross.console(&self.id, history, CONFIRMED).await?;
        self.console.tried();
        loop {
            let lines = stream.lines().await?;
            self.console.print(lines, &mut known);
            // One that prints without end would keep everybody else from working.
            tokio::task::yield_now().await;
        }
    }
}
