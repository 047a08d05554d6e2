//! Ports and tables of others: what listens on the host, who may publish which port, whose translation comes first, and on
//! which addresses nothing can be published.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};

use host::{HOST, MANAGER, Manager, NAME, Options, ROOT, TestHost, error_of, eventually, options};
use netns::{isolated, sh};

/// Nobody's: it may call what members of this group may.
const MEMBER: u32 = 65534;

/// A process that the service may look into: of the same user, without any capability. So it takes ports from 1024 on.
struct Daemon(Child);

impl Daemon {
    fn listen(address: &str, port: u16) -> Self {
        let script = format!(
            "import socket\ns = socket.create_server(('{address}', {port}), dualstack_ipv6='{address}' == '::', \
             family=socket.AF_INET6 if ':' in '{address}' else socket.AF_INET)\nprint('listens', flush=True)\n\
             while True: s.accept()[0].close()"
        );
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "python3", "-c", &script]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listens\n");
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host with `configuration`, on which website runs and nothing is published.
async fn with_website(configuration: &str) -> Option<(TestHost, Manager)> {
    let mut host = TestHost::without_service_on(private_bus::OPEN, None)?;
    std::fs::write(host.config(), configuration).unwrap();
    host.start_service().await;
    let manager = host.manager().await;
    manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
    Some((host, manager))
}

async fn degraded(manager: &Manager) -> Vec<String> {
    manager.property(ROOT, MANAGER, "Degraded").await.unwrap()
}

async fn publications(manager: &Manager) -> usize {
    let rows: Vec<(String, String, String, String, u16, String, u16)> =
        manager.call("ListPublications", &()).await.unwrap().deserialize().unwrap();
    rows.len()
}

fn on(address: &'static str) -> Options<'static> {
    Options::from([("addresses", vec![address].into())])
}

/// Makes the service look at the host. By itself it does so every 30 s, and the tests are not to wait for that.
fn poke() {
    sh("ip address replace 198.51.100.7/32 dev lo && ip address delete 198.51.100.7/32 dev lo");
}

async fn eventually_degraded(manager: &Manager, words: &[&str], wanted: bool) {
    eventually(&format!("{words:?} in Degraded: {wanted}"), async || {
        poke();
        let notes = degraded(manager).await;
        notes.iter().any(|note| words.iter().all(|word| note.contains(word))) == wanted
    })
    .await;
}

#[test]
fn a_port_on_which_a_process_listens_is_not_taken() {
    isolated("a_port_on_which_a_process_listens_is_not_taken", |_| async {
        let Some((host, manager)) = with_website("").await else { return };
        let tcp = |address: &str| TcpListener::bind(address).unwrap();
        let _everywhere = tcp("0.0.0.0:1022");
        let _both_families = tcp("[::]:1023");
        let _mapped = tcp("[::ffff:192.0.2.1]:1024");
        let _localhost = tcp("127.0.0.1:1025");
        let _resolver = UdpSocket::bind("127.0.0.53:53").unwrap();
        let _ipv6 = tcp("[::1]:1026");
        let _dual_stack = UdpSocket::bind("[::]:1028").unwrap();
        let _ipv6_resolver = UdpSocket::bind("[::1]:1029").unwrap();
        let client = UdpSocket::bind("0.0.0.0:1027").unwrap();
        client.connect("192.0.2.2:53").unwrap();
        for (ports, options, word) in [
            (("tcp", 1022, 80), Options::new(), "tcp port 1022"),
            (("any", 1022, 80), on(HOST), "tcp port 1022 on 192.0.2.1"),
            (("tcp", 1022, 80), on("127.0.0.1"), "tcp port 1022 on 127.0.0.1"),
            (("tcp", 1023, 80), Options::new(), "tcp port 1023"),
            (("tcp", 1023, 80), on(HOST), "tcp port 1023 on 192.0.2.1"),
            (("tcp", 1024, 80), on(HOST), "tcp port 1024 on 192.0.2.1"),
            (("tcp", 1025, 80), Options::new(), "tcp port 1025"),
            (("tcp", 1025, 80), on("127.0.0.1"), "tcp port 1025 on 127.0.0.1"),
            (("udp", 53, 80), on("127.0.0.53"), "udp port 53 on 127.0.0.53"),
            (("udp", 53, 80), Options::new(), "udp port 53"),
            (("udp", 1028, 80), Options::new(), "udp port 1028"),
            (("udp", 1028, 80), on(HOST), "udp port 1028 on 192.0.2.1"),
        ] {
            let (kind, message) = error_of(manager.publish("website", &[ports], options).await);
            assert_eq!(kind, "PortConflict", "{message}");
            assert!(message.contains(word) && message.contains("take-over"), "{message}");
        }
        assert_eq!(publications(&manager).await, 0);
        assert!(host.elements("ports4").is_empty() && host.elements("ports4_on").is_empty());
        // Those have clients of their own, whatever is published.
        for (ports, options) in [
            (("udp", 1022, 80), Options::new()),
            (("tcp", 1024, 80), on("10.0.0.1")),
            (("tcp", 1025, 80), on(HOST)),
            (("tcp", 53, 80), on("127.0.0.53")),
            (("udp", 53, 80), on("127.0.0.54")),
            (("tcp", 1026, 80), Options::new()),
            (("udp", 1027, 80), Options::new()),
            (("udp", 1029, 80), Options::new()),
        ] {
            manager.publish("website", &[ports], options).await.unwrap();
        }
    });
}

#[test]
fn the_process_is_named_and_its_port_taken_where_the_configuration_says_so() {
    isolated("the_process_is_named_and_its_port_taken_where_the_configuration_says_so", |_| async {
        let Some((host, manager)) = with_website("[publish]\ntake-over = [\"2023/tcp\"]\n").await else { return };
        let _daemon = Daemon::listen("::", 2022);
        let _other = Daemon::listen("0.0.0.0", 2023);
        let (kind, message) = error_of(manager.publish("website", &[("tcp", 2022, 80)], Options::new()).await);
        assert_eq!(kind, "PortConflict");
        assert!(message.contains("python3 (process "), "{message}");
        assert!(message.contains("take-over = [\"2022/tcp\"]"), "{message}");
        manager.publish("website", &[("tcp", 2023, 80)], Options::new()).await.unwrap();
        assert!(host.get(2023).unwrap().contains("version=1"));
        poke();
        assert!(!degraded(&manager).await.iter().any(|note| note.contains("2023")));
    });
}

#[test]
fn a_listener_that_comes_later_shows_until_it_goes() {
    isolated("a_listener_that_comes_later_shows_until_it_goes", |_| async {
        let Some((host, manager)) = with_website("").await else { return };
        manager.publish("website", &[("tcp", 2022, 80)], Options::new()).await.unwrap();
        let daemon = Daemon::listen("0.0.0.0", 2022);
        eventually_degraded(&manager, &["tcp port 2022 (python3 (process ", "Stop it"], true).await;
        assert!(host.get(2022).unwrap().contains("version=1"));
        // What adds no port is not refused for it: the next version, a rollback, other sources.
        manager.deploy("website", &host.image("2", &[]), options("tcp:80")).await.unwrap();
        manager.publish("website", &[("tcp", 2022, 80)], Options::new()).await.unwrap();
        manager.call("Rollback", &("website",)).await.unwrap();
        drop(daemon);
        eventually_degraded(&manager, &["tcp port 2022"], false).await;
        // Nor is it there any longer than the port is published.
        let _daemon = Daemon::listen("0.0.0.0", 2022);
        eventually_degraded(&manager, &["tcp port 2022"], true).await;
        manager.call("Unpublish", &("website",)).await.unwrap();
        eventually("nothing of it in Degraded", async || {
            !degraded(&manager).await.iter().any(|note| note.contains("tcp port 2022"))
        })
        .await;
        let (kind, _) = error_of(manager.publish("website", &[("tcp", 2022, 80)], Options::new()).await);
        assert_eq!(kind, "PortConflict");
    });
}

#[test]
fn a_stack_takes_no_port_on_which_a_process_listens() {
    isolated("a_stack_takes_no_port_on_which_a_process_listens", |_| async {
        let Some((host, manager)) = with_website("").await else { return };
        let manifest = |ports: &str| {
            let image = host.image("1", &[]);
            format!(
                "stack = \"mail\"\nargs = {:?}\n[service.entry]\nimage = {image:?}\nready = \"tcp:80\"\n{ports}\n",
                host::ARGUMENTS
            )
        };
        let apply = async |ports: &str| manager.call("Apply", &(manifest(ports), Options::new())).await;
        let daemon = TcpListener::bind("0.0.0.0:1022").unwrap();
        let before = host.running();
        for ports in ["ports = [\"1022:80\"]", "ports = [\"1023:80\"]\nstaged = [\"1022:80\"]"] {
            let (kind, message) = error_of(apply(ports).await);
            assert_eq!((kind.as_str(), message.contains("tcp port 1022")), ("PortConflict", true), "{message}");
        }
        let (kind, message) = error_of(apply("ports = [\"1023:80\"]\naddresses = [\"192.0.2.9\"]").await);
        assert_eq!(kind, "InvalidArgument");
        assert!(message.contains("member entry") && message.contains("192.0.2.9"), "{message}");
        assert_eq!(host.running(), before, "nothing is started for what can never go live");
        drop(daemon);
        apply("ports = [\"1022:80\"]").await.unwrap();
        // It listens again when the chain is to go live.
        let daemon = TcpListener::bind("0.0.0.0:1022").unwrap();
        let (kind, _) = error_of(manager.call("Activate", &("mail",)).await);
        assert_eq!((kind.as_str(), publications(&manager).await), ("PortConflict", 0));
        drop(daemon);
        manager.call("Activate", &("mail",)).await.unwrap();
        assert!(host.get(1022).unwrap().contains("version=1"));
    });
}

/// What busctl says when a member of the group calls.
async fn as_member(host: &TestHost, arguments: &[&str]) -> Result<(), String> {
    let group = uzers::get_group_by_name("daemon").unwrap().gid();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={MEMBER}"), format!("--regid={group}"), "--clear-groups".into(), "busctl".into()]);
    command.args([&format!("--address={}", host.bus.address), "call", "--", NAME, ROOT, MANAGER]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn who_is_not_root_publishes_what_the_configuration_allows() {
    let name = "who_is_not_root_publishes_what_the_configuration_allows";
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: {name}: only root can call as somebody else");
    }
    isolated(name, |_| async {
        let configuration = "[access]\ngroup = \"daemon\"\n[publish]\nports = [\"80/tcp\", \"1024-65535\"]\n";
        let Some((host, manager)) = with_website(configuration).await else { return };
        let publish = async |protocol, port| {
            let arguments = ["Publish", "sa(sqq)a{sv}", "website", "1", protocol, port, "80", "0"];
            as_member(&host, &arguments).await
        };
        for (protocol, port) in [("tcp", "22"), ("udp", "80"), ("any", "80"), ("tcp", "1023")] {
            let refused = publish(protocol, port).await.unwrap_err();
            assert!(refused.contains("may not publish") && refused.contains("80/tcp, 1024-65535"), "{refused}");
        }
        assert_eq!(publications(&manager).await, 0);
        publish("tcp", "80").await.unwrap();
        publish("any", "8080").await.unwrap();

        let image = host.image("1", &[]);
        for path in [host.directory.path(), image.as_ref()] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let manifest = |ports: &str| {
            format!(
                "stack = \"mail\"\nargs = {:?}\n[service.entry]\nimage = {image:?}\nready = \"tcp:80\"\n{ports}\n",
                host::ARGUMENTS
            )
        };
        for ports in ["ports = [\"25:80\"]", "ports = [\"2525:80\"]\nstaged = [\"25:80\"]"] {
            let refused = as_member(&host, &["Apply", "sa{sv}", &manifest(ports), "0"]).await.unwrap_err();
            assert!(refused.contains("member entry") && refused.contains("may not publish tcp port 25"), "{refused}");
        }
        as_member(&host, &["Apply", "sa{sv}", &manifest("ports = [\"2525:80\"]"), "0"]).await.unwrap();
        // Nor does it go live, or back, by them what root has applied.
        let root_applies = async |ports: &str| manager.call("Apply", &(manifest(ports), Options::new())).await.unwrap();
        let moves = async |method| as_member(&host, &[method, "s", "mail"]).await;
        moves("Activate").await.unwrap();
        root_applies("ports = [\"25:80\"]").await;
        let refused = moves("Activate").await.unwrap_err();
        assert!(refused.contains("member entry") && refused.contains("may not publish tcp port 25"), "{refused}");
        manager.call("Activate", &("mail",)).await.unwrap();
        moves("RollbackStack").await.unwrap();
        let refused = moves("RollbackStack").await.unwrap_err();
        assert!(refused.contains("may not publish tcp port 25"), "{refused}");
        // Root is not bound by it.
        manager.publish("website", &[("tcp", 22, 80)], Options::new()).await.unwrap();
    });
}

#[test]
fn addresses_are_the_hosts_own() {
    isolated("addresses_are_the_hosts_own", |_| async {
        let Some((host, manager)) = with_website("").await else { return };
        let sources = |prefix: &'static str| Options::from([("sources", vec![prefix].into())]);
        for (options, words) in [
            (on("192.0.2.9"), &["192.0.2.9", "not an address of this host", "10.0.0.1, 127.0.0.1, 192.0.2.1"][..]),
            (on("::1"), &["::1", "IPv4 alone"]),
            (on("::ffff:192.0.2.1"), &["::ffff:192.0.2.1", "write it as IPv4"]),
            (sources("2001:db8::/32"), &["2001:db8::/32", "IPv4 alone"]),
        ] {
            let (kind, message) = error_of(manager.publish("website", &[("tcp", 80, 80)], options).await);
            assert_eq!(kind, "InvalidArgument", "{message}");
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        assert_eq!(publications(&manager).await, 0);
        // One that was added a moment ago is its own; one that is lost is named until it is back.
        sh("ip address add 203.0.113.1/32 dev lo");
        manager.publish("website", &[("tcp", 80, 80)], on("203.0.113.1")).await.unwrap();
        assert!(!degraded(&manager).await.iter().any(|note| note.contains("203.0.113.1")));
        sh("ip address delete 203.0.113.1/32 dev lo");
        eventually_degraded(&manager, &["website on 203.0.113.1"], true).await;
        sh("ip address add 203.0.113.1/32 dev lo");
        eventually_degraded(&manager, &["website on 203.0.113.1"], false).await;
        drop(host);
    });
}

/// What `nft` calls other tables' translations of TCP port 8080, in the forms that there are.
const OTHERS: [(&str, &str); 7] = [
    (
        "nft -f - <<END
table ip other {
  chain before { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 10.0.0.99:80; }
}
END",
        "table ip other, chain before",
    ),
    (
        "nft -f - <<END
table inet other {
  chain before { type nat hook prerouting priority dstnat; meta nfproto ipv4 tcp dport { 443, 8000-8100 } redirect to :81; }
}
END",
        "table inet other, chain before",
    ),
    (
        "nft -f - <<END
table ip other {
  chain web { dnat to 10.0.0.99; }
  chain before { type nat hook prerouting priority dstnat; tcp dport vmap { 8080 : jump web, 22 : accept }; }
}
END",
        "table ip other, chain web",
    ),
    (
        "nft -f - <<END
table ip other {
  map ports { type inet_service : ipv4_addr; elements = { 8080 : 10.0.0.99, 22 : 10.0.0.98 }; }
  chain before { type nat hook prerouting priority dstnat; dnat to tcp dport map @ports; }
}
END",
        "table ip other, chain before",
    ),
    // As Docker does.
    (
        "iptables-nft -t nat -N DOCKER
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.99:80",
        "table ip nat, chain DOCKER",
    ),
    (
        "iptables-nft -t nat -A PREROUTING -p tcp -m multiport --dports 22,8000:8100 -j DNAT --to-destination 10.0.0.99",
        "table ip nat, chain PREROUTING",
    ),
    (
        "iptables-nft -t nat -A OUTPUT -d 127.0.0.1 -p tcp --dport 8000:8100 -j REDIRECT --to-ports 81",
        "table ip nat, chain OUTPUT",
    ),
];

/// Ours comes first, whichever was there first, and the other one is named until it is gone.
#[test]
fn another_translation_of_a_published_port_is_named_and_does_not_win() {
    isolated("another_translation_of_a_published_port_is_named_and_does_not_win", |_| async {
        let Some((mut host, manager)) = with_website("").await else { return };
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        for (script, words) in OTHERS {
            sh(script);
            eventually_degraded(&manager, &["tcp port 8080 by", words], true).await;
            assert!(host.get(8080).unwrap().contains("version=1"), "{script}");
            sh("nft delete table ip nat 2> /dev/null || true; nft delete table ip other 2> /dev/null || true; \
                nft delete table inet other 2> /dev/null || true");
            eventually_degraded(&manager, &["tcp port 8080 by"], false).await;
        }
        // What concerns another port, another address or another protocol is no matter of ours.
        sh("nft -f - <<END
table ip other {
  chain before {
    type nat hook prerouting priority dstnat;
    tcp dport 8081 dnat to 10.0.0.99:80
    udp dport 8080 dnat to 10.0.0.99:80
    ip daddr 203.0.113.9 tcp dport 8080 dnat to 10.0.0.99:80
    ip daddr . tcp dport { 203.0.113.9 . 8080 } dnat to 10.0.0.99:80
  }
  chain after { type nat hook postrouting priority srcnat; tcp dport 8080 masquerade; }
}
END");
        manager.publish("website", &[("tcp", 8080, 80), ("tcp", 8081, 80)], Options::new()).await.unwrap();
        eventually_degraded(&manager, &["tcp port 8081 by table ip other, chain before"], true).await;
        assert!(!degraded(&manager).await.iter().any(|note| note.contains("port 8080 by")));
        // And where the other one was there before the service.
        host.kill_service();
        sh("nft delete table ip other; nft delete table inet albatross_deployer 2> /dev/null || true");
        sh(OTHERS[0].0);
        sh("iptables-nft -t nat -A PREROUTING -p tcp -m multiport --dports 22,25 -j DNAT --to-destination 10.0.0.99");
        host.start_service().await;
        eventually("ours comes first", async || host.get(8080).is_ok_and(|body| body.contains("version=1"))).await;
        let manager = host.manager().await;
        eventually_degraded(&manager, &["tcp port 8080 by table ip other, chain before"], true).await;
        assert!(!degraded(&manager).await.iter().any(|note| note.contains("table ip nat")), "others of a list");
    });
}
