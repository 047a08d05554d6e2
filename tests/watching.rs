//! What Albatross and the host tell while calls work: a unikernel that runs is never said to have ended, and one that
//! has ended is not waited for.
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

use std::time::{Duration, Instant};

use host::{AT_ONCE, Options, PATIENCE, TestHost, error_of, eventually, options};
use netns::{isolated, sh};
use states::States;

/// Longer than a look at Albatross takes that is held up by `delay`.
const HELD_UP: Duration = Duration::from_millis(900);

/// How often Albatross was asked for the policy: the last question of a look.
fn policies(host: &TestHost) -> u64 {
    host.albatross.dump()["commands"]["policy"].as_u64().unwrap_or_default()
}

const SUCCESS: [&str; 4] = [">creating", "creating>starting", "starting>running", "running>ready"];

#[test]
fn what_albatross_was_asked_before_a_deployment_says_nothing_of_it() {
    isolated("what_albatross_was_asked_before_a_deployment_says_nothing_of_it", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut signals = States::watch(&manager.0).await;
        // Its tap makes the service look; the look has the list, and waits for the policy while a deployment succeeds.
        host.albatross.control("delay 600 policy");
        let before = policies(&host);
        host.albatross.control("foreign stranger br0");
        eventually("it looks", async || policies(&host) > before).await;
        manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        tokio::time::sleep(HELD_UP).await;
        assert_eq!(signals.so_far().await, SUCCESS);
    });
}

#[test]
fn what_the_host_tells_says_nothing_of_a_unikernel() {
    isolated("what_the_host_tells_says_nothing_of_a_unikernel", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut signals = States::watch(&manager.0).await;
        host.albatross.control("delay 600 policy");
        manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        sh("ip address add 198.51.100.7/32 dev lo");
        tokio::time::sleep(HELD_UP).await;
        assert_eq!(signals.so_far().await, SUCCESS);
    });
}

#[test]
fn one_that_ends_while_its_call_ends_is_noticed() {
    isolated("one_that_ends_while_its_call_ends_is_noticed", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut signals = States::watch(&manager.0).await;
        // The look that its end causes has begun before the call is done, and must leave it to the call.
        host.albatross.control("delay 200 policy");
        let mut options = options("running");
        options.insert("restart", "never".into());
        let exits = host.image("1", &["--exit-after=270:3"]);
        let begin = Instant::now();
        if manager.deploy("website", &exits, options).await.is_ok() {
            let mut told = Vec::new();
            while begin.elapsed() < PATIENCE && told.last().is_none_or(|last: &String| !last.ends_with(">exited")) {
                told.extend(signals.so_far().await);
            }
            assert_eq!(told.last().map(String::as_str), Some("ready>exited"), "{told:?}");
        }
    });
}

#[test]
fn one_that_exits_is_not_waited_for() {
    isolated("one_that_exits_is_not_waited_for", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        for (number, argument) in ["--exit=3", "--exit-after=20:0", "--unknown"].into_iter().enumerate() {
            let image = host.image(&number.to_string(), &[argument, "--listen-after=600000"]);
            for ready in ["http:80/", "tcp:80"] {
                let mut options: Options<'_> = options(ready);
                options.insert("restart", "never".into());
                let begin = Instant::now();
                let (name, message) = error_of(manager.deploy("website", &image, options).await);
                let took = begin.elapsed();
                assert_eq!(name, "NotReady", "{message}");
                assert!(message.contains("exited"), "{message}");
                assert!(took < AT_ONCE, "{argument}, {ready}: {took:?}");
            }
        }
        // It accepts the probe, and dies with the answer still to come.
        let silent = host.image("silent", &["--relay=10.0.0.250", "--exit-after=400:3"]);
        let mut options: Options<'_> = options("http:80/relay");
        options.insert("restart", "never".into());
        let begin = Instant::now();
        let (name, _) = error_of(manager.deploy("website", &silent, options).await);
        assert_eq!(name, "NotReady");
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    });
}

#[test]
fn a_deployment_without_albatross_leaves_nothing_behind() {
    isolated("a_deployment_without_albatross_leaves_nothing_behind", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let mut signals = States::watch(&manager.0).await;
        host.albatross.terminate();
        for _ in 0..2 {
            let (name, message) = error_of(manager.deploy("website", &host.image("1", &[]), options("http:80/")).await);
            assert_eq!(name, "AlbatrossUnavailable", "{message}");
            assert!(message.contains("systemctl status albatross_daemon"), "{message}");
            assert!(manager.leases().await.unwrap().is_empty() && host.stored_images().is_empty());
        }
        host.albatross.again();
        manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        let told = signals.so_far().await;
        assert_eq!(told[told.len() - 4..], SUCCESS, "{told:?}");
    });
}
