//! The life of a unikernel after its deployment: it is waited for, ends, comes back, is gone back to, and is collected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/held_download.rs"]
mod held_download;
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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use held_download::HeldDownload;
use host::{
    A_WHILE, AT_ONCE, GATE, MANAGER, Manager, Options, ROOT, TestHost, error_of, eventually, open_gate, options,
};
use netns::isolated;
use states::States;
use zbus::OwnedObjectPath;

const JOB: &str = "org.albatross.Deployer1.Job";
const UNIKERNEL: &str = "org.albatross.Deployer1.Unikernel";

async fn rollback(manager: &Manager, service: &str) -> zbus::Result<String> {
    let path: OwnedObjectPath = manager.call("Rollback", &(service,)).await?.deserialize()?;
    Ok(manager.property(path.as_str(), UNIKERNEL, "Id").await.unwrap())
}

async fn property<T: TryFrom<zbus::OwnedVariant>>(manager: &Manager, id: &str, name: &str) -> T {
    let escaped = id.replace('.', "_2e").replace('-', "_2d");
    manager.property(&format!("{ROOT}/unikernel/{escaped}"), UNIKERNEL, name).await.unwrap()
}

async fn degraded(manager: &Manager) -> Vec<String> {
    manager.property(ROOT, MANAGER, "Degraded").await.unwrap()
}

fn with<'a>(mut options: Options<'a>, key: &'a str, value: &'a str) -> Options<'a> {
    options.insert(key, value.into());
    options
}

fn unikernel(id: &str) -> Options<'_> {
    Options::from([("unikernel", id.into())])
}

fn config(host: &TestHost, text: &str) {
    std::fs::write(host.config(), text).unwrap();
}

/// Waits until so many calls of Publish wait.
async fn waiting(manager: &Manager, calls: usize) {
    type Job = (OwnedObjectPath, String, String, String);
    eventually("Publish waits", async || {
        let jobs: Vec<Job> = manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
        let mut waiting = 0;
        for (path, ..) in jobs.iter().filter(|job| job.1 == "publish" && job.3 == "running") {
            let step: Option<String> = manager.property(path.as_str(), JOB, "Step").await;
            waiting += usize::from(step.as_deref() == Some("waiting"));
        }
        waiting == calls
    })
    .await;
}

#[test]
fn publish_waits_for_one_that_is_on_its_way() {
    isolated("publish_waits_for_one_that_is_on_its_way", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut states = States::watch(&manager.0).await;
        let image = host.image("1", &[]);
        let deploying = manager.clone();
        let deploy = tokio::spawn(async move { deploying.deploy("website", &image, options(GATE)).await });
        let id = states.created().await;
        // By its name, and as the only one that there is.
        let published = [Options::from([("unikernel", id.clone().into())]), Options::new()].map(|options| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.publish("website", &[("tcp", 8080, 80)], options).await })
        });
        waiting(&manager, 2).await;
        assert!(published.iter().all(|published| !published.is_finished()), "it was not ready before");
        let (_, address, ..) = manager.leases().await.unwrap().remove(0);
        open_gate(&address).await;
        for published in published {
            published.await.unwrap().unwrap();
        }
        assert!(host.get(8080).unwrap().starts_with("version=1"));
        assert_eq!(deploy.await.unwrap().unwrap().0, id);
    });
}

#[test]
fn publish_of_one_that_does_not_become_ready_says_so() {
    isolated("publish_of_one_that_does_not_become_ready_says_so", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (old, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let mut states = States::watch(&manager.0).await;
        let image = host.image("2", &["--listen-after=60000", "--print=still warming up"]);
        let deploying = manager.clone();
        let mut slow = options("tcp:80");
        slow.insert("timeout", 1500_u64.into());
        let deploy = tokio::spawn(async move { deploying.deploy("website", &image, slow).await });
        let id = states.created().await;
        let (name, message) = error_of(manager.publish("website", &[("tcp", 8080, 80)], unikernel(&id)).await);
        assert_eq!(name, "NotReady", "{message}");
        let (name, message) = error_of(deploy.await.unwrap());
        assert_eq!(name, "NotReady", "{message}");
        assert!(message.contains("still warming up"), "{message}");
        assert_eq!(host.running(), [&*old]);
        assert_eq!(manager.leases().await.unwrap().len(), 1);
        assert!(host.get(8080).unwrap().starts_with("version=1"));
        assert_eq!(property::<String>(&manager, &old, "State").await, "live");
    });
}

