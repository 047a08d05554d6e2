//! What the contract promises, seen from outside: real packets, a real kernel's table, and all that goes over the bus.
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

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use host::{HOST, MANAGER, Manager, NAME, Options, ROOT, TestHost, error_of, eventually, options};
use netns::{Namespace, isolated, sh, sh_with_input};
use zbus::message::Type;
use zbus::{MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

type Publication = (String, String, String, String, u16, String, u16);

async fn publications(manager: &Manager) -> Vec<Publication> {
    manager.call("ListPublications", &()).await.unwrap().deserialize().unwrap()
}

async fn allocate(manager: &Manager, tag: &str, prefix: &str, exclude: &[&str]) -> zbus::Result<String> {
    manager.call("AllocateAddress", &(tag, prefix, exclude)).await?.deserialize()
}

async fn release(manager: &Manager, tag: &str) -> zbus::Result<String> {
    manager.call("ReleaseAddress", &(tag,)).await?.deserialize()
}

#[test]
fn leases_by_hand() {
    isolated("leases_by_hand", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (small, none) = ("10.0.0.16/29", &[][..]);
        assert_eq!(allocate(&manager, "a", small, none).await.unwrap(), "10.0.0.17");
        assert_eq!(allocate(&manager, "a", small, none).await.unwrap(), "10.0.0.17", "the same tag");
        assert_eq!(
            allocate(&manager, "a", "10.0.0.0/24", none).await.unwrap(),
            "10.0.0.17",
            "a prefix that still fits"
        );
        assert_eq!(allocate(&manager, "b", small, &["10.0.0.18", "10.0.0.19-10.0.0.20"]).await.unwrap(), "10.0.0.21");
        assert_eq!(allocate(&manager, "c", small, &["10.0.0.18/31"]).await.unwrap(), "10.0.0.20");
        // One that does not fit any more moves.
        assert_eq!(allocate(&manager, "a", small, &["10.0.0.17"]).await.unwrap(), "10.0.0.18");
        for (tag, address) in [("d", "10.0.0.19"), ("e", "10.0.0.22")] {
            assert_eq!(allocate(&manager, tag, small, none).await.unwrap(), address);
        }
        // Now all have been used once: the one released longest ago is next.
        for (tag, address) in [("e", "10.0.0.22"), ("b", "10.0.0.21")] {
            assert_eq!(release(&manager, tag).await.unwrap(), address);
        }
        for (tag, address) in [("f", "10.0.0.17"), ("g", "10.0.0.22"), ("h", "10.0.0.21")] {
            assert_eq!(allocate(&manager, tag, small, none).await.unwrap(), address);
        }
        assert_eq!(error_of(allocate(&manager, "i", small, none).await).0, "AddressPoolExhausted");
        let leases = manager.leases().await.unwrap();
        assert_eq!(leases.iter().map(|lease| lease.0.as_str()).collect::<Vec<_>>(), ["a", "c", "d", "f", "g", "h"]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
        assert!(leases.iter().all(|lease| (now - 60_000_000..=now).contains(&lease.3)), "{leases:?}");
        assert_eq!((leases[0].1.as_str(), leases[0].2.as_str()), ("10.0.0.18", small));
        assert_eq!(manager.property::<u32>(ROOT, MANAGER, "LeaseCount").await, Some(6));
        // A prefix that is no network's, and a tag with all sorts of letters.
        assert_eq!(allocate(&manager, "täg: /ü 7", "172.16.5.0/30", none).await.unwrap(), "172.16.5.1");
        assert_eq!(release(&manager, "täg: /ü 7").await.unwrap(), "172.16.5.1");
    });
}

/// A namespace on the bridge, as another unikernel would be.
fn neighbour() -> Namespace {
    let namespace = Namespace::create().unwrap();
    let pid = namespace.pid();
    sh(&format!("ip link add v{pid} type veth peer name eth0 netns {pid} && ip link set v{pid} master br0 up"));
    namespace.sh("ip address add 10.0.0.200/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.0.1");
    namespace
}

/// What a client gets over TCP; `None` where it cannot connect.
fn tcp(to: &str) -> Option<String> {
    let wait = Duration::from_secs(4);
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), wait).ok()?;
    stream.set_read_timeout(Some(wait)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.trim().to_string())
}

