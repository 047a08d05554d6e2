//! The service's side: starts a worker, listens to it, and ends it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{FLAG, Said, Task};
use crate::images::Error;

/// Bytes of one line that a worker says, and of all that it says: what is more comes from one that was taken over.
const LINE: u64 = 16 << 10;

/// Characters of what one says that has crashed, for the journal.
const LAST_WORDS: usize = 400;

/// In which a worker that has said its last word ends.
const END: Duration = Duration::from_secs(5);

/// A worker at work. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    socket: BufReader<UnixStream>,
    limit: u64,
}

/// Starts a worker on `image`, and returns the pipe from which the unikernel is to be read. What is read counts only where
/// [`Running::outcome`] says so.
///
/// # Errors
/// [`Error::Io`] where no process can be started.
pub async fn start(task: &Task, image: OwnedFd) -> Result<(File, Running), Error> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error| Error::Io { what, error }
    };
    let (reader, writer) = std::io::pipe().map_err(failed("make a pipe"))?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed("make a pair of sockets"))?;
    ours.set_nonblocking(true).map_err(failed("make a pair of sockets"))?;
    // The file that runs, also where it was replaced meanwhile.
    let child = Command::new("/proc/self/exe")
        .arg(FLAG)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(image))
        .stdout(Stdio::from(writer))
        .stderr(Stdio::from(OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start a worker"))?;
    let mut socket = UnixStream::from_std(ours).map_err(failed("make a pair of sockets"))?;
    let mut line = serde_json::to_string(task).map_err(|error| failed("write the task of a worker")(error.into()))?;
    line.push('\n');
    socket.write_all(line.as_bytes()).await.map_err(failed("hand a worker its task"))?;
    Ok((OwnedFd::from(reader).into(), Running { child, socket: BufReader::new(socket), limit: task.limit }))
}

impl Running {
    /// Returns when the worker has ended. `read` is told the bytes of the image that were read so far.
    ///
    /// # Errors
    /// What is wrong with the image, or that the worker did not come to an end. `Ok(false)`: it has nothing to say but that
    /// nobody reads from its pipe any more.
    pub async fn outcome(mut self, mut read: impl FnMut(u64)) -> Result<bool, Error> {
        loop {
            let mut line = String::new();
            let got = (&mut self.socket).take(LINE).read_line(&mut line).await;
            match serde_json::from_str(&line) {
                Ok(Said::Read(bytes)) if got.is_ok() => read(bytes),
                Ok(Said::Done) => return self.end().await.map(|()| true),
                Ok(Said::Failed { kind, message }) => return kind.error(message, self.limit).map_or(Ok(false), Err),
                _ => return Err(self.crashed(&line).await),
            }
        }
    }

    async fn end(&mut self) -> Result<(), Error> {
        match timeout(END, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => Err(self.crashed("").await),
        }
    }

    /// `said`: its last words, such as those of a panic.
    async fn crashed(&mut self, said: &str) -> Error {
        let status = timeout(END, self.child.wait()).await;
        let how = match status {
            Ok(Ok(status)) => status.to_string(),
            _ => "it goes on".into(),
        };
        let said = said.chars().take(LAST_WORDS).collect::<String>();
        tracing::warn!(how, said, "a worker did not say what came of its task");
        Error::Unavailable(format!("the image could not be read: the process that reads it ended ({how})"))
    }
}
