//! SIGHUP: the configuration is read again, and taken over whole or refused whole.
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
#[path = "support/states.rs"]
mod states;

use std::fs;
use std::process::Command;

use host::{HOST, MANAGER, Manager, Options, ROOT, TestHost, error_of, eventually, options};
use netns::{isolated, sh};
use rustix::process::Signal;
use states::States;

const TAKEN_OVER: &str = "the configuration was read again, and holds";
const REFUSED: &str = "the configuration is not taken over, and the one before holds: ";

/// What most of these tests begin with.
const NETWORK: &str = "[network.br0]\nprefix = \"10.0.0.0/24\"\n";
/// Somebody's, as minisign writes it.
const KEY: &str = "RWShCiDeO43pLx53fHkyzTrs07sbnQivdhPaCKuL7SkxPtcC6VBxRaW8";

async fn start(configuration: &str) -> Option<TestHost> {
    let mut host = TestHost::without_service()?;
    fs::write(host.config(), configuration).unwrap();
    host.start_service().await;
    Some(host)
}

/// Lets the service read `configuration`, until its log has said so `what` once more.
async fn hang_up(host: &mut TestHost, configuration: &str, what: &str) {
    let before = host.log().matches(what).count();
    fs::write(host.config(), configuration).unwrap();
    host.signal_service(Signal::HUP);
    eventually(what, async || host.log().matches(what).count() > before).await;
    assert!(host.is_running());
}

async fn reload(host: &mut TestHost, configuration: &str) {
    hang_up(host, configuration, TAKEN_OVER).await;
}

async fn degraded(manager: &Manager) -> Vec<String> {
    manager.property(ROOT, MANAGER, "Degraded").await.unwrap()
}

async fn publish(manager: &Manager, id: &str) {
    let wanted = Options::from([("unikernel", id.into())]);
    manager.publish("website", &[("tcp", 8080, 80)], wanted).await.unwrap();
}

/// Two versions that were published one after the other; their ids.
async fn two_versions(host: &TestHost, manager: &Manager) -> [String; 2] {
    let mut ids = Vec::new();
    for version in ["1", "2"] {
        let mut rule = options("http:80/");
        rule.insert("restart", "never".into());
        let (id, _) = manager.deploy("website", &host.image(version, &[]), rule).await.unwrap();
        publish(manager, &id).await;
        ids.push(id);
    }
    ids.try_into().unwrap()
}

fn table() -> String {
    sh("nft list table inet albatross_deployer")
}

#[test]
fn a_network_that_is_added_can_be_used_and_one_without_leases_goes() {
    isolated("a_network_that_is_added_can_be_used_and_one_without_leases_goes", |_| async {
        sh("ip link add br1 type bridge && ip address add 10.1.0.1/24 dev br1 && ip link set br1 up");
        let Some(mut host) = start(NETWORK).await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &[]);
        let on = |name: &'static str| {
            let mut options = options("running");
            options.insert("network", name.into());
            options
        };
        assert_eq!(error_of(manager.deploy("website", &image, on("br1")).await).0, "InvalidArgument");
        reload(&mut host, &format!("default-network = \"br1\"\n{NETWORK}[network.br1]\nprefix = \"10.1.0.0/24\"\n"))
            .await;
        let (id, address) = manager.deploy("website", &image, options("running")).await.unwrap();
        assert!(address.starts_with("10.1.0."), "{address}");
        assert_ne!(address, "10.1.0.1", "the host's own address is found as at a start");
        eventually("the table has the rules of br1", async || table().contains("10.1.0.0/24")).await;
        // Nothing is leased on the other.
        reload(&mut host, "[network.br1]\nprefix = \"10.1.0.0/24\"\nexclude = [\"10.1.0.3-10.1.0.99\"]\n").await;
        assert!(!table().contains("10.0.0.0/24"), "{}", table());
        assert_eq!(error_of(manager.deploy("website", &image, on("br0")).await).0, "InvalidArgument");
        manager.call("Destroy", &(&id, Options::new())).await.unwrap();
    });
}

