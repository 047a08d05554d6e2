//! An address among many that are held.

use std::time::Duration;

use super::figures::{Samples, at_most, measured, note};
use super::filled::{Fill, fill};
use super::host::TestHost;

const ROUNDS: usize = 300;

pub fn run() {
    let few = measured("leases", || measure(10));
    let many = measured("leases", || measure(60_000));
    if let (Some(few), Some(many)) = (few, many) {
        at_most("AllocateAddress with 60,000 leases", many, 1.2, "the same with 10", few);
    }
}

async fn measure(leases: u32) -> Option<Duration> {
    let mut host = TestHost::without_service()?;
    fill(&host.state(), Fill { leases, ..Fill::default() }).await;
    host.start_service().await;
    let manager = host.manager().await;
    let mut samples = Samples::default();
    for round in 0..ROUNDS {
        let tag = format!("fresh-{round}");
        let call = (tag.as_str(), "10.9.0.0/16", Vec::<&str>::new());
        samples.time(manager.call("AllocateAddress", &call)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    note(&format!("AllocateAddress of a /16 with {leases} leases: {}", samples.summary()));
    Some(samples.median())
}