#[test]
fn a_publish_that_waits_can_be_cancelled() {
    isolated("a_publish_that_waits_can_be_cancelled", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut states = States::watch(&manager.0).await;
        let image = host.image("1", &[]);
        let deploying = manager.clone();
        let deploy = tokio::spawn(async move { deploying.deploy("website", &image, options(GATE)).await });
        let id = states.created().await;
        let publishing = manager.clone();
        let publish =
            tokio::spawn(async move { publishing.publish("website", &[("tcp", 8080, 80)], unikernel(&id)).await });
        let mut job = String::new();
        eventually("Publish waits", async || {
            type Job = (OwnedObjectPath, String, String, String);
            let jobs: Vec<Job> = manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
            let found = jobs.into_iter().find(|(_, kind, _, result)| kind == "publish" && result == "running");
            job = found.map(|found| found.0.to_string()).unwrap_or_default();
            let step: Option<String> = manager.property(&job, JOB, "Step").await;
            step.as_deref() == Some("waiting")
        })
        .await;
        manager.0.call_method(Some(host::NAME), job.as_str(), Some(JOB), "Cancel", &()).await.unwrap();
        assert_eq!(error_of(publish.await.unwrap()).0, "Cancelled");
        let (_, address, ..) = manager.leases().await.unwrap().remove(0);
        open_gate(&address).await;
        deploy.await.unwrap().unwrap();
        assert!(host.get(8080).is_err());
    });
}

#[test]
fn rollback_to_one_that_is_gone_brings_it_back() {
    isolated("rollback_to_one_that_is_gone_brings_it_back", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let rule = || with(options("http:80/"), "restart", "never");
        let (first, address) = manager.deploy("website", &host.image("1", &[]), rule()).await.unwrap();
        manager.publish("website", &[("any", 8080, 80)], Options::new()).await.unwrap();
        manager.deploy("website", &host.image("2", &[]), rule()).await.unwrap();
        manager.publish("website", &[("any", 8080, 80)], Options::new()).await.unwrap();
        for how in ["kill", "lose"] {
            let mut states = States::watch(&manager.0).await;
            host.albatross.control(&format!("{how} {first}"));
            let told = states.until(&first, "exited").await;
            assert!(!told.exit_reason().is_empty());
            let waits: Vec<(String, String, String, i64)> = manager.leases().await.unwrap();
            assert!(waits.iter().any(|lease| lease.0 == first && lease.1 == address), "its lease waits for it");
            assert_eq!(rollback(&manager, "website").await.unwrap(), first);
            let answer = host.get(8080).unwrap();
            assert!(answer.contains(&format!("version=1 address={address}")), "{answer}");
            // And back to the newer one, which still runs.
            assert_ne!(rollback(&manager, "website").await.unwrap(), first);
            assert!(host.get(8080).unwrap().starts_with("version=2"));
        }
    });
}

#[test]
fn a_rollback_that_cannot_bring_it_back_leaves_what_is_live() {
    isolated("a_rollback_that_cannot_bring_it_back_leaves_what_is_live", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let rule = || with(options("http:80/"), "restart", "never");
        let (first, _) = manager.deploy("website", &host.image("1", &[]), rule()).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        manager.deploy("website", &host.image("2", &[]), rule()).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let mut states = States::watch(&manager.0).await;
        host.albatross.control(&format!("lose {first}"));
        states.until(&first, "exited").await;
        host.albatross.control("refuse create 1 no more room");
        let (name, message) = error_of(rollback(&manager, "website").await);
        assert_eq!((name.as_str(), message.contains("no more room")), ("AlbatrossRefused", true), "{message}");
        assert!(host.get(8080).unwrap().starts_with("version=2"));
        assert_eq!(property::<String>(&manager, &first, "State").await, "exited");
        assert_eq!(rollback(&manager, "website").await.unwrap(), first, "the next one succeeds");
    });
}

