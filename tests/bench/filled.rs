//! A ledger that is full already when the service starts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use albatross_deployer::domain::{
    AddressChoice, Arguments, Change, ImageDigest, Lease, Ordinal, Phase, PortMapping, PortProtocol, Publication,
    Readiness, RestartPolicy, Service, ServiceName, Timestamp, Unikernel, UnikernelId, UnikernelSpec,
};
use albatross_deployer::ledger::Ledger;
use ipnet::IpNet;

/// What the ledger is to hold. Published ports are `FIRST_PORT` and the ones after it.
#[derive(Clone, Copy, Default)]
pub struct Fill {
    pub services: u32,
    pub ports_each: u32,
    /// Those of the services' unikernels not counted.
    pub leases: u32,
}

const FIRST_PORT: u32 = 10_000;

/// Writes it the way the service does, and returns what is published.
pub async fn fill(state: &Path, fill: Fill) -> Vec<Publication> {
    std::fs::create_dir_all(state).unwrap();
    let (ledger, _) = Ledger::open(&state.join("state.redb")).unwrap();
    let mut publications = Vec::new();
    let mut changes = Vec::new();
    for number in 0..fill.services {
        let (unikernel, service) = published(number, fill.ports_each);
        publications.extend(service.publication.as_deref().cloned());
        changes.push(Change::PutLease(lease(unikernel.id.as_str(), unikernel.address, "10.1.0.0/16")));
        changes.push(Change::PutUnikernel(Box::new(unikernel)));
        changes.push(Change::PutService(Box::new(service)));
    }
    for number in 0..fill.leases {
        changes.push(Change::PutLease(lease(&format!("tag-{number}"), address([10, 9], number + 1), "10.9.0.0/16")));
    }
    ledger.commit(changes).await.unwrap();
    drop(ledger);
    closed();
    publications
}

/// The thread that has the file open ends after the handle is gone.
fn closed() {
    let is_ledger = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).is_ok_and(|name| name.trim() == "ledger")
    };
    while std::fs::read_dir("/proc/self/task").unwrap().any(is_ledger) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One that Albatross does not run at the moment: what is published stays.
fn published(number: u32, ports: u32) -> (Unikernel, Service) {
    let name: ServiceName = format!("filled-{number}").parse().unwrap();
    let id = UnikernelId::new(&name, &[0xab; 32]);
    let unikernel = Unikernel {
        id: id.clone(),
        spec: UnikernelSpec {
            image: ImageDigest([7; 32]),
            arguments: Arguments(vec!["--ipv4={address}/24".into()]),
            memory: 32,
            network: "br0".parse().unwrap(),
            cpu: None,
            block_devices: Vec::new(),
            restart: RestartPolicy::Never,
            address: AddressChoice::default(),
        },
        readiness: Readiness::Running,
        timeout: Duration::from_secs(30),
        check: None,
        phase: Phase::Exited,
        brought_image: false,
        removing: false,
        address: address([10, 1], number + 1),
        mac: None,
        cpu: 0,
        created_at: Timestamp::now(),
        deployed: Ordinal(1),
        started_at: None,
        restarts: 0,
        exit_reason: "filled".into(),
        last_live: None,
        provisional: None,
    };
    let port = |port: u32| PortMapping {
        protocol: PortProtocol::Tcp,
        host: u16::try_from(FIRST_PORT + number * ports + port).unwrap(),
        unikernel: 80,
    };
    let publication = Publication {
        unikernel: id,
        target: unikernel.address,
        ports: (0..ports).map(port).collect(),
        addresses: BTreeSet::new(),
        sources: Vec::new(),
        drain: 0,
        tolerates_until: None,
    };
    let service = Service {
        name,
        publication: Some(Arc::new(publication)),
        previous: None,
        staged: None,
        draining: Vec::new(),
        fell_back_from: None,
    };
    (unikernel, service)
}

fn lease(tag: &str, address: IpAddr, prefix: &str) -> Lease {
    let prefix: IpNet = prefix.parse().unwrap();
    Lease { tag: tag.parse().unwrap(), address, prefix, since: Timestamp::now() }
}

fn address([a, b]: [u8; 2], number: u32) -> IpAddr {
    let [_, _, c, d] = number.to_be_bytes();
    Ipv4Addr::new(a, b, c, d).into()
}
