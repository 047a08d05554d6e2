//! Seams for tests: with the feature `fault-injection`, a step can be made to fail or to be the last thing that the
//! process does. Without the feature there is nothing here.
//!
//! `ALBATROSS_DEPLOYER_FAULT` holds `NAME=fail` (the step fails when it begins), `NAME=fail-after` (it has done its work,
//! and fails) or `NAME=kill` (SIGKILL when it has done its work). It happens once: the first time that the step is
//! reached, or with `@N` behind it the N-th time.

use super::error::Error;

/// The owner's points: a change is in the ledger, and in the kernel.
pub const WRITTEN: &str = "written";
pub const IN_KERNEL: &str = "in-kernel";
/// The record of an image is gone, and its file is still there.
pub const UNRECORDED: &str = "image-unrecorded";

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

/// At a point that has no beginning of its own.
pub fn at(point: &str) -> Result<(), Error> {
    after(point)?;
    before(point)
}

#[cfg(feature = "fault-injection")]
fn wanted(step: &str, what: &str) -> bool {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let Ok(fault) = std::env::var("ALBATROSS_DEPLOYER_FAULT") else { return false };
    let (fault, time) = fault.split_once('@').unwrap_or((&fault, "1"));
    fault.split_once('=') == Some((step, what))
        && time.parse() == Ok(REACHED.fetch_add(1, Ordering::Relaxed).saturating_add(1))
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
