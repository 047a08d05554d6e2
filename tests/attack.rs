//! Clients in crowds, and clients that mean no good: afterwards everything fits together, and nothing has grown.
//!
//! `ATTACK_SECONDS` makes the races longer than the few seconds that they take by default.
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

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use host::{AT_ONCE, MANAGER, Manager, NAME, Options, PATIENCE, ROOT, TestHost, error_of, eventually, options};
use netns::isolated;
use zbus::Variant;

type Publication = (String, String, String, String, u16, String, u16);

/// What the service takes of the machine.
#[derive(Debug, Clone, Copy)]
struct Footprint {
    kib: u64,
    descriptors: usize,
    threads: usize,
}

fn footprint(host: &TestHost) -> Footprint {
    let process = format!("/proc/{}", host.service_pid());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Footprint {
        kib: kib.trim().trim_end_matches(" kB").parse().unwrap(),
        descriptors: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
        threads: std::fs::read_dir(format!("{process}/task")).unwrap().count(),
    }
}

/// Waits for threads of the pool and connections to end, and compares.
async fn assert_not_grown(host: &TestHost, before: Footprint, kib: u64) {
    let fits = |now: Footprint| {
        now.kib < before.kib + kib && now.descriptors <= before.descriptors + 4 && now.threads <= before.threads + 2
    };
    let end = Instant::now() + PATIENCE;
    while !fits(footprint(host)) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let now = footprint(host);
    println!("before {before:?}, after {now:?}");
    assert!(fits(now), "before {before:?}, after {now:?}");
}

async fn publications(manager: &Manager) -> Vec<Publication> {
    manager.call("ListPublications", &()).await.unwrap().deserialize().unwrap()
}

/// What must hold whenever nothing is under way.
async fn assert_consistent(host: &TestHost, manager: &Manager) {
    let running = host.running();
    let leases = manager.leases().await.unwrap();
    let addresses = leases.iter().map(|lease| lease.1.as_str()).collect::<BTreeSet<_>>();
    assert_eq!(addresses.len(), leases.len(), "an address twice: {leases:?}");
    let tags = leases.iter().map(|lease| lease.0.clone()).collect::<Vec<_>>();
    assert_eq!(tags, running, "each that runs has a lease, and no other");
    let by_tag = leases.iter().map(|lease| (lease.0.as_str(), lease.1.as_str())).collect::<BTreeMap<_, _>>();
    let published = publications(manager).await;
    for row in &published {
        assert_eq!(by_tag.get(row.1.as_str()), Some(&row.5.as_str()), "{row:?} goes to one that runs");
    }
    assert_eq!(host.elements("ports4").len(), published.len());
    assert_eq!(manager.property::<u32>(ROOT, MANAGER, "UnikernelCount").await.unwrap() as usize, running.len());
    assert_eq!(manager.property::<Vec<String>>(ROOT, MANAGER, "Degraded").await.unwrap(), Vec::<String>::new());
    let jobs: Vec<(zbus::OwnedObjectPath, String, String, String)> =
        manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
    assert!(jobs.iter().all(|job| job.3 != "running"), "{jobs:?}");
    assert!(!host.log().contains("panicked") && !host.log().contains("ERROR"), "{}", host.log());
}

/// Errors that are answers to a race, not defects.
fn is_expected(name: &str) -> bool {
    ["InUse", "NotReady", "NoSuchService", "NoSuchUnikernel", "PortConflict", "AddressPoolExhausted", "Cancelled"]
        .contains(&name)
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One of the calls that there are, about one of few services.
async fn any_call(manager: &Manager, images: &[String], dice: &mut Dice) -> Result<(), String> {
    let service = format!("service-{}", dice.roll(5));
    let image = &images[dice.roll(images.len() as u64) as usize];
    let outcome = match dice.roll(10) {
        0..=3 => manager.deploy(&service, image, options("running")).await.map(drop),
        4 | 5 => {
            let port = 8000 + dice.roll(8) as u16;
            let drain = Options::from([("drain", (dice.roll(3) * 20).into())]);
            manager.publish(&service, &[("tcp", port, 80), ("udp", port, 80)], drain).await
        }
        6 => manager.call("Rollback", &(service,)).await.map(drop),
        7 => {
            let previous = Options::from([("keep-previous", (dice.roll(2) as u32).into())]);
            manager.collect(previous).await.map(drop)
        }
        8 => {
            let leases = manager.leases().await.unwrap();
            let Some(lease) = leases.get(dice.roll(leases.len().max(1) as u64) as usize) else { return Ok(()) };
            let force = Options::from([("force", (dice.roll(2) == 0).into())]);
            manager.call("Destroy", &(&lease.0, force)).await.map(drop)
        }
        _ => manager.call("Unpublish", &(service,)).await.map(drop),
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            let (name, message) = error_of::<()>(Err(error));
            if is_expected(&name) { Ok(()) } else { Err(format!("{name}: {message}")) }
        }
    }
}

