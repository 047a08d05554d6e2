//! A stack of many members goes from one chain to the other and back, against one batch with the same elements.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use albatross_deployer::domain::{PortMapping, PortProtocol, Publication, UnikernelId};
use zbus::OwnedObjectPath;

use super::figures::{Samples, at_most, note};
use super::host::{MANAGER, Manager, Options, ROOT, TestHost};
use super::netns::isolated;
use super::raw_batch::RawBatch;

const MEMBERS: u16 = 50;
const PORTS: u16 = 4;
const FIRST_PORT: u16 = 10_000;
const ROUNDS: usize = 50;
/// Between two calls, so that what the one before leaves to do (its drain ends) is not part of the next.
const PAUSE: Duration = Duration::from_millis(150);

pub fn run() {
    isolated("stacks", |_| measure());
}

async fn measure() {
    let Some(host) = TestHost::start().await else { return };
    let manager = host.manager().await;
    let image = host.image("1", &[]);
    let [one, other] = [32, 33].map(|memory| manifest(&image, memory));
    let mut chains = Vec::new();
    for text in [&one, &other] {
        apply(&manager, text).await;
        of_stack(&manager, "Activate").await;
        chains.push(live(&manager).await);
    }
    let [second, first] = [chains.pop().unwrap(), chains.pop().unwrap()];
    let raw = RawBatch::new(Vec::new(), first, second);
    of_stack(&manager, "RollbackStack").await;
    let [mut activate, mut roll_back, mut echo, mut batch] = <[Samples; 4]>::default();
    for round in 0..ROUNDS + 5 {
        if round == 5 {
            [activate, roll_back, echo, batch] = Default::default(); // warm
        }
        apply(&manager, &other).await;
        for (member, samples) in [("Activate", &mut activate), ("RollbackStack", &mut roll_back)] {
            tokio::time::sleep(PAUSE).await;
            echo.time(version(&manager)).await;
            samples.time(of_stack(&manager, member)).await;
            tokio::time::sleep(PAUSE).await;
            batch.push(raw.switch());
        }
    }
    let elements = MEMBERS * PORTS;
    note(&format!("{MEMBERS} members with {PORTS} ports each: Activate {}", activate.summary()));
    note(&format!("  RollbackStack {}", roll_back.summary()));
    note(&format!("  D-Bus echo (Properties.Get of Version, same connection) {}", echo.summary()));
    note(&format!("  one nfnetlink batch, delete {elements} and add {elements} {}", batch.summary()));
    at_most(&format!("Activate, {elements} ports"), activate.median(), 3.0, "the batch", batch.median());
    at_most(&format!("RollbackStack, {elements} ports"), roll_back.median(), 3.0, "the batch", batch.median());
}

fn ports(member: u16) -> impl Iterator<Item = (u16, u16)> {
    (0..PORTS).map(move |port| (FIRST_PORT + member * PORTS + port, 80 + port))
}

fn manifest(image: &str, memory: u32) -> String {
    let mut text = format!("stack = \"many\"\nmemory = {memory}\ntimeout = 20\n");
    for member in 0..MEMBERS {
        let ports = ports(member).map(|(host, own)| format!("{host}:{own}")).collect::<Vec<_>>();
        let _ = write!(
            text,
            "[service.member-{member}]\nimage = {image:?}\nargs = [\"--ipv4={{address}}/{{prefix-length}}\"]\n\
             ports = {ports:?}\n"
        );
    }
    text
}

async fn apply(manager: &Manager, manifest: &str) {
    manager.call("Apply", &(manifest, Options::new())).await.unwrap();
}

async fn of_stack(manager: &Manager, member: &str) {
    manager.call(member, &("many",)).await.unwrap();
}

async fn version(manager: &Manager) {
    let version: Option<String> = manager.property(ROOT, MANAGER, "Version").await;
    assert!(version.is_some());
}

/// What is published of the chain that is live.
async fn live(manager: &Manager) -> Vec<Publication> {
    let live: Option<BTreeMap<String, OwnedObjectPath>> =
        manager.property(&format!("{ROOT}/stack/many"), "org.albatross.Deployer1.Stack", "Live").await;
    let leases: BTreeMap<String, IpAddr> =
        manager.leases().await.unwrap().into_iter().map(|(tag, address, ..)| (tag, address.parse().unwrap())).collect();
    let publication = |(member, path): (String, OwnedObjectPath)| {
        let id = path.rsplit('/').next().unwrap().replace("_2e", ".").replace("_2d", "-");
        let number: u16 = member.trim_start_matches("member-").parse().unwrap();
        let port = |(host, unikernel)| PortMapping { protocol: PortProtocol::Tcp, host, unikernel };
        Publication {
            target: leases[&id],
            unikernel: id.parse::<UnikernelId>().unwrap(),
            ports: ports(number).map(port).collect(),
            addresses: Default::default(),
            sources: Vec::new(),
            drain: 0,
            tolerates_until: None,
        }
    };
    live.unwrap().into_iter().map(publication).collect()
}
