//! A host, and what is done with stacks and seen of them there.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use zbus::{OwnedObjectPath, OwnedVariant};

use crate::account::{self, Account};
use crate::host::{Manager, NAME, Options, PATIENCE, ROOT, TestHost};
use crate::manifest::{LIVE, Versions, mail};

pub const STACK: &str = "org.albatross.Deployer1.Stack";
pub const FAULT: &str = "ALBATROSS_DEPLOYER_FAULT";

/// Members and their ids; empty for one that is gone.
pub type Chain = BTreeMap<String, String>;

/// The properties of a stack's object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub state: String,
    pub live: Chain,
    pub staged: Chain,
    pub previous: Chain,
    pub last_check: i64,
    pub last_result: String,
}

pub struct Scene {
    pub host: TestHost,
    pub manager: Manager,
}

impl Scene {
    pub async fn new() -> Option<Self> {
        Self::configured("").await
    }

    /// With this configuration file.
    pub async fn configured(config: &str) -> Option<Self> {
        let mut host = TestHost::without_service()?;
        std::fs::write(host.config(), config).unwrap();
        host.start_service().await;
        let manager = host.manager().await;
        Some(Self { host, manager })
    }

    /// With this version of the mail stack live.
    pub async fn live(versions: Versions) -> Option<Self> {
        let scene = Self::new().await?;
        scene.go_live(versions).await;
        Some(scene)
    }

    /// Starts the service anew; `fault` goes with it.
    pub async fn restart_service(&mut self, fault: Option<&str>) {
        self.host.kill_service();
        self.host.environment.retain(|(key, _)| key != FAULT);
        self.host.environment.extend(fault.map(|fault| (FAULT.to_owned(), fault.to_owned())));
        self.host.start_service().await;
    }

    pub async fn apply(&self, manifest: &str) -> zbus::Result<OwnedObjectPath> {
        self.apply_so(manifest, Options::new()).await
    }

    pub async fn apply_and_activate(&self, manifest: &str) -> zbus::Result<OwnedObjectPath> {
        self.apply_so(manifest, Options::from([("activate", true.into())])).await
    }

    async fn apply_so(&self, manifest: &str, options: Options<'_>) -> zbus::Result<OwnedObjectPath> {
        self.manager.call("Apply", &(manifest, options)).await?.deserialize()
    }

    async fn of_mail(&self, member: &str) -> zbus::Result<()> {
        self.manager.call(member, &("mail",)).await.map(drop)
    }

    pub async fn activate(&self) -> zbus::Result<()> {
        self.of_mail("Activate").await
    }

    pub async fn roll_back(&self) -> zbus::Result<()> {
        self.of_mail("RollbackStack").await
    }

    pub async fn remove(&self) -> zbus::Result<()> {
        self.of_mail("RemoveStack").await
    }

    pub async fn destroy(&self, id: &str, force: bool) -> zbus::Result<()> {
        self.manager.call("Destroy", &(id, Options::from([("force", force.into())]))).await.map(drop)
    }

    /// Applies and activates the mail stack.
    pub async fn go_live(&self, versions: Versions) {
        self.apply(&mail(&self.host, versions)).await.unwrap();
        self.activate().await.unwrap();
        self.answers(LIVE, versions).await;
    }

    /// The mail stack's object, where there is one.
    pub async fn mail(&self) -> Option<Seen> {
        stack(&self.manager, "mail").await
    }

    pub async fn seen(&self) -> Seen {
        self.mail().await.expect("there is the mail stack")
    }

    /// What the members behind a port answer, from the entry on, with their addresses.
    pub fn ask(&self, port: u16) -> Result<Vec<(String, String)>, String> {
        let answer = self.host.get_path(port, "/chain")?;
        answer.lines().map(|line| read(line).ok_or_else(|| answer.clone())).collect()
    }

    /// Waits until a port answers by members of these versions.
    pub async fn answers(&self, port: u16, versions: Versions) {
        let end = Instant::now() + PATIENCE;
        loop {
            let asked = self.ask(port);
            if asked.as_ref().is_ok_and(|all| all.iter().map(|(version, _)| version).eq(&versions)) {
                return;
            }
            assert!(Instant::now() < end, "port {port}: not {versions:?}, but {asked:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// At this moment a port answers by exactly these unikernels, in these versions.
    pub async fn is_answered_by(&self, port: u16, chain: &Chain, versions: Versions) {
        let leases = self.manager.leases().await.unwrap();
        let address = |member: &str| leases.iter().find(|lease| lease.0 == chain[member]).map(|lease| lease.1.clone());
        let wanted = ["entry", "signer", "forward"].map(|member| address(member).unwrap());
        let wanted = versions.into_iter().map(str::to_owned).zip(wanted).collect::<Vec<_>>();
        assert_eq!(self.ask(port), Ok(wanted), "port {port}");
    }

    pub fn nobody_at(&self, port: u16) {
        assert!(self.host.get(port).is_err(), "port {port} answers");
    }

    /// How many unikernels Albatross has made until now.
    pub fn created(&self) -> u64 {
        self.host.albatross.control("count").parse().unwrap()
    }

    /// The account, once everything fits together and nothing is on its way.
    pub async fn settled(&self) -> Account {
        self.until("settled", |_| true).await
    }

    pub async fn until(&self, what: &str, holds: impl FnMut(&Account) -> bool) -> Account {
        account::until(&self.host, &self.manager, what, holds).await
    }

    /// Nothing is left of anything.
    pub async fn nothing_is_left(&self) {
        self.until("nothing", |account| *account == Account::default()).await;
        assert_eq!(self.mail().await, None);
    }
}

/// Version and address.
fn read(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let version = words.next()?.strip_prefix("version=")?;
    let address = words.next()?.strip_prefix("address=")?;
    Some((version.to_owned(), address.to_owned()))
}

pub fn path(stack: &str) -> String {
    format!("{ROOT}/stack/{stack}")
}

pub async fn stack(manager: &Manager, name: &str) -> Option<Seen> {
    let properties = Some("org.freedesktop.DBus.Properties");
    let reply = manager.0.call_method(Some(NAME), path(name), properties, "GetAll", &(STACK,)).await.ok()?;
    let all: HashMap<String, OwnedVariant> = reply.body().deserialize().ok()?;
    Some(Seen {
        state: get(&all, "State"),
        live: chain(&all, "Live"),
        staged: chain(&all, "Staged"),
        previous: chain(&all, "Previous"),
        last_check: get(&all, "LastCheck"),
        last_result: get(&all, "LastResult"),
    })
}

fn get<T: TryFrom<OwnedVariant>>(all: &HashMap<String, OwnedVariant>, name: &str) -> T {
    let value = all.get(name).unwrap_or_else(|| panic!("no property {name}")).try_clone().unwrap();
    T::try_from(value).unwrap_or_else(|_| panic!("{name} has another type"))
}

fn chain(all: &HashMap<String, OwnedVariant>, name: &str) -> Chain {
    let members: HashMap<String, OwnedObjectPath> = get(all, name);
    members.into_iter().map(|(member, path)| (member, id(path.as_str()))).collect()
}

/// `/` for one that is gone.
fn id(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().replace("_2e", ".").replace("_2d", "-")
}
