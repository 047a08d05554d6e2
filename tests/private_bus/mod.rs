//! A message bus of the test's own, and the service on it with an owner of state that is gone.
#![allow(dead_code)] // Each test target uses what it needs.

pub mod views;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use albatross_deployer::bus::{self, Bus, BusAddress};
use albatross_deployer::domain::Event;
use albatross_deployer::ledger::Ledger;
use albatross_deployer::orchestrator::{self, InitialViews, Orchestrator, Parts};
use albatross_deployer::{albatross, config, images};
use tokio::sync::mpsc;

/// The defaults of a system bus that matter here: nothing may be owned or called unless a service's policy allows it.
pub const STRICT: &str = r#"
  <policy context="default">
    <allow user="*"/> <deny own="*"/> <deny send_type="method_call"/>
    <allow send_type="signal"/> <allow send_type="method_return"/> <allow send_type="error"/>
    <allow receive_type="method_call"/> <allow receive_type="method_return"/>
    <allow receive_type="error"/> <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
"#;

/// A bus without any rule: only the service itself decides.
pub const OPEN: &str = r#"
  <policy context="default"> <allow user="*"/> <allow own="*"/> <allow send_type="*"/> <allow receive_type="*"/> </policy>
"#;

pub struct PrivateBus {
    daemon: Child,
    pub address: String,
    directory: tempfile::TempDir,
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl PrivateBus {
    /// `None`, with a word about it, where there is no dbus-daemon.
    pub fn start(policy: &str, include: Option<&Path>) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        // Other users of a test must reach the socket.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let socket = directory.path().join("bus");
        let config = directory.path().join("bus.conf");
        let include = include.map(|path| format!("<include>{}</include>", path.display())).unwrap_or_default();
        let doctype = "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \
                       \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">";
        let listen = format!("<listen>unix:path={}</listen><auth>EXTERNAL</auth>", socket.display());
        std::fs::write(&config, format!("{doctype}<busconfig>{listen}{policy}{include}</busconfig>")).unwrap();
        let Some((daemon, address)) = start_daemon(directory.path()) else {
            println!("SKIPPED: there is no dbus-daemon to run a private bus with");
            return None;
        };
        Some(Self { daemon, address, directory })
    }

    /// SIGKILL: all connections end.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Another daemon in place of one that was killed, at the same address.
    pub fn start_again(&mut self) {
        let (daemon, address) = start_daemon(self.directory.path()).unwrap();
        assert_eq!(address, self.address);
        self.daemon = daemon;
    }

    pub fn bus_address(&self) -> BusAddress {
        BusAddress::Address(self.address.clone())
    }

    /// The service on this bus. What the test sends is what the owner of state would tell.
    pub async fn serve(&self, initial: InitialViews) -> (Bus, mpsc::Sender<Event>) {
        let (events, told) = mpsc::channel(1024);
        let bus = bus::serve(&self.bus_address(), unattended(), initial, told).await.unwrap();
        (bus, events)
    }

    pub async fn client(&self) -> zbus::Connection {
        self.patient_client(60).await
    }

    /// One that waits as many seconds for an answer.
    pub async fn patient_client(&self, seconds: u64) -> zbus::Connection {
        zbus::connection::Builder::address(self.address.as_str())
            .method_timeout(std::time::Duration::from_secs(seconds))
            .build()
            .await
            .unwrap()
    }
}

/// With the configuration of this directory. `None` where there is no such program.
fn start_daemon(directory: &Path) -> Option<(Child, String)> {
    let daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", directory.join("bus.conf").display()))
        .args(["--nofork", "--print-address"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut daemon = daemon.ok()?;
    let mut address = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
    assert!(address.starts_with("unix:"), "dbus-daemon did not start: is its configuration valid?");
    // Without the daemon's own number: one that is started again has another.
    let address = address.trim().split(",guid=").next().unwrap().to_owned();
    Some((daemon, address))
}

/// An orchestrator without an owner: every call fails.
pub fn unattended() -> Orchestrator {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, contents) = Ledger::open(&directory.path().join("state.redb")).unwrap();
    let store = images::Store::open(&directory.path().join("images"), 1 << 20).unwrap().inspecting_here();
    let settings = albatross::Settings {
        directory: directory.path().into(),
        path: String::new(),
        deadline: std::time::Duration::from_secs(1),
    };
    let albatross = albatross::Client::new(settings).unwrap();
    let config = config::load(&directory.path().join("none.toml")).unwrap();
    let state_directory = directory.path().into();
    orchestrator::assemble(Parts { config, state_directory, ledger, contents, store, albatross }).unwrap().orchestrator
}