fn udp(to: &str) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answer = [0; 512];
    for _ in 0..2 {
        socket.send_to(b"?", to).ok()?;
        if let Ok(length) = socket.recv(&mut answer) {
            return Some(String::from_utf8_lossy(&answer[..length]).trim().to_string());
        }
    }
    None
}

#[test]
fn who_reaches_what_is_published() {
    isolated("who_reaches_what_is_published", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (first, address) = manager.deploy("web", &host.image("1", &[]), options("http:80/")).await.unwrap();
        let (second, _) = manager.deploy("web", &host.image("2", &[]), options("http:80/")).await.unwrap();
        let (to, neighbour) = (format!("{HOST}:8080"), neighbour());
        let outside = |to: &str| {
            let to = to.to_string();
            host.client.run(move || (tcp(&to), udp(&to)))
        };

        // A named one, both transports: two rows.
        let named = || Options::from([("unikernel", first.as_str().into())]);
        manager.publish("web", &[("any", 8080, 80)], named()).await.unwrap();
        let row =
            |transport: &str| ("web".into(), first.clone(), transport.into(), String::new(), 8080, address.clone(), 80);
        assert_eq!(publications(&manager).await, [row("tcp"), row("udp")]);
        let (over_tcp, over_udp) = outside(&to);
        for answer in [over_tcp.unwrap(), over_udp.unwrap()] {
            assert!(answer.starts_with("version=1 ") && answer.contains("client=192.0.2.2:"), "{answer}");
        }
        // The host itself, by each of its addresses and as localhost, and a neighbour on the unikernel's own network.
        for from_host in [&to, "10.0.0.1:8080", "127.0.0.1:8080"] {
            assert!(tcp(from_host).is_some_and(|answer| answer.starts_with("version=1 ")), "tcp {from_host}");
            assert!(udp(from_host).is_some_and(|answer| answer.starts_with("version=1 ")), "udp {from_host}");
        }
        let hairpin = to.clone();
        let answers = neighbour.run(move || (tcp(&hairpin), udp(&hairpin)));
        assert!(answers.0.is_some() && answers.1.is_some(), "{answers:?}");

        // Other ports in one call: the old ones are gone, the new ones go to the newest.
        let newest = || Options::from([("unikernel", second.as_str().into())]);
        manager.publish("web", &[("tcp", 8081, 80), ("udp", 8082, 80)], newest()).await.unwrap();
        assert_eq!(outside(&to), (None, None));
        assert!(outside(&format!("{HOST}:8081")).0.unwrap().starts_with("version=2 "));
        let (over_tcp, over_udp) = outside(&format!("{HOST}:8082"));
        assert!(over_tcp.is_none() && over_udp.unwrap().starts_with("version=2 "));

        // On one of the host's addresses only.
        let here = Options::from([("addresses", vec!["10.0.0.1"].into())]);
        manager.publish("web", &[("tcp", 8080, 80)], here).await.unwrap();
        assert_eq!(publications(&manager).await[0].3, "10.0.0.1");
        assert!(outside(&to).0.is_none() && tcp("10.0.0.1:8080").is_some());

        // For some clients only.
        let none_of_these = Options::from([("sources", vec!["198.51.100.0/24", "192.0.2.3/32"].into())]);
        manager.publish("web", &[("any", 8080, 80)], none_of_these).await.unwrap();
        assert_eq!(outside(&to), (None, None));
        let these = Options::from([("sources", vec!["198.51.100.0/24", "192.0.2.0/30"].into())]);
        manager.publish("web", &[("any", 8080, 80)], these).await.unwrap();
        let (over_tcp, over_udp) = outside(&to);
        assert!(over_tcp.is_some() && over_udp.is_some());

        manager.call("Unpublish", &("web",)).await.unwrap();
        assert_eq!((outside(&to), publications(&manager).await), ((None, None), vec![]));
        assert_eq!(host.running().len(), 2, "its unikernels go on");
        assert_eq!(error_of(manager.call("Rollback", &("web",)).await).0, "NoSuchUnikernel");
    });
}

