//! Docker's and Podman's engines, each started for a test with a socket, a data folder and a network of its own.
#![allow(dead_code)] // Each test target uses what it needs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::netns::Namespace;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
}

/// Runs until it is dropped, or the test's process has ended in whatever way: a shell waits for that, stops the engine
/// and removes what it leaves.
pub struct Engine {
    pub kind: Kind,
    pub socket: PathBuf,
    directory: PathBuf,
    shell: Child,
    pub namespace: Namespace,
}

const END: &str = r#"
cat > /dev/null
kill $pid
for i in $(seq 100); do kill -0 $pid 2> /dev/null || break; sleep 0.1; done
kill -9 $pid 2> /dev/null
awk -v d="$dir/" 'index($2, d) == 1 {print $2}' /proc/self/mounts | sort -r | while read mount; do umount -l "$mount"; done
rm -rf "$dir"
"#;

const DOCKER: &str = r#"
nsenter --net="$net" dockerd --host "unix://$dir/engine.sock" --data-root "$dir/data" --exec-root "$dir/exec" \
    --pidfile "$dir/pid" --iptables=false --ip6tables=false --bip 10.213.0.1/24 < /dev/null > "$dir/log" 2>&1 & pid=$!
"#;

// Its caches are where its temporary files are.
const PODMAN: &str = r#"
mkdir "$dir/tmp"
TMPDIR="$dir/tmp" nsenter --net="$net" podman --root "$dir/data" --runroot "$dir/exec" --storage-driver vfs --cgroup-manager cgroupfs \
    --events-backend file $runtime system service --time=0 "unix://$dir/engine.sock" < /dev/null > "$dir/log" 2>&1 & pid=$!
"#;

impl Engine {
    /// `None`, with a word about it, where it cannot be had here.
    pub fn start(kind: Kind) -> Option<Self> {
        let (program, package, script) = match kind {
            Kind::Docker => ("dockerd", "docker.io", DOCKER),
            Kind::Podman => ("podman", "podman", PODMAN),
        };
        if !rustix::process::geteuid().is_root() || !has(program) || !has("nsenter") {
            println!("SKIPPED: {kind:?}: run as root, and install {package} and util-linux");
            return None;
        }
        let namespace = Namespace::create().unwrap();
        namespace.sh("ip link set lo up");
        let directory = tempfile::tempdir().unwrap().keep();
        // crun does not run anything where there are both kinds of cgroups.
        let runtime = if has("runc") { "--runtime=runc" } else { "" };
        let shell = Command::new("sh")
            .args(["-c", &format!("{script}{END}")])
            .env("dir", &directory)
            .env("net", format!("/proc/{}/ns/net", namespace.pid()))
            .env("runtime", runtime)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let socket = directory.join("engine.sock");
        let engine = Self { kind, socket, directory, shell, namespace };
        let end = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(&engine.socket).is_err() {
            assert!(Instant::now() < end, "{kind:?} does not start: {}", engine.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(engine)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Loads what `docker save` would have written.
    pub fn load(&self, archive: &[u8]) {
        let (status, answer) = request(&self.socket, "POST", "/images/load", archive);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }

    pub fn build(&self, tag: &str, context: &[u8]) {
        let (status, answer) = request(&self.socket, "POST", &format!("/build?t={tag}"), context);
        let answer = String::from_utf8_lossy(&answer);
        assert!(status == 200 && answer.contains("Successfully built"), "{answer}");
    }

    /// Gives an image to the registry at that port, and keeps it by its old name alone.
    pub fn push(&self, image: &str, port: u16, name: &str) {
        let there = format!("127.0.0.1:{port}/{name}");
        let (status, _) = request(&self.socket, "POST", &format!("/images/{image}/tag?repo={there}&tag=1"), b"");
        assert_eq!(status, 201);
        let (status, answer) = request(&self.socket, "POST", &format!("/images/{there}/push?tag=1"), b"");
        let answer = String::from_utf8_lossy(&answer);
        assert!(status == 200 && !answer.contains("error"), "{answer}");
        request(&self.socket, "DELETE", &format!("/images/{there}:1"), b"");
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, answer) = request(&self.socket, "GET", path, b"");
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap()
    }

    /// Ids of all containers, whatever their state, and of all images with our label.
    pub fn leftovers(&self) -> Vec<String> {
        let ids = |list: &Value, field: &str| -> Vec<String> {
            list.as_array().unwrap().iter().map(|thing| format!("{field} {thing}")).collect()
        };
        let containers = self.get("/containers/json?all=true");
        let label = "%7B%22label%22%3A%5B%22org.albatross.deployer%22%5D%7D";
        let images = self.get(&format!("/images/json?all=true&filters={label}"));
        [ids(&containers, "container"), ids(&images, "image")].concat()
    }

    /// That there is nothing left, or soon is not.
    pub fn assert_clean(&self, after: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{:?} has after {after}: {left:#?}", self.kind);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            println!("{:?} said last:\n{}", self.kind, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join(program).is_file())
}

/// HTTP/1.0: the answer ends with the connection.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Docker does not push without the word that there is no password.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: engine\r\nX-Registry-Auth: e30=\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_off(end + 4))
}
