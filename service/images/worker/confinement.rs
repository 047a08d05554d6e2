//! Takes everything from this process that a worker has no use for. There is no way back.

use std::fs;

use caps::{CapSet, CapsHashSet};
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Bytes of address space: the executable, the decoders' windows (8 MiB), buffers.
const MEMORY: u64 = 192 << 20;
/// Seconds of processor time: 16 GiB unpack in less.
const PROCESSOR: u64 = 120;
/// Descriptors: three, and a few while a folder is read.
const DESCRIPTORS: u64 = 32;

/// Before the first foreign byte, while there is one thread.
///
/// # Errors
/// In words, where the kernel does not take something away: then nothing is read.
pub(super) fn confine() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &CapsHashSet::new()).map_err(|error| format!("capabilities: {error}"))?;
    }
    limit()?;
    no_files_no_network()
}

/// Closes what who started the service has left open to it, and it to this process: it could be anything.
///
/// # Errors
/// In words, where the kernel does not say what is open.
#[allow(unsafe_code)]
pub(super) fn close_what_was_not_handed_over() -> Result<(), String> {
    let unknown = |error| format!("/proc/self/fd: {error}");
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").map_err(unknown)? {
        numbers.extend(entry.map_err(unknown)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    // The one with which the list was read is closed by now.
    let is_open = |number: &i32| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    for number in numbers.into_iter().filter(|number| *number > 2).filter(is_open) {
        // SAFETY: nothing in this process owns a descriptor yet but the standard ones: it has just begun.
        unsafe { rustix::io::close(number) };
    }
    Ok(())
}

fn limit() -> Result<(), String> {
    let limits = [
        (Resource::As, MEMORY),
        (Resource::Cpu, PROCESSOR),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Nproc, 0),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
    ];
    limits.into_iter().try_for_each(|(resource, limit)| {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        setrlimit(resource, limit).map_err(|error| format!("limit of {resource:?}: {error}"))
    })
}

/// Landlock from Linux 5.13 on for files, with later kernels for sockets and signals too. What was opened before stays.
fn no_files_no_network() -> Result<(), String> {
    let words = |error: landlock::RulesetError| format!("Landlock: {error}");
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V5)).map_err(words)?;
    let ruleset = ruleset.handle_access(AccessNet::from_all(ABI::V5)).map_err(words)?;
    let ruleset = ruleset.scope(Scope::from_all(ABI::V6)).map_err(words)?;
    let status = ruleset.create().and_then(|created| created.restrict_self()).map_err(words)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock)".into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
