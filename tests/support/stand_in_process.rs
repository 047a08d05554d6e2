//! Starts the stand-in for albatrossd as a process, and talks to it and to its unikernels.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What is sent before the host is there is lost, and TCP would try again only after a second.
const CONNECTING: Duration = Duration::from_millis(500);

/// A captured frame of the real daemon, with its length in front.
pub fn frame(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frames").join(format!("{name}.bin"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// `cargo test` builds the examples too; `cargo test --test NAME` does not: `cargo build --examples` before.
fn executable() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own file");
    let target = test.parent().and_then(Path::parent).expect("target/debug");
    let executable = target.join("examples/albatrossd-stand-in");
    assert!(executable.exists(), "{} is not built: cargo build --examples", executable.display());
    executable
}

/// A running stand-in in a directory of its own. It ends with this value, and so do its unikernels.
pub struct StandIn {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    process: Child,
    orphans: Vec<u64>,
}

impl StandIn {
    /// Starts it, and waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let process = launch(directory.path(), &arguments);
        Self { directory, arguments, process, orphans: Vec::new() }
    }

    /// The folder that holds `util/`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join("util").join(name)
    }

    /// One command to albatrossd, and its answer, both with their length in front.
    pub fn exchange(&self, request: &[u8]) -> Option<Vec<u8>> {
        self.exchange_with("vmmd.sock", request)
    }

    pub fn exchange_with(&self, socket: &str, request: &[u8]) -> Option<Vec<u8>> {
        Connection::raw(&self.socket(socket), request).frame()
    }

    /// Everything it sends until it closes.
    pub fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut connection = Connection::raw(&self.socket("vmmd.sock"), request);
        // A reset is an end too.
        let _ = connection.0.read_to_end(&mut bytes);
        bytes
    }

    /// One line to `control.sock`, and the line in answer.
    pub fn control(&self, line: &str) -> String {
        let mut connection =
            Connection::raw(&self.directory.path().join("control.sock"), format!("{line}\n").as_bytes());
        let mut answer = String::new();
        BufReader::new(&mut connection.0).read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }

    pub fn dump(&self) -> serde_json::Value {
        serde_json::from_str(&self.control("dump")).expect("JSON")
    }

    /// What `ip link` shows.
    pub fn links(&self) -> String {
        let output = Command::new("ip").args(["-o", "link"]).output().expect("ip runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while self.process.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > end {
                let _ = self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// E.g. SIGSTOP.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal);
    }

    /// SIGKILL: its unikernels stay.
    pub fn kill(&mut self) {
        let unikernels = self.dump()["unikernels"].as_array().cloned().unwrap_or_default();
        self.orphans.extend(unikernels.iter().filter_map(|unikernel| unikernel["pid"].as_u64()));
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again in the same directory.
    pub fn again(&mut self) {
        self.process = launch(self.directory.path(), &self.arguments);
    }

    pub fn kill_orphans(&mut self) {
        for pid in self.orphans.drain(..) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            // Stuck ones would make it wait for ever.
            let unikernels = self.dump()["unikernels"].as_array().cloned().unwrap_or_default();
            self.terminate_quickly(&unikernels);
        }
        self.kill_orphans();
    }
}

impl StandIn {
    fn terminate_quickly(&mut self, unikernels: &[serde_json::Value]) {
        self.orphans.extend(unikernels.iter().filter_map(|unikernel| unikernel["pid"].as_u64()));
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        std::thread::sleep(Duration::from_millis(20));
        self.kill_orphans();
        self.terminate();
    }
}

fn launch(directory: &Path, arguments: &[String]) -> Child {
    let mut process = Command::new(executable())
        .arg("--directory")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let output = process.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    process
}

/// A connection on which frames come.
pub struct Connection(UnixStream);

impl Connection {
    /// Connects as often as it takes (the queue is short), and sends.
    pub fn raw(socket: &Path, request: &[u8]) -> Self {
        let end = Instant::now() + PATIENCE;
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{}: {error}", socket.display()),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        // It may close before it has read all.
        let _ = stream.write_all(request);
        Self(stream)
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.0.set_read_timeout(Some(timeout)).expect("a deadline");
    }

    /// The next frame with its length, or nothing where it ends or takes too long.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 4];
        self.0.read_exact(&mut bytes).ok()?;
        let length = u32::from_be_bytes(bytes[..4].try_into().ok()?) as usize;
        bytes.resize(4 + length, 0);
        self.0.read_exact(&mut bytes[4..]).ok()?;
        Some(bytes)
    }
}

/// The body of the answer, as soon as somebody answers.
pub fn http_get(address: &str, path: &str) -> String {
    let host = address.parse().expect("address:port");
    let end = Instant::now() + PATIENCE;
    loop {
        let fetched = TcpStream::connect_timeout(&host, CONNECTING).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes())?;
            let mut response = String::new();
            stream.read_to_string(&mut response)?;
            Ok(response)
        });
        match fetched {
            Ok(response) => break response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default(),
            Err(error) => assert!(Instant::now() < end, "http://{address}{path}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What it answers to a datagram.
pub fn udp_ask(address: &str) -> String {
    let end = Instant::now() + PATIENCE;
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a deadline");
    let mut answer = [0; 2048];
    loop {
        let received = socket.send_to(b"?", address).and_then(|_| socket.recv(&mut answer));
        match received {
            Ok(length) => break String::from_utf8_lossy(&answer[..length]).into_owned(),
            Err(error) => assert!(Instant::now() < end, "udp {address}: {error}"),
        }
    }
}