#[test]
fn the_time_to_drain_and_what_localhost_gets() {
    isolated("the_time_to_drain_and_what_localhost_gets", |_| async {
        let Some(mut host) = start("[publish]\ndrain = 86400000\n").await else { return };
        let manager = host.manager().await;
        let (first, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        publish(&manager, &first).await;
        let (second, _) = manager.deploy("website", &host.image("2", &[]), options("http:80/")).await.unwrap();
        let _open = host.client.run(|| std::net::TcpStream::connect((HOST, 8080)).unwrap());
        let localhost = || sh("curl --silent --max-time 5 http://127.0.0.1:8080/ || true");
        eventually("localhost is answered", async || localhost().contains("version=1")).await;
        reload(&mut host, "[publish]\ndrain = 100\nloopback = false\n").await;
        assert!(!localhost().contains("version"), "{}", localhost());
        let mut states = States::watch(&manager.0).await;
        publish(&manager, &second).await;
        states.until(&first, "retired").await;
        reload(&mut host, "").await;
        eventually("localhost is answered again", async || localhost().contains("version=2")).await;
    });
}

#[test]
fn limits_and_keys_of_images_and_the_engines_socket() {
    isolated("limits_and_keys_of_images_and_the_engines_socket", |_| async {
        let Some(mut host) = start("").await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &[]);
        let deployed = async || manager.deploy("website", &image, options("running")).await;
        reload(&mut host, &format!("[images]\nkeys = [\"{KEY}\"]\n")).await;
        let (name, message) = error_of(deployed().await);
        assert_eq!((name.as_str(), message.contains("images.keys")), ("ImageInvalid", true), "{message}");
        reload(&mut host, "[limits]\nimage-size = 1000\n").await;
        assert_eq!(error_of(deployed().await).0, "ImageTooLarge");
        reload(&mut host, "[limits]\nstore-size = 1000\n").await;
        let (name, message) = error_of(deployed().await);
        assert!(message.contains("limits.store-size"), "{name}: {message}");
        reload(&mut host, "[images]\ndocker-socket = \"/somewhere/else.sock\"\n").await;
        let of_engine = manager.deploy("website", "docker-daemon:website", options("running")).await;
        let (name, message) = error_of(of_engine);
        assert_eq!((name.as_str(), message.contains("/somewhere/else.sock")), ("ImageUnavailable", true), "{message}");
        reload(&mut host, "[git]\nssh-key = \"/somewhere/key\"\n[images]\nauth-file = \"/somewhere/auth.json\"\n")
            .await;
        let of_registry = manager.deploy("website", "docker://127.0.0.1:1/website", options("running")).await;
        let (name, message) = error_of(of_registry);
        assert_eq!((name.as_str(), message.contains("/somewhere/auth.json")), ("ImageUnavailable", true), "{message}");
        // What has ended is listed as long as that is wanted.
        let jobs = async || {
            let jobs = manager.call("ListJobs", &()).await.unwrap();
            jobs.deserialize::<Vec<(zbus::OwnedObjectPath, String, String, String)>>().unwrap().len()
        };
        assert!(jobs().await >= 4);
        reload(&mut host, "[limits]\njob-history = 1\n").await;
        assert_eq!(jobs().await, 1);
        deployed().await.unwrap();
    });
}

#[test]
fn deployments_at_a_time_and_the_patience_with_albatross() {
    isolated("deployments_at_a_time_and_the_patience_with_albatross", |_| async {
        let Some(mut host) = start("[limits]\nconcurrent-deploys = 1\n").await else { return };
        let manager = host.manager().await;
        // It waits for what never comes, and holds the only place.
        let never = host.image("held", &[]);
        let waiting = Manager(host.bus.patient_client(600).await);
        let waits = tokio::spawn(async move {
            let mut rule = options("console:^never said$");
            rule.insert("timeout", 3_600_000u64.into());
            waiting.deploy("held", &never, rule).await
        });
        eventually("it runs", async || !host.running().is_empty()).await;
        reload(&mut host, "[limits]\nconcurrent-deploys = 2\n").await;
        manager.deploy("website", &host.image("1", &[]), options("running")).await.unwrap();
        manager.cancel("waiting").await;
        assert_eq!(error_of(waits.await.unwrap()).0, "Cancelled");
        // Albatross takes its time, and then nobody waits for it any more.
        reload(&mut host, "[albatross]\ndeadline = 100\n").await;
        host.albatross.control("delay 2000");
        let late = manager.deploy("website", &host.image("2", &[]), options("running")).await;
        assert_eq!(error_of(late).0, "AlbatrossUnavailable");
        host.albatross.control("delay 0");
        reload(&mut host, "").await;
        eventually("it is patient again", async || {
            manager.deploy("website", &host.image("2", &[]), options("running")).await.is_ok()
        })
        .await;
    });
}

