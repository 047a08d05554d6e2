//! A whole host for a test: a network namespace with a bridge, a bus with the policy that ships, the stand-in for
//! Albatross, the service as its own process, and a client outside.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::collections::HashMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use zbus::message::Body;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::netns::{Namespace, ask_udp_with, sh};
use super::private_bus::{PrivateBus, STRICT};
use super::solo5_image::{self, Target};
use super::stand_in_process::StandIn;

pub const NAME: &str = "org.albatross.Deployer1";
pub const ROOT: &str = "/org/albatross/Deployer1";
pub const MANAGER: &str = "org.albatross.Deployer1.Manager";

/// The host's address outside, where its clients connect.
pub const HOST: &str = "192.0.2.1";
/// The bridge's.
pub const GATEWAY: &str = "10.0.0.1";

/// What every unikernel of a test is started with.
pub const ARGUMENTS: [&str; 2] = ["--ipv4={address}/{prefix-length}", "--ipv4-gateway={gateway}"];

/// Longer than anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// At once, also on a busy machine: less than half of what is waited for where the news is missed, which is the service's
/// look at everything every 30 s or a drain of a minute.
pub const AT_ONCE: Duration = Duration::from_secs(12);

/// How long the opposite of what must stay so is given to come.
pub const A_WHILE: Duration = Duration::from_millis(500);

/// A readiness rule that holds once [`open_gate`] says so, and not after a time.
pub const GATE: &str = "http:80/gate;status=418";

/// The web server at `address` becomes ready by [`GATE`], as soon as it listens.
pub async fn open_gate(address: &str) {
    let address = address.to_owned();
    eventually("the gate opens", async || http_get(&address, 80, "/answer?path=/gate&code=418").is_ok()).await;
}

pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

pub struct TestHost {
    pub bus: PrivateBus,
    pub albatross: StandIn,
    pub client: Namespace,
    pub directory: tempfile::TempDir,
    /// Further flags and variables of the service.
    pub environment: Vec<(String, String)>,
    /// A program and its arguments that end by becoming the command behind them, which is the service.
    pub wrapper: Vec<String>,
    service: Option<Child>,
}

impl TestHost {
    /// With the service running. `None`, with a word about it, where a part of it cannot be had here.
    pub async fn start() -> Option<Self> {
        let mut host = Self::without_service()?;
        host.start_service().await;
        Some(host)
    }

    /// Everything but the service. The calling thread is in a namespace of its own.
    pub fn without_service() -> Option<Self> {
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus-policy/org.albatross.Deployer1.conf");
        Self::without_service_on(STRICT, Some(&policy))
    }

    /// The same on a bus with another policy.
    pub fn without_service_on(policy: &str, include: Option<&Path>) -> Option<Self> {
        let bus = PrivateBus::start(policy, include)?;
        sh("ip link add br0 type bridge && ip address add 10.0.0.1/24 dev br0 && ip link set br0 up");
        let client = Namespace::create().unwrap();
        sh(&format!(
            "ip link add outside type veth peer name eth0 netns {} && ip address add {HOST}/24 dev outside && \
             ip link set outside up && echo 1 > /proc/sys/net/ipv4/ip_forward",
            client.pid()
        ));
        client.sh("ip address add 192.0.2.2/24 dev eth0 && ip link set eth0 up && ip link set lo up");
        let albatross = StandIn::start(&[]);
        let directory = tempfile::tempdir().unwrap();
        Some(Self { bus, albatross, client, directory, environment: Vec::new(), wrapper: Vec::new(), service: None })
    }

