//! Looks at the world outside: when the kernel says that something has happened, and every 30 s besides.

mod albatross;
mod deaths;
mod host;
mod links;
mod pace;
mod table;
mod words;

use std::time::Duration;

use tokio::sync::watch;

pub use albatross::follow as follow_albatross;
pub use deaths::{Taps, learn as learn_taps};
pub use host::{follow as follow_host, look as look_at_host};
pub use links::follow as follow_links;
pub use table::follow as follow_table;

/// Between two looks at everything when nothing happens. Deaths are told by the kernel; this is for what it cannot tell.
const BEAT: Duration = Duration::from_secs(30);

/// What the names of Albatross's taps begin with: `vmmtap0` and so on.
pub const TAP: &str = "vmmtap";

/// Between two attempts at what the kernel refuses.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Events of one death (carrier down, up again, link gone) come within this time.
const SETTLE: Duration = Duration::from_millis(4);

/// One beat for all that is looked at without being told: a service that is idle wakes up once for all of it. From a thread
/// that does nothing else, for tokio's timers wake up a few times on the way to one that is so far off.
pub fn beat(beat: watch::Sender<()>) -> std::io::Result<()> {
    let beats = move || {
        loop {
            std::thread::sleep(BEAT);
            if beat.send(()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("beat".into()).stack_size(BEATS_STACK).spawn(beats).map(drop)
}

/// It sleeps.
const BEATS_STACK: usize = 64 * 1024;
