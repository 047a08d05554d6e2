//! Albatross is away, hangs, says nothing, or runs something else than the service thinks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use zbus::{OwnedObjectPath, OwnedVariant};

use crate::asking::Asking;
use crate::host::{AT_ONCE, Manager, Options, PATIENCE, ROOT, TestHost, error_of, eventually, options};
use crate::netns::isolated;
use crate::scene::{Deed, Scene};

/// Like the service's own, only sooner.
const CONFIG: &str = "[albatross]\ndeadline = 2000\n";

type StateChanged = (OwnedObjectPath, String, String, String, HashMap<String, OwnedVariant>);

async fn scene() -> Option<Scene> {
    let mut scene = Scene::new().await?;
    std::fs::write(scene.host.config(), CONFIG).unwrap();
    scene.restart_service(None).await;
    scene.settled().await;
    Some(scene)
}

/// The sockets are gone, and the unikernels run on.
fn away(host: &TestHost) {
    let directory = host.albatross.directory();
    std::fs::rename(directory.join("util"), directory.join("util.away")).unwrap();
}

fn back(host: &TestHost) {
    let directory = host.albatross.directory();
    std::fs::rename(directory.join("util.away"), directory.join("util")).unwrap();
}

/// Commands of this kind that have come to Albatross.
fn came(host: &TestHost, command: &str) -> u64 {
    host.albatross.dump()["commands"][command].as_u64().unwrap_or_default()
}

/// Takes Albatross away as soon as another command of this kind has come to it; `delay` has it wait.
async fn away_at(host: &TestHost, command: &str) {
    let before = came(host, command);
    eventually(command, async || came(host, command) > before).await;
    away(host);
}

async fn degraded(manager: &Manager) -> String {
    let property = manager.property::<Vec<String>>(ROOT, "org.albatross.Deployer1.Manager", "Degraded");
    property.await.unwrap_or_default().into_iter().filter(|note| note.contains("Albatross")).collect()
}

async fn state(manager: &Manager, id: &str) -> String {
    let path = format!("{ROOT}/unikernel/{}", id.replace('.', "_2e"));
    manager.property(&path, "org.albatross.Deployer1.Unikernel", "State").await.unwrap_or_default()
}

#[test]
fn what_went_while_the_service_was_away_has_exited_and_stays_published() {
    isolated("albatross::what_went_while_the_service_was_away_has_exited_and_stays_published", |_| async {
        let Some(mut scene) = scene().await else { return };
        let first = scene.live("website").await;
        scene.host.kill_service();
        scene.host.albatross.control(&format!("lose {first}"));
        scene.host.start_service().await;
        let account = scene.until("exited", |account| account.unikernels[&first] == "exited").await;
        assert_eq!(account.published.len(), 2, "the publication stays");
        scene.manager.call("Restart", &(&first,)).await.unwrap();
        scene.until("live again", |account| account.unikernels[&first] == "live").await;
        assert!(scene.host.get(8080).unwrap().starts_with("version=1"));
    });
}

