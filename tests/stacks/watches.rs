//! Images that move, and are looked at again.

use std::time::Duration;

use crate::host::eventually;
use crate::manifest::{FIRST, LIVE, Member, STAGED, Versions, manifest, members};
use crate::netns::isolated;
use crate::scene::{Scene, Seen};

/// Longer than two looks take.
const TWO_LOOKS: Duration = Duration::from_millis(2_600);

/// The mail stack whose signer is looked at every second.
fn watched(scene: &Scene) -> String {
    let place = signer(scene, "signer-1", &[]);
    let members = members(&scene.host, FIRST).map(|one| match one.name {
        "signer" => Member { image: place.clone(), ..one }.more("watch = \"1s\"\ntimeout = 6000"),
        _ => one,
    });
    manifest("mail", &members)
}

/// Puts a version of the signer where it is looked for, in one move.
fn signer(scene: &Scene, version: &str, arguments: &[&str]) -> String {
    let made = scene.host.image(version, arguments);
    put(scene, &std::fs::read(made).unwrap())
}

fn put(scene: &Scene, image: &[u8]) -> String {
    let place = scene.host.directory.path().join("signer-of-today");
    let beside = place.with_extension("new");
    std::fs::write(&beside, image).unwrap();
    std::fs::rename(beside, &place).unwrap();
    place.display().to_string()
}

async fn until(scene: &Scene, what: &str, mut holds: impl FnMut(&Seen) -> bool) -> Seen {
    eventually(what, async || scene.mail().await.is_some_and(|seen| holds(&seen))).await;
    scene.seen().await
}

/// After another look.
async fn looked_again(scene: &Scene) -> Seen {
    let before = scene.seen().await.last_check;
    until(scene, "another look", |seen| seen.last_check > before).await
}

const WITH_SECOND: Versions = ["entry-1", "signer-2", "forward-1"];
const WITH_THIRD: Versions = ["entry-1", "signer-3", "forward-1"];

#[test]
fn what_has_moved_is_staged() {
    isolated("watches::what_has_moved_is_staged", |_| async {
        let Some(mut scene) = Scene::new().await else { return };
        scene.apply(&watched(&scene)).await.unwrap();
        scene.activate().await.unwrap();
        let first = scene.seen().await;
        let again = looked_again(&scene).await;
        assert!(again.last_check > 1_500_000_000_000_000, "microseconds since the epoch: {}", again.last_check);
        assert_eq!((&again.live, again.state.as_str(), scene.created()), (&first.live, "live", 3));
        signer(&scene, "signer-2", &[]);
        let seen = until(&scene, "it is staged", |seen| seen.state == "staged").await;
        println!("LastResult: {}", seen.last_result);
        assert!(seen.last_result.contains("signer"), "{}", seen.last_result);
        assert_eq!(scene.created(), 5, "the forward is the same");
        scene.is_answered_by(STAGED, &seen.staged, WITH_SECOND).await;
        scene.is_answered_by(LIVE, &first.live, FIRST).await;
        // So does a service that was started since.
        scene.restart_service(None).await;
        signer(&scene, "signer-3", &[]);
        scene.answers(STAGED, WITH_THIRD).await;
        scene.activate().await.unwrap();
        scene.answers(LIVE, WITH_THIRD).await;
        scene.settled().await;
    });
}

#[test]
fn what_has_moved_goes_live_where_apply_said_so() {
    isolated("watches::what_has_moved_goes_live_where_apply_said_so", |_| async {
        let Some(scene) = Scene::new().await else { return };
        scene.apply_and_activate(&watched(&scene)).await.unwrap();
        signer(&scene, "signer-2", &[]);
        scene.answers(LIVE, WITH_SECOND).await;
        // Somebody goes back: what moved before that does not go live again.
        let second = until(&scene, "told", |seen| !seen.previous.is_empty()).await;
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, FIRST).await;
        tokio::time::sleep(TWO_LOOKS).await;
        looked_again(&scene).await;
        scene.answers(LIVE, FIRST).await;
        assert_eq!(scene.seen().await.previous, second.live);
        // What moves after it does.
        signer(&scene, "signer-3", &[]);
        scene.answers(LIVE, WITH_THIRD).await;
        scene.settled().await;
    });
}

#[test]
fn what_fails_is_not_tried_again_until_it_moves() {
    isolated("watches::what_fails_is_not_tried_again_until_it_moves", |_| async {
        let Some(scene) = Scene::new().await else { return };
        scene.apply_and_activate(&watched(&scene)).await.unwrap();
        let first = scene.seen().await.live;
        signer(&scene, "exits", &["--exit=3"]);
        let failed = until(&scene, "it has failed", |seen| seen.state == "failed").await;
        assert!(failed.last_result.contains("signer"), "{}", failed.last_result);
        let created = scene.created();
        tokio::time::sleep(TWO_LOOKS).await;
        let later = looked_again(&scene).await;
        assert_eq!(scene.created(), created, "it was tried again");
        assert_eq!((later.state.as_str(), later.last_result), ("failed", failed.last_result));
        // No image at all, and none there: said, and looked at again.
        put(&scene, b"no image");
        let failed = until(&scene, "another reason", |seen| seen.last_result != later_result(&seen.last_result)).await;
        println!("LastResult of no image: {}", failed.last_result);
        std::fs::remove_file(scene.host.directory.path().join("signer-of-today")).unwrap();
        looked_again(&scene).await;
        println!("LastResult of a missing one: {}", scene.seen().await.last_result);
        scene.is_answered_by(LIVE, &first, FIRST).await;
        assert_eq!(scene.created(), created);
        signer(&scene, "signer-2", &[]);
        scene.answers(LIVE, WITH_SECOND).await;
        assert_eq!(scene.seen().await.state, "live");
        scene.settled().await;
    });
}

/// The end of a unikernel is in the words about it; no image is something else.
fn later_result(result: &str) -> String {
    if result.contains("exit") { result.to_owned() } else { String::new() }
}

#[test]
fn a_stack_that_is_removed_is_not_looked_at() {
    isolated("watches::a_stack_that_is_removed_is_not_looked_at", |_| async {
        let Some(scene) = Scene::new().await else { return };
        scene.apply_and_activate(&watched(&scene)).await.unwrap();
        scene.remove().await.unwrap();
        signer(&scene, "signer-2", &[]);
        tokio::time::sleep(TWO_LOOKS).await;
        scene.manager.collect(crate::host::Options::new()).await.unwrap();
        scene.nothing_is_left().await;
    });
}
