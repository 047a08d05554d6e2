//! Without a configuration each bridge of the host could be a network: those where nobody has an address are left as they
//! are, and as they were when the last one goes.

use zbus::wire::DynamicType;

use crate::host::{Manager, Options, TestHost, eventually, options};
use crate::netns::{isolated, sh};
use crate::{destroy, on, routes_loopback, table};

/// Besides br0: one like a container engine's, and one where somebody else needs what the service would set.
const OTHERS: &str = "
    ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up
    ip link add virbr0 type bridge && ip address add 192.168.122.1/24 dev virbr0 && ip link set virbr0 up
    echo 1 > /proc/sys/net/ipv4/conf/virbr0/route_localnet";

/// Bridges of [`OTHERS`] and br0 that rules name.
fn with_rules() -> Vec<&'static str> {
    let table = table();
    ["br0", "docker0", "virbr0"].into_iter().filter(|name| table.contains(&format!("\"{name}\""))).collect()
}

fn that_route() -> Vec<&'static str> {
    ["br0", "docker0", "virbr0"].into_iter().filter(|name| routes_loopback(name)).collect()
}

async fn call(manager: &Manager, member: &str, arguments: &(impl serde::Serialize + DynamicType)) {
    manager.call(member, arguments).await.unwrap();
}

#[test]
fn rules_and_settings_come_with_the_first_lease_and_go_with_the_last() {
    isolated("rules_and_settings_come_with_the_first_lease_and_go_with_the_last", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        sh(OTHERS);
        host.start_service().await;
        let manager = host.manager().await;
        eventually("the table is there", async || table().contains("chain guard")).await;
        assert!(with_rules().is_empty(), "{}", table());
        assert_eq!(that_route(), ["virbr0"]);

        let (image, options) = (host.image("1", &[]), || on(options("tcp:80"), "br0"));
        let (id, _) = manager.deploy("website", &image, options()).await.unwrap();
        assert_eq!(with_rules(), ["br0"]);
        assert_eq!(that_route(), ["br0", "virbr0"]);
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        assert!(host.get(8080).is_ok());

        // The service ends in between, and its successor knows what it did.
        host.kill_service();
        host.start_service().await;
        let manager = host.manager().await;
        destroy(&manager, &id).await;
        eventually("all is as it was", async || with_rules().is_empty() && that_route() == ["virbr0"]).await;

        // A lease by hand is one as well.
        call(&manager, "AllocateAddress", &("by-hand", "172.17.0.0/16", Vec::<String>::new())).await;
        eventually("docker0 is a network", async || {
            with_rules() == ["docker0"] && that_route() == ["docker0", "virbr0"]
        })
        .await;
        call(&manager, "AllocateAddress", &("other", "192.168.122.0/24", Vec::<String>::new())).await;
        eventually("virbr0 too", async || with_rules() == ["docker0", "virbr0"]).await;
        for tag in ["by-hand", "other"] {
            call(&manager, "ReleaseAddress", &(tag,)).await;
        }
        eventually("none of them is", async || with_rules().is_empty() && that_route() == ["virbr0"]).await;
    });
}

#[test]
fn a_unikernel_runs_with_the_rules_of_its_network() {
    isolated("a_unikernel_runs_with_the_rules_of_its_network", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        sh(OTHERS);
        // Before Albatross hears of it, and again when it has been asked.
        for (step, routed) in [("reserving=kill", false), ("creating=kill", true)] {
            host.environment = vec![("ALBATROSS_DEPLOYER_FAULT".into(), step.into())];
            host.start_service().await;
            let manager = host.manager().await;
            assert!(manager.deploy("website", &host.image("1", &[]), on(options("tcp:80"), "br0")).await.is_err());
            host.wait_for_end();
            assert_eq!(with_rules(), ["br0"], "{step}");
            assert!(routes_loopback("br0") || !routed, "{step}");

            host.environment.clear();
            host.start_service().await;
            eventually("it is undone", async || with_rules().is_empty() && that_route() == ["virbr0"]).await;
            host.stop_service();
        }
    });
}

#[test]
fn configured_networks_have_rules_from_the_start() {
    isolated("configured_networks_have_rules_from_the_start", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        sh(OTHERS);
        std::fs::write(host.config(), "[network.br0]\nprefix = \"10.0.0.0/24\"\n").unwrap();
        host.start_service().await;
        eventually("it is a network", async || with_rules() == ["br0"] && that_route() == ["br0", "virbr0"]).await;
        host.stop_service();
        // Somebody does not want it any more.
        std::fs::write(host.config(), "[network.br0]\nprefix = \"10.0.0.0/24\"\n[publish]\nloopback = false\n")
            .unwrap();
        host.start_service().await;
        eventually("localhost is left out", async || with_rules() == ["br0"] && that_route() == ["virbr0"]).await;
    });
}
