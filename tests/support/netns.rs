//! Network namespaces for tests: each test has its own host, and clients and unikernels as further namespaces.
//!
//! A namespace lives as long as a sleeping process that holds it; threads move into it.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const INSIDE: &str = "ALBATROSS_TEST_IN_USER_NAMESPACE";

/// Runs `body` as the host of a fresh network namespace. Without root it is done inside a user namespace; where there
/// is neither, the test says that it is skipped.
pub fn isolated<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Namespace) -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() && std::env::var_os(INSIDE).is_none() {
        return in_user_namespace(test);
    }
    let host = match Namespace::create() {
        Ok(host) => host,
        Err(reason) => return println!("SKIPPED: {test}: no network namespace: {reason}"),
    };
    let thread = thread::spawn(move || {
        host.enter();
        sh("ip link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body(host));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn in_user_namespace(test: &str) {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]).args(arguments).env(INSIDE, "1");
        command
    };
    if !unshare(&["true"]).status().is_ok_and(|status| status.success()) {
        return println!("SKIPPED: {test}: neither root nor user namespaces");
    }
    let this = std::env::current_exe().unwrap();
    let inside = unshare(&[]).arg(this).args(["--exact", test, "--nocapture"]).output().unwrap();
    // This test's words, and nobody else's: tests/run looks here whether it was skipped.
    println!("{}{}", String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&inside.stderr));
    assert!(inside.status.success(), "{test} failed inside of a user namespace");
}

pub struct Namespace {
    holder: Child,
    handle: File,
}

impl Namespace {
    pub fn create() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo ready; exec sleep 1000"]).stdin(Stdio::null());
        let mut holder = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).map_err(|e| e.to_string())?;
        if line != "ready\n" {
            let mut reason = String::new();
            let _ = holder.stderr.take().unwrap().read_to_string(&mut reason);
            let _ = holder.wait();
            return Err(reason);
        }
        let handle = File::open(format!("/proc/{}/ns/net", holder.id())).map_err(|e| e.to_string())?;
        Ok(Self { holder, handle })
    }

    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Moves this thread into it.
    pub fn enter(&self) {
        move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs on a thread that is in it.
    pub fn spawn<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        spawn_inside(self.handle.try_clone().unwrap(), body)
    }

    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(body).join().unwrap()
    }

    pub fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || sh(&script))
    }
}

fn spawn_inside<T: Send + 'static>(handle: File, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(move || {
        move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        body()
    })
}

/// Runs in the network namespace of a process.
pub fn run_beside<T: Send + 'static>(pid: u32, body: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_inside(File::open(format!("/proc/{pid}/ns/net")).unwrap(), body).join().unwrap()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a script in the namespace of this thread; it must succeed.
pub fn sh(script: &str) -> String {
    let (success, output) = try_sh(script);
    assert!(success, "{script}: {output}");
    output
}

pub fn try_sh(script: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

pub fn sh_with_input(script: &str, input: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
    text
}

/// Answers TCP and UDP on `port` with `name` and the address that it sees the client under, until the process ends.
pub fn serve(namespace: &Namespace, name: &'static str, port: u16) {
    let (tcp, udp) = namespace.run(move || {
        let address = SocketAddr::from(([0, 0, 0, 0], port));
        (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap())
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{name} {peer}").as_bytes());
                let _ = stream.read(&mut [0; 16]); // open until the client closes
            });
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Of one who expects an answer: `None` comes so late only where packets are dropped, and earlier where they are refused.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the server at `to` says; `None` when there is none.
pub fn ask_tcp(from: &Namespace, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 64];
        let length = stream.read(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// The same over UDP, from a port of the kernel's choice.
pub fn ask_udp(from: &Namespace, to: &str) -> Option<String> {
    let socket = udp_socket(from);
    ask_udp_with(&socket, to)
}

pub fn udp_socket(from: &Namespace) -> UdpSocket {
    from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap())
}

pub fn ask_udp_with(socket: &UdpSocket, to: &str) -> Option<String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", to).unwrap();
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
