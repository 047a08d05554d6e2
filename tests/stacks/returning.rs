//! Back to the chain that was live before, and forward again.

use std::time::Instant;

use crate::asking::Asking;
use crate::host::{A_WHILE, GATE, Options, error_of, eventually, open_gate};
use crate::manifest::{FIRST, LIVE, Member, SECOND, STAGED, mail, manifest, members};
use crate::netns::isolated;
use crate::scene::Scene;

#[test]
fn back_and_forth() {
    isolated("returning::back_and_forth", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        // Nothing was live before the first.
        let (only, outcome) = (scene.seen().await, scene.roll_back().await);
        let (name, message) = error_of(outcome);
        assert!(message.contains("mail"), "{name}: {message}");
        assert_eq!(scene.seen().await, only);
        scene.go_live(SECOND).await;
        let second = scene.seen().await;
        assert_eq!(second.previous, only.live);
        let created = scene.created();
        for _ in 0..3 {
            scene.roll_back().await.unwrap();
            let seen = scene.seen().await;
            assert_eq!((&seen.live, &seen.previous, seen.state.as_str()), (&only.live, &second.live, "live"));
            scene.is_answered_by(LIVE, &only.live, FIRST).await;
            scene.roll_back().await.unwrap();
            scene.is_answered_by(LIVE, &second.live, SECOND).await;
        }
        assert_eq!(scene.created(), created);
        scene.settled().await;
    });
}

#[test]
fn what_is_staged_stays_staged() {
    isolated("returning::what_is_staged_stays_staged", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.go_live(SECOND).await;
        let third = ["entry-3", "signer-3", "forward-3"];
        scene.apply(&mail(&scene.host, third)).await.unwrap();
        let before = scene.seen().await;
        scene.roll_back().await.unwrap();
        let seen = scene.seen().await;
        assert_eq!((&seen.live, &seen.staged, &seen.previous), (&before.previous, &before.staged, &before.live));
        scene.is_answered_by(LIVE, &seen.live, FIRST).await;
        scene.is_answered_by(STAGED, &seen.staged, third).await;
        scene.settled().await;
    });
}

/// FIRST with members of which it is known when they are back.
fn gated(scene: &Scene) -> String {
    let members = members(&scene.host, FIRST).map(|one| match one.name {
        "signer" => Member { ready: GATE, ..one }.more("timeout = 600000"),
        _ => one,
    });
    manifest("mail", &members).replace("network = \"br0\"", "network = \"br0\"\nrestart = \"never\"")
}

#[test]
fn what_has_ended_is_brought_back_first() {
    isolated("returning::what_has_ended_is_brought_back_first", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let (manager, text) = (scene.manager.clone(), gated(&scene));
        let activate = Options::from([("activate", true.into())]);
        let apply = tokio::spawn(async move { manager.call("Apply", &(text, activate)).await.map(drop) });
        let signer = async || {
            let leases = scene.manager.leases().await.unwrap();
            leases.into_iter().find(|(id, ..)| id.starts_with("signer.")).map(|(_, address, ..)| address)
        };
        eventually("the signer has an address", async || signer().await.is_some()).await;
        let signer = signer().await.unwrap();
        open_gate(&signer).await;
        apply.await.unwrap().unwrap();
        let first = scene.seen().await.live;
        scene.go_live(SECOND).await;
        let second = scene.seen().await.live;
        for command in ["kill", "lose"] {
            scene.host.albatross.control(&format!("{command} {}", first["signer"]));
            scene.until("it has exited", |account| account.unikernels[&first["signer"]] == "exited").await;
            let asking = Asking::start(&scene.host, LIVE);
            let manager = scene.manager.clone();
            let back = tokio::spawn(async move { manager.call("RollbackStack", &("mail",)).await.map(drop) });
            let until = Instant::now() + A_WHILE;
            while Instant::now() < until {
                scene.is_answered_by(LIVE, &second, SECOND).await;
            }
            assert!(!back.is_finished());
            open_gate(&signer).await;
            back.await.unwrap().unwrap();
            assert_eq!(scene.seen().await.live, first);
            scene.is_answered_by(LIVE, &first, FIRST).await;
            asking.nothing_lost();
            scene.roll_back().await.unwrap();
        }
        scene.settled().await;
    });
}