#[test]
fn races_of_all_calls_end_in_order() {
    isolated("races_of_all_calls_end_in_order", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let images = ["1", "2", "3"].map(|version| host.image(version, &[]));
        let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
        let end = Instant::now() + Duration::from_secs(seconds);
        let before = footprint(&host);
        let mut clients = tokio::task::JoinSet::new();
        for number in 1..=12u64 {
            let (manager, images) = (host.manager().await, images.clone());
            clients.spawn(async move {
                let (mut dice, mut calls) = (Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 0);
                while Instant::now() < end {
                    any_call(&manager, &images, &mut dice).await.unwrap();
                    calls += 1;
                }
                calls
            });
        }
        let calls = clients.join_all().await.into_iter().sum::<u32>();
        println!("{calls} calls");
        let manager = host.manager().await;
        assert_consistent(&host, &manager).await;
        manager.collect(Options::from([("keep", Vec::<&str>::new().into()), ("force", true.into())])).await.unwrap();
        for (id, ..) in manager.leases().await.unwrap() {
            manager.call("Destroy", &(id, Options::new())).await.unwrap();
        }
        manager.collect(Options::new()).await.unwrap();
        assert_consistent(&host, &manager).await;
        assert_eq!((host.running(), host.stored_images()), (vec![], vec![]));
        assert_not_grown(&host, before, 16 * 1024).await;
    });
}

#[test]
fn two_hundred_clients_at_once() {
    isolated("two_hundred_clients_at_once", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (one, two) = (host.image("1", &[]), host.image("2", &[]));
        let manager = host.manager().await;
        let before = footprint(&host);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..200u16 {
            let (connection, image) =
                (host.bus.client().await, if number % 2 == 0 { one.clone() } else { two.clone() });
            clients.spawn(async move {
                let manager = Manager(connection);
                let service = format!("service-{}", number % 20);
                let deployed = manager.deploy(&service, &image, options("running")).await?;
                manager.publish(&service, &[("tcp", 8000 + number % 20, 80)], Options::new()).await?;
                manager.leases().await?;
                Ok::<_, zbus::Error>((service, deployed))
            });
        }
        let mut deployed = BTreeMap::<String, BTreeSet<(String, String)>>::new();
        for outcome in clients.join_all().await {
            let (service, what) = outcome.unwrap();
            deployed.entry(service).or_default().insert(what);
        }
        // Ten clients each asked for the same: each service has one unikernel, for its clients had the same image.
        assert_eq!(deployed.len(), 20);
        assert!(deployed.values().all(|unikernels| unikernels.len() == 1), "{deployed:?}");
        assert_eq!(publications(&manager).await.len(), 20);
        for port in 8000..8020 {
            assert!(host.get(port).unwrap().starts_with("version="));
        }
        assert_consistent(&host, &manager).await;
        manager.collect(Options::from([("keep", Vec::<&str>::new().into()), ("force", true.into())])).await.unwrap();
        assert_consistent(&host, &manager).await;
        assert!(host.running().is_empty());
        assert_not_grown(&host, before, 24 * 1024).await;
    });
}

/// A call that nobody waits for.
async fn send(
    connection: &zbus::Connection,
    member: &str,
    arguments: &(impl serde::Serialize + zbus::wire::DynamicType),
) {
    let call = zbus::Message::method_call(ROOT, member).destination(NAME).interface(MANAGER);
    let call = call.with_flags(zbus::message::Flags::NO_REPLY_EXPECTED).build(arguments).unwrap();
    connection.send(&call).await.unwrap();
}

