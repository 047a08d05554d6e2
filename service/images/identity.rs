//! Being somebody else, for one thread: to reach no more files than a caller could.

use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, Gid, Uid, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Error;
use crate::domain::Caller;

/// Makes the caller's the *effective* ids of this thread. Access to files asks no others, and the real and saved ones
/// staying the service's has two uses: the caller may send the thread no signal, which would reach the whole process,
/// and may not trace it.
pub(super) fn take_on(caller: &Caller) -> Result<(), Error> {
    take_on_where(caller, false)
}

/// Makes them all of this thread's ids, for a process that never needs the service's again.
pub(super) fn become_caller(caller: &Caller) -> Result<(), Error> {
    take_on_where(caller, true)
}

/// `for_good`: the real and the saved ids too.
fn take_on_where(caller: &Caller, for_good: bool) -> Result<(), Error> {
    // To the kernel this number means "leave it as it is": it must not come to mean the service's own rights.
    if [caller.uid, caller.gid].contains(&u32::MAX) || caller.groups.contains(&u32::MAX) {
        return Err(Error::Unavailable(
            "the caller has no valid user or group: hand the file over with DeployImage".to_owned(),
        ));
    }
    match take_on_ids(caller, for_good) {
        // Without the right to be somebody else the service can still be itself.
        Err(Errno::PERM) if caller.uid == geteuid().as_raw() => {}
        Err(error) => {
            return Err(Error::Unavailable(format!(
                "the service may not open files as uid {} ({error}): hand the file over with DeployImage",
                caller.uid
            )));
        }
        Ok(()) => {}
    }
    // Leaving uid 0 the kernel does this by itself; not where the service is a user with some capabilities.
    if caller.uid != 0 {
        drop_capabilities()
            .map_err(|error| Error::Unavailable(format!("cannot drop capabilities to open the image: {error}")))?;
    }
    Ok(())
}

/// Groups and gid first: once the uid is another, changing them is not permitted any more.
fn take_on_ids(caller: &Caller, for_good: bool) -> Result<(), Errno> {
    let groups: Vec<Gid> = caller.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(for_good.then_some(gid), gid, for_good.then_some(gid))?;
    set_thread_res_uid(for_good.then_some(uid), uid, for_good.then_some(uid))
}

fn drop_capabilities() -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    sets.effective = CapabilitySet::empty();
    set_capabilities(None, sets)
}
