//! Whose a socket is: its process where that may be seen, else its control group, else its user.
//!
//! The service has no CAP_SYS_PTRACE, and so sees the descriptors of few processes. A control group everybody may see, and
//! systemd names it after the unit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::domain::Listener;

/// A host can have many processes and descriptors: what is not found in this time stays unknown. Some milliseconds do for a
/// few hundred processes, unless the host is very busy.
const DEADLINE: Duration = Duration::from_secs(3);
const CGROUPS: &str = "/sys/fs/cgroup";
/// Levels of control groups that are searched; systemd makes about six.
const DEPTH: usize = 10;
/// Characters of a name in a message.
const SHOWN: usize = 80;

/// Whose `listener` is, in words. Reads files of the kernel, many where the host has many processes: blocks.
pub fn process_of(listener: &Listener) -> String {
    if listener.inode == 0 {
        return "the kernel".into();
    }
    let end = Instant::now() + DEADLINE;
    if let Some(process) = by_descriptor(listener.inode, end) {
        return process;
    }
    match listener.cgroup.and_then(|cgroup| by_cgroup(cgroup, end)) {
        Some(cgroup) => cgroup,
        None => format!("a process of {}", user(listener.uid)),
    }
}

fn by_descriptor(inode: u32, end: Instant) -> Option<String> {
    let link = PathBuf::from(format!("socket:[{inode}]"));
    let processes = fs::read_dir("/proc").ok()?.flatten().take_while(|_| Instant::now() < end);
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut links = descriptors.flatten().take_while(|_| Instant::now() < end);
        if links.any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == link)) {
            return Some(format!("{} (process {pid})", command(pid)?));
        }
    }
    None
}

fn by_cgroup(id: u64, end: Instant) -> Option<String> {
    let path = directory(Path::new(CGROUPS), id, DEPTH, end)?;
    let unit = shown(&path.file_name()?.to_string_lossy());
    // The processes of a unit that has those of one program alone.
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut commands = processes.lines().take_while(|_| Instant::now() < end).filter_map(command);
    let first = commands.next();
    Some(match first {
        Some(first) if commands.all(|command| command == first) => format!("{first} of {unit}"),
        _ => unit,
    })
}

/// The topmost control group where systemd mounts both versions.
const HYBRID_ROOT: &str = "/sys/fs/cgroup/unified";

/// The control group with this number, which is that of its directory. None for the topmost, which says nothing.
fn directory(within: &Path, id: u64, depth: usize, end: Instant) -> Option<PathBuf> {
    let entries = fs::read_dir(within).ok()?.flatten().take_while(|_| Instant::now() < end);
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let directories = directories.map(|entry| entry.path()).collect::<Vec<_>>();
    let has_number = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id);
    let is_it = |path: &&PathBuf| path.as_path() != Path::new(HYBRID_ROOT) && has_number(path);
    if let Some(found) = directories.iter().find(is_it) {
        return Some(found.clone());
    }
    let depth = depth.checked_sub(1)?;
    directories.iter().find_map(|path| directory(path, id, depth, end))
}

fn command(pid: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| shown(name.trim_end()))
}

/// A process chooses its own name.
fn shown(name: &str) -> String {
    name.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn user(uid: u32) -> String {
    let name = uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned());
    name.map_or_else(|| format!("user {uid}"), |name| format!("user {}", shown(&name)))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};

    use super::*;
    use crate::domain::Transport;

    fn listener(inode: u32, uid: u32, cgroup: Option<u64>) -> Listener {
        let address = IpAddr::from([127, 0, 0, 1]);
        Listener { transport: Transport::Tcp, address, port: 1, v6_only: false, uid, inode, cgroup }
    }

    #[test]
    fn a_socket_of_a_process_that_may_be_seen_has_its_name() {
        use std::os::fd::AsRawFd;
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let link = link.to_string_lossy();
        let inode = link.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let process = process_of(&listener(inode, 0, None));
        assert!(process.contains(&format!("(process {})", std::process::id())), "{process}");
    }

    #[test]
    fn what_nobody_may_see_has_its_users_name() {
        assert_eq!(process_of(&listener(0, 0, None)), "the kernel");
        let process = process_of(&listener(u32::MAX, 4_000_000, Some(u64::MAX)));
        assert_eq!(process, "a process of user 4000000");
    }

    #[test]
    fn names_are_shown_escaped_and_short() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(1000)).len(), SHOWN);
    }
}
