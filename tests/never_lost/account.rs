//! What there is of everything, wherever it is written down, and that it is the same everywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::Value;
use zbus::{OwnedObjectPath, OwnedVariant};

use crate::host::{Manager, NAME, PATIENCE, ROOT, TestHost};

type Objects = HashMap<OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>>;

/// By names alone: addresses differ between two deployments of the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Id and state.
    pub unikernels: BTreeMap<String, String>,
    /// Name, live and previous one.
    pub services: BTreeMap<String, (String, String)>,
    /// Service, unikernel, protocol, host port and unikernel port.
    pub published: BTreeSet<(String, String, String, u16, u16)>,
    pub images: BTreeSet<String>,
    pub stale: bool,
}

/// Takes the account; an error says what does not fit together.
pub async fn take(host: &TestHost, manager: &Manager) -> Result<Account, String> {
    let objects = objects(manager).await.map_err(|error| error.to_string())?;
    let mut account = Account { images: host.stored_images().into_iter().collect(), ..Account::default() };
    let mut digests = BTreeSet::new();
    for interfaces in objects.values() {
        if let Some(unikernel) = interfaces.get("org.albatross.Deployer1.Unikernel") {
            account.unikernels.insert(text(&unikernel["Id"]), text(&unikernel["State"]));
            digests.insert(text(&unikernel["ImageDigest"]).replace(':', "-"));
        }
        if let Some(service) = interfaces.get("org.albatross.Deployer1.Service") {
            account.services.insert(text(&service["Name"]), (path(&service["Live"]), path(&service["Previous"])));
        }
    }
    let leases = manager.leases().await.map_err(|error| error.to_string())?;
    let addresses: BTreeMap<_, _> = leases.into_iter().map(|(tag, address, _, _)| (tag, address)).collect();
    let mut problems = Vec::new();
    let same = |problems: &mut Vec<String>, what: &str, one: BTreeSet<String>, other: BTreeSet<String>| {
        if one != other {
            problems.push(format!("{what}: {one:?} and {other:?}"));
        }
    };
    let ids = account.unikernels.keys().cloned().collect::<BTreeSet<_>>();
    same(&mut problems, "leases and unikernels", addresses.keys().cloned().collect(), ids);
    let live = account.unikernels.iter().filter(|(_, state)| state.as_str() != "exited").map(|(id, _)| id.clone());
    same(&mut problems, "what Albatross runs and what is not exited", ours(host), live.collect());
    if !account.images.is_superset(&digests) {
        problems.push(format!("images {:?} lack some of {digests:?}", account.images));
    }
    same(&mut problems, "addresses in Albatross and leases", running_addresses(host), running_leases(host, &addresses));
    let mut wanted = BTreeSet::new();
    for (service, id, protocol, address, port, target, behind) in publications(manager).await? {
        assert!(address.is_empty());
        if addresses.get(&id) != Some(&target) {
            problems.push(format!("{service} is published to {target}, and {id} has {:?}", addresses.get(&id)));
        }
        wanted.insert(format!("{protocol} {port} to {target}:{behind}"));
        account.published.insert((service, id, protocol, port, behind));
    }
    same(&mut problems, "elements in the kernel and publications", elements(host), wanted);
    if problems.is_empty() { Ok(account) } else { Err(problems.join("; ")) }
}

type Published = Vec<(String, String, String, String, u16, String, u16)>;

async fn publications(manager: &Manager) -> Result<Published, String> {
    let body = manager.call("ListPublications", &()).await.map_err(|error| error.to_string())?;
    body.deserialize().map_err(|error| error.to_string())
}

async fn objects(manager: &Manager) -> zbus::Result<Objects> {
    let interface = Some("org.freedesktop.DBus.ObjectManager");
    let reply = manager.0.call_method(Some(NAME), ROOT, interface, "GetManagedObjects", &()).await?;
    reply.body().deserialize()
}

fn text(value: &OwnedVariant) -> String {
    String::try_from(value.try_clone().unwrap()).unwrap()
}

fn path(value: &OwnedVariant) -> String {
    let path = OwnedObjectPath::try_from(value.try_clone().unwrap()).unwrap();
    path.as_str().rsplit('/').next().unwrap_or_default().to_owned()
}

/// What Albatross runs, but what is somebody else's.
fn ours(host: &TestHost) -> BTreeSet<String> {
    host.running().into_iter().filter(|name| !name.starts_with("foreign")).collect()
}

/// Name and the address in the arguments.
fn running_addresses(host: &TestHost) -> BTreeSet<String> {
    let dump = host.albatross.dump();
    let running = dump["unikernels"].as_array().unwrap().iter().filter_map(|unikernel| {
        let arguments = unikernel["arguments"].as_array()?;
        let address = arguments.iter().find_map(|word| word.as_str()?.strip_prefix("--ipv4="))?;
        let name = unikernel["name"].as_str()?.trim_start_matches(':');
        Some(format!("{name} {}", address.split('/').next()?))
    });
    running.collect()
}

fn running_leases(host: &TestHost, leases: &BTreeMap<String, String>) -> BTreeSet<String> {
    let lease = |id: String| leases.get(&id).map(|address| format!("{id} {address}"));
    ours(host).into_iter().filter_map(lease).collect()
}

/// The kernel's redirections, as `tcp 8080 to 10.0.0.2:80`.
pub fn elements(host: &TestHost) -> BTreeSet<String> {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let element = |element: &Value| {
        let (key, target) = (&element[0]["concat"], &element[1]["concat"]);
        format!("{} {} to {}:{}", word(&key[0]), word(&key[1]), word(&target[0]), word(&target[1]))
    };
    host.elements("ports4").iter().map(element).collect()
}

/// The account, once everything fits together, nothing is on its way, and `holds` of it.
pub async fn until(host: &TestHost, manager: &Manager, what: &str, mut holds: impl FnMut(&Account) -> bool) -> Account {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = take(host, manager).await;
        if let Ok(account) = &found
            && account.unikernels.values().all(|state| at_rest(state))
            && holds(account)
        {
            return account.clone();
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}; what there is: {found:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn at_rest(state: &str) -> bool {
    ["ready", "live", "retired", "exited"].contains(&state)
}
