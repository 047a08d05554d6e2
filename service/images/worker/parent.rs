//! The service's side: starts a worker, listens to it, and ends it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{Assignment, FLAG, Heard, Said};
use crate::images::Error;

/// Bytes that one worker may be ahead of who reads what it makes: with the usual 64 KiB they wait for each other all the time.
const PIPE: usize = 1 << 20;

/// Bytes of one line that a worker says: what is more comes from one that was taken over.
const LINE: u64 = 64 << 10;

/// Characters of what one says that has crashed, for the journal.
const LAST_WORDS: usize = 400;

/// In which a worker that has said its last word ends.
const END: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const TICK: Duration = Duration::from_millis(1);

/// A worker at work, and all that it has started. Dropped, they are killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    socket: BufReader<UnixStream>,
    has_ended: bool,
}

/// Starts a worker that reads `input`, and returns the pipe with what it makes. That counts only where
/// [`Running::next`] says so.
///
/// # Errors
/// [`Error::Io`] where no process can be started.
pub async fn start(assignment: &Assignment, input: Option<OwnedFd>) -> Result<(File, Running), Error> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error| Error::Io { what, error }
    };
    let (reader, writer) = std::io::pipe().map_err(failed("make a pipe"))?;
    // A system that has little room for pipes leaves it as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed("make a pair of sockets"))?;
    ours.set_nonblocking(true).map_err(failed("make a pair of sockets"))?;
    // The file that runs, also where it was replaced meanwhile. A group of its own, to be ended with all that it starts.
    let child = Command::new("/proc/self/exe")
        .arg(FLAG)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::from(writer))
        .stderr(Stdio::from(OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start a worker"))?;
    let socket = UnixStream::from_std(ours).map_err(failed("make a pair of sockets"))?;
    let mut running = Running { child, socket: BufReader::new(socket), has_ended: false };
    let mut line = serde_json::to_string(assignment).map_err(|error| failed("write a worker's task")(error.into()))?;
    line.push('\n');
    running.socket.write_all(line.as_bytes()).await.map_err(failed("hand a worker its task"))?;
    Ok((OwnedFd::from(reader).into(), running))
}

/// What comes next from a worker.
#[derive(Debug)]
pub enum Next {
    Heard(Heard),
    /// It has made what it was to make; or it has nothing to say but that nobody reads from its pipe any more.
    Ended {
        is_made: bool,
    },
}

impl Running {
    /// Waits for what the worker says next. `limit`: bytes that the unikernel may have, for the message.
    ///
    /// # Errors
    /// What is wrong with the image, or that the worker did not come to an end.
    pub async fn next(&mut self, limit: u64) -> Result<Next, Error> {
        let mut line = String::new();
        let got = (&mut self.socket).take(LINE).read_line(&mut line).await;
        match serde_json::from_str(&line) {
            Ok(Said::Heard(heard)) if got.is_ok() => Ok(Next::Heard(heard.cleaned())),
            Ok(Said::Done) => self.end().await.map(|()| Next::Ended { is_made: true }),
            Ok(Said::Failed(failure)) => failure.error(limit).map_or(Ok(Next::Ended { is_made: false }), Err),
            _ => Err(self.crashed(&line).await),
        }
    }

    async fn end(&mut self) -> Result<(), Error> {
        match self.wait().await {
            Some(status) if status.success() => Ok(()),
            _ => Err(self.crashed("").await),
        }
    }

    async fn wait(&mut self) -> Option<std::process::ExitStatus> {
        // What it has started goes with it, however it ends: as long as it is not waited for, its number, which is its
        // group's, is nobody else's.
        let _ = timeout(END, self.exit()).await;
        self.kill();
        let status = timeout(END, self.child.wait()).await;
        self.has_ended = status.is_ok();
        status.ok()?.ok()
    }

    /// Returns when it has ended, and is not waited for yet.
    async fn exit(&self) {
        let Some(pid) = self.pid() else { return };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(pid), look).is_ok_and(|ended| ended.is_none()) {
            sleep(TICK).await;
        }
    }

    fn kill(&self) {
        if let Some(group) = self.pid().filter(|_| !self.has_ended) {
            // It fails where there is nobody left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    /// `said`: its last words, such as those of a panic.
    async fn crashed(&mut self, said: &str) -> Error {
        let how = self.wait().await.map_or_else(|| "it goes on".into(), |status| status.to_string());
        let said = said.replace(char::is_control, " ").chars().take(LAST_WORDS).collect::<String>();
        tracing::warn!(how, said, "a process that reads images ended without a result ({how}): {said}");
        Error::Unavailable(format!("the image could not be read: the process that reads it ended ({how})"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
