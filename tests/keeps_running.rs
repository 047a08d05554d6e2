//! The service ends when it is told to and at no other time, and what ends it leaves what is live as it is: seen by somebody
//! who starts it again as its unit has systemd do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/small_disk.rs"]
mod small_disk;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::time::{Duration, Instant};

use host::{Options, PATIENCE, TestHost, error_of, eventually, options};
use netns::isolated;
use rustix::process::Signal;
use small_disk::SmallDisk;

/// As long as what was tried by hand.
const AWAY: Duration = Duration::from_secs(8);

/// `RestartSec=` of the unit.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the service again when it has ended, as the unit has systemd do.
#[derive(Default)]
struct Supervisor {
    ended: Option<Instant>,
    restarts: usize,
}

impl Supervisor {
    fn look_after(&mut self, host: &mut TestHost) {
        if host.is_running() {
            self.ended = None;
        } else if self.ended.get_or_insert_with(Instant::now).elapsed() >= PAUSE {
            host.kill_service();
            host.spawn_service();
            self.restarts += 1;
        }
    }

    /// Looks after it for `time` and until it has restarted it so often, and asks meanwhile what is published.
    async fn for_as_long_as(&mut self, time: Duration, restarts: usize, host: &mut TestHost) {
        let end = Instant::now() + time;
        // On a busy machine a restart may take longer.
        while Instant::now() < end || (self.restarts < restarts && Instant::now() < end + PATIENCE) {
            self.look_after(host);
            assert!(host.get(8080).unwrap().starts_with("version=1"), "what is live answers all the time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until it is on the bus again, with all that was published.
    async fn until_it_serves(&mut self, host: &mut TestHost) {
        let client = host.bus.client().await;
        let manager = host::Manager(client);
        eventually("it serves again", async || {
            self.look_after(host);
            assert!(host.get(8080).unwrap().starts_with("version=1"), "what is live answers all the time");
            manager.leases().await.is_ok_and(|leases| leases.len() == 1)
        })
        .await;
    }
}

async fn with_a_website(host: &TestHost) {
    let manager = host.manager().await;
    manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
    manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
}

async fn another_version(host: &TestHost) {
    let manager = host.manager().await;
    manager.deploy("website", &host.image("2", &[]), options("http:80/")).await.unwrap();
    manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
    assert!(host.get(8080).unwrap().starts_with("version=2"));
}

#[test]
fn the_bus_goes_for_a_while() {
    isolated("the_bus_goes_for_a_while", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        with_a_website(&host).await;
        let mut supervisor = Supervisor::default();
        host.bus.kill();
        supervisor.for_as_long_as(AWAY, 2, &mut host).await;
        assert!(supervisor.restarts > 1, "without a bus it ends, and says so: {}", host.log());
        host.bus.start_again();
        supervisor.until_it_serves(&mut host).await;
        another_version(&host).await;
    });
}

#[test]
fn the_bus_comes_later_than_the_service() {
    isolated("the_bus_comes_later_than_the_service", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        host.bus.kill();
        host.spawn_service();
        eventually("it has ended without a bus", async || !host.is_running()).await;
        let mut supervisor = Supervisor::default();
        host.bus.start_again();
        let connection = host.bus.client().await;
        eventually("it is there", async || {
            supervisor.look_after(&mut host);
            host::Manager(connection.clone()).leases().await.is_ok()
        })
        .await;
    });
}

#[test]
fn the_disk_is_full_for_a_while() {
    isolated("the_disk_is_full_for_a_while", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        let disk = match SmallDisk::mount(&host.state(), 16) {
            Ok(disk) => disk,
            Err(why) => return println!("SKIPPED: no file system of the test's own: {why}"),
        };
        host.start_service().await;
        with_a_website(&host).await;
        let mut supervisor = Supervisor::default();
        disk.fill();
        // What needs the disk is refused, and it goes on.
        let image = host.image("2", &[]);
        error_of(host.manager().await.deploy("website", &image, options("http:80/")).await);
        supervisor.for_as_long_as(AWAY / 2, 0, &mut host).await;
        // It is killed as well: whether a start needs the disk or not, it is there when there is room again.
        host.signal_service(Signal::KILL);
        supervisor.for_as_long_as(AWAY, 0, &mut host).await;
        disk.make_room();
        supervisor.until_it_serves(&mut host).await;
        another_version(&host).await;
        host.kill_service();
    });
}

/// Whether the process has a handler for all three of them.
fn handles_signals(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_owned();
    let caught = u64::from_str_radix(&caught, 16).unwrap();
    [Signal::HUP, Signal::INT, Signal::TERM].iter().all(|signal| caught & (1 << (signal.as_raw() - 1)) != 0)
}

#[test]
fn signals_have_handlers_before_anything_is_done() {
    isolated("signals_have_handlers_before_anything_is_done", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        // A pipe as configuration: the start waits at the first thing that it does.
        netns::sh(&format!("mkfifo {}", host.config().display()));
        host.spawn_service();
        let pid = host.service_pid();
        eventually("all three have handlers", async || handles_signals(pid)).await;
        assert!(!host.state().exists());
        host.signal_service(Signal::HUP);
        host.signal_service(Signal::TERM);
        // What it reads is the end of the file.
        let path = host.config();
        tokio::task::spawn_blocking(move || drop(std::fs::OpenOptions::new().write(true).open(path))).await.unwrap();
        assert!(host.wait_for_end().success(), "{}", host.log());
    });
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it_in_order() {
    isolated("a_signal_at_any_moment_of_the_start_ends_it_in_order", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        with_a_website(&host).await;
        host.stop_service();
        let mut handled = 0;
        for round in 0..60u32 {
            host.spawn_service();
            let pid = host.service_pid();
            // From its first instant, and from that of its handlers, to more than a start takes on a machine that is not busy.
            let later = round % 2 == 1;
            if later {
                eventually("it has its handlers", async || handles_signals(pid)).await;
            }
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 2500)).await;
            let can = later || handles_signals(pid);
            handled += u32::from(can);
            // Before it has a handler, whoever started this test in the background may have it ignore SIGINT.
            let signal = if can && round % 3 != 0 { Signal::INT } else { Signal::TERM };
            host.signal_service(signal);
            let status = host.wait_for_end();
            assert!(status.success() || !can, "round {round}: {status}\n{}", host.log());
        }
        println!("{handled} of 60 had their handlers");
        assert!(host.get(8080).unwrap().starts_with("version=1"));
        host.start_service().await;
        another_version(&host).await;
    });
}

#[test]
fn a_hangup_during_the_start_is_a_reload() {
    isolated("a_hangup_during_the_start_is_a_reload", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        for round in 1..=10 {
            host.spawn_service();
            let pid = host.service_pid();
            eventually("it has its handlers", async || handles_signals(pid)).await;
            host.signal_service(Signal::HUP);
            let manager = host.manager().await;
            eventually("it is there", async || manager.leases().await.is_ok()).await;
            eventually("it has reloaded", async || host.log().matches("read again, and holds").count() >= round).await;
            host.stop_service();
        }
    });
}
