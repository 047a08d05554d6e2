//! A switch between two unikernels, from the call to its answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use albatross_deployer::domain::{PortMapping, PortProtocol, Publication};
use redb::{Builder, Database, TableDefinition};

use super::figures::{Samples, at_most, faster, measured, note};
use super::filled::{Fill, fill};
use super::host::{MANAGER, Manager, Options, ROOT, TestHost, options};
use super::netns::{Namespace, sh};
use super::raw_batch::RawBatch;

const SERVICE: &str = "website";
const PORT: u16 = 8080;
const ROUNDS: usize = 100;
/// Between two calls, so that what the one before leaves to do (its drain ends) is not part of the next.
const PAUSE: Duration = Duration::from_millis(60);

pub fn run() {
    let fills = [(1, 0, 0), (1_000, 1, 999), (50_000, 50, 1_000)];
    let mut first = None;
    for (ports, services, ports_each) in fills {
        let wanted = Fill { services, ports_each, leases: 0 };
        let Some(switch) = measured("publish", move || measure(ports, wanted)) else { return };
        match first {
            None => {
                first = Some(switch);
                compare_with_programs(switch);
            }
            Some(first) => at_most(&format!("Publish with {ports} ports"), switch, 1.2, "Publish with 1 port", first),
        }
    }
}

async fn measure(ports: u32, wanted: Fill) -> Option<Duration> {
    let mut host = TestHost::without_service()?;
    let others = fill(&host.state(), wanted).await;
    host.start_service().await;
    let manager = host.manager().await;
    let pair = [deploy(&host, &manager, "1").await, deploy(&host, &manager, "2").await];
    let raw = RawBatch::new(others, vec![publication(&pair[0])], vec![publication(&pair[1])]);
    let mut disk = Disk::create(host.directory.path());
    let [mut switch, mut echo, mut commit, mut batch] = <[Samples; 4]>::default();
    for round in 0..ROUNDS + 10 {
        if round == 10 {
            [switch, echo, commit, batch] = Default::default(); // warm
        }
        // Both find the bus, the service and the client as awake as the other does.
        version(&manager).await;
        publish(&manager, &pair[round % 2].0, &mut switch).await;
        tokio::time::sleep(PAUSE).await;
        version(&manager).await;
        echo.time(version(&manager)).await;
        commit.push(disk.commit());
        batch.push(raw.switch());
    }
    let sum = echo.median() + commit.median() + batch.median();
    note(&format!("{ports} ports: Publish {}", switch.summary()));
    note(&format!("  D-Bus echo (Properties.Get of Version, same connection) {}", echo.summary()));
    note(&format!("  one durable redb commit of 1 KiB, same disk {}", commit.summary()));
    note(&format!("  one nfnetlink batch, delete and add {}", batch.summary()));
    at_most(&format!("Publish, {ports} ports"), switch.median(), 1.5, "echo + commit + batch", sum);
    Some(switch.median())
}

async fn deploy(host: &TestHost, manager: &Manager, version: &str) -> (String, IpAddr) {
    let mut wanted = options("running");
    wanted.insert("timeout", 20_u64.into());
    let (id, address) = manager.deploy(SERVICE, &host.image(version, &[]), wanted).await.unwrap();
    (id, address.parse().unwrap())
}

async fn publish(manager: &Manager, id: &str, samples: &mut Samples) {
    let options = Options::from([("unikernel", id.into())]);
    samples.time(manager.publish(SERVICE, &[("tcp", PORT, 80)], options)).await.unwrap();
}

async fn version(manager: &Manager) {
    let version: Option<String> = manager.property(ROOT, MANAGER, "Version").await;
    assert!(version.is_some());
}

fn publication((id, address): &(String, IpAddr)) -> Publication {
    Publication {
        unikernel: id.parse().unwrap(),
        target: *address,
        ports: vec![PortMapping { protocol: PortProtocol::Tcp, host: PORT, unikernel: 80 }],
        addresses: BTreeSet::new(),
        sources: Vec::new(),
        drain: 0,
        tolerates_until: None,
    }
}

/// A redb database beside the service's, with the same settings.
struct Disk {
    database: Database,
    round: u8,
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("services");

impl Disk {
    fn create(directory: &Path) -> Self {
        let mut builder = Builder::new();
        builder.set_cache_size(1024 * 1024);
        Self { database: builder.create(directory.join("bare.redb")).unwrap(), round: 0 }
    }

    /// What a switch writes, two records, is about this long.
    fn commit(&mut self) -> Duration {
        self.round = self.round.wrapping_add(1);
        let record = vec![self.round; 1024];
        let begun = Instant::now();
        let transaction = self.database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(SERVICE.as_bytes(), record.as_slice()).unwrap();
        transaction.commit().unwrap();
        begun.elapsed()
    }
}

/// What was done before there was this service: programs that are started for each switch.
fn compare_with_programs(switch: Duration) {
    let directory = tempfile::tempdir().unwrap();
    let namespace = Namespace::create().unwrap();
    let path = directory.path().to_owned();
    let times = namespace.run(move || {
        let (mut iptables, mut nft) = <(Samples, Samples)>::default();
        iptables_switch("-A", "10.0.0.2");
        for round in 0..20 {
            let (from, to) = if round % 2 == 0 { ("10.0.0.2", "10.0.0.3") } else { ("10.0.0.3", "10.0.0.2") };
            let begun = Instant::now();
            iptables_switch("-D", from);
            iptables_switch("-A", to);
            iptables.push(begun.elapsed());
        }
        let file = path.join("switch.nft");
        sh("nft add table inet bare && \
            nft 'add map inet bare ports { type inet_proto . inet_service : ipv4_addr . inet_service; }' && \
            nft 'add element inet bare ports { tcp . 8080 : 10.0.0.2 . 80 }'");
        for round in 0..20 {
            let (from, to) = if round % 2 == 0 { (2, 3) } else { (3, 2) };
            let switch = format!(
                "delete element inet bare ports {{ tcp . 8080 : 10.0.0.{from} . 80 }}\n\
                 add element inet bare ports {{ tcp . 8080 : 10.0.0.{to} . 80 }}\n"
            );
            std::fs::write(&file, switch).unwrap();
            let begun = Instant::now();
            assert!(Command::new("nft").arg("-f").arg(&file).status().unwrap().success());
            nft.push(begun.elapsed());
        }
        (iptables.median(), nft.median())
    });
    let (iptables, nft) = times;
    faster("Publish", switch, 20.0, "four iptables processes", iptables);
    faster("Publish", switch, 20.0, "nft -f with one file", nft);
}

fn iptables_switch(action: &str, target: &str) {
    for chain in ["PREROUTING", "OUTPUT"] {
        let to = format!("{target}:80");
        let rule = ["-t", "nat", action, chain, "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", &to];
        assert!(Command::new("iptables").args(rule).status().unwrap().success());
    }
}
