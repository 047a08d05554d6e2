//! Somebody else changes the kernel's table, or tries to: where a table can have an owner nothing comes of it, and
//! elsewhere the service puts it back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use albatross_deployer::host_network::nftables::Ownership;

use crate::account::elements;
use crate::asking::ask;
use crate::host::{AT_ONCE, HOST, MANAGER, Manager, PATIENCE, ROOT, TestHost, eventually};
use crate::netns::{Namespace, isolated, sh, try_sh};
use crate::private_bus::{PrivateBus, STRICT};
use crate::scene::{Deed, Scene};

/// Changes one after the other are answered every tenth of a second.
const BREATH: Duration = Duration::from_millis(150);

const TABLE: &str = "inet albatross_deployer";

/// With the service as it is on a kernel whose tables have no owner; `None` where it was built without the seam for it.
async fn shared_scene(test: &str) -> Option<Scene> {
    if !cfg!(feature = "fault-injection") {
        println!("SKIPPED: {test}: needs the feature fault-injection");
        return None;
    }
    let mut host = TestHost::without_service()?;
    host.environment.push((SHARED.0.into(), SHARED.1.into()));
    host.start_service().await;
    Some(Scene::on(host).await)
}

const SHARED: (&str, &str) = ("ALBATROSS_DEPLOYER_TABLE", "shared");

/// `None` on such a kernel.
async fn owned_scene(test: &str) -> Option<Scene> {
    if Ownership::here() == Ownership::Shared {
        println!("SKIPPED: {test}: a table that outlives its owner needs Linux 6.9");
        return None;
    }
    Scene::new().await
}

fn target() -> SocketAddr {
    format!("{HOST}:8080").parse().unwrap()
}

/// SYNs that the kernel of this thread's namespace has sent once more: each had no answer for a second.
fn repeated_syns() -> u64 {
    let all = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut of_tcp = all.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (of_tcp.next().unwrap(), of_tcp.next().unwrap());
    let position = names.split(' ').position(|name| name == "TCPSynRetrans").unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}

/// How long it took, and what became of it.
type Request = JoinHandle<(Duration, Result<(), String>)>;

/// A request every 3 ms, whatever becomes of those before it.
struct OpenLoop {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Vec<Request>)>,
}

impl OpenLoop {
    fn start(host: &TestHost) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = host.client.spawn(move || {
            let (repeated, mut asked) = (repeated_syns(), Vec::new());
            while !told.load(Ordering::Relaxed) {
                asked.push(std::thread::spawn(|| {
                    let begun = Instant::now();
                    let answer = ask(target());
                    (begun.elapsed(), answer)
                }));
                std::thread::sleep(Duration::from_millis(3));
            }
            (repeated, asked)
        });
        Self { stop, thread }
    }

    /// Nor has anybody waited for a SYN to be repeated.
    fn nothing_lost(self, host: &TestHost) {
        self.stop.store(true, Ordering::Relaxed);
        let (before, asked) = self.thread.join().unwrap();
        let answers: Vec<_> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
        let lost: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.as_ref().err()).collect();
        assert!(lost.is_empty(), "{} of {} were lost: {:?}", lost.len(), answers.len(), &lost[..lost.len().min(3)]);
        let longest = answers.iter().map(|(took, _)| *took).max().unwrap();
        println!("{} requests, none lost; the longest took {longest:?}", answers.len());
        assert_eq!(host.client.run(repeated_syns), before, "first packets of requests were dropped");
    }
}

