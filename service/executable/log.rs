//! The log, and how the service says why it ends.

use std::fmt::Display;
use std::process::ExitCode;

use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Says in the log why the service does not start or cannot go on.
pub(super) fn refuse(why: &dyn Display) -> ExitCode {
    if tracing::dispatcher::has_been_set() {
        error!("{why}");
    } else {
        write_error(why);
    }
    ExitCode::FAILURE
}

fn write_error(why: &dyn Display) {
    use std::io::Write;
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "albatross-deployer: {why}");
}

pub(super) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets it for what it starts; the journal keeps the fields then.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(std::io::stderr)).init();
        }
    }
}
