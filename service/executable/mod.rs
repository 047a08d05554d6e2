//! What the executable does around the library: signals, flags, the log, and the order of start and end.

mod flags;
mod log;
mod reload;
mod serve;
mod signals;
mod systemd;

use std::process::ExitCode;

use albatross_deployer::config;

use self::flags::Flags;
use self::log::refuse;
use self::signals::Signals;

/// Serves on the bus until it is told to stop.
pub(crate) fn run() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error),
    };
    // Before anything else: what the kernel does at a signal without a handler is not to end in order.
    let guard = runtime.enter();
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return refuse(&error),
    };
    drop(guard);
    let flags = match Flags::read() {
        Ok(Some(flags)) => flags,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => return refuse(&format!("{message}; --help shows the flags")),
    };
    log::start();
    let config = match config::load(&flags.config) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    config.warn_of_ignored();
    let outcome = runtime.block_on(serve::serve(flags, config, signals));
    // Threads that hash or copy an image for a call that is gone are not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}
