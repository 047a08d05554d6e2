//! Git repositories for tests, and their servers.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A bare repository, made from a folder of files commit by commit.
pub struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        // Others are to come as far as the repository itself.
        fs::set_permissions(repository.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(repository.tree()).unwrap();
        repository.git(&["init", "-q", "-b", "main", "."]);
        repository.git(&["init", "-q", "--bare", "-b", "main", "../website.git"]);
        repository.commit(files);
        repository
    }

    /// The folder in which it stands as `website.git`.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("website.git")
    }

    /// `git+file://`.
    pub fn url(&self) -> String {
        format!("git+file://{}", self.path().display())
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.org");
        }
        let output = git.current_dir(self.tree()).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Changes these files and returns the commit, which is main's.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.tree().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(&["add", "-A", "."]);
        self.git(&["commit", "-q", "-m", "x"]);
        self.push("main");
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn push(&self, reference: &str) {
        self.git(&["push", "-q", "../website.git", reference]);
    }
}

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

    pub fn url(&self) -> String {
        format!("git+https://localhost:{}/website.git", self.port)
    }
}
