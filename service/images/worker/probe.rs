//! For tests: a confined worker that tries what it must not do, instead of its task, and says what came of each.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;

use rustix::fs::XattrFlags;
use rustix::process::{Pid, test_kill_current_process_group, test_kill_process};

use super::{Failure, Kind, Voice};

/// What to try: `WHAT=ON`, with spaces between.
const VARIABLE: &str = "ALBATROSS_DEPLOYER_PROBE";

pub(super) fn wanted() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Says of each attempt its words and the number of its error, 0 where it came off.
pub(super) fn run(attempts: &str, voice: &mut Voice) -> Result<(), Failure> {
    for attempt in attempts.split_whitespace() {
        let number = match attempted(attempt) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        voice.line(&format!("{attempt} {number}"))?;
    }
    Err(Failure::new(Kind::Unwanted, "a probe makes nothing"))
}

fn attempted(attempt: &str) -> io::Result<()> {
    let (what, on) = attempt.split_once('=').unwrap_or((attempt, ""));
    match what {
        "read" => File::open(on).map(drop),
        "list" => fs::read_dir(on).map(drop),
        "create" => OpenOptions::new().write(true).create_new(true).open(on).map(drop),
        "mode" => fs::set_permissions(on, fs::Permissions::from_mode(0o777)),
        "owner" => chown(on, Some(0), None),
        "attribute" => Ok(rustix::fs::setxattr(on, "user.probe", b"", XattrFlags::empty())?),
        "no-attribute" => Ok(rustix::fs::removexattr(on, "user.probe")?),
        "call" => call(on),
        "run" => Command::new(on).env_clear().status().map(drop),
        "connect" => TcpStream::connect(on).map(drop),
        "listen" => TcpListener::bind(on).map(drop),
        "datagram" => UdpSocket::bind(on).map(drop),
        "socket" => UnixStream::connect(on).map(drop),
        "abstract" => UnixStream::connect_addr(&SocketAddr::from_abstract_name(on)?).map(drop),
        "signal" => Ok(test_kill_process(on.parse().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?)?),
        "signal-group" => Ok(test_kill_current_process_group()?),
        "become" => Ok(rustix::thread::set_thread_uid(rustix::thread::Uid::from_raw(
            on.parse().map_err(|_| io::ErrorKind::InvalidInput)?,
        ))?),
        "root" => Ok(rustix::process::chroot(on)?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A system call that no library has, by a program: its number, and arguments in Perl.
fn call(words: &str) -> io::Result<()> {
    let script = format!("exit(syscall({words}) == -1 ? $! + 0 : 0)");
    let status = Command::new("/usr/bin/perl").env_clear().args(["-e", &script]).status()?;
    match status.code() {
        Some(0) => Ok(()),
        number => Err(io::Error::from_raw_os_error(number.unwrap_or(-1))),
    }
}
