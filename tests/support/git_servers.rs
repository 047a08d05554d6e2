//! Servers of Git repositories, for tests.
#![allow(dead_code, reason = "each test takes of this module what it needs")]
#![allow(clippy::print_stdout, reason = "the reason of a skipped test is for whoever runs it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// git's own server over HTTPS, behind a certificate that nobody else trusts.
pub struct HttpsServer {
    program: Child,
    port: u16,
    certificates: tempfile::TempDir,
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl HttpsServer {
    /// Of all repositories in `folder`. `None`, with a word about it, where a program that it takes is not there.
    pub fn start(folder: &Path) -> Option<Self> {
        let certificates = tempfile::tempdir().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| certificates.path().join(name));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
        let mut python = Command::new("python3");
        python.args(["-c", include_str!("git_https.py")]).args([folder, &certificate, &key]).stdout(Stdio::piped());
        let started = made.ok().filter(|made| made.status.success()).and_then(|_| python.spawn().ok());
        let Some(mut program) = started else {
            println!("SKIPPED: install openssl and python3 to serve a repository over HTTPS");
            return None;
        };
        let mut port = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().parse().unwrap_or_else(|error| panic!("no server: {error}"));
        Some(Self { program, port, certificates })
    }

    pub fn certificate(&self) -> PathBuf {
        self.certificates.path().join("certificate")
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.port)
    }
}

const SSH_PORT: u16 = 2222;

/// An SSH server on loopback that has one user, root, and takes one key.
pub struct SshServer {
    program: Child,
    folder: tempfile::TempDir,
}

impl Drop for SshServer {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl SshServer {
    /// In the network namespace of this thread. `None`, with a word about it, where a program that it takes is not there.
    pub fn start() -> Option<Self> {
        let server = |folder: &Path| {
            // The keys that it takes are in root's home: it has one of its own.
            let script = "mount --bind \"$1\" \"$(getent passwd 0 | cut -d: -f6)\" && \
                          exec dropbear -F -E -s -P \"$1/pid\" -r \"$1/host\" -p 127.0.0.1:$2";
            let mut server = Command::new("unshare");
            server.args(["--mount", "sh", "-c", script, "sh"]).arg(folder).arg(SSH_PORT.to_string());
            server.stderr(Stdio::null()).spawn().unwrap()
        };
        let programs = ["dropbear", "dropbearkey", "ssh-keygen", "ssh"];
        let is_here = |program| Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
        if !programs.iter().all(|program| is_here(program).status.success()) {
            println!("SKIPPED: install dropbear-bin and openssh-client to serve a repository over SSH");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path("key")));
        let made = must(Command::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(path("host")));
        let key = made.lines().find(|line| line.starts_with("ssh-ed25519")).unwrap();
        fs::write(path("known_hosts"), format!("[127.0.0.1]:{SSH_PORT} {key}\n")).unwrap();
        fs::create_dir(path(".ssh")).unwrap();
        fs::copy(path("key.pub"), path(".ssh/authorized_keys")).unwrap();
        let server = Self { program: server(folder.path()), folder };
        let is_up = || TcpStream::connect(("127.0.0.1", SSH_PORT)).is_ok();
        assert!(
            (0..500).any(|_| is_up() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }),
            "no SSH server"
        );
        Some(server)
    }

    pub fn url(&self, path: &Path) -> String {
        format!("ssh://root@127.0.0.1:{SSH_PORT}{}", path.display())
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }
}

fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