#[test]
fn rollback_goes_there_and_back() {
    isolated("rollback_goes_there_and_back", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        for version in ["1", "2"] {
            manager.deploy("web", &host.image(version, &[]), options("http:80/")).await.unwrap();
            manager.publish("web", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        }
        for version in ["1", "2", "1"] {
            let live: OwnedObjectPath = manager.call("Rollback", &("web",)).await.unwrap().deserialize().unwrap();
            assert!(host.get(8080).unwrap().starts_with(&format!("version={version} ")));
            let shown: OwnedObjectPath = manager
                .property(&format!("{ROOT}/service/web"), "org.albatross.Deployer1.Service", "Live")
                .await
                .unwrap();
            assert_eq!(live, shown);
        }
    });
}

#[test]
fn a_drain_that_begins_anew_has_its_own_time() {
    isolated("a_drain_that_begins_anew_has_its_own_time", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let drain = |milliseconds: u64| Options::from([("drain", milliseconds.into())]);
        let (first, _) = manager.deploy("web", &host.image("1", &[]), options("http:80/")).await.unwrap();
        manager.publish("web", &[("tcp", 8080, 80)], drain(60_000)).await.unwrap();
        // A connection that stays.
        let connection = host.client.run(|| TcpStream::connect((HOST, 8080)).unwrap());
        manager.deploy("web", &host.image("2", &[]), options("http:80/")).await.unwrap();
        manager.publish("web", &[("tcp", 8080, 80)], drain(60_000)).await.unwrap();
        let path = format!("{ROOT}/unikernel/{}", first.replace('.', "_2e"));
        let unikernel = "org.albatross.Deployer1.Unikernel";
        assert_eq!(manager.property::<String>(&path, unikernel, "State").await.unwrap(), "draining");
        assert_eq!(manager.property::<u32>(&path, unikernel, "ActiveConnections").await, Some(1));
        manager.call("Rollback", &("web",)).await.unwrap();
        manager.publish("web", &[("tcp", 8080, 80)], drain(0)).await.unwrap();
        eventually("it has no time left", async || {
            manager.property::<String>(&path, unikernel, "State").await.unwrap() == "retired"
        })
        .await;
        drop(connection);
    });
}

async fn signals(manager: &Manager) -> MessageStream {
    let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace(ROOT).build().unwrap();
    MessageStream::for_match_rule(rule, &manager.0, NonZero::new(65_536)).await.unwrap()
}

/// `STATE>STATE` of each unikernel's change, switches and jobs, in the order in which they came.
async fn told(signals: &mut MessageStream) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_millis(500), signals.next()).await {
        let (header, body) = (message.header(), message.body());
        told.push(match header.member().unwrap().as_str() {
            "UnikernelStateChanged" => {
                let (_, _, old, new, _): (OwnedObjectPath, String, String, String, HashMap<String, OwnedVariant>) =
                    body.deserialize().unwrap();
                format!("{old}>{new}")
            }
            "ServiceSwitched" => {
                let (service, from, to): (String, String, String) = body.deserialize().unwrap();
                format!("{service}: {} to {}", !from.is_empty(), !to.is_empty())
            }
            "JobRemoved" => body.deserialize::<(OwnedObjectPath, String)>().unwrap().1,
            "InterfacesAdded" | "InterfacesRemoved" => {
                let path: OwnedObjectPath =
                    match body.deserialize::<(OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>)>() {
                        Ok((path, _)) => path,
                        Err(_) => body.deserialize::<(OwnedObjectPath, Vec<String>)>().unwrap().0,
                    };
                let kind = path.strip_prefix(ROOT).unwrap().split('/').nth(1).unwrap().to_string();
                format!("{}{kind}", if header.member().unwrap() == "InterfacesAdded" { '+' } else { '-' })
            }
            _ => continue,
        });
    }
    told
}

