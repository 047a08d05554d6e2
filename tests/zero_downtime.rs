//! Zero downtime: clients outside connect all the while, and two hundred switches, a service that is killed, a ruleset
//! that is flushed and a version that crashes cost none of them anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "zero_downtime/chance.rs"]
mod chance;
#[path = "zero_downtime/clients.rs"]
mod clients;
#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
#[path = "load/open_loop.rs"]
mod open_loop;
#[path = "support/pattern.rs"]
mod pattern;
mod private_bus;
#[path = "zero_downtime/scene.rs"]
mod scene;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
#[path = "zero_downtime/timeline.rs"]
mod timeline;
#[path = "zero_downtime/verdict.rs"]
mod verdict;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clients::{Clients, Wanted};
use host::eventually;
use netns::isolated;
use scene::{Call, Scene};
use verdict::{Crash, judge};

const SWITCHES: usize = 200;
/// Before the first switch and after the last.
const QUIET: Duration = Duration::from_millis(300);
const UNDISTURBED: Wanted = Wanted { downloads: true };
/// Requests for each switch that a machine must manage at least: a switch without them would show nothing.
const REQUESTS: usize = 10;

/// Asks the clients what they saw, says it, and fails where it is not as it has to be.
fn conclude(what: &str, scene: &Scene, clients: Clients, crashes: &[Crash]) {
    let verdict = judge(&scene.timeline, &clients.stop(), crashes);
    println!("{what}: {}", verdict.figures(&scene.timeline, scene.rollbacks));
    let rate = verdict.rate();
    assert!(rate >= 300.0 || verdict.held_back > 0, "the load was {rate:.0} connections a second");
    let (asked, switches) = (verdict.requests(), scene.timeline.switches.len());
    assert!(asked >= REQUESTS * switches, "{asked} requests for {switches} switches");
    assert!(verdict.is_clean(), "{what}");
}

#[test]
fn switches_cost_nothing() {
    isolated("switches_cost_nothing", |_| async {
        let Some(mut scene) = Scene::new(2).await else { return };
        let clients = Clients::start(&scene.host, UNDISTURBED);
        tokio::time::sleep(QUIET).await;
        for round in 0..SWITCHES {
            scene.switch(scene.other(), scene.call(round), false).await;
            scene.pace().await;
        }
        tokio::time::sleep(QUIET).await;
        conclude("switches", &scene, clients, &[]);
    });
}

/// Every sixth switch, within so long of its call.
const KILLED_EVERY: usize = 6;
const KILLED_WITHIN: Duration = Duration::from_millis(12);

#[test]
fn switches_of_a_service_that_is_killed_cost_nothing() {
    isolated("switches_of_a_service_that_is_killed_cost_nothing", |_| async {
        let Some(mut scene) = Scene::new(2).await else { return };
        let clients = Clients::start(&scene.host, UNDISTURBED);
        tokio::time::sleep(QUIET).await;
        let mut kills = 0;
        for round in 0..SWITCHES {
            let (version, call, began) = (scene.other(), scene.call(round), Instant::now());
            let attempt = scene.attempt(version, call);
            if round % KILLED_EVERY == 0 {
                tokio::time::sleep(scene.chance.up_to(KILLED_WITHIN)).await;
                scene.host.kill_service();
                scene.host.spawn_service();
                kills += 1;
            }
            scene.finish(version, call, began, attempt, true).await;
            scene.pace().await;
        }
        tokio::time::sleep(QUIET).await;
        conclude(&format!("switches of a service that was killed {kills} times"), &scene, clients, &[]);
    });
}

#[test]
fn switches_while_the_ruleset_is_flushed_cost_nothing() {
    isolated("switches_while_the_ruleset_is_flushed_cost_nothing", |_| async {
        let Some(mut scene) = Scene::new(2).await else { return };
        let clients = Clients::start(&scene.host, UNDISTURBED);
        let stop = Arc::new(AtomicBool::new(false));
        let flushes = flush(&mut scene, &stop);
        tokio::time::sleep(QUIET).await;
        for round in 0..SWITCHES {
            scene.switch(scene.other(), scene.call(round), false).await;
            scene.pace().await;
        }
        stop.store(true, Ordering::Relaxed);
        let flushed = flushes.join().unwrap();
        tokio::time::sleep(QUIET).await;
        conclude(&format!("switches while `nft flush ruleset` ran {flushed} times"), &scene, clients, &[]);
    });
}

