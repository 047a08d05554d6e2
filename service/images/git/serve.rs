//! A repository of this host, read by a process that may read no more than who asked for it; and the way to it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{Shutdown, shutdown};

use super::environment::PATH;
use super::program::{Words, hint};
use super::{Error, indented};
use crate::images::worker::{Failure, Kind};

/// One end of a pair of sockets; at the other one [`serve`] answers one question. What is started inherits it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
}

impl Connection {
    pub(super) fn new(socket: impl Into<OwnedFd>) -> Result<Self, Error> {
        let socket = socket.into();
        fcntl_setfd(&socket, FdFlags::empty())
            .map_err(|error| Error::Io { what: "hand a socket to git".into(), error: error.into() })?;
        Ok(Self { socket })
    }

    /// What git calls it.
    pub(super) fn url(&self) -> String {
        format!("fd::{}/", self.socket.as_fd().as_raw_fd())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Also where the descriptor has copies. It fails where the other end is gone.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// Speaks git's protocol on `socket` until the question is answered. Writes nothing anywhere.
pub(super) fn serve(repository: &Path, socket: File) -> Result<(), Failure> {
    let failed = |what: &'static str| move |error| Failure::from(Error::Io { what: what.into(), error });
    let again = socket.try_clone().map_err(failed("copy a socket"))?;
    let mut git = upload_pack(repository);
    git.stdin(Stdio::from(socket)).stdout(Stdio::from(again)).stderr(Stdio::piped());
    let mut child = git.spawn().map_err(Error::NoProgram)?;
    // It has its own copies of the socket: there must be no other when it ends.
    drop(git);
    let mut words = Words::default();
    if let Some(pipe) = child.stderr.take() {
        listen(pipe, &mut words).map_err(failed("read what git says"))?;
    }
    words.read(b"\n", &mut |_| ());
    let status = child.wait().map_err(failed("wait for git"))?;
    judge(repository, status, words.last.into())
}

/// `git upload-pack` with nothing of anybody's configuration but the repository's own, of which it takes nothing that
/// runs a program.
fn upload_pack(repository: &Path) -> Command {
    let mut git = Command::new("git");
    git.env_clear().current_dir("/").env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/nonexistent");
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_ATTR_NOSYSTEM", "1");
    git.env("GIT_PROTOCOL", "version=2").env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_NO_LAZY_FETCH", "1");
    // Whose it is does not matter to who may read it and was asked to.
    let settings =
        [("safe.directory", "*"), ("pack.threads", "1"), ("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false")];
    git.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (number, (key, value)) in settings.iter().enumerate() {
        git.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    git.args(["upload-pack", "--timeout=300", "--"]).arg(repository);
    git
}

fn listen(mut pipe: impl Read, words: &mut Words) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer)? {
            0 => return Ok(()),
            count => words.read(buffer.get(..count).unwrap_or_default(), &mut |_| ()),
        }
    }
}

fn judge(repository: &Path, status: ExitStatus, lines: Vec<String>) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    // Then who asked knows better.
    let left = |line: &String| {
        ["hung up", "Broken pipe", "early EOF", "reset by peer"].iter().any(|words| line.contains(words))
    };
    if status.code().is_none() || lines.iter().any(left) {
        return Err(Failure::new(Kind::Unwanted, "nobody asks for the repository any more"));
    }
    let what = format!("the repository {} cannot be read with the caller's rights", repository.display());
    let message = match hint(&lines) {
        "" => format!("{what}{}", indented(&lines)),
        hint => format!("the repository {}{hint}{}", repository.display(), indented(&lines)),
    };
    Err(Failure::new(Kind::Unavailable, message))
}