#[test]
fn a_live_one_that_ends_gives_way_to_the_one_before_when_that_is_wanted() {
    isolated("a_live_one_that_ends_gives_way_to_the_one_before_when_that_is_wanted", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        config(&host, "[publish]\nfall-back = true\n");
        host.start_service().await;
        let manager = host.manager().await;
        let rule = || with(options("http:80/"), "restart", "never");
        let (first, _) = manager.deploy("website", &host.image("1", &[]), rule()).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let (second, _) = manager.deploy("website", &host.image("2", &[]), rule()).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let mut states = States::watch(&manager.0).await;
        let began = Instant::now();
        host.albatross.control(&format!("kill {second}"));
        states.until(&second, "exited").await;
        states.until(&first, "live").await;
        println!("live again {:?} after the death of the other", began.elapsed());
        assert!(host.get(8080).unwrap().starts_with("version=1"));
        let notes = degraded(&manager).await;
        assert!(notes.iter().any(|note| note.contains(&second) && note.contains("went back")), "{notes:?}");
        // It is no ping-pong: the next end leaves nothing to go back to.
        host.albatross.control(&format!("kill {first}"));
        states.until(&first, "exited").await;
        assert!(host.get(8080).is_err());
        // Whoever publishes anew has seen it.
        manager.deploy("website", &host.image("3", &[]), rule()).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        eventually("the note is gone", async || degraded(&manager).await.iter().all(|n| !n.contains("went back")))
            .await;
        assert!(host.get(8080).unwrap().starts_with("version=3"));
    });
}

#[test]
fn without_fall_back_a_dead_live_one_stays_live() {
    isolated("without_fall_back_a_dead_live_one_stays_live", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let rule = || with(options("http:80/"), "restart", "never");
        for version in ["1", "2"] {
            manager.deploy("website", &host.image(version, &[]), rule()).await.unwrap();
            manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        }
        let mut states = States::watch(&manager.0).await;
        let live: OwnedObjectPath = manager
            .property(&format!("{ROOT}/service/website"), "org.albatross.Deployer1.Service", "Live")
            .await
            .unwrap();
        let id: String = manager.property(live.as_str(), UNIKERNEL, "Id").await.unwrap();
        host.albatross.control(&format!("kill {id}"));
        states.until(&id, "exited").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(host.get(8080).is_err());
        // It is asked for again, and comes back under its ports.
        manager.call("Restart", &(id.as_str(),)).await.unwrap();
        assert_eq!(states.until(&id, "live").await.exit_reason(), "", "one that runs has no reason for its end");
        assert!(host.get(8080).unwrap().starts_with("version=2"));
        assert_eq!(property::<String>(&manager, &id, "State").await, "live");
    });
}

#[test]
fn one_that_albatross_starts_again_is_counted_and_asked_again() {
    isolated("one_that_albatross_starts_again_is_counted_and_asked_again", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        // Ends with a code that is started again, once it is asked to.
        let (id, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let before: i64 = property(&manager, &id, "StartedAt").await;
        let _ = host.client.run(move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect((host::HOST, 8080)).unwrap();
            stream.write_all(b"GET /exit?code=3 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream.read_to_end(&mut Vec::new())
        });
        eventually("a restart is counted", async || property::<u32>(&manager, &id, "Restarts").await == 1).await;
        eventually("it is live", async || property::<String>(&manager, &id, "State").await == "live").await;
        assert!(property::<i64>(&manager, &id, "StartedAt").await > before);
        // Publish of one that has just come back waits until it answers.
        manager.publish("website", &[("tcp", 8081, 80)], unikernel(&id)).await.unwrap();
        assert!(host.get(8081).unwrap().starts_with("version=1"));
    });
}

#[test]
fn a_loop_is_failed_and_can_be_destroyed() {
    isolated("a_loop_is_failed_and_can_be_destroyed", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut states = States::watch(&manager.0).await;
        let (id, _) =
            manager.deploy("website", &host.image("1", &["--exit-after=400:3"]), options("running")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let told = states.until(&id, "failed").await;
        assert!(told.exit_reason().contains("again and again"), "{}", told.exit_reason());
        assert!(property::<u32>(&manager, &id, "Restarts").await >= 5);
        let notes = degraded(&manager).await;
        assert!(notes.iter().any(|note| note.contains(&id) && note.contains("Destroy")), "{notes:?}");
        // Another one that ends at once, as fast as Albatross can start it.
        let mut fast = options("running");
        fast.insert("timeout", 200_u64.into());
        let (name, message) = error_of(manager.deploy("fast", &host.image("2", &["--exit=3"]), fast).await);
        assert_eq!(name, "NotReady", "{message}");
        assert_eq!(host.running(), [&*id], "what did not become ready is gone, however often it was started");
        for _ in 0..3 {
            let began = Instant::now();
            manager.call("ListLeases", &()).await.unwrap();
            assert!(began.elapsed() < AT_ONCE, "other calls are answered meanwhile");
        }
        manager.call("Destroy", &(id.as_str(), Options::from([("force", true.into())]))).await.unwrap();
        assert!(host.running().is_empty());
        eventually("the note is gone", async || degraded(&manager).await.iter().all(|note| !note.contains(&id))).await;
    });
}

