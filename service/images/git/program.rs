//! One run of a program that must not be trusted to end: its output as it comes, a deadline, and a bound on its disk.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Error, Report, storing};

/// How often deadline, disk and the wish to stop are looked at.
const TICK: Duration = Duration::from_millis(100);
const BUFFER: usize = 64 << 10;
/// Lines that are passed on, of a program that can say what a stranger wants it to.
const MAX_LINES: usize = 2000;
const MAX_LINE: usize = 1000;
/// Lines that stand in an error.
const LAST_LINES: usize = 10;

/// When a run is ended before its end.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    /// The subcommand, for messages.
    pub what: &'static str,
    pub deadline: Instant,
    pub stop: &'a AtomicBool,
    /// A folder, and how many bytes may be in it.
    pub disk: (&'a Path, u64),
}

enum Heard {
    Output(Vec<u8>),
    Words(Vec<u8>),
}

/// A program. It ends with the worker at the latest, and so does what it has started: they are a group of processes.
pub(super) struct Program<'a> {
    child: Child,
    heard: Receiver<Heard>,
    patience: Patience<'a>,
}

impl<'a> Program<'a> {
    pub(super) fn start(mut command: Command, patience: Patience<'a>) -> Result<Self, Error> {
        // In the group of who starts it: who ends that ends this.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::NoProgram)?;
        let (sender, heard) = sync_channel(4);
        let pipes = (child.stdout.take(), child.stderr.take());
        let program = Self { child, heard, patience };
        if let (Some(output), Some(words)) = pipes {
            listen(output, sender.clone(), Heard::Output)?;
            listen(words, sender, Heard::Words)?;
        }
        Ok(program)
    }

