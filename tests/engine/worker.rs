//! The worker process, told what to do as the service tells it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use albatross_deployer::domain::ImagePath;
use albatross_deployer::images::engine::{Patience, Request, Work};
use albatross_deployer::images::worker::{Assignment, Failure, Heard, Task, Wanted};
use serde_json::Value;

/// Short enough to wait for.
pub const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(1),
    pause: Duration::from_secs(1),
    silence: Duration::from_secs(1),
    whole: Duration::from_secs(3),
};

pub fn engine(socket: &Path, label: &str, work: Work, patience: Patience) -> Task {
    Task::Engine(Request { socket: socket.to_path_buf(), work, label: label.to_owned(), patience })
}

pub fn take(image: &str, paths: &[&str]) -> Work {
    Work::Take { image: image.parse().unwrap(), paths: image_paths(paths), signature: true }
}

pub fn image_paths(paths: &[&str]) -> Vec<ImagePath> {
    paths.iter().map(|path| path.parse().unwrap()).collect()
}

/// What has become of a task.
#[derive(Debug)]
pub struct Ran {
    pub heard: Vec<Heard>,
    pub outcome: Result<(), Failure>,
    pub output: Vec<u8>,
    pub took: Duration,
}

impl Ran {
    pub fn lines(&self) -> Vec<&str> {
        let lines = self.heard.iter().filter_map(|heard| match heard {
            Heard::Line(line) => Some(line.as_str()),
            _ => None,
        });
        lines.collect()
    }

    pub fn failure(&self) -> &Failure {
        self.outcome.as_ref().unwrap_err()
    }
}

pub struct Worker {
    child: Child,
    socket: BufReader<UnixStream>,
    output: JoinHandle<Vec<u8>>,
    began: Instant,
}

impl Worker {
    pub fn start(task: Task, input: Vec<u8>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_albatross-deployer"))
            .arg("--worker")
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // Who does not read it all is not asked to.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut line = serde_json::to_string(&Assignment::from(task)).unwrap();
        line.push('\n');
        (&ours).write_all(line.as_bytes()).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        Self { child, socket: BufReader::new(ours), output, began: Instant::now() }
    }

    /// What it says next.
    pub fn next(&mut self) -> Value {
        let mut line = String::new();
        self.socket.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the worker said {line:?}"))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn finish(mut self) -> Ran {
        let mut heard = Vec::new();
        let outcome = loop {
            let mut said = self.next();
            if let Some(word) = said.get_mut("Heard") {
                heard.push(serde_json::from_value(word.take()).unwrap());
            } else if let Some(failure) = said.get_mut("Failed") {
                break Err(serde_json::from_value(failure.take()).unwrap());
            } else {
                break Ok(());
            }
        };
        let took = self.began.elapsed();
        assert!(self.child.wait().unwrap().success());
        Ran { heard, outcome, output: self.output.join().unwrap(), took }
    }
}

pub fn run(task: Task, input: Vec<u8>) -> Ran {
    Worker::start(task, input).finish()
}

/// What comes of an engine's tars.
pub fn taken(tars: Vec<u8>, limit: u64) -> Ran {
    run(Task::Taken(Wanted { paths: Vec::new(), named: false, limit, signature: true }), tars)
}