#[test]
fn what_is_told_of_a_deployment_a_switch_and_a_removal() {
    isolated("what_is_told_of_a_deployment_a_switch_and_a_removal", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut signals = signals(&manager).await;
        let (first, _) = manager.deploy("my-web.x", &host.image("1", &[]), options("http:80/")).await.unwrap();
        let deployed = told(&mut signals).await;
        assert_eq!(
            deployed,
            [
                "+job",
                "+service",
                "+unikernel",
                ">creating",
                "creating>starting",
                "starting>running",
                "running>ready",
                "-job",
                "done"
            ]
        );
        manager.publish("my-web.x", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        assert_eq!(told(&mut signals).await, ["+job", "ready>live", "my-web.x: false to true", "-job", "done"]);
        manager.deploy("my-web.x", &host.image("2", &[]), options("http:80/")).await.unwrap();
        told(&mut signals).await;
        manager.publish("my-web.x", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        let mut switched = told(&mut signals).await;
        switched.sort();
        let expected =
            ["+job", "-job", "done", "draining>retired", "live>draining", "my-web.x: true to true", "ready>live"];
        assert_eq!(switched, expected);
        manager.call("Destroy", &(&*first, Options::new())).await.unwrap();
        assert_eq!(told(&mut signals).await, ["+job", "-unikernel", "-job", "done"]);
        let failed = manager.deploy("other", &host.image("3", &["--exit=1"]), options("tcp:80")).await;
        assert_eq!(error_of(failed).0, "NotReady");
        let failed = told(&mut signals).await;
        assert_eq!(failed[failed.len() - 2..], ["-job", "failed"]);
        assert!(failed.contains(&"-unikernel".into()) && failed.contains(&"-service".into()), "{failed:?}");

        // The objects, by their escaped paths.
        let objects = Some("org.freedesktop.DBus.ObjectManager");
        let reply = manager.0.call_method(Some(NAME), ROOT, objects, "GetManagedObjects", &()).await.unwrap();
        let objects: zbus::fdo::ManagedObjects = reply.body().deserialize().unwrap();
        // Folders of the tree are there as well, without an interface of the contract.
        let ours =
            objects.iter().filter(|(_, interfaces)| interfaces.keys().any(|name| name.as_str().starts_with(NAME)));
        let mut paths = ours.map(|(path, _)| path.as_str()).filter(|path| *path != ROOT).collect::<Vec<_>>();
        paths.sort_unstable();
        assert_eq!(paths.len(), 2, "{paths:?}");
        assert_eq!(paths[0], format!("{ROOT}/service/my_2dweb_2ex"));
        assert!(paths[1].starts_with(&format!("{ROOT}/unikernel/my_2dweb_2ex_2e")), "{paths:?}");
        let all = Some("org.freedesktop.DBus.Properties");
        let unikernel = "org.albatross.Deployer1.Unikernel";
        let reply = manager.0.call_method(Some(NAME), paths[1], all, "GetAll", &(unikernel)).await.unwrap();
        let shown: HashMap<String, OwnedVariant> = reply.body().deserialize().unwrap();
        let text = |name: &str| String::try_from(shown[name].try_clone().unwrap()).unwrap();
        let dump = &host.albatross.dump()["unikernels"][0];
        assert_eq!(
            (text("State").as_str(), text("Network").as_str(), text("Address").as_str()),
            ("live", "br0", "10.0.0.3")
        );
        assert_eq!(
            (text("Id"), text("Service"), text("ExitReason")),
            (host.running().remove(0), "my-web.x".into(), String::new())
        );
        assert_eq!(
            (text("Mac"), text("ImageDigest")),
            (dump["mac"].as_str().unwrap().into(), format!("sha256:{}", dump["digest"].as_str().unwrap()))
        );
        assert_eq!(u64::try_from(shown["Memory"].try_clone().unwrap()).unwrap(), 32);
        let (created, started) =
            ["CreatedAt", "StartedAt"].map(|name| i64::try_from(shown[name].try_clone().unwrap()).unwrap()).into();
        assert!(created > 0 && started >= created - 2_000_000, "{created} {started}");
    });
}

#[test]
fn arguments_show_nowhere() {
    isolated("arguments_show_nowhere", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        host.environment.push(("RUST_LOG".into(), "trace".into()));
        host.start_service().await;
        let manager = host.manager().await;
        // All that goes over the bus but the calls, which bring the secrets along.
        let mut monitor = Command::new("busctl")
            .args([&format!("--address={}", host.bus.address), "--json=short", "monitor"])
            .args(["--match=type='signal'", "--match=type='method_return'", "--match=type='error'"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(monitor.stdout.take().unwrap());
        let traffic = std::thread::spawn(move || lines.lines().map_while(Result::ok).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(200)).await;

        let secrets = ["hunter2-hunter2", "MIIEvQIBADANBgkqhkiG9w0"];
        let with = |more: &[&str], ready: &'static str| {
            let mut arguments = host::ARGUMENTS.map(String::from).to_vec();
            arguments.extend(more.iter().map(|more| (*more).to_string()));
            HashMap::from([("args", arguments.into()), ("ready", ready.into())])
        };
        let image = host.image("1", &[]);
        // A guest prints them as they are, and one ends with them as its last words.
        let print = format!("--print=password={} key={}", secrets[0], secrets[1]);
        let quoted = format!("'{print}'");
        manager.deploy("web", &image, with(&[&quoted], "http:80/")).await.unwrap();
        manager.publish("web", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        let unknown = format!("--secret={}", secrets[0]);
        for (extra, name) in [
            (&[quoted.as_str(), "--exit=3"][..], "NotReady"),
            (&[unknown.as_str()], "NotReady"),
            (&[&format!("{}{{oops}}", secrets[0])], "InvalidArgument"),
        ] {
            let outcome = manager.deploy("web", &image, with(extra, "tcp:80")).await;
            assert_eq!(error_of(outcome).0, name);
        }
        let doomed = with(&[&quoted, "--exit-after=400:7"], "tcp:80");
        let mut doomed = doomed;
        doomed.insert("restart", "never".into());
        let (id, _) = manager.deploy("doomed", &image, doomed).await.unwrap();
        let path = format!("{ROOT}/unikernel/{}", id.replace('.', "_2e"));
        eventually("it has exited", async || {
            manager.property::<String>(&path, "org.albatross.Deployer1.Unikernel", "State").await.unwrap() == "exited"
        })
        .await;
        for object in [ROOT, &path, &format!("{ROOT}/service/web")] {
            manager
                .0
                .call_method(Some(NAME), object, Some("org.freedesktop.DBus.Introspectable"), "Introspect", &())
                .await
                .unwrap();
        }
        let objects = Some("org.freedesktop.DBus.ObjectManager");
        manager.0.call_method(Some(NAME), ROOT, objects, "GetManagedObjects", &()).await.unwrap();
        for list in ["ListLeases", "ListPublications", "ListJobs", "ExportRuleset"] {
            manager.call(list, &()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        let (traffic, log) = (traffic.join().unwrap(), host.log());
        assert!(traffic.len() > 30 && log.len() > 1000, "{} messages, {} bytes", traffic.len(), log.len());
        for secret in secrets {
            assert!(!log.contains(secret), "in the log: {:?}", log.lines().find(|line| line.contains(secret)));
            assert!(!log.contains(&secret[3..12]), "a part in the log");
            let seen = traffic.iter().find(|line| line.contains(secret));
            assert!(seen.is_none(), "on the bus: {seen:?}");
        }
    });
}

#[test]
fn the_exported_table_is_the_kernels() {
    isolated("the_exported_table_is_the_kernels", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        for (service, option) in [
            ("a", None),
            ("b", Some(("addresses", vec!["192.0.2.1", "10.0.0.1"]))),
            ("c", Some(("sources", vec!["10.0.0.0/8", "192.0.2.0/24"]))),
        ] {
            manager.deploy(service, &host.image(service, &[]), options("tcp:80")).await.unwrap();
            let port = 8000 + u16::from(service.as_bytes()[0]);
            let publication = option.into_iter().map(|(key, value)| (key, value.into())).collect();
            manager.publish(service, &[("any", port, 80)], publication).await.unwrap();
        }
        let exported: String = manager.call("ExportRuleset", &()).await.unwrap().deserialize().unwrap();
        let _: nftables::schema::Nftables<'_> = serde_json::from_str(&exported).unwrap();
        let list = "nft list table inet albatross_deployer";
        let here = sh(list);
        let elsewhere = Namespace::create().unwrap();
        let there = elsewhere.run(move || sh_with_input(&format!("nft -j -f - && {list}"), &exported));
        assert!(here.contains("8097") && here.contains("192.0.2.0/24"), "{here}");
        assert_eq!((rules(&there), elements(&there)), (rules(&here), elements(&here)));
    });
}

/// Hooks and rules in their order. The maps that rules look into stand in them when they come out of JSON.
fn rules(listing: &str) -> Vec<String> {
    let is_rule = |line: &&str| line.contains("type nat") || line.contains("type filter") || line.contains(" comment ");
    let lines = listing.lines().map(str::trim).filter(is_rule);
    lines
        .map(|line| match line.split_once(" map ") {
            Some((before, after)) => format!("{before} {}", after.split_once(" comment ").unwrap().1),
            None => line.to_string(),
        })
        .collect()
}

/// Elements of sets and maps.
fn elements(listing: &str) -> Vec<String> {
    let parts = listing.split(['{', '}', ',', '=']).map(|part| part.trim().to_string());
    let is_element =
        |part: &String| part.contains(" . ") && part.starts_with(|c: char| c.is_ascii_digit() || "tu".contains(c));
    let mut elements = parts.filter(is_element).filter(|part| !part.contains("type")).collect::<Vec<_>>();
    elements.sort();
    elements
}

#[test]
fn variants_of_the_configuration() {
    isolated("variants_of_the_configuration", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        sh("ip link add br1 type bridge && ip address add 10.1.0.1/24 dev br1 && ip link set br1 up");
        host.albatross.terminate();
        host.albatross.again();
        // Two bridges and no word about them: which one must be said.
        host.start_service().await;
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let (name, message) = error_of(manager.deploy("web", &image, options("running")).await);
        assert!(name == "InvalidArgument" && message.contains("br0 (10.0.0.0/24), br1"), "{message}");
        let on = |network: &'static str| {
            let mut on = options("tcp:80");
            on.insert("network", network.into());
            on
        };
        assert_eq!(manager.deploy("web", &image, on("br1")).await.unwrap().1, "10.1.0.2");
        host.stop_service();

        let config = "default-network = \"br1\"\n[network.br0]\nprefix = \"10.0.0.0/25\"\nexclude = [\"10.0.0.2-10.0.0.9\"]\n\
                      [network.br1]\nprefix = \"10.1.0.0/24\"\ngateway = \"10.1.0.254\"\n[publish]\nloopback = false\n\
                      drain = 100\n[albatross]\npath = \"host:web\"\n";
        std::fs::write(host.config(), config).unwrap();
        host.start_service().await;
        let manager = host.manager().await;
        assert_eq!(manager.deploy("a", &image, on("br0")).await.unwrap().1, "10.0.0.10");
        let (id, address) = manager
            .deploy(
                "b",
                &image,
                Options::from([
                    ("args", vec!["--ipv4={address}/24", "--ipv4-gateway=10.1.0.1"].into()),
                    ("ready", "tcp:80".into()),
                ]),
            )
            .await
            .unwrap();
        assert!(address.starts_with("10.1.0."), "{address}");
        assert!(host.running().contains(&format!("host:web:{id}")), "{:?}", host.running());
        manager.publish("b", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        assert!(host.get(8080).is_ok() && tcp("127.0.0.1:8080").is_none());
        host.stop_service();
        assert!(host.get(8080).is_ok(), "what is published stays while the service is away");

        for (wrong, words) in [
            ("[publish]\ndrian = 1\n", &["config.toml", "2", "drian"][..]),
            ("[network.br0]\nprefix = \"10.0.0.0\"\n", &["prefix"]),
            ("[network.br0]\nprefix = \"10.0.0.0/24\"\n[network.br1]\nprefix = \"10.0.0.0/25\"\n", &["br0", "br1"]),
            ("default-network = \"br9\"\n[network.br0]\nprefix = \"10.0.0.0/24\"\n", &["br9"]),
        ] {
            std::fs::write(host.config(), wrong).unwrap();
            let before = host.log().len();
            host.spawn_service();
            assert!(!host.wait_for_end().success());
            let said = host.log()[before..].to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{wrong}: {said}");
        }
    });
}