/// A download of three seconds on one connection; gives the number of its bytes.
fn download(host: &TestHost) -> JoinHandle<usize> {
    host.client.spawn(|| {
        let mut stream = TcpStream::connect(target()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET /download?bytes={DOWNLOAD}&rate={} HTTP/1.0\r\n\r\n", DOWNLOAD / 3);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        answer.len() - head - 4
    })
}

const DOWNLOAD: usize = 300_000;

/// How long until the port answers. Asked again and again: a SYN that was dropped is repeated only after a second.
fn answers_again(host: &TestHost) -> Duration {
    let began = Instant::now();
    host.client.run(move || {
        while TcpStream::connect_timeout(&target(), Duration::from_millis(200)).is_err() {
            assert!(began.elapsed() < PATIENCE, "the port does not answer again");
        }
    });
    let answered = began.elapsed();
    assert!(host.get(8080).unwrap().starts_with("version="));
    answered
}

/// Without the flags, by which a table tells whose it is.
fn listed() -> String {
    let listed = try_sh(&format!("nft -s list table {TABLE}")).1;
    let lines = listed.lines().map(|line| line.split(" # progname").next().unwrap());
    lines.filter(|line| !["", "flags", "flags owner"].contains(&line.trim())).collect::<Vec<_>>().join("\n")
}

fn is_owned() -> bool {
    sh(&format!("nft list table {TABLE}")).contains("flags owner")
}

#[test]
fn nothing_that_others_do_costs_a_request() {
    isolated("kernel::nothing_that_others_do_costs_a_request", |_| async {
        let Some(scene) = owned_scene("nothing_that_others_do_costs_a_request").await else { return };
        scene.prepare(Deed::Rollback).await;
        let known = scene.known(Deed::Rollback).await;
        let (asking, downloaded) = (OpenLoop::start(&scene.host), download(&scene.host));
        for round in 0..40 {
            tokio::time::sleep(Duration::from_millis(round * 7 % 60)).await;
            sh("nft flush ruleset");
            if round % 4 == 0 {
                scene.perform(Deed::Rollback, &known).await.unwrap();
            }
        }
        let whole = listed();
        for change in [
            format!("delete table {TABLE}"),
            format!("flush map {TABLE} ports4"),
            format!("delete element {TABLE} ports4 {{ tcp . 8080 }}"),
            format!("flush table {TABLE}"),
            format!("insert rule {TABLE} published drop"),
            format!("add table {TABLE} {{ flags dormant; }}"),
        ] {
            let (done, said) = try_sh(&format!("nft '{change}'"));
            assert!(!done && said.contains("Operation not permitted"), "{change}: {said}");
        }
        assert_eq!(downloaded.join().unwrap(), DOWNLOAD);
        asking.nothing_lost(&scene.host);
        assert_eq!(listed(), whole);
        assert!(!scene.host.log().contains("changed table inet albatross_deployer"), "{}", scene.host.log());
        scene.settled().await;
    });
}

#[test]
fn a_service_that_is_killed_leaves_the_table_and_takes_it_over_again() {
    isolated("kernel::a_service_that_is_killed_leaves_the_table_and_takes_it_over_again", |_| async {
        let test = "a_service_that_is_killed_leaves_the_table_and_takes_it_over_again";
        let Some(mut scene) = owned_scene(test).await else { return };
        let (asking, downloaded) = (OpenLoop::start(&scene.host), download(&scene.host));
        for _ in 0..6 {
            scene.host.kill_service();
            assert!(!is_owned());
            scene.host.start_service().await;
            eventually("the table has its owner", async || is_owned()).await;
            sh("nft flush ruleset");
        }
        assert_eq!(downloaded.join().unwrap(), DOWNLOAD);
        asking.nothing_lost(&scene.host);
        scene.host.stop_service();
        assert!(answers_again(&scene.host) < AT_ONCE, "a service that was stopped leaves the table");
        sh(&format!("nft delete table {TABLE}"));
        assert_eq!(sh("nft list tables"), "");
    });
}

/// As on the day when the kernel or the service is replaced by one that knows owners.
#[test]
fn a_table_without_an_owner_gets_one_and_connections_go_on() {
    isolated("kernel::a_table_without_an_owner_gets_one_and_connections_go_on", |_| async {
        let test = "a_table_without_an_owner_gets_one_and_connections_go_on";
        let Some(mut scene) = shared_scene(test).await else { return };
        if Ownership::here() == Ownership::Shared {
            return println!("SKIPPED: {test}: a table that outlives its owner needs Linux 6.9");
        }
        let whole = listed();
        let (asking, downloaded) = (OpenLoop::start(&scene.host), download(&scene.host));
        tokio::time::sleep(BREATH).await;
        assert!(!is_owned());
        scene.host.kill_service();
        scene.host.environment.clear();
        scene.host.start_service().await;
        eventually("the table has its owner", async || is_owned()).await;
        assert_eq!(downloaded.join().unwrap(), DOWNLOAD);
        asking.nothing_lost(&scene.host);
        assert_eq!(listed(), whole);
    });
}

#[test]
fn of_two_services_the_second_says_that_the_table_is_not_its_own() {
    isolated("kernel::of_two_services_the_second_says_that_the_table_is_not_its_own", |_| async {
        let test = "of_two_services_the_second_says_that_the_table_is_not_its_own";
        let Some(mut scene) = owned_scene(test).await else { return };
        let whole = listed();
        let Some(bus) = PrivateBus::start(STRICT, Some(std::path::Path::new(POLICY))) else { return };
        let second = Second::start(&bus.address, &scene.host);
        let manager = Manager(bus.client().await);
        let degraded = async || manager.property::<Vec<String>>(ROOT, MANAGER, "Degraded").await.unwrap_or_default();
        eventually("the second says so", async || degraded().await.iter().any(|note| note.contains(ELSEWHERE))).await;
        println!("{:?}", degraded().await);
        assert_eq!(listed(), whole);
        assert!(answers_again(&scene.host) < AT_ONCE);
        scene.settled().await;
        scene.host.kill_service();
        eventually("the second takes over", async || !degraded().await.iter().any(|note| note.contains(ELSEWHERE)))
            .await;
        assert!(is_owned() && elements(&scene.host).is_empty());
        drop(second);
    });
}

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dbus-policy/org.albatross.Deployer1.conf");
const ELSEWHERE: &str = "belongs to another process";

/// Another service on the same host, with a bus and a state directory of its own.
struct Second(Child);

impl Second {
    fn start(bus: &str, host: &TestHost) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_albatross-deployer"));
        command.args(["--bus", bus, "--config", "/nonexistent", "--state-directory"]);
        command.arg(host.directory.path().join("second")).arg("--albatross-directory").arg(host.albatross.directory());
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_others_do_to_the_table_is_healed() {
    isolated("kernel::what_others_do_to_the_table_is_healed", |_| async {
        let Some(scene) = shared_scene("what_others_do_to_the_table_is_healed").await else { return };
        let whole = listed();
        for damage in [
            "flush ruleset".into(),
            format!("delete table {TABLE}"),
            format!("flush map {TABLE} ports4"),
            format!("delete element {TABLE} ports4 {{ tcp . 8080 }}"),
            format!("flush chain {TABLE} prerouting"),
            format!("flush table {TABLE}"),
            format!("add element {TABLE} ports4 {{ tcp . 7070 : 10.0.0.77 . 80 }}"),
            format!("insert rule {TABLE} published drop"),
            format!("add table {TABLE} {{ flags dormant; }}"),
        ] {
            tokio::time::sleep(BREATH).await;
            sh(&format!("nft '{damage}'"));
            let began = Instant::now();
            let answered = answers_again(&scene.host);
            eventually(&format!("the table as it was, after {damage}"), async || listed() == whole).await;
            let healed = began.elapsed();
            println!("{damage}: the port answered after {answered:?}, the table was whole after {healed:?}");
            assert!(answered < AT_ONCE, "{damage}: {answered:?}");
        }
        scene.settled().await;
    });
}

#[test]
fn what_was_done_while_the_service_was_away_is_healed() {
    isolated("kernel::what_was_done_while_the_service_was_away_is_healed", |_| async {
        let Some(mut scene) = Scene::new().await else { return };
        let (whole, owned) = (listed(), is_owned());
        for damage in [
            format!("delete element {TABLE} ports4 {{ tcp . 8080 }}"),
            format!("insert rule {TABLE} published drop"),
            format!("delete table {TABLE}"),
            "flush ruleset".into(),
            format!("delete table {TABLE}; add table {TABLE}; add map {TABLE} ports4 {{ type mark : verdict; }}"),
        ] {
            scene.host.kill_service();
            sh(&format!("nft '{damage}'"));
            let began = Instant::now();
            scene.host.spawn_service();
            answers_again(&scene.host);
            println!("after SIGKILL and {damage}: the port answered {:?} after the start", began.elapsed());
            eventually("the table as it was", async || listed() == whole && is_owned() == owned).await;
            scene.host.kill_service();
            scene.host.start_service().await;
            scene.settled().await;
        }
    });
}

#[test]
fn a_switch_at_the_moment_of_a_flush() {
    isolated("kernel::a_switch_at_the_moment_of_a_flush", |host| async move {
        let Some(scene) = Scene::new().await else { return };
        switch_amid_flushes(&scene, &host).await;
    });
}

#[test]
fn a_switch_at_the_moment_of_a_flush_that_is_healed() {
    isolated("kernel::a_switch_at_the_moment_of_a_flush_that_is_healed", |host| async move {
        let Some(scene) = shared_scene("a_switch_at_the_moment_of_a_flush_that_is_healed").await else { return };
        switch_amid_flushes(&scene, &host).await;
    });
}

async fn switch_amid_flushes(scene: &Scene, host: &Namespace) {
    scene.prepare(Deed::Rollback).await;
    let known = scene.known(Deed::Rollback).await;
    for round in 0..30 {
        let flush = host.spawn(move || {
            std::thread::sleep(Duration::from_millis(round % 10));
            sh("nft flush ruleset");
        });
        scene.perform(Deed::Rollback, &known).await.unwrap();
        flush.join().unwrap();
        scene.settled().await;
    }
    assert_eq!(elements(&scene.host).len(), 2);
    assert!(answers_again(&scene.host) < AT_ONCE);
}
