//! The worker itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::confinement::{close_what_was_not_handed_over, confine};
use super::{Assignment, Failure, Form, Kind, Said, Saved, Task, Voice, Wanted, taken};
use crate::images::archive::{self, Limits, Selection};
use crate::images::{engine, git, registry, signature, solo5};

/// Bytes of a task. The longest has two Dockerfiles, each with all arguments of a build twice, and quotes in them quoted.
pub(super) const TASK: u64 = 4 << 20;

/// Does the one task that it is told, and ends.
pub fn run() -> ExitCode {
    // Before anything is owned.
    let closed = close_what_was_not_handed_over();
    let Ok(socket) = standard(io::stderr()).map(UnixStream::from) else { return ExitCode::FAILURE };
    let Ok(ours) = socket.try_clone() else { return ExitCode::FAILURE };
    let mut voice = Voice::new(ours);
    let said = match confined(closed).and_then(|()| work(&socket, &mut voice)) {
        Ok(()) => Said::Done,
        Err(failure) => Said::Failed(failure),
    };
    // Nobody is left to tell when this fails.
    if voice.say(&said).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(socket: &UnixStream, voice: &mut Voice) -> Result<(), Failure> {
    let broken = |error: io::Error| Failure::new(Kind::Unavailable, format!("the worker's descriptors: {error}"));
    let (input, output) = (standard(io::stdin()).map_err(broken)?, standard(io::stdout()).map_err(broken)?);
    let assignment = assignment(socket).map_err(broken)?;
    confined(confine(&assignment, &input))?;
    #[cfg(feature = "fault-injection")]
    if let Some(attempts) = super::probe::wanted() {
        return super::probe::run(&attempts, voice);
    }
    if assignment.task.rights().programs {
        // They wait for others, maybe for long, and have to end when the service does.
        voice.end_when_gone().map_err(broken)?;
    }
    let (input, output) = (File::from(input), File::from(output));
    match &assignment.task {
        Task::Saved(saved) => from_saved(saved, input, output, voice),
        Task::Taken(wanted) => taken::run(wanted, input, output, voice),
        Task::Registry(request) => registry::run(request, output, voice),
        Task::Engine(request) => engine::run(request, input, output, voice),
        Task::Inspect => inspect(input, voice),
        Task::Git(request) => git::run(request, input, output, voice),
    }
}

fn confined(outcome: Result<(), String>) -> Result<(), Failure> {
    outcome.map_err(|why| Failure::new(Kind::Unavailable, format!("the worker cannot be confined: {why}")))
}

/// A descriptor of its own, so that it can be owned.
fn standard(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// Byte by byte would do as well: nothing else ever comes.
fn assignment(socket: &UnixStream) -> io::Result<Assignment> {
    let mut line = String::new();
    BufReader::new(socket).take(TASK).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

fn from_saved(saved: &Saved, image: File, mut unikernel: File, voice: &mut Voice) -> Result<(), Failure> {
    let limits = Limits { output: saved.wanted.limit, ..Limits::default() };
    let selection = selection(&saved.wanted, saved.name.clone());
    let total = image.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
    let again = image.try_clone().map_err(archive::Error::Read)?;
    voice.step("extracting")?;
    let mut observer = |read: u64| {
        // Parts of it are read twice.
        let done = total.map_or(read, |total| read.min(total));
        voice.progress(done, total).map_err(|_| archive::Error::Cancelled)
    };
    let found = extract(saved.form, image, &selection, &limits, &mut observer, &mut unikernel)?;
    saved.wanted.check(&found)?;
    if let Some(digest) = found.image {
        voice.origin(&digest.to_string())?;
    }
    let signature = match found.path {
        Some(path) if saved.wanted.signature => beside(saved, again, &path)?,
        _ => found.signature,
    };
    signature.map_or(Ok(()), |text| Ok(voice.signature(&String::from_utf8_lossy(&text))?))
}

fn selection(wanted: &Wanted, tag: Option<String>) -> Selection {
    let paths = wanted.paths.iter().map(ToString::to_string).collect();
    Selection { tag, paths, signature: wanted.signature, ..Selection::default() }
}

fn extract(
    form: Form,
    image: File,
    selection: &Selection,
    limits: &Limits,
    observer: &mut dyn archive::Observer,
    output: &mut dyn io::Write,
) -> Result<archive::Found, archive::Error> {
    match form {
        Form::Docker => archive::docker(image, selection, limits, observer, output),
        Form::OciArchive => archive::oci_archive(image, selection, limits, observer, output),
        Form::OciFolder => archive::oci_folder(image.into(), selection, limits, observer, output),
    }
}

/// What signs the unikernel stands beside it. That it is not there is for others to judge.
fn beside(saved: &Saved, image: File, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let limits = Limits { output: signature::LONGEST, ..Limits::default() };
    let paths = vec![format!("{path}.minisig")];
    let selection = Selection { tag: saved.name.clone(), paths, ..Selection::default() };
    let mut text = Vec::new();
    match extract(saved.form, image, &selection, &limits, &mut |_| Ok(()), &mut text) {
        Ok(_) => Ok(Some(text)),
        Err(archive::Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn inspect(image: File, voice: &mut Voice) -> Result<(), Failure> {
    let devices = solo5::inspect(image).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    let answer = serde_json::to_string(&devices).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    Ok(voice.answer(&answer)?)
}