#[test]
fn what_runs_is_never_called_exited_at_a_start() {
    isolated("albatross::what_runs_is_never_called_exited_at_a_start", |_| async {
        let Some(mut scene) = scene().await else { return };
        let first = scene.live("website").await;
        scene.host.albatross.control("delay 300 info");
        for _ in 0..2 {
            scene.host.kill_service();
            scene.host.start_service().await;
            let end = Instant::now() + Duration::from_millis(900);
            while Instant::now() < end {
                assert_eq!(state(&scene.manager, &first).await, "live");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
}

#[test]
fn what_was_deployed_since_a_look_is_not_judged_by_it() {
    isolated("albatross::what_was_deployed_since_a_look_is_not_judged_by_it", |_| async {
        let Some(scene) = scene().await else { return };
        // A look begins at a new tap; it has asked what runs, and waits for the policy.
        scene.host.albatross.control("delay 500 policy");
        let before = came(&scene.host, "policy");
        scene.host.albatross.control("foreign foreign br0");
        eventually("it looks", async || came(&scene.host, "policy") > before).await;
        let second = scene.deploy("website", "2").await.unwrap();
        // And something else is observed, with what ran then still in mind.
        crate::netns::sh("ip address add 10.0.0.200/24 dev br0");
        let end = Instant::now() + Duration::from_millis(1200);
        while Instant::now() < end {
            assert_eq!(state(&scene.manager, &second).await, "ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn what_albatross_starts_again_comes_back() {
    isolated("albatross::what_albatross_starts_again_comes_back", |_| async {
        let Some(scene) = scene().await else { return };
        let first = scene.live("website").await;
        scene.host.albatross.control("restart-self 1500");
        eventually("its end is known", async || {
            state(&scene.manager, &first).await == "exited" || !degraded(&scene.manager).await.is_empty()
        })
        .await;
        scene.until("live again", |account| account.unikernels[&first] == "live").await;
        eventually("it answers", async || scene.host.get(8080).is_ok_and(|answer| answer.starts_with("version=1")))
            .await;
        eventually("nothing is degraded", async || degraded(&scene.manager).await.is_empty()).await;
    });
}

#[test]
fn what_is_not_ours_is_never_touched() {
    isolated("albatross::what_is_not_ours_is_never_touched", |_| async {
        let Some(mut scene) = scene().await else { return };
        // The second looks as if it were one of ours.
        for name in ["foreign", "foreign.0123456789"] {
            assert_eq!(scene.host.albatross.control(&format!("foreign {name} br0")), "ok");
        }
        scene.restart_service(None).await;
        let everything = Options::from([("keep", Vec::<&str>::new().into()), ("force", true.into())]);
        let removed = scene.manager.collect(everything).await.unwrap();
        assert!(removed.iter().any(|(kind, _)| kind == "unikernel"), "{removed:?}");
        assert!(removed.iter().all(|(_, name)| !name.starts_with("foreign")), "{removed:?}");
        scene.settled().await;
        assert_eq!(scene.host.running(), ["foreign", "foreign.0123456789"]);
        let (name, _) = error_of(scene.manager.call("Destroy", &("foreign.0123456789", Options::new())).await);
        assert_eq!(name, "NoSuchUnikernel");
    });
}

#[test]
fn a_death_is_told_at_once() {
    isolated("albatross::a_death_is_told_at_once", |_| async {
        let Some(scene) = scene().await else { return };
        let first = scene.live("website").await;
        let rule = "type='signal',interface='org.albatross.Deployer1.Manager',member='UnikernelStateChanged'";
        let rule = zbus::MatchRule::try_from(rule).unwrap();
        let mut signals = zbus::MessageStream::for_match_rule(rule, &scene.manager.0, None).await.unwrap();
        let died = Instant::now();
        scene.host.albatross.control(&format!("lose {first}"));
        let told = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut signals)).await;
        let elapsed = died.elapsed();
        let body = told.unwrap().unwrap().unwrap().body();
        let (_, id, before, after, _): StateChanged = body.deserialize().unwrap();
        assert_eq!((id, before.as_str(), after.as_str()), (first, "live", "exited"));
        println!("a death was told after {elapsed:?}");
        assert!(elapsed < AT_ONCE, "{elapsed:?}");
    });
}

#[test]
fn albatross_is_away_at_the_start() {
    isolated("albatross::albatross_is_away_at_the_start", |_| async {
        let Some(mut scene) = scene().await else { return };
        let first = scene.live("website").await;
        let asking = Asking::start(&scene.host, 8080);
        scene.host.kill_service();
        away(&scene.host);
        scene.host.start_service().await;
        eventually("Degraded says so", async || !degraded(&scene.manager).await.is_empty()).await;
        assert_eq!(state(&scene.manager, &first).await, "live", "nothing is known of its end");
        let (name, message) = error_of(scene.deploy("website", "2").await);
        assert_eq!(name, "AlbatrossUnavailable", "{message}");
        back(&scene.host);
        eventually("Degraded is empty", async || degraded(&scene.manager).await.is_empty()).await;
        let account = scene.settled().await;
        assert_eq!((account.unikernels.len(), account.images.len()), (1, 1), "{account:?}");
        scene.deploy("website", "2").await.unwrap();
        asking.nothing_lost();
    });
}

#[test]
fn albatross_goes_away_in_the_middle() {
    isolated("albatross::albatross_goes_away_in_the_middle", |_| async {
        let Some(scene) = scene().await else { return };
        let asking = Asking::start(&scene.host, 8080);
        let before = scene.settled().await;
        scene.host.albatross.control("delay 1000 create");
        let (outcome, ()) = tokio::join!(scene.deploy("website", "2"), away_at(&scene.host, "create"));
        assert_eq!(error_of(outcome).0, "AlbatrossUnavailable");
        assert!(scene.manager.leases().await.unwrap().len() == 2, "its lease is kept while Albatross may have it");
        back(&scene.host);
        scene.until("undone", |account| *account == before).await;

        scene.host.albatross.control("delay 0 create");
        let second = scene.deploy("website", "2").await.unwrap();
        scene.host.albatross.control("delay 1000 destroy");
        let wanted = (&second, Options::new());
        let destroyed = scene.manager.call("Destroy", &wanted);
        let (outcome, ()) = tokio::join!(destroyed, away_at(&scene.host, "destroy"));
        assert_eq!(error_of(outcome).0, "AlbatrossUnavailable");
        back(&scene.host);
        let account =
            scene.until("known", |account| account.unikernels.get(&second).is_none_or(|s| s == "exited")).await;
        if account.unikernels.contains_key(&second) {
            scene.manager.call("Destroy", &(&second, Options::new())).await.unwrap();
        }
        scene.until("destroyed", |account| !account.unikernels.contains_key(&second)).await;
        asking.nothing_lost();
    });
}

#[test]
fn a_destroy_that_hangs_ends_in_time_and_loses_nothing() {
    isolated("albatross::a_destroy_that_hangs_ends_in_time_and_loses_nothing", |_| async {
        let Some(scene) = scene().await else { return };
        scene.prepare(Deed::Destroy).await;
        let before = scene.settled().await;
        let known = scene.known(Deed::Destroy).await;
        scene.host.albatross.control("hang-destroy on");
        let began = Instant::now();
        let (name, message) = error_of(scene.perform(Deed::Destroy, &known).await);
        println!("a destroy that hangs ended after {:?}: {name}: {message}", began.elapsed());
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert_eq!(scene.settled().await, before);
        let (other, live) = (scene.host.get(8080), scene.live("website").await);
        assert!(other.is_ok() && live != known.second);

        // A deployment that is not ready, and cannot be destroyed.
        let image = scene.host.image("deaf", &["--listen-after=600000"]);
        let mut wanted = options("http:80/");
        wanted.insert("timeout", 300u64.into());
        let began = Instant::now();
        let (name, _) = error_of(scene.manager.deploy("deaf", &image, wanted).await);
        assert_eq!(name, "NotReady");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        let held = scene.manager.leases().await.unwrap().into_iter().find(|lease| lease.0.starts_with("deaf"));
        let held = held.expect("the lease of one that still runs").1;
        let prefix = ("somebody", "10.0.0.0/24", Vec::<&str>::new());
        let free: String = scene.manager.call("AllocateAddress", &prefix).await.unwrap().deserialize().unwrap();
        assert_ne!(held, free);
        scene.manager.call("ReleaseAddress", &("somebody",)).await.unwrap();
        // Recovery is at it all the while: a death must be told at once all the same.
        let died = Instant::now();
        scene.host.albatross.control(&format!("lose {live}"));
        eventually("its end", async || state(&scene.manager, &live).await == "exited").await;
        assert!(died.elapsed() < AT_ONCE, "{:?}", died.elapsed());
        scene.manager.call("Restart", &(&live,)).await.unwrap();

        scene.host.albatross.control("hang-destroy off");
        scene.until("undone after all", |account| *account == before).await;
        scene.perform(Deed::Destroy, &known).await.unwrap();
        scene.settled().await;
    });
}

#[test]
fn a_create_without_an_answer_is_settled() {
    isolated("albatross::a_create_without_an_answer_is_settled", |_| async {
        let Some(scene) = scene().await else { return };
        let asking = Asking::start(&scene.host, 8080);
        scene.prepare(Deed::Deploy).await;
        let before = scene.settled().await;
        let cases =
            ["garbage", "close-without-answer", "close-mid-frame", "close-before", "refuse create 1 no more of them"];
        for case in cases {
            scene.host.albatross.control(case);
            let outcome = scene.deploy("website", "2").await;
            println!("{case}: {outcome:?}");
            let done = !case.starts_with("close-before") && !case.starts_with("refuse");
            assert_eq!(outcome.is_ok(), done, "{case}: {outcome:?}");
            if done {
                assert!(scene.settled().await != before);
            } else {
                scene.until("nothing half-made", |account| *account == before).await;
            }
            scene.deploy("website", "2").await.unwrap();
            scene.prepare(Deed::Deploy).await;
            assert_eq!(scene.settled().await, before, "{case}");
        }
        asking.nothing_lost();
    });
}
