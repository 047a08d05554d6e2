//! The signals that the service answers to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// With a handler each from [`Signals::install`] on. What comes before somebody waits is kept.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) stop: Stop,
    /// SIGHUP: the configuration is to be read again.
    pub(super) hangup: Signal,
}

#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Needs the context of a runtime.
    pub(super) fn install() -> io::Result<Self> {
        let stop = Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: signal(SignalKind::hangup())? })
    }
}

impl Stop {
    /// Returns when the service is to end: SIGTERM or SIGINT.
    pub(super) async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
