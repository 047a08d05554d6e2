//! The same over HTTPS: git's own server program, behind a certificate that only the test trusts.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use super::*;

const SERVER: &str = include_str!("../../../../tests/support/git_https.py");

struct Server {
    program: Child,
    port: u16,
    certificates: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Server {
    /// `None` where a program that it takes is not there.
    fn of(folder: &Path) -> Option<Self> {
        let certificates = tempfile::tempdir().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| certificates.path().join(name));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
        made.ok().filter(|output| output.status.success())?;
        let mut python = Command::new("python3");
        python.args(["-c", SERVER]).args([folder, &certificate, &key]).stdout(Stdio::piped());
        let mut program = python.spawn().ok()?;
        let mut port = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().parse().unwrap_or_default();
        let server = Self { program, port, certificates };
        (port != 0).then_some(server)
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    fn trusted(&self) -> Wishes {
        let certificates = Some(self.certificates.path().join("certificate"));
        Wishes { access: Access { certificates, ..Default::default() }, ..Default::default() }
    }
}

#[test]
fn repositories_are_taken_over_https() {
    let repository = Repository::new();
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    let head = repository.git(&["rev-parse", "HEAD"]);
    let Some(server) = Server::of(repository.folder.path()) else {
        return eprintln!("SKIPPED: openssl and python3 are needed for a server");
    };
    for reference in ["", "main", "v1", &head] {
        let taken = take(&server.url("/.git"), reference, &server.trusted()).unwrap();
        assert_eq!((taken.commit.as_str(), taken.file("config.ml").len()), (head.as_str(), 27), "{reference}");
    }
    for (path, words) in [("/absent", "not found"), ("/private/x", "no access to it")] {
        let error = take(&server.url(path), "main", &server.trusted()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = take(&server.url("/.git"), "main", &Wishes::default()).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
