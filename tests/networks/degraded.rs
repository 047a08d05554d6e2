//! What keeps unikernels from being reached stands in Degraded and in the log, and goes from there when it is gone.

use std::fmt::Write;

use crate::host::{MANAGER, Manager, Options, ROOT, TestHost, eventually, options};
use crate::netns::{isolated, sh, try_sh};

async fn degraded(manager: &Manager) -> Vec<String> {
    manager.property(ROOT, MANAGER, "Degraded").await.unwrap()
}

/// Does `harm`, waits for a line with all of `parts`, does `cure`, and waits until nothing is degraded.
async fn comes_and_goes(host: &TestHost, manager: &Manager, harm: &str, parts: &[&str], cure: &str) {
    sh(harm);
    let says_so = |notes: Vec<String>| notes.iter().any(|note| parts.iter().all(|part| note.contains(part)));
    eventually(&format!("Degraded after {harm}"), async || says_so(degraded(manager).await)).await;
    let log = host.log();
    let warned = log.lines().any(|line| line.contains("WARN") && parts.iter().all(|part| line.contains(part)));
    assert!(warned, "no warning of {parts:?}:\n{log}");
    sh(cure);
    eventually(&format!("all is well after {cure}"), async || degraded(manager).await.is_empty()).await;
}

#[test]
fn a_bridge_that_is_down_gone_or_without_its_address() {
    isolated("a_bridge_that_is_down_gone_or_without_its_address", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        // Nobody's, and down: of no interest.
        sh("ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0");
        let make = "ip link add br0 type bridge; ip address add 10.0.0.1/24 dev br0; ip link set br0 up";
        for configuration in ["[network.br0]\nprefix = \"10.0.0.0/24\"\ngateway = \"10.0.0.1\"\n", ""] {
            std::fs::write(host.config(), configuration).unwrap();
            host.start_service().await;
            let manager = host.manager().await;
            if configuration.is_empty() {
                let mut options = options("tcp:80");
                options.insert("network", "br0".into());
                manager.deploy("website", &host.image("1", &[]), options).await.unwrap();
            }
            eventually("all is well", async || degraded(&manager).await.is_empty()).await;
            for (harm, parts, cure) in [
                (
                    "ip link set br0 down",
                    &["network br0: its bridge is down", "ip link set br0 up"],
                    "ip link set br0 up",
                ),
                (
                    "ip address del 10.0.0.1/24 dev br0",
                    &["network br0: the host has no address", "ip address add"],
                    "ip address add 10.0.0.1/24 dev br0",
                ),
                ("ip link del br0", &["network br0: its bridge is gone", "ip link add br0 type bridge"], make),
            ] {
                comes_and_goes(&host, &manager, harm, parts, cure).await;
            }
            host.stop_service();
        }
    });
}

#[test]
fn a_link_that_does_not_forward() {
    isolated("a_link_that_does_not_forward", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        eventually("all is well", async || degraded(&manager).await.is_empty()).await;
        let set = |link: &str, on: u8| format!("echo {on} > /proc/sys/net/ipv4/conf/{link}/forwarding");
        for link in ["br0", "outside"] {
            let setting = format!("net.ipv4.conf.{link}.forwarding=1");
            comes_and_goes(&host, &manager, &set(link, 0), &[&setting, "though"], &set(link, 1)).await;
        }
        let all = "/proc/sys/net/ipv4/ip_forward";
        let (off, on) = (format!("echo 0 > {all}"), format!("echo 1 > {all}"));
        comes_and_goes(&host, &manager, &off, &["net.ipv4.ip_forward=1"], &on).await;
    });
}

/// iptables-legacy and conntrack make no event: the service looks at them every 30 s, or when anything else happens.
fn something_happens(number: u8) -> String {
    format!("ip address add 198.51.100.{number}/32 dev lo")
}

#[test]
fn a_filter_that_nftables_does_not_show() {
    isolated("a_filter_that_nftables_does_not_show", |_| async {
        if !try_sh("iptables-legacy -S").0 {
            return println!("SKIPPED: a_filter_that_nftables_does_not_show: iptables-legacy does not work here");
        }
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
        let harm = format!("iptables-legacy -P FORWARD DROP; {}", something_happens(1));
        let cure = format!("iptables-legacy -P FORWARD ACCEPT; {}", something_happens(2));
        let parts = ["policy DROP of chain FORWARD", "iptables-legacy -P FORWARD ACCEPT"];
        comes_and_goes(&host, &manager, &harm, &parts, &cure).await;
    });
}

#[test]
fn a_table_of_connections_that_is_nearly_full() {
    isolated("a_table_of_connections_that_is_nearly_full", |_| async {
        if !try_sh("conntrack --version").0 {
            return println!("SKIPPED: a_table_of_connections_that_is_nearly_full: no conntrack here");
        }
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let limit = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
        let Some(limit) = limit.trim().parse::<u32>().ok().filter(|limit| (1..=300_000).contains(limit)) else {
            return println!("SKIPPED: a_table_of_connections_that_is_nearly_full: its limit is {limit:?}");
        };
        let mut entries = String::new();
        for number in 0..=limit / 10 * 9 + 10 {
            let address = std::net::Ipv4Addr::from(0x0a80_0000 + number);
            let _ = writeln!(entries, "-A -s {address} -d 192.0.2.1 -p udp --sport 1000 --dport 2000 --timeout 300");
        }
        let file = host.directory.path().join("entries");
        std::fs::write(&file, entries).unwrap();
        let harm = format!("conntrack -R {} 2> /dev/null; {}", file.display(), something_happens(1));
        let cure = format!("conntrack -F 2> /dev/null; {}", something_happens(2));
        comes_and_goes(&host, &manager, &harm, &["nearly full", "nf_conntrack_max"], &cure).await;
    });
}