/// Flushes at moments that have nothing to do with the switches. How often.
fn flush(scene: &mut Scene, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let pauses = (0..200).map(|_| Duration::from_millis(50) + scene.chance.up_to(Duration::from_millis(700)));
    let (pauses, stop) = (pauses.collect::<Vec<_>>(), Arc::clone(stop));
    thread::spawn(move || {
        let mut pauses = pauses.into_iter().cycle();
        let mut flushed = 0;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(pauses.next().unwrap());
            assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
            flushed += 1;
        }
        flushed
    })
}

/// One after the other is live and crashes. It is deployed again when its turn comes, and nobody waits for it any more.
const RING: usize = 8;
const CRASHES: usize = 30;
const ROUND: Duration = Duration::from_millis(620);
const CRASHED_AROUND: Duration = Duration::from_millis(5);

#[test]
fn a_version_that_crashes_in_the_moment_of_the_switch_costs_only_what_it_had() {
    isolated("a_version_that_crashes_in_the_moment_of_the_switch_costs_only_what_it_had", |_| async {
        let Some(mut scene) = Scene::new(RING).await else { return };
        let clients = Clients::start(&scene.host, Wanted { downloads: false });
        let mut crashes = Vec::new();
        let mut next = Instant::now() + QUIET;
        for round in 0..CRASHES {
            let (live, version) = (round % RING + 1, (round + 1) % RING + 1);
            if round + 1 >= RING {
                revive(&scene, version, round).await;
            }
            tokio::time::sleep_until(next.into()).await;
            next = Instant::now() + ROUND;
            crashes.push(crash_and_switch(&mut scene, live, version, round).await);
        }
        tokio::time::sleep(QUIET).await;
        conclude(&format!("{CRASHES} crashes in the moment of the switch"), &scene, clients, &crashes);
    });
}

/// The way an administrator may go: by its id, or by what it was deployed from.
async fn revive(scene: &Scene, version: usize, round: usize) {
    // It would answer, where the switch had left them to it.
    let address = scene.address(version);
    eventually("no first packet waits for one that is dead", async || first_packets_to(address) == 0).await;
    if round.is_multiple_of(2) {
        scene.manager.call("Restart", &(scene.id(version),)).await.unwrap();
    } else {
        assert_eq!(scene.deploy(version).await.0, scene.id(version));
    }
}

/// Connections to a unikernel that conntrack has, and of which nothing has been answered.
fn first_packets_to(address: &str) -> usize {
    let all = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let answered_from = format!(" src={address} ");
    all.lines().filter(|line| line.contains(" SYN_SENT ") && line.contains(&answered_from)).count()
}

/// Kills the live one from `CRASHED_AROUND` before the call that makes `version` live to as long after.
async fn crash_and_switch(scene: &mut Scene, live: usize, version: usize, round: usize) -> Crash {
    let command = if round.is_multiple_of(2) { "kill" } else { "lose" };
    let after = scene.chance.up_to(2 * CRASHED_AROUND);
    let crash =
        crash(scene.host.albatross.directory().join("control.sock"), format!("{command} {}", scene.id(live)), after);
    tokio::time::sleep(CRASHED_AROUND).await;
    scene.switch(version, Call::Publish, false).await;
    let (began, ended) = tokio::task::spawn_blocking(|| crash.join().unwrap()).await.unwrap();
    Crash { began, ended }
}

fn crash(control: PathBuf, line: String, after: Duration) -> JoinHandle<(Instant, Instant)> {
    thread::spawn(move || {
        thread::sleep(after);
        let began = Instant::now();
        let mut stream = UnixStream::connect(&control).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ok\n", "{line}");
        (began, Instant::now())
    })
}
