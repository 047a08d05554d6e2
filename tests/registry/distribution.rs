//! Debian's registry on loopback, and how images get into it: by skopeo, or piece by piece.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::saved_image::{Files, digest};

/// Whether these programs are here; what to install is said otherwise.
pub fn have(test: &str, programs: &[(&str, &str)]) -> bool {
    let is_missing = |program: &str| Command::new(program).arg("--version").output().is_err();
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| is_missing(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        println!("SKIPPED: {test}: apt-get install {}", missing.join(" "));
    }
    missing.is_empty()
}

pub const REGISTRY: (&str, &str) = ("docker-registry", "docker-registry");
pub const SKOPEO: (&str, &str) = ("skopeo", "skopeo");

/// A registry of the namespace that this thread is in. It ends with this.
pub struct Distribution {
    child: Child,
    folder: tempfile::TempDir,
    pub host: String,
    credentials: Option<(String, String)>,
    tls: bool,
}

impl Distribution {
    pub fn start(port: u16) -> Self {
        Self::start_with(port, "", None, None)
    }

    /// For one user alone.
    pub fn for_user(port: u16, user: &str, password: &str) -> Self {
        let hashed = Command::new("htpasswd").args(["-Bbn", "-C", "4", user, password]).output().unwrap();
        assert!(hashed.status.success(), "{hashed:?}");
        let auth = "auth:\n  htpasswd:\n    realm: test\n    path: FOLDER/htpasswd\n";
        let hashed = String::from_utf8(hashed.stdout).unwrap();
        Self::start_with(port, auth, Some(("htpasswd", hashed)), Some((user.into(), password.into())))
    }

    /// With TLS, by these files.
    pub fn with_tls(port: u16, certificate: &Path, key: &Path) -> Self {
        let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        Self::start_with(port, &tls, None, None)
    }

    fn start_with(port: u16, more: &str, file: Option<(&str, String)>, credentials: Option<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        if let Some((name, text)) = file {
            std::fs::write(path.join(name), text).unwrap();
        }
        let host = format!("127.0.0.1:{port}");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
             rootdirectory: {}/data\nhttp:\n  addr: {host}\n{}",
            path.display(),
            more.replace("FOLDER", &path.display().to_string())
        );
        std::fs::write(path.join("config.yml"), text).unwrap();
        let log = std::fs::File::create(path.join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { child, folder, host, credentials, tls: more.contains("tls:") };
        registry.wait();
        registry
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(&self.host).is_err() {
            assert!(Instant::now() < end, "the registry does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// How often parts were asked for.
    pub fn blobs_asked(&self) -> usize {
        let is_blob = |line: &&str| line.contains("\"GET /v2/") && line.contains("/blobs/sha256:");
        self.log().lines().filter(is_blob).count()
    }

    /// By skopeo, out of an archive with an OCI layout or a folder: `oci-archive:PATH` or `oci:PATH`.
    pub fn copy(&self, from: &str, name: &str) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if let Some((user, password)) = &self.credentials {
            skopeo.arg(format!("--dest-creds={user}:{password}"));
        }
        let copied = skopeo.arg(from).arg(format!("docker://{}/{name}", self.host)).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }

    fn url(&self, path: &str) -> String {
        assert!(!self.tls, "only what has no TLS is pushed to here");
        format!("http://{}/v2/{path}", self.host)
    }

    /// As the distribution specification has it: the parts, and then the manifest under `tag`. `blobs` as in a layout.
    pub fn push(&self, name: &str, tag: &str, blobs: &Files, manifest: &[u8]) {
        for (_, content) in blobs.iter().filter(|(_, content)| content != manifest) {
            let begun = ureq::post(self.url(&format!("{name}/blobs/uploads/"))).send_empty().unwrap();
            let place = begun.headers()["location"].to_str().unwrap().to_owned();
            let and = if place.contains('?') { '&' } else { '?' };
            let put = ureq::put(format!("{place}{and}digest={}", digest(content)));
            put.header("content-type", "application/octet-stream").send(&content[..]).unwrap();
        }
        self.push_manifest(name, tag, manifest);
    }

    pub fn push_manifest(&self, name: &str, reference: &str, manifest: &[u8]) {
        let said: Value = serde_json::from_slice(manifest).unwrap();
        let put = ureq::put(self.url(&format!("{name}/manifests/{reference}")));
        put.header("content-type", said["mediaType"].as_str().unwrap()).send(manifest).unwrap();
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the registry said:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