#[test]
fn what_stays_for_a_rollback_and_what_follows_a_death() {
    isolated("what_stays_for_a_rollback_and_what_follows_a_death", |_| async {
        let Some(mut host) = start("").await else { return };
        let manager = host.manager().await;
        let [first, second] = two_versions(&host, &manager).await;
        let dry = || Options::from([("dry-run", true.into())]);
        assert!(manager.collect(dry()).await.unwrap().is_empty());
        reload(&mut host, "[collect]\nkeep-previous = 0\n").await;
        eventually("it would be collected", async || {
            manager.collect(dry()).await.unwrap().contains(&("unikernel".into(), first.clone()))
        })
        .await;
        reload(&mut host, "[publish]\nfall-back = true\n").await;
        let mut states = States::watch(&manager.0).await;
        host.albatross.control(&format!("kill {second}"));
        states.until(&first, "live").await;
        let (third, _) = manager.deploy("website", &host.image("3", &[]), options("http:80/")).await.unwrap();
        publish(&manager, &third).await;
        assert!(host.running().contains(&first));
        reload(&mut host, "[collect]\nkeep-previous = 0\nautomatic = true\n").await;
        eventually("what was live before is collected by itself", async || host.running() == [third.as_str()]).await;
    });
}

#[test]
fn whose_calls_are_taken() {
    isolated("whose_calls_are_taken", |_| async {
        if !rustix::process::geteuid().is_root() || std::env::var_os("ALBATROSS_TEST_IN_USER_NAMESPACE").is_some() {
            return println!("SKIPPED: only root can call as somebody else");
        }
        let Some(mut host) = TestHost::without_service_on(private_bus::OPEN, None) else { return };
        fs::write(host.config(), "[access]\ngroup = \"games\"\n").unwrap();
        host.start_service().await;
        // `games` and `users` are 60 and 100 on every Debian.
        let call = |gid: u32, address: String| {
            let mut call = Command::new("setpriv");
            call.args(["--reuid=65534", &format!("--regid={gid}"), "--clear-groups", "busctl"]);
            call.arg(format!("--address={address}"));
            call.args(["call", host::NAME, ROOT, MANAGER, "ReleaseAddress", "s", "nobody"]);
            String::from_utf8_lossy(&call.output().unwrap().stderr).into_owned()
        };
        let refused = async |host: &TestHost, gid| {
            let address = host.bus.address.clone();
            let said = tokio::task::spawn_blocking(move || call(gid, address)).await.unwrap();
            assert!(said.contains("may not call") != said.contains("no lease"), "{said}");
            said.contains("may not call")
        };
        assert_eq!((refused(&host, 60).await, refused(&host, 100).await), (false, true));
        reload(&mut host, "[access]\ngroup = \"users\"\n").await;
        assert_eq!((refused(&host, 60).await, refused(&host, 100).await), (true, false));
    });
}

#[test]
fn what_is_refused_changes_nothing_and_says_where() {
    isolated("what_is_refused_changes_nothing_and_says_where", |_| async {
        let Some(mut host) = start(NETWORK).await else { return };
        let manager = host.manager().await;
        let (id, address) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        publish(&manager, &id).await;
        eventually("all is well", async || degraded(&manager).await.is_empty()).await;
        let (before, good) = (table(), NETWORK);
        let unikernel = format!("{id} ({address})");
        for (text, place, because) in [
            ("[limits]\njob-history = 1\nimage-siz = 1\n", "config.toml:3: limits.image-siz", "unknown key"),
            (
                "[publish]\nloopback = false\ndrain = \"long\"\n",
                "config.toml:3: publish.drain",
                "expected milliseconds",
            ),
            ("[publish\n", "config.toml:1: ", "]"),
            (
                "default-network = \"br7\"\n[network.br0]\nprefix = \"10.0.0.0/24\"\n",
                "config.toml:1: default-network",
                "",
            ),
            // What is leased keeps its network, whatever else is right.
            ("[network.br1]\nprefix = \"10.0.0.0/24\"\n", "config.toml:1: network.br0", unikernel.as_str()),
            ("\n[network.br0]\nprefix = \"10.9.0.0/24\"\n", "config.toml:3: network.br0.prefix", &unikernel),
            ("[albatross]\npath = \"other\"\n", "config.toml:2: albatross.path", "restart the service for this"),
        ] {
            hang_up(&mut host, text, REFUSED).await;
            let log = host.log();
            let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
            assert!(line.contains("ERROR") && line.contains(place) && line.contains(because), "{place}: {line}");
            eventually("it is known to be refused", async || {
                degraded(&manager).await.iter().any(|note| note.contains(place))
            })
            .await;
            assert_eq!(table(), before, "{place}");
            assert!(host.get(8080).unwrap().starts_with("version=1"), "{place}");
        }
        // Nor what the refused files had right: the jobs are still listed, as by default.
        manager.deploy("website", &host.image("2", &[]), options("http:80/")).await.unwrap();
        reload(&mut host, good).await;
        eventually("it is taken over", async || degraded(&manager).await.is_empty()).await;
    });
}

