//! A start of the service with much in its ledger.

use std::time::{Duration, Instant};

use albatross_deployer::host_network::nftables::Table;

use super::figures::{Samples, ms, note, within};
use super::filled::{Fill, fill};
use super::host::{NAME, PATIENCE, TestHost};
use super::netns::{isolated, sh};

const STARTS: usize = 7;

pub fn run() {
    isolated("start", |_| measure());
}

async fn measure() {
    let Some(mut host) = TestHost::without_service() else { return };
    let wanted = Fill { services: 100, ports_each: 100, leases: 9_900 };
    fill(&host.state(), wanted).await;
    let (mut on_bus, mut in_kernel) = <(Samples, Samples)>::default();
    for _ in 0..STARTS {
        let (bus, kernel) = start(&mut host).await;
        on_bus.push(bus);
        in_kernel.push(kernel);
        host.stop_service();
        sh("nft delete table inet albatross_deployer");
    }
    note(&format!("start with 10,000 leases, 100 services of 100 ports: name {}", on_bus.summary()));
    note(&format!("  ports in the kernel {}", in_kernel.summary()));
    within("name on the bus", on_bus.median(), Duration::from_millis(100));
    within("10,000 ports in the kernel", in_kernel.median(), Duration::from_millis(300));
}

/// From the start of the process. The kernel itself tells when the table is there, in one batch: nothing is polled.
async fn start(host: &mut TestHost) -> (Duration, Duration) {
    let (_table, mut changes) = Table::open().unwrap();
    let kernel = tokio::spawn(async move {
        changes.next().await.unwrap();
        Instant::now()
    });
    let connection = host.bus.client().await;
    let begun = Instant::now();
    host.spawn_service();
    let end = begun + PATIENCE;
    while !has_owner(&connection).await {
        assert!(Instant::now() < end && host.is_running(), "{}", host.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let on_bus = begun.elapsed();
    let in_kernel = tokio::time::timeout(PATIENCE, kernel).await.unwrap().unwrap() - begun;
    let ports = host.elements("ports4").len();
    assert_eq!(ports, 10_000, "after {}: {}", ms(in_kernel), host.log());
    (on_bus, in_kernel)
}

async fn has_owner(connection: &zbus::Connection) -> bool {
    let bus = Some("org.freedesktop.DBus");
    let reply = connection.call_method(bus, "/org/freedesktop/DBus", bus, "NameHasOwner", &NAME).await.unwrap();
    reply.body().deserialize().unwrap()
}