    /// Passes its output on until it ends well.
    pub(super) fn finish(
        mut self,
        output: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Result<(), Error> {
        let mut words = Words::default();
        let mut looked = Instant::now();
        loop {
            match self.heard.recv_timeout(TICK) {
                Ok(Heard::Output(bytes)) => output(&bytes)?,
                Ok(Heard::Words(bytes)) => words.read(&bytes, report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.may_go_on()?;
            if looked.elapsed() >= TICK {
                self.check_disk()?;
                looked = Instant::now();
            }
        }
        words.read(b"\n", report);
        let status = self.wait()?;
        self.check_disk()?;
        self.judge(status, words)
    }

    fn may_go_on(&self) -> Result<(), Error> {
        if self.patience.stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if Instant::now() >= self.patience.deadline {
            return Err(Error::TimedOut { what: self.patience.what });
        }
        Ok(())
    }

    fn check_disk(&self) -> Result<(), Error> {
        let (folder, limit) = self.patience.disk;
        let size = size(folder).map_err(|error| storing("read", folder, error))?;
        if size > limit { Err(self.too_large()) } else { Ok(()) }
    }

    fn too_large(&self) -> Error {
        Error::TooLarge { what: "a fetch", limit: self.patience.disk.1 }
    }

    /// It has closed its output, and ends at once or never.
    fn wait(&mut self) -> Result<ExitStatus, Error> {
        loop {
            let status = self.child.try_wait().map_err(|error| Error::Io { what: "wait for git".into(), error })?;
            if let Some(status) = status {
                return Ok(status);
            }
            self.may_go_on()?;
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn judge(&self, status: ExitStatus, words: Words) -> Result<(), Error> {
        if status.success() {
            return Ok(());
        }
        let lines: Vec<_> = words.last.into();
        let exceeded = |line: &String| line.contains("died of signal 25") || line.contains("File too large");
        if status.signal() == Some(Signal::XFSZ.as_raw()) || lines.iter().any(exceeded) {
            return Err(self.too_large());
        }
        let hint = hint(&lines);
        Err(Error::Failed { what: self.patience.what, hint, lines })
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // It does nothing to one that has ended. A worker may not do it: the service does, as soon as it hears why.
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// What a person can do about git's words.
pub(super) fn hint(lines: &[String]) -> &'static str {
    let said = |words: &str| lines.iter().any(|line| line.contains(words));
    if said("Host key verification failed") {
        return ": the host is not known here; put its key into /etc/ssh/ssh_known_hosts or the file that [git] known-hosts names, after you have made sure of it";
    }
    if said("terminal prompts disabled") || said("Permission denied (publickey") {
        return ": the repository is not there, or not everybody's and the service has no access to it (for SSH: [git] ssh-key)";
    }
    if said("unadvertised object") || said("not our ref") {
        return ": the repository has no such commit, or does not give single ones away; name a branch or a tag";
    }
    ""
}

/// Reads a pipe on a thread of its own, until it ends or nobody listens any more.
fn listen(
    mut pipe: impl Read + Send + 'static,
    to: SyncSender<Heard>,
    heard: fn(Vec<u8>) -> Heard,
) -> Result<(), Error> {
    let read = move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) if to.send(heard(buffer.get(..count).unwrap_or_default().to_vec())).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    };
    let started = thread::Builder::new().name("git".into()).spawn(read);
    started.map(drop).map_err(|error| Error::Io { what: "start a thread".into(), error })
}

/// Lines of what the program says, of which a stranger says a part.
#[derive(Default)]
pub(super) struct Words {
    line: Vec<u8>,
    /// The last byte was a carriage return.
    returned: bool,
    count: usize,
    pub last: VecDeque<String>,
    percent: u8,
}

impl Words {
    pub fn read(&mut self, bytes: &[u8], report: &mut dyn FnMut(Report<'_>)) {
        for byte in bytes {
            // ssh ends its lines with both; git those of its progress with the first, and writes over them.
            if self.returned && *byte != b'\n' {
                self.end(true, report);
            }
            self.returned = *byte == b'\r';
            match byte {
                b'\n' => self.end(false, report),
                b'\r' => {}
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end(&mut self, passing: bool, report: &mut dyn FnMut(Report<'_>)) {
        let line = String::from_utf8_lossy(&self.line).replace(char::is_control, " ");
        self.line.clear();
        if let Some(percent) = percent(&line) {
            if percent > self.percent {
                self.percent = percent;
                report(Report::Received { percent });
            }
        } else if !passing && !line.trim().is_empty() && self.count < MAX_LINES {
            self.count += 1;
            report(Report::Line(line.trim_end()));
            self.last.push_back(line.trim_end().to_owned());
            if self.last.len() > LAST_LINES {
                self.last.pop_front();
            }
        }
    }
}

/// Of `Receiving objects:  45% (9/20), 1.00 MiB | 2.00 MiB/s`.
fn percent(line: &str) -> Option<u8> {
    let number = line.strip_prefix("Receiving objects:")?.split('%').next()?.trim().parse().ok()?;
    (number <= 100).then_some(number)
}

/// Bytes of the files in `folder`. What is removed meanwhile counts for nothing.
fn size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))) {
                Ok((path, status)) if status.is_dir() => folders.push(path),
                Ok((_, status)) => bytes += status.len(),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lines_progress_and_nothing_else() {
        let said = b"Receiving objects:  45% (9/20)\rReceiving objects:   4% (1/20)\rremote: Counting: 10%\rremote: a\x1b[2Jb\r\n\nReceiving objects: 100%\rfatal: x";
        for size in 1..said.len() {
            let (mut words, mut heard) = (Words::default(), Vec::new());
            let mut report = |report: Report<'_>| heard.push(format!("{report:?}"));
            said.chunks(size).chain([b"\n".as_slice()]).for_each(|chunk| words.read(chunk, &mut report));
            let lines = [
                "Received { percent: 45 }",
                "Line(\"remote: a [2Jb\")",
                "Received { percent: 100 }",
                "Line(\"fatal: x\")",
            ];
            assert_eq!(heard, lines, "{size}");
            assert_eq!(words.last, ["remote: a [2Jb", "fatal: x"]);
        }
    }

    #[test]
    fn words_are_bounded() {
        let (mut words, mut lines) = (Words::default(), 0);
        for _ in 0..2 * MAX_LINES {
            words.read(&[b'x'; 2 * MAX_LINE], &mut |_| ());
            words.read(b"\n", &mut |report| {
                lines += usize::from(matches!(report, Report::Line(line) if line.len() == MAX_LINE))
            });
        }
        assert_eq!((lines, words.last.len(), words.line.len()), (MAX_LINES, LAST_LINES, 0));
        assert_eq!(["Receiving objects: 300%", "Receiving objects: x%", "objects: 3%"].map(percent), [None; 3]);
    }

    fn run(script: &str, seconds: u64) -> Result<String, Error> {
        let folder = tempfile::tempdir().unwrap();
        let (stop, deadline) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(seconds));
        let patience = Patience { what: "test", deadline, stop: &stop, disk: (folder.path(), 1 << 20) };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(folder.path());
        let mut output = Vec::new();
        let mut take = |bytes: &[u8]| {
            output.extend_from_slice(bytes);
            Ok(())
        };
        Program::start(command, patience)?.finish(&mut take, &mut |_| ())?;
        Ok(String::from_utf8(output).unwrap())
    }

    #[test]
    fn programs_end_well_badly_or_not_at_all() {
        assert_eq!(run("echo a; echo b >&2", 9).unwrap(), "a\n");
        let failed = run("echo why >&2; exit 3", 9).unwrap_err().to_string();
        assert!(failed.contains("why"), "{failed}");
        assert!(matches!(run("kill -KILL $$", 9), Err(Error::Failed { .. })));
        // With its output open, and without.
        for script in ["exec sleep 60", "exec >&- 2>&-; exec sleep 60", "sleep 60 & exec sleep 60", "exec yes"] {
            let began = Instant::now();
            assert!(matches!(run(script, 1), Err(Error::TimedOut { .. })), "{script}");
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        }
    }

    #[test]
    fn its_disk_is_bounded_in_one_file_and_in_many() {
        let many = "for f in a b c d; do head -c 400000 /dev/zero >$f; done; exec sleep 9";
        for script in ["exec head -c 3000000 /dev/zero >a", many] {
            let error = run(script, 5).unwrap_err();
            assert!(matches!(error, Error::TooLarge { limit: 0x10_0000, .. }), "{script}: {error:?}");
        }
    }
}
