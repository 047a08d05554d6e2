//! Networks of the host: whose bridges the service acts for, what it sets there, and what it says when one of them, or the
//! host's filters and settings, keep unikernels from being reached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "networks/degraded.rs"]
mod degraded;
#[path = "support/host.rs"]
mod host;
#[path = "networks/mac.rs"]
mod mac;
#[path = "support/netns.rs"]
mod netns;
#[path = "load/open_loop.rs"]
mod open_loop;
mod private_bus;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
#[path = "networks/unused.rs"]
mod unused;

use std::process::Command;

use host::{Manager, Options};
use netns::sh;

/// Whether loopback connections may leave by this bridge.
fn routes_loopback(bridge: &str) -> bool {
    sh(&format!("cat /proc/sys/net/ipv4/conf/{bridge}/route_localnet")).trim() == "1"
}

fn mac(link: &str) -> String {
    let shown = sh(&format!("ip -o link show {link}"));
    shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

/// The service's table as `nft` shows it; empty where there is none.
fn table() -> String {
    let listed = Command::new("nft").args(["list", "table", "inet", "albatross_deployer"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).into_owned()
}

async fn destroy(manager: &Manager, id: &str) {
    manager.call("Destroy", &(id, Options::from([("force", true.into())]))).await.unwrap();
}

fn on<'a>(mut options: Options<'a>, network: &'a str) -> Options<'a> {
    options.insert("network", network.into());
    options
}
