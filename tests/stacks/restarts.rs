//! The service and Albatross go and come back.

use crate::asking::Asking;
use crate::host::eventually;
use crate::manifest::{FIRST, LIVE, SECOND, STAGED, THIRD, mail};
use crate::netns::isolated;
use crate::scene::Scene;

#[test]
fn a_service_that_starts_again_has_the_same_stacks() {
    isolated("restarts::a_service_that_starts_again_has_the_same_stacks", |_| async {
        let Some(mut scene) = Scene::live(FIRST).await else { return };
        scene.go_live(SECOND).await;
        scene.apply(&mail(&scene.host, THIRD)).await.unwrap();
        let asking = Asking::start(&scene.host, LIVE);
        let (before, seen) = (scene.settled().await, scene.seen().await);
        for end in [true, false] {
            if end {
                scene.host.stop_service()
            } else {
                scene.host.kill_service()
            }
            scene.host.start_service().await;
            scene.until("as before", |account| *account == before).await;
            assert_eq!(scene.seen().await, seen);
            scene.is_answered_by(LIVE, &seen.live, SECOND).await;
            scene.is_answered_by(STAGED, &seen.staged, THIRD).await;
        }
        scene.activate().await.unwrap();
        scene.restart_service(None).await;
        scene.nobody_at(STAGED);
        scene.is_answered_by(LIVE, &seen.staged, THIRD).await;
        scene.roll_back().await.unwrap();
        scene.is_answered_by(LIVE, &seen.live, SECOND).await;
        scene.remove().await.unwrap();
        scene.restart_service(None).await;
        assert_eq!(scene.mail().await, None);
        drop(asking);
    });
}

#[test]
fn nothing_is_lost_while_the_service_is_away() {
    isolated("restarts::nothing_is_lost_while_the_service_is_away", |_| async {
        let Some(mut scene) = Scene::live(FIRST).await else { return };
        let asking = Asking::start(&scene.host, LIVE);
        for versions in [SECOND, THIRD, FIRST] {
            scene.apply(&mail(&scene.host, versions)).await.unwrap();
            scene.restart_service(None).await;
            scene.activate().await.unwrap();
            scene.restart_service(None).await;
            scene.answers(LIVE, versions).await;
        }
        asking.nothing_lost();
    });
}

#[test]
fn what_albatross_starts_again_is_the_same_stack() {
    isolated("restarts::what_albatross_starts_again_is_the_same_stack", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.apply(&mail(&scene.host, SECOND)).await.unwrap();
        let seen = scene.seen().await;
        scene.host.albatross.control("restart-self 300");
        eventually("both chains answer", async || {
            let answers = |port| scene.ask(port).is_ok_and(|all| all.len() == 3);
            answers(LIVE) && answers(STAGED)
        })
        .await;
        scene.settled().await;
        assert_eq!(scene.seen().await, seen);
        scene.is_answered_by(LIVE, &seen.live, FIRST).await;
        scene.is_answered_by(STAGED, &seen.staged, SECOND).await;
        scene.activate().await.unwrap();
        scene.is_answered_by(LIVE, &seen.staged, SECOND).await;
    });
}

/// A live or staged member that has ended is made again by the same manifest.
#[test]
fn apply_brings_back_what_has_ended() {
    isolated("restarts::apply_brings_back_what_has_ended", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let text = mail(&scene.host, FIRST).replace("network = \"br0\"", "network = \"br0\"\nrestart = \"never\"");
        scene.apply_and_activate(&text).await.unwrap();
        let live = scene.seen().await.live;
        scene.host.albatross.control(&format!("lose {}", live["forward"]));
        scene.until("it has exited", |account| account.unikernels[&live["forward"]] == "exited").await;
        assert!(scene.ask(LIVE).is_err(), "who hands on to it fails");
        scene.apply(&text).await.unwrap();
        assert_eq!(scene.created(), 4);
        assert_eq!(scene.seen().await.live, live);
        scene.is_answered_by(LIVE, &live, FIRST).await;
        scene.settled().await;
    });
}