#[test]
fn clients_that_flood_vanish_and_never_read() {
    isolated("clients_that_flood_vanish_and_never_read", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        manager.deploy("warm", &image, options("tcp:80")).await.unwrap();
        let mut before = footprint(&host);
        let long = "x".repeat(1 << 20);
        // Large options, many options, and arrays as long as a message may be. The allocator keeps what the first of them
        // took; the others must not add to it.
        for round in 0..6 {
            if round == 3 {
                before = footprint(&host);
            }
            let options = Options::from([("args", vec![&*long].into())]);
            assert_eq!(error_of(manager.deploy("web", &image, options).await).0, "InvalidArgument");
            let options = Options::from([("args", vec![""; 1_000_000].into())]);
            assert_eq!(error_of(manager.deploy("web", &image, options).await).0, "InvalidArgument");
            let ports = vec![("tcp", 80, 80); 500_000];
            assert_eq!(error_of(manager.publish("warm", &ports, Options::new()).await).0, "InvalidArgument");
            let allocated = manager.call("AllocateAddress", &("t", "10.0.0.0/24", vec!["10.0.0.9"; 500_000])).await;
            assert_eq!(error_of(allocated).0, "InvalidArgument");
        }
        let keys = (0..50_000).map(|number| format!("key-{number}")).collect::<Vec<_>>();
        let many = keys.iter().map(|key| (key.as_str(), Variant::from(1u8))).collect::<Options>();
        assert_eq!(error_of(manager.deploy("web", &image, many).await).0, "InvalidArgument");
        // As many ports as there may be, and away again.
        let ports = (1..=4096).map(|port| ("any", 10_000 + port, 80)).collect::<Vec<_>>();
        manager.publish("warm", &ports, Options::new()).await.unwrap();
        assert!(host.get(14_096).is_ok());
        manager.call("Unpublish", &("warm",)).await.unwrap();

        // Calls whose clients are gone before there is an answer, one half of which change something.
        for number in 0..40 {
            let vanishing = host.bus.client().await;
            send(&vanishing, "Deploy", &(format!("gone-{}", number % 4), &*image, options("running"))).await;
            send(&vanishing, "Collect", &(Options::new(),)).await;
        }
        // One that asks for a lot and reads nothing: its answers are the bus's, not the service's to keep.
        let silent =
            std::os::unix::net::UnixStream::connect(host.bus.address.split(['=', ',']).nth(1).unwrap()).unwrap();
        flood_without_reading(&silent);
        // Meanwhile everybody else is served.
        let asked = Instant::now();
        manager.leases().await.unwrap();
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        eventually("all calls have ended", async || {
            let jobs: Vec<(zbus::OwnedObjectPath, String, String, String)> =
                manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
            // Those of clients that were gone before the bus could say who they were are refused.
            jobs.iter().all(|job| job.3 != "running") && host.running().len() <= 5
        })
        .await;
        assert_consistent(&host, &manager).await;
        drop(silent);
        assert_not_grown(&host, before, 64 * 1024).await;
    });
}