#[test]
fn what_was_destroyed_is_deployed_again_first() {
    isolated("returning::what_was_destroyed_is_deployed_again_first", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await.live;
        scene.go_live(SECOND).await;
        // One of it, all of it, and one whose address somebody else has now.
        scene.destroy(&first["forward"], false).await.unwrap();
        assert_eq!(scene.seen().await.previous["forward"], "");
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, FIRST).await;
        scene.roll_back().await.unwrap();
        for id in scene.seen().await.previous.values() {
            scene.destroy(id, false).await.unwrap();
        }
        assert!(scene.seen().await.previous.values().all(String::is_empty));
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, FIRST).await;
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, SECOND).await;
        let forward = scene.seen().await.previous["forward"].clone();
        let address = scene.manager.leases().await.unwrap().into_iter().find(|lease| lease.0 == forward).unwrap().1;
        scene.destroy(&forward, false).await.unwrap();
        let last: u8 = address.rsplit('.').next().unwrap().parse().unwrap();
        let others = [format!("10.0.0.1-10.0.0.{}", last - 1), format!("10.0.0.{}-10.0.0.254", last + 1)];
        let body = scene.manager.call("AllocateAddress", &("thief", "10.0.0.0/24", others.as_slice())).await;
        assert_eq!(body.unwrap().deserialize::<String>().unwrap(), address);
        scene.roll_back().await.unwrap();
        let seen = scene.seen().await;
        scene.is_answered_by(LIVE, &seen.live, FIRST).await;
        scene.manager.call("ReleaseAddress", &("thief",)).await.unwrap();
        scene.settled().await;
    });
}

#[test]
fn what_was_collected_is_deployed_again_first() {
    isolated("returning::what_was_collected_is_deployed_again_first", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.go_live(SECOND).await;
        let none = Options::from([("keep-previous", 0u32.into()), ("force", true.into())]);
        let removed = scene.manager.collect(none).await.unwrap();
        println!("collected with keep-previous 0: {removed:?}");
        scene.settled().await;
        scene.roll_back().await.unwrap();
        scene.is_answered_by(LIVE, &scene.seen().await.live, FIRST).await;
        scene.settled().await;
    });
}

#[test]
fn one_that_does_not_come_back_leaves_what_is_live() {
    isolated("returning::one_that_does_not_come_back_leaves_what_is_live", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await.live;
        scene.go_live(SECOND).await;
        scene.destroy(&first["forward"], false).await.unwrap();
        let (before, seen) = (scene.settled().await, scene.seen().await);
        scene.host.albatross.control("refuse create 1 not now");
        let (name, message) = error_of(scene.roll_back().await);
        assert_eq!(name, "AlbatrossRefused", "{message}");
        assert!(message.contains("member forward of stack mail"), "{message}");
        scene.is_answered_by(LIVE, &seen.live, SECOND).await;
        let now = scene.seen().await;
        assert_eq!((now.live, now.previous), (seen.live, seen.previous));
        scene.until("as before", |account| *account == before).await;
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, FIRST).await;
    });
}

#[test]
fn a_chain_that_does_not_answer_gives_way_to_the_one_before_when_that_is_wanted() {
    isolated("returning::a_chain_that_does_not_answer_gives_way_to_the_one_before_when_that_is_wanted", |_| async {
        let Some(scene) = Scene::configured("[publish]\nfall-back = true\n").await else { return };
        let chain = |version: &'static str, check: &str| {
            let member = |name: &'static str, version: &str| {
                Member::new(name, scene.host.image(version, &[])).ready("http:80/health")
            };
            let entry = member("entry", version).more("ports = [\"8080:80\"]").more(check);
            manifest("mail", &[entry, member("shared", "shared")])
        };
        scene.apply_and_activate(&chain("1", "")).await.unwrap();
        let before = scene.seen().await.live;
        scene.apply_and_activate(&chain("2", "")).await.unwrap();
        // The same chain: what is other is how often it is asked.
        scene.apply(&chain("2", "check = 100\ncheck-failures = 2")).await.unwrap();
        let failing = scene.seen().await.live;
        scene.host.get_path(8080, "/answer?path=/health&code=503").unwrap();
        let gone_back = async || scene.seen().await.live == before;
        eventually("the chain before is live", gone_back).await;
        assert!(scene.host.get(8080).unwrap().starts_with("version=1"));
        let seen = scene.seen().await;
        assert_eq!((seen.state.as_str(), &seen.previous), ("failed", &failing));
        let words = format!("{} does not answer any more", failing["entry"]);
        assert!(seen.last_result.starts_with(&words), "{}", seen.last_result);
    });
}