#[test]
fn a_file_that_is_gone_is_the_defaults_and_one_that_cannot_be_read_is_refused() {
    isolated("a_file_that_is_gone_is_the_defaults_and_one_that_cannot_be_read_is_refused", |_| async {
        let Some(mut host) = start("[limits]\nimage-size = 1000\n").await else { return };
        let manager = host.manager().await;
        let fragments = host.directory.path().join("config.toml.d");
        fs::write(&fragments, "no folder").unwrap();
        hang_up(&mut host, "", REFUSED).await;
        let deployed = async || manager.deploy("website", &host.image("1", &[]), options("running")).await;
        assert_eq!(error_of(deployed().await).0, "ImageTooLarge");
        fs::remove_file(&fragments).unwrap();
        fs::remove_file(host.config()).unwrap();
        let before = host.log().matches(TAKEN_OVER).count();
        host.signal_service(Signal::HUP);
        eventually("it is taken over", async || host.log().matches(TAKEN_OVER).count() > before).await;
        deployed().await.unwrap();
    });
}

#[test]
fn calls_that_work_go_on() {
    isolated("calls_that_work_go_on", |_| async {
        let Some(mut host) = start(NETWORK).await else { return };
        let manager = host.manager().await;
        let (first, _) = manager.deploy("website", &host.image("0", &[]), options("http:80/")).await.unwrap();
        publish(&manager, &first).await;
        let images = (1..=6).map(|version| host.image(&version.to_string(), &[])).collect::<Vec<_>>();
        let calls = tokio::spawn(async move {
            for image in images {
                let (id, _) = manager.deploy("website", &image, options("http:80/")).await.unwrap();
                publish(&manager, &id).await;
                manager.collect(Options::new()).await.unwrap();
            }
        });
        let mut loopback = true;
        while !calls.is_finished() {
            // Good ones, each with another table, and bad ones.
            loopback = !loopback;
            fs::write(host.config(), format!("[publish]\nloopback = {loopback}\n{NETWORK}")).unwrap();
            host.signal_service(Signal::HUP);
            assert!(host.get(8080).unwrap().starts_with("version="));
            fs::write(host.config(), "[publish]\nloopback = 1\n").unwrap();
            host.signal_service(Signal::HUP);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        calls.await.unwrap();
        reload(&mut host, NETWORK).await;
        assert!(host.get(8080).unwrap().starts_with("version=6"));
    });
}

#[test]
fn systemd_is_told_of_the_beginning_and_the_end() {
    isolated("systemd_is_told_of_the_beginning_and_the_end", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        let path = host.directory.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        host.environment.push(("NOTIFY_SOCKET".into(), path.display().to_string()));
        host.start_service().await;
        let told = async || {
            let mut message = vec![0; 4096];
            let size = tokio::time::timeout(host::PATIENCE, socket.recv(&mut message)).await.unwrap().unwrap();
            String::from_utf8_lossy(&message[..size]).into_owned()
        };
        assert_eq!(told().await, "READY=1\n");
        for (text, status) in [("", "STATUS=\n"), ("nonsense = 1\n", "STATUS=Configuration refused: ")] {
            fs::write(host.config(), text).unwrap();
            host.signal_service(Signal::HUP);
            let begins = told().await;
            assert!(begins.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begins}");
            let ends = told().await;
            assert!(ends.starts_with(&format!("READY=1\n{status}")), "{ends}");
        }
        host.stop_service();
        assert_eq!(told().await, "STOPPING=1\n");
    });
}
