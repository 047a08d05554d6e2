//! The worker itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::confinement::{close_what_was_not_handed_over, confine};
use super::{Form, Kind, Said, Task};
use crate::images::archive::{self, Limits, Selection};

/// Bytes of a task.
const TASK: u64 = 1 << 20;

/// Between two words of progress, in bytes read.
const STEP: u64 = 1 << 20;

/// Does the one task that it is told, and ends.
pub fn run() -> ExitCode {
    let said = match work() {
        Ok(()) => Said::Done,
        Err((kind, message)) => Said::Failed { kind, message },
    };
    // Nobody is left to tell when this fails.
    let told = standard(io::stderr()).is_ok_and(|socket| say(&socket.into(), &said).is_ok());
    if told { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Failure = (Kind, String);

fn work() -> Result<(), Failure> {
    let broken = |error: io::Error| (Kind::Unavailable, format!("the worker's descriptors: {error}"));
    let confined = |why: String| (Kind::Unavailable, format!("the worker cannot be confined: {why}"));
    close_what_was_not_handed_over().map_err(confined)?;
    let socket = UnixStream::from(standard(io::stderr()).map_err(broken)?);
    let (image, unikernel) = (standard(io::stdin()).map_err(broken)?, standard(io::stdout()).map_err(broken)?);
    confine().map_err(confined)?;
    let task = task(&socket).map_err(broken)?;
    extract(&task, File::from(image), File::from(unikernel), &socket)
}

/// A descriptor of its own, so that it can be owned.
fn standard(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

fn task(socket: &UnixStream) -> io::Result<Task> {
    let mut line = String::new();
    BufReader::new(socket).take(TASK).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

fn say(mut socket: &UnixStream, said: &Said) -> io::Result<()> {
    let line = serde_json::to_string(said).map_err(io::Error::other)?;
    socket.write_all(format!("{line}\n").as_bytes())
}

fn extract(task: &Task, image: File, mut unikernel: File, socket: &UnixStream) -> Result<(), Failure> {
    let selection = Selection { tag: task.tag.clone(), paths: task.paths.clone(), ..Selection::default() };
    let limits = Limits { output: task.limit, ..Limits::default() };
    let mut told = 0;
    let mut observer = |read: u64| {
        if read >= told + STEP {
            told = read;
            // The service has given this up when it listens no more.
            say(socket, &Said::Read(read)).map_err(|_| archive::Error::Cancelled)?;
        }
        Ok(())
    };
    let found = match task.form {
        Form::Docker => archive::docker(image, &selection, &limits, &mut observer, &mut unikernel),
        Form::Oci => archive::oci_archive(image, &selection, &limits, &mut observer, &mut unikernel),
    };
    found.map(drop).map_err(|error| (Kind::of(&error), error.to_string()))
}
