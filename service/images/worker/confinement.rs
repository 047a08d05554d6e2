//! Takes everything from this process that its task has no use for. There is no way back.
//!
//! Twice, where that can be: Landlock says which files can be reached, a filter of system calls says what can be asked of
//! the kernel at all. A task that needs nothing but what it was handed has a filter that lets it read, write and think.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use caps::{CapSet, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::Assignment;
use super::rights::{Limits, PROGRAMS, Rights};
use crate::images::identity;

/// Before the first foreign byte, while there is one thread. `input`: what may be a folder to read.
///
/// # Errors
/// In words, where the kernel does not take something away: then nothing is read.
pub(super) fn confine(assignment: &Assignment, input: &impl AsFd) -> Result<(), String> {
    let rights = assignment.task.rights();
    if let Some(caller) = &assignment.caller {
        identity::become_caller(caller).map_err(|error| error.to_string())?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &CapsHashSet::new()).map_err(|error| format!("capabilities: {error}"))?;
    }
    // Killed, the service could not end it. A change of rights would take this back, so it comes after all of them.
    // Not where it has programs to end with it: that it does itself (`Voice::end_when_gone`).
    if !rights.programs {
        let dies = set_parent_process_death_signal(Some(Signal::KILL));
        dies.map_err(|error| format!("the signal of its parent's death: {error}"))?;
    }
    limit(&rights)?;
    let enforced = restrict_files(&rights, input.as_fd()).map_err(|error| format!("Landlock: {error}"))?;
    // The filter of who needs nothing lets it open nothing, whatever Landlock says.
    if !enforced && !rights.is_nothing() {
        return Err("the kernel has no Landlock: it needs CONFIG_SECURITY_LANDLOCK, and landlock in lsm=".into());
    }
    filter_calls(&rights).map_err(|error| format!("seccomp: {error}"))
}

/// Closes what who started the service has left open to it, and it to this process: it could be anything.
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

fn limit(rights: &Rights) -> Result<(), String> {
    let Limits { memory, processor, descriptors } = rights.limits;
    let mut limits =
        vec![(Resource::As, memory), (Resource::Cpu, processor), (Resource::Nofile, descriptors), (Resource::Core, 0)];
    if rights.write.is_empty() {
        limits.push((Resource::Fsize, 0));
    }
    if rights.is_nothing() {
        limits.push((Resource::Nproc, 0));
    }
    limits.into_iter().try_for_each(|(resource, limit)| {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        setrlimit(resource, limit).map_err(|error| format!("limit of {resource:?}: {error}"))
    })
}

/// Landlock from Linux 5.13 on for files, with later kernels for sockets and signals too. What was opened before stays.
/// Returns whether it holds.
fn restrict_files(rights: &Rights, input: BorrowedFd<'_>) -> Result<bool, RulesetError> {
    let abi = ABI::V6;
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(abi)
        & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo | AccessFs::MakeSock);
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    ruleset = ruleset.handle_access(AccessFs::from_all(abi))?.handle_access(AccessNet::BindTcp)?;
    if !rights.internet {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut created = ruleset.scope(Scope::from_all(abi))?.create()?;
    created = created.add_rules(path_beneath_rules(&rights.read, reading))?;
    created = created.add_rules(path_beneath_rules(&rights.write, write))?;
    if rights.programs {
        // And nowhere else: what is fetched is not to be run.
        created = created.add_rules(path_beneath_rules(PROGRAMS, reading | AccessFs::Execute))?;
    }
    if rights.folder {
        created = created.add_rule(PathBeneath::new(input, reading))?;
    }
    Ok(created.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

fn filter_calls(rights: &Rights) -> Result<(), seccompiler::Error> {
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    if rights.is_nothing() {
        return apply(enough_to_think()?, SeccompAction::Allow, refused);
    }
    // As on a kernel that is older than it: libraries use clone then, whose flags can be seen here.
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply(always([libc::SYS_clone3]), unknown, SeccompAction::Allow)?;
    apply(never_needed(rights)?, refused, SeccompAction::Allow)
}

fn apply(calls: Calls, listed: SeccompAction, others: SeccompAction) -> Result<(), seccompiler::Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(calls, others, listed, architecture)?.try_into()?;
    seccompiler::apply_filter(&program)
}

/// When a call is one that a filter lists: in any of the cases, or always where there is none.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn always(calls: impl IntoIterator<Item = i64>) -> Calls {
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}