/// Logs in by hand and calls ListLeases until the bus takes no more.
fn flood_without_reading(mut stream: &std::os::unix::net::UnixStream) {
    use std::io::{Read, Write};
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex = uid.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 256];
    assert!(stream.read(&mut answer).unwrap() > 2);
    stream.write_all(b"BEGIN\r\n").unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let hello = zbus::Message::method_call("/org/freedesktop/DBus", "Hello").destination("org.freedesktop.DBus");
    let hello = hello.interface("org.freedesktop.DBus").build(&()).unwrap();
    stream.write_all(hello.data().bytes()).unwrap();
    for _ in 0..20_000 {
        let call =
            zbus::Message::method_call(ROOT, "ListLeases").destination(NAME).interface(MANAGER).build(&()).unwrap();
        if stream.write_all(call.data().bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn an_albatross_that_stands_still_or_talks_nonsense() {
    isolated("an_albatross_that_stands_still_or_talks_nonsense", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        std::fs::write(host.config(), "[albatross]\ndeadline = 2000\n").unwrap();
        host.start_service().await;
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let (live, _) = manager.deploy("live", &image, options("tcp:80")).await.unwrap();
        manager.publish("live", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        let before = footprint(&host);
        let names = |outcome: &zbus::Result<(String, String)>| match outcome {
            Err(zbus::Error::MethodError(name, ..)) => name.to_string(),
            other => format!("{other:?}"),
        };

        host.albatross.signal(rustix::process::Signal::STOP);
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..10 {
            let (manager, image) = (manager.clone(), image.clone());
            calls.spawn(async move { manager.deploy(&format!("s-{number}"), &image, options("running")).await });
        }
        for outcome in calls.join_all().await {
            assert!(names(&outcome).ends_with("AlbatrossUnavailable"), "{}", names(&outcome));
        }
        assert!(host.get(80).is_ok(), "what is published stays");
        assert_eq!(error_of(manager.call("Destroy", &(&live, Options::new())).await).0, "InUse");
        manager.call("Unpublish", &("live",)).await.unwrap();
        manager.publish("live", &[("tcp", 81, 80)], Options::new()).await.unwrap();
        host.albatross.signal(rustix::process::Signal::CONT);
        eventually("it is as before", async || {
            host.running() == [live.as_str()] && manager.leases().await.unwrap().len() == 1
        })
        .await;
        // What it was asked before it stood still it does now, after all was undone.
        tokio::time::sleep(Duration::from_secs(1)).await;
        eventually("it is as before", async || host.running() == [live.as_str()]).await;

        for nonsense in ["garbage 40", "close-mid-frame 40", "close-without-answer 40", "close-before 40"] {
            host.albatross.control(nonsense);
            let outcome = manager.deploy("s", &image, options("running")).await;
            host.albatross.control(&nonsense.replace("40", "0"));
            assert!(names(&outcome).ends_with("AlbatrossUnavailable"), "{nonsense}: {}", names(&outcome));
            eventually("it is as before", async || {
                host.running() == [live.as_str()] && manager.leases().await.unwrap().len() == 1
            })
            .await;
        }
        eventually("all is well", async || {
            manager.property::<Vec<String>>(ROOT, MANAGER, "Degraded").await.unwrap().is_empty()
        })
        .await;
        assert_consistent(&host, &manager).await;
        assert_not_grown(&host, before, 16 * 1024).await;
        assert!(host.get(81).is_ok());
    });
}

#[test]
fn a_peer_that_never_stops_sending() {
    isolated("a_peer_that_never_stops_sending", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        std::fs::write(host.config(), "[albatross]\ndeadline = 500\n").unwrap();
        host.albatross.terminate();
        // In the place of Albatross: a length of 2 GiB, or zeros, and bytes for ever.
        for name in ["vmmd.sock", "console.sock", "stat.sock"] {
            let socket = host.albatross.socket(name);
            let _ = std::fs::remove_file(&socket);
            let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
            std::thread::spawn(move || {
                for (number, stream) in listener.incoming().enumerate() {
                    let Ok(mut stream) = stream else { return };
                    std::thread::spawn(move || {
                        use std::io::Write;
                        let first: &[u8] =
                            [&b"\x7f\xff\xff\xff"[..], b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x10\x00\x00"]
                                [number % 4];
                        let _ = stream.write_all(first);
                        while stream.write_all(&[0x30; 65536]).is_ok() {}
                    });
                }
            });
        }
        host.start_service().await;
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let before = footprint(&host);
        for _ in 0..8 {
            let (name, message) = error_of(manager.deploy("website", &image, options("running")).await);
            assert_eq!(name, "AlbatrossUnavailable", "{message}");
            assert!(message.len() < 2000, "{message}");
        }
        assert_not_grown(&host, before, 32 * 1024).await;
        let notes: Vec<String> = manager.property(ROOT, MANAGER, "Degraded").await.unwrap();
        assert!(notes.iter().any(|note| note.contains("Albatross")), "{notes:?}");
    });
}

#[test]
fn an_image_that_changes_while_it_is_read() {
    isolated("an_image_that_changes_while_it_is_read", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let path = host.directory.path().join("changing");
        let mut image = solo5_image::Image::new(solo5_image::Target::Spt, "1").net(&["service"]);
        image.padding = 24 << 20;
        let bytes = image.build();
        std::fs::write(&path, &bytes).unwrap();
        let changing = path.clone();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let changer = std::thread::spawn(move || {
            let file = std::fs::OpenOptions::new().write(true).open(&changing).unwrap();
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                file.set_len(1 << 20).unwrap();
                std::thread::sleep(Duration::from_millis(3));
                file.set_len(24 << 20).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        for _ in 0..6 {
            let outcome = manager.deploy("website", path.to_str().unwrap(), options("running")).await;
            if outcome.is_err() {
                let (name, message) = error_of(outcome);
                assert!(["ImageInvalid", "ImageUnavailable", "NotReady"].contains(&name.as_str()), "{name}: {message}");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        changer.join().unwrap();
        assert_consistent(&host, &manager).await;
        // Each stored image is what its name says.
        for name in host.stored_images() {
            use sha2::Digest;
            let stored = std::fs::read(host.state().join("images").join(&name)).unwrap();
            let digest = sha2::Sha256::digest(&stored).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(name, format!("sha256-{digest}"));
        }
    });
}