    /// Starts the service and waits until it is on the bus.
    pub async fn start_service(&mut self) {
        self.spawn_service();
        let connection = self.bus.client().await;
        let end = Instant::now() + PATIENCE;
        while !name_has_owner(&connection).await {
            let ended = self.service.as_mut().and_then(|service| service.try_wait().unwrap());
            assert!(ended.is_none(), "the service ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < end, "the service does not come to the bus\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts the service and does not wait.
    pub fn spawn_service(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_albatross-deployer")]);
        let service = Command::new(command.next().unwrap())
            .args(command)
            .args(["--bus", &self.bus.address])
            .arg("--state-directory")
            .arg(self.state())
            .arg("--albatross-directory")
            .arg(self.albatross.directory())
            .arg("--config")
            .arg(self.config())
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.service = Some(service);
    }

    pub fn service_pid(&self) -> u32 {
        self.service.as_ref().unwrap().id()
    }

    /// SIGKILL, as a power cut would end it.
    pub fn kill_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }

    /// SIGTERM; the service must end by itself.
    pub fn stop_service(&mut self) {
        self.signal_service(rustix::process::Signal::TERM);
        assert!(self.wait_for_end().success(), "{}", self.log());
    }

    pub fn signal_service(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.service.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the service has ended by itself.
    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let mut service = self.service.take().unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = service.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the service does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the service runs.
    pub fn is_running(&mut self) -> bool {
        self.service.as_mut().is_some_and(|service| service.try_wait().unwrap().is_none())
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("service.log")
    }

    /// What the service said, for a failed test.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub async fn manager(&self) -> Manager {
        Manager(self.bus.client().await)
    }

    /// An image that answers with `version`, and obeys `arguments` before those that it is given.
    pub fn image(&self, version: &str, arguments: &[&str]) -> String {
        let path = self.directory.path().join(format!("image-{version}"));
        let mut image = solo5_image::Image::new(Target::Spt, version);
        image.net_devices = vec!["service".into()];
        image.built_in_arguments = arguments.iter().map(|argument| (*argument).to_string()).collect();
        std::fs::write(&path, image.build()).unwrap();
        path.display().to_string()
    }

    /// What the client outside gets from `PORT` of the host over HTTP; an error's text where it gets nothing.
    /// Deploys `image` as website and publishes its port 80 as 8080, with busctl alone.
    pub async fn deploy_with_busctl(&self, image: &str, path: Option<&str>) {
        let line = "./deploy website \"$IMAGE\" \"$@\" && ./publish website 8080 80";
        let mut command = Command::new("sh");
        command
            .args(["-ec", line, "sh"])
            .args(ARGUMENTS)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("busctl-examples"));
        command.env("BUSCTL", format!("busctl --address={}", self.bus.address));
        command.env("IMAGE", image).env("IMAGE_PATH", path.unwrap_or_default()).env("READY", "http:80/");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn get(&self, port: u16) -> Result<String, String> {
        self.get_path(port, "/")
    }

    /// The same from another path.
    pub fn get_path(&self, port: u16, path: &'static str) -> Result<String, String> {
        self.client.run(move || http_get(HOST, port, path))
    }

    /// Names of everything that Albatross runs.
    pub fn running(&self) -> Vec<String> {
        let dump = self.albatross.dump();
        let mut names = dump["unikernels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|unikernel| unikernel["name"].as_str().unwrap().trim_start_matches(':').to_string())
            .collect::<Vec<_>>();
        names.sort();
        names
    }

    /// The elements of a map or set of the table, as `nft` prints them; empty where there is no table.
    pub fn elements(&self, set: &str) -> Vec<Value> {
        let listed =
            Command::new("nft").args(["-j", "list", "set", "inet", "albatross_deployer", set]).output().unwrap();
        let listed = if listed.status.success() {
            listed
        } else {
            Command::new("nft").args(["-j", "list", "map", "inet", "albatross_deployer", set]).output().unwrap()
        };
        let Ok(listed) = serde_json::from_slice::<Value>(&listed.stdout) else { return Vec::new() };
        let objects = listed["nftables"].as_array().unwrap();
        let object = objects.iter().find_map(|object| object.get("map").or_else(|| object.get("set"))).unwrap();
        object["elem"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until no image is stored: one that was on its way may be removed 50 ms after the call's error.
    pub async fn until_no_image_is_left(&self) {
        eventually("no image is left", async || self.stored_images().is_empty()).await;
    }

    /// Digests of the images in the store.
    pub fn stored_images(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.state().join("images")) else { return Vec::new() };
        let mut names =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect::<Vec<_>>();
        names.sort();
        names
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the service said:\n{}", self.log());
        }
        self.kill_service();
    }
}

/// Calls of the Manager as a client makes them.
#[derive(Clone)]
pub struct Manager(pub zbus::Connection);

impl Manager {
    pub async fn call<A: serde::Serialize + zbus::wire::DynamicType>(
        &self,
        member: &str,
        arguments: &A,
    ) -> zbus::Result<Body> {
        let reply = self.0.call_method(Some(NAME), ROOT, Some(MANAGER), member, arguments).await?;
        Ok(reply.body())
    }

    /// Id and address.
    pub async fn deploy(&self, service: &str, image: &str, options: Options<'_>) -> zbus::Result<(String, String)> {
        let body = self.call("Deploy", &(service, image, options)).await?;
        let (_, id, address): (OwnedObjectPath, String, String) = body.deserialize()?;
        Ok((id, address))
    }

    pub async fn publish(&self, service: &str, ports: &[(&str, u16, u16)], options: Options<'_>) -> zbus::Result<()> {
        self.call("Publish", &(service, ports, options)).await.map(drop)
    }

    pub async fn collect(&self, options: Options<'_>) -> zbus::Result<Vec<(String, String)>> {
        self.call("Collect", &(options,)).await?.deserialize()
    }

    pub async fn leases(&self) -> zbus::Result<Vec<(String, String, String, i64)>> {
        self.call("ListLeases", &()).await?.deserialize()
    }

    /// Cancels the job that works, once it is at a step that begins so.
    pub async fn cancel(&self, step: &str) {
        let interface = "org.albatross.Deployer1.Job";
        eventually(step, async || {
            let jobs = self.call("ListJobs", &()).await.unwrap();
            let jobs: Vec<(OwnedObjectPath, String, String, String)> = jobs.deserialize().unwrap();
            for (path, ..) in jobs.iter().filter(|job| job.3 == "running") {
                let now = self.property::<String>(path.as_str(), interface, "Step").await;
                if now.is_some_and(|now| now.starts_with(step)) {
                    self.0.call_method(Some(NAME), path.as_str(), Some(interface), "Cancel", &()).await.unwrap();
                    return true;
                }
            }
            false
        })
        .await;
    }

    /// A text of the unikernel's object.
    pub async fn told_of(&self, unikernel: &str, property: &str) -> String {
        let name = unikernel.replace('-', "_2d").replace('.', "_2e");
        let path = format!("{ROOT}/unikernel/{name}");
        self.property(&path, "org.albatross.Deployer1.Unikernel", property).await.unwrap()
    }

    pub async fn property<T: TryFrom<OwnedVariant>>(&self, path: &str, interface: &str, name: &str) -> Option<T> {
        let properties = Some("org.freedesktop.DBus.Properties");
        let reply = self.0.call_method(Some(NAME), path, properties, "Get", &(interface, name)).await.ok()?;
        let value: OwnedVariant = reply.body().deserialize().ok()?;
        value.try_into().ok()
    }
}

/// The arguments that every unikernel needs, and `ready`.
pub fn options<'a>(ready: &'a str) -> Options<'a> {
    HashMap::from([("args", ARGUMENTS.to_vec().into()), ("ready", ready.into())])
}

/// The name behind `org.albatross.Deployer1.Error.`, and the message.
pub fn error_of<T: std::fmt::Debug>(outcome: zbus::Result<T>) -> (String, String) {
    match outcome {
        Err(zbus::Error::MethodError(name, message, _)) => {
            (name.trim_start_matches("org.albatross.Deployer1.Error.").to_string(), message.unwrap_or_default())
        }
        other => panic!("not an error of a method: {other:?}"),
    }
}

/// Asks again until it is so.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn name_has_owner(connection: &zbus::Connection) -> bool {
    let bus = Some("org.freedesktop.DBus");
    let reply = connection.call_method(bus, "/org/freedesktop/DBus", bus, "NameHasOwner", &NAME).await.unwrap();
    reply.body().deserialize().unwrap()
}

/// Within [`PATIENCE`] several of them have their time.
const ONE_REQUEST: Duration = Duration::from_secs(10);

fn http_get(host: &str, port: u16, path: &str) -> Result<String, String> {
    use std::io::{Read, Write};
    let target = format!("{host}:{port}").parse().unwrap();
    let text = |error: std::io::Error| error.to_string();
    let mut stream = std::net::TcpStream::connect_timeout(&target, ONE_REQUEST).map_err(text)?;
    stream.set_read_timeout(Some(ONE_REQUEST)).map_err(text)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_string()).ok_or_else(|| "no HTTP".to_string())
}

/// The version that answers over UDP under a port of the host.
pub fn version_over_udp(socket: &UdpSocket, port: u16) -> Option<String> {
    let answer = ask_udp_with(socket, &format!("{HOST}:{port}"))?;
    answer.split(' ').next().map(str::to_owned)
}
