//! A host that may ask registries, and what the tests look at.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;

use super::host::{Manager, TestHost, error_of, eventually, options};
use super::saved_image::{Layer, Tar};

pub const JOB: &str = "org.albatross.Deployer1.Job";

pub struct Scene {
    pub host: TestHost,
    pub manager: Manager,
}

impl Scene {
    /// With `more` lines in the section of images. Registries on `ports` need no TLS. `patience`: milliseconds.
    pub async fn start(ports: &[u16], patience: u64, more: &str) -> Option<Self> {
        Self::start_on(TestHost::without_service()?, ports, patience, more).await
    }

    /// On a host that was prepared.
    pub async fn start_on(mut host: TestHost, ports: &[u16], patience: u64, more: &str) -> Option<Self> {
        let listed = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ");
        let more = more.replace("FOLDER", &host.directory.path().display().to_string());
        let text = format!("[images]\ninsecure-registries = [{listed}]\n{more}\n");
        std::fs::write(host.config(), text).unwrap();
        host.environment.push(("ALBATROSS_DEPLOYER_PATIENCE".into(), patience.to_string()));
        host.start_service().await;
        let manager = host.manager().await;
        Some(Self { host, manager })
    }

    pub async fn deploy(&self, image: &str) -> zbus::Result<(String, String)> {
        self.manager.deploy("website", image, options("http:80/")).await
    }

    /// Deploys, publishes, and asks the unikernel for its version.
    pub async fn answers(&self, image: &str, version: &str, path: Option<&str>) {
        self.host.deploy_with_busctl(image, path).await;
        let answer = self.host.get(8080).unwrap();
        assert!(answer.starts_with(&format!("version={version} ")), "{image}: {answer}");
    }

    /// The name of the error and its text, which must have all of `says`.
    pub async fn refuses(&self, image: &str, name: &str, says: &[&str]) -> String {
        let before = Instant::now();
        let (kind, message) = error_of(self.deploy(image).await);
        let took = before.elapsed();
        println!("{image}: {kind} after {took:.1?}: {message}");
        assert_eq!(kind, name, "{image}: {message}");
        for words in says {
            assert!(message.contains(words), "{image} has not {words:?}: {message}");
        }
        assert!(took < Duration::from_secs(30), "{image}: {took:?}");
        message
    }

    pub fn unikernel(&self, version: &str) -> Vec<u8> {
        std::fs::read(self.host.image(version, &[])).unwrap()
    }

    /// A layer with the unikernel of `version` at `path`, and something beside it.
    pub fn layer(&self, version: &str, path: &str) -> Layer {
        Layer::gzip(Tar::new().file("README", "nothing to see").file(path, self.unikernel(version)))
    }

    pub fn save(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.host.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes the auth-file, with these entries.
    pub fn log_in(&self, entries: &[(&str, &str)]) {
        let auth = |(key, text): &(&str, &str)| {
            format!("\"{key}\": {{\"auth\": \"{}\"}}", base64::engine::general_purpose::STANDARD.encode(text))
        };
        let entries = entries.iter().map(auth).collect::<Vec<_>>().join(", ");
        self.save("auth.json", format!("{{\"auths\": {{{entries}}}}}").as_bytes());
    }

    pub fn cache(&self) -> PathBuf {
        self.host.state().join("layers")
    }

    /// Names and sizes of the layers in the cache.
    pub fn cached(&self) -> Vec<(String, u64)> {
        let Ok(entries) = std::fs::read_dir(self.cache()) else { return Vec::new() };
        let mut layers: Vec<(String, u64)> = entries
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .filter(|(name, _)| name != "lock")
            .collect();
        layers.sort();
        layers
    }

    /// Processes that the service has started and that still run.
    pub fn workers(&self) -> Vec<u32> {
        let service = self.host.service_pid().to_string();
        let numbers =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let parent = |number: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            let after = status.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
            after.split_whitespace().nth(1).map(str::to_owned)
        };
        numbers.filter_map(|number| number.parse().ok()).filter(|n| parent(n).as_deref() == Some(&service)).collect()
    }

    /// One that was killed is there until the service has looked.
    pub async fn nobody_works(&self) {
        eventually("no worker is left", async || self.workers().is_empty()).await;
    }

    /// Of files under `folder` that processes have open without a name.
    pub fn nameless(&self, folder: &Path) -> usize {
        let mut count = 0;
        for process in self.workers() {
            let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else { continue };
            let targets = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
            count += targets.filter(|target| target.starts_with(folder) && target.ends_with_deleted()).count();
        }
        count
    }
}

trait Deleted {
    fn ends_with_deleted(&self) -> bool;
}

impl Deleted for PathBuf {
    fn ends_with_deleted(&self) -> bool {
        self.to_string_lossy().ends_with("(deleted)")
    }
}
