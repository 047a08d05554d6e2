//! Seams for tests: with the feature `fault-injection`, a step can be made to fail or to be the last thing that the
//! process does. Without the feature there is nothing here.
//!
//! `ALBATROSS_DEPLOYER_FAULT` holds `NAME=fail` (the step fails when it begins), `NAME=fail-after` (it has done its work,
//! and fails) or `NAME=kill` (SIGKILL when it has done its work).

use super::error::Error;

/// Called when `step` begins.
pub fn before(step: &str) -> Result<(), Error> {
    if wanted(step, "fail") { Err(Error::Defect) } else { Ok(()) }
}

/// Called when `step` has done its work.
pub fn after(step: &str) -> Result<(), Error> {
    if wanted(step, "kill") {
        kill_self();
    }
    if wanted(step, "fail-after") { Err(Error::Defect) } else { Ok(()) }
}

#[cfg(feature = "fault-injection")]
fn wanted(step: &str, what: &str) -> bool {
    std::env::var("ALBATROSS_DEPLOYER_FAULT").is_ok_and(|fault| fault.split_once('=') == Some((step, what)))
}

#[cfg(feature = "fault-injection")]
fn kill_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[cfg(not(feature = "fault-injection"))]
fn wanted(_step: &str, _what: &str) -> bool {
    false
}

#[cfg(not(feature = "fault-injection"))]
fn kill_self() {}
