//! Resident memory of the service: at rest, and while it takes a large image.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::figures::{note, within_memory};
use super::host::{Options, TestHost, options};
use super::netns::isolated;
use super::solo5_image::{Target, image};

const REST: Duration = Duration::from_secs(3);
const IDLE_LIMIT: u64 = 12 * 1024;
/// KiB of the large image.
const LARGE: u64 = 64 * 1024;

pub fn run() {
    isolated("memory", |_| measure());
}

async fn measure() {
    let Some(host) = TestHost::start().await else { return };
    let manager = host.manager().await;
    for version in ["1", "2"] {
        manager.deploy("website", &host.image(version, &[]), options("running")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
    }
    tokio::time::sleep(REST).await;
    let (idle, peak) = (status(&host, "VmRSS:"), status(&host, "VmHWM:"));
    let anonymous = status(&host, "RssAnon:");
    note(&format!("at rest: {idle} KiB, {anonymous} of them not of the executable; {} threads", threads(&host)));
    within_memory("resident at rest, after two deployments and a switch", idle, IDLE_LIMIT);

    let path = host.directory.path().join("large");
    std::fs::write(&path, image(Target::Spt, "large", &["service"], &[], LARGE as usize * 1024)).unwrap();
    let by_path = manager.deploy("large", path.to_str().unwrap(), options("running")).await.unwrap();
    let after_path = status(&host, "VmHWM:");
    within_memory("more for a Deploy of 64 MiB, at its peak", after_path.saturating_sub(peak), LARGE);
    manager.call("Destroy", &(by_path.0, Options::new())).await.unwrap();
    manager.collect(Options::new()).await.unwrap();
    let descriptor = zbus::OwnedFd::from(OwnedFd::from(File::open(&path).unwrap()));
    manager.call("DeployImage", &("larger", descriptor, options("running"))).await.unwrap();
    let after_descriptor = status(&host, "VmHWM:");
    within_memory("more for a DeployImage of 64 MiB, at its peak", after_descriptor.saturating_sub(peak), LARGE);
    tokio::time::sleep(REST).await;
    within_memory("resident at rest, after both", status(&host, "VmRSS:"), IDLE_LIMIT);
}

/// KiB.
fn status(host: &TestHost, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.service_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn threads(host: &TestHost) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", host.service_pid())).unwrap().count()
}