/// That its argument with this number, an `int`, is such.
fn when(argument: u8, is: SeccompCmpOp, value: i32) -> Result<SeccompRule, seccompiler::Error> {
    let value = u64::from(value.cast_unsigned());
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?])?)
}

fn when_any(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    values.iter().map(|value| when(argument, SeccompCmpOp::Eq, *value)).collect()
}

/// What reading, writing and memory take. None of these opens a file, makes a connection or starts a process.
fn enough_to_think() -> Result<Calls, seccompiler::Error> {
    let mut calls = always([
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_fstat,
        // Both look at what is open, by an empty path.
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_close,
        libc::SYS_dup,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_sched_yield,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]);
    let of_itself = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
    calls.insert(libc::SYS_fcntl, when_any(1, &of_itself)?);
    Ok(calls)
}

/// What Landlock leaves to whoever owns a file, which is the service's own user here: its mode, its owner, its attributes,
/// and before Linux 6.2 its length. Times as well, which a cache of layers sets.
const CHANGES_OF_FILES: [i64; 14] = [
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
    libc::SYS_truncate,
];

/// Their older forms, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_CHANGES_OF_FILES: &[i64] = &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CHANGES_OF_FILES: &[i64] = &[];

// Not in libc for every architecture; new calls have the same number everywhere.
const FCHMODAT2: i64 = 452;
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;

// Who gets the signals of a descriptor, or of a socket. libc does not have them all.
const F_SETOWN: i32 = 8;
const F_SETOWN_EX: i32 = 15;
const FIOSETOWN: i32 = 0x8901;
const SIOCSPGRP: i32 = 0x8902;

/// What gets round the rest, and kinds of sockets that the task has no use for.
fn never_needed(rights: &Rights) -> Result<Calls, seccompiler::Error> {
    let mut calls = vec![
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        // Signals by other ways than kill.
        libc::SYS_pidfd_send_signal,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_tkill,
        libc::SYS_tgkill,
        // Takes others' time away.
        libc::SYS_setpriority,
        libc::SYS_ioprio_set,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
        // Leaves the group of processes with which it is ended.
        libc::SYS_setpgid,
        libc::SYS_setsid,
        // Asks the kernel for what this filter would not see.
        libc::SYS_io_uring_setup,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_chroot,
    ];
    calls.extend(CHANGES_OF_FILES);
    calls.extend(OLDER_CHANGES_OF_FILES);
    if !rights.programs {
        calls.extend([libc::SYS_execve, libc::SYS_execveat, libc::SYS_kill]);
    }
    let mut calls = always(calls);
    calls.insert(libc::SYS_socket, sockets(rights)?);
    if rights.programs {
        // Only all of them together. The service and others of its user could be reached otherwise: Landlock keeps signals
        // in only from Linux 6.12 on.
        calls.insert(libc::SYS_kill, vec![when(0, SeccompCmpOp::Ne, 0)?]);
    }
    // Signals by what is ready to be read.
    calls.insert(libc::SYS_fcntl, when_any(1, &[F_SETOWN, F_SETOWN_EX])?);
    calls.insert(libc::SYS_ioctl, when_any(1, &[FIOSETOWN, SIOCSPGRP])?);
    // Limits of others.
    calls.insert(libc::SYS_prlimit64, vec![when(0, SeccompCmpOp::Ne, 0)?]);
    let namespaces =
        u64::from((libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET).unsigned_abs());
    for flag in (0..32).map(|bit| 1u64 << bit).filter(|flag| namespaces & flag != 0) {
        let given = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        calls.entry(libc::SYS_clone).or_default().push(SeccompRule::new(vec![given])?);
    }
    Ok(calls)
}

/// When a socket is refused: always, where there is no rule.
fn sockets(rights: &Rights) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let not = |kind: &i32| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(kind.unsigned_abs()))
    };
    // A resolver asks the kernel for addresses by netlink. A socket of this host could lead to who may do more than this
    // process.
    let allowed: &[i32] = match (rights.internet, rights.engine) {
        (true, _) => &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK],
        (false, true) => &[libc::AF_UNIX],
        (false, false) => return Ok(Vec::new()),
    };
    let conditions = allowed.iter().map(not).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![SeccompRule::new(conditions)?])
}