fn crash(host: &TestHost, port: u16) {
    host.client.run(move || {
        use std::io::{Read, Write};
        let target = format!("{}:{port}", host::HOST).parse().unwrap();
        let Ok(mut stream) = std::net::TcpStream::connect_timeout(&target, Duration::from_millis(500)) else { return };
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = stream.write_all(b"GET /exit?code=3 HTTP/1.1\r\nHost: x\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

#[test]
fn a_loop_ends_with_a_start_that_somebody_asked_for() {
    isolated("a_loop_ends_with_a_start_that_somebody_asked_for", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        // Starts that calls ask for are no loop.
        for _ in 0..7 {
            manager.call("Restart", &(id.as_str(),)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        eventually("live", async || property::<String>(&manager, &id, "State").await == "live").await;
        let end = Instant::now() + host::PATIENCE;
        while property::<String>(&manager, &id, "State").await != "failed" {
            assert!(Instant::now() < end, "it does not fail");
            crash(&host, 8080);
        }
        manager.call("Restart", &(id.as_str(),)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        eventually("live", async || property::<String>(&manager, &id, "State").await == "live").await;
        assert!(host.get(8080).unwrap().starts_with("version=1"));
    });
}

#[test]
fn what_has_drained_is_collected_when_that_is_wanted() {
    isolated("what_has_drained_is_collected_when_that_is_wanted", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        config(&host, "[collect]\nautomatic = true\nkeep-previous = 0\n[publish]\ndrain = 600000\n");
        host.start_service().await;
        let manager = host.manager().await;
        let (first, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let download = HeldDownload::begin(&host, 8080);
        let (second, _) = manager.deploy("website", &host.image("2", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        tokio::time::sleep(A_WHILE).await;
        assert!(host.running().contains(&first), "it has a connection");
        download.finish().await;
        eventually("the first is collected", async || host.running() == [&*second]).await;
        eventually("with its lease", async || manager.leases().await.unwrap().len() == 1).await;
        eventually("and its image", async || host.stored_images().len() == 1).await;
        assert!(host.get(8080).unwrap().starts_with("version=2"));

        // What nobody has replaced stays, also when it has ended: somebody may want to know why.
        let never = with(options("http:80/"), "restart", "never");
        let (alone, _) = manager.deploy("database", &host.image("3", &[]), never).await.unwrap();
        let mut states = States::watch(&manager.0).await;
        host.albatross.control(&format!("kill {alone}"));
        states.until(&alone, "exited").await;
        manager.call("Unpublish", &("website",)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(property::<String>(&manager, &alone, "State").await, "exited");
        assert_eq!(host.running(), [&*second]);
    });
}

#[test]
fn what_others_do_through_albatross_is_noticed() {
    isolated("what_others_do_through_albatross_is_noticed", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut states = States::watch(&manager.0).await;
        let (id, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        states.until(&id, "ready").await;
        // Destroyed behind our back.
        host.albatross.control(&format!("lose {id}"));
        states.until(&id, "exited").await;
        // The same configuration is deployed again, and not taken for there.
        let (again, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        assert_eq!((again.as_str(), host.running()), (id.as_str(), vec![id.clone()]));
        // Started behind our back, under a name as ours are.
        let stranger = "other.0123456789";
        host.albatross.control(&format!("foreign {stranger} br0"));
        eventually("Degraded names it", async || degraded(&manager).await.iter().any(|note| note.contains(stranger)))
            .await;
        host.albatross.control(&format!("lose {stranger}"));
        eventually("the note is gone", async || degraded(&manager).await.iter().all(|n| !n.contains(stranger))).await;
    });
}

#[test]
fn a_deployment_asks_albatross_whether_what_it_has_runs() {
    isolated("a_deployment_asks_albatross_whether_what_it_has_runs", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        // Its end cannot be noticed before the call: the look that it causes is held up.
        host.albatross.control("delay 400 policy");
        host.albatross.control(&format!("lose {id}"));
        // Until Albatross has heard of it nobody can.
        eventually("Albatross knows", async || host.running().is_empty()).await;
        let (again, _) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        assert_eq!((again.as_str(), host.running()), (id.as_str(), vec![id.clone()]));
    });
}

static MARKS: AtomicUsize = AtomicUsize::new(0);

/// Counts what `nft monitor` calls generations: one a batch.
struct Generations(std::process::Child, std::path::PathBuf);

impl Generations {
    fn watch(host: &TestHost) -> Self {
        let path = host.directory.path().join("generations");
        let file = std::fs::File::create(&path).unwrap();
        let child = std::process::Command::new("nft").arg("monitor").stdout(file).spawn().unwrap();
        Self(child, path)
    }

    /// Generations of the service's batches. A table that is made now, and everything before it, is in the list.
    async fn so_far(&self) -> usize {
        let mark = format!("mark{}", MARKS.fetch_add(1, Ordering::Relaxed));
        eventually("nft monitor tells of a table", async || {
            netns::sh(&format!("nft add table inet {mark} && nft delete table inet {mark}"));
            std::fs::read_to_string(&self.1).unwrap().contains(&format!("delete table inet {mark}"))
        })
        .await;
        let told = std::fs::read_to_string(&self.1).unwrap();
        let batches = told.split_inclusive("# new generation").filter(|batch| batch.ends_with("# new generation"));
        batches.filter(|batch| !batch.contains("table inet mark")).count()
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn any_change_of_a_publication_is_one_batch() {
    isolated("any_change_of_a_publication_is_one_batch", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        let on = |addresses: &[&'static str]| Options::from([("addresses", addresses.to_vec().into())]);
        let generations = Generations::watch(&host);
        type Step<'a> = (&'a [(&'a str, u16, u16)], Options<'a>);
        let steps: [Step<'_>; 6] = [
            (&[("tcp", 8080, 80), ("udp", 53, 80), ("tcp", 8443, 80)], Options::new()),
            (&[("tcp", 8080, 80)], Options::new()),                       // fewer
            (&[("tcp", 9090, 80), ("tcp", 9091, 80)], Options::new()),    // others
            (&[("udp", 9090, 80), ("any", 9091, 80)], Options::new()),    // other protocols
            (&[("udp", 9090, 80), ("any", 9091, 80)], on(&[host::HOST])), // another address
            (&[("tcp", 8080, 80)], on(&["127.0.0.1", host::HOST])),
        ];
        for (number, (ports, options)) in steps.into_iter().enumerate() {
            let before = generations.so_far().await;
            manager.publish("website", ports, options).await.unwrap();
            assert_eq!(generations.so_far().await, before + 1, "step {number}");
        }
        assert!(host.get(8080).unwrap().starts_with("version=1"));
        for gone in [8443, 9090, 9091] {
            assert!(host.get(gone).is_err(), "{gone}");
        }
        // What is as it should be is not written again.
        let before = generations.so_far().await;
        manager.publish("website", &[("tcp", 8080, 80)], on(&["127.0.0.1", host::HOST])).await.unwrap();
        assert_eq!(generations.so_far().await, before);
    });
}

#[test]
fn deaths_among_lost_notifications_are_noticed() {
    isolated("deaths_among_lost_notifications_are_noticed", |_| async {
        use rustix::process::{Pid, Signal, kill_process};
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut states = States::watch(&manager.0).await;
        let never = with(options("http:80/"), "restart", "never");
        let (id, _) = manager.deploy("website", &host.image("1", &[]), never).await.unwrap();
        states.until(&id, "ready").await;
        // More than the socket holds, with the death in the midst of what is lost.
        let service = Pid::from_raw(i32::try_from(host.service_pid()).unwrap()).unwrap();
        kill_process(service, Signal::STOP).unwrap();
        let noise = || {
            let lines = (0..10_000).map(|n| format!("link set dev outside mtu {}\n", 1400 + n % 2));
            netns::sh_with_input("ip -batch -", &lines.collect::<String>());
        };
        noise();
        host.albatross.control(&format!("lose {id}"));
        noise();
        eventually("its tap is gone", async || !netns::sh("ip -o link").contains("vmmtap")).await;
        let lost = netns::sh("cat /proc/net/netlink");
        let dropped = lost.lines().filter(|line| line.split_whitespace().nth(1) == Some("0"));
        let dropped = dropped.filter(|line| line.split_whitespace().nth(8).is_some_and(|drops| drops != "0")).count();
        assert!(dropped > 0, "nothing was lost: {lost}");
        kill_process(service, Signal::CONT).unwrap();
        let began = Instant::now();
        states.until(&id, "exited").await;
        println!("told {:?} after the service could read again", began.elapsed());
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    });
}
