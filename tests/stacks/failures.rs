//! What fails while a chain is staged: the live one does not notice, and nothing of the new one is left.

use crate::asking::Asking;
use crate::host::{PATIENCE, error_of};
use crate::manifest::{FIRST, LIVE, Member, SECOND, STAGED, Versions, mail, mail_with, manifest, members};
use crate::netns::isolated;
use crate::scene::Scene;

struct Failure<'a> {
    what: &'a str,
    manifest: String,
    error: &'a str,
    /// In the message, beside the member's and the stack's name.
    words: &'a [&'a str],
    member: &'a str,
}

const WITH_NEW_SIGNER: Versions = ["entry-1", "signer-2", "forward-1"];

fn never_ready(scene: &Scene) -> String {
    let [entry, _, forward] = members(&scene.host, SECOND);
    let late = scene.host.image("late", &["--listen-after=60000", "--print=it will be long"]);
    manifest("mail", &[entry, Member::new("signer", late).relay("forward").more("timeout = 600"), forward])
}

/// Of a good Apply after it.
async fn recovers(scene: &Scene) {
    scene.apply(&mail(&scene.host, SECOND)).await.unwrap();
    let seen = scene.seen().await;
    assert_eq!(seen.state, "staged", "{seen:?}");
    scene.is_answered_by(STAGED, &seen.staged, SECOND).await;
    scene.activate().await.unwrap();
    scene.is_answered_by(LIVE, &seen.staged, SECOND).await;
    scene.settled().await;
}

async fn fails(scene: &Scene, failure: Failure<'_>) {
    let Failure { what, manifest, error, words, member } = failure;
    let (before, seen) = (scene.settled().await, scene.mail().await);
    let (name, message) = error_of(scene.apply(&manifest).await);
    assert_eq!(name, error, "{what}: {message}");
    for word in words.iter().copied().chain([&*format!("member {member} of stack mail")]) {
        assert!(message.contains(word), "{what}: no {word} in {message}");
    }
    let failed = scene.seen().await;
    assert_eq!(failed.state, "failed", "{what}");
    for word in words.iter().copied().chain([member]) {
        assert!(failed.last_result.contains(word), "{what}: no {word} in {}", failed.last_result);
    }
    let chains = |seen: crate::scene::Seen| (seen.live, seen.staged, seen.previous);
    assert_eq!(chains(failed), chains(seen.unwrap_or_default()), "{what}");
    scene.until(&format!("{what}: as before: {before:#?}"), |account| *account == before).await;
}

#[test]
fn what_is_live_stays_and_nothing_is_left() {
    isolated("failures::what_is_live_stays_and_nothing_is_left", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let asking = Asking::start(&scene.host, LIVE);
        let missing = Member::new("signer", "/nonexistent/signer.hvt".to_owned()).relay("forward");
        let [entry, _, forward] = members(&scene.host, SECOND);
        let missing = manifest("mail", &[entry, missing, forward]);
        let exits = members(&scene.host, SECOND).map(|one| match one.name {
            "signer" => Member { image: scene.host.image("exits", &["--exit=3"]), ..one },
            _ => one,
        });
        for failure in [
            Failure {
                what: "an image is missing",
                manifest: missing,
                error: "ImageUnavailable",
                words: &["/nonexistent/signer.hvt"],
                member: "signer",
            },
            Failure {
                what: "a member does not become ready",
                manifest: never_ready(&scene),
                error: "NotReady",
                words: &["600 ms"],
                member: "signer",
            },
            Failure {
                what: "a member exits",
                manifest: manifest("mail", &exits),
                error: "NotReady",
                words: &["3"],
                member: "signer",
            },
            Failure {
                what: "a device is missing",
                manifest: mail_with(&scene.host, SECOND, "signer", "block-devices = [[\"storage\", \"disk\", 512]]"),
                error: "ImageInvalid",
                words: &["storage"],
                member: "signer",
            },
        ] {
            fails(&scene, failure).await;
        }
        asking.nothing_lost();
        recovers(&scene).await;
    });
}

#[test]
fn albatross_refuses_a_member() {
    isolated("failures::albatross_refuses_a_member", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.host.albatross.control("refuse create 1 own words of the daemon");
        fails(
            &scene,
            Failure {
                what: "Albatross refuses",
                manifest: mail(&scene.host, WITH_NEW_SIGNER),
                error: "AlbatrossRefused",
                words: &["own words of the daemon"],
                member: "signer",
            },
        )
        .await;
        recovers(&scene).await;
    });
}

#[test]
fn there_are_too_few_addresses() {
    isolated("failures::there_are_too_few_addresses", |_| async {
        // Five beside the gateway: a second chain of three has no room.
        let config = "[network.br0]\nprefix = \"10.0.0.0/29\"\ngateway = \"10.0.0.1\"\n";
        let Some(scene) = Scene::configured(config).await else { return };
        scene.go_live(FIRST).await;
        fails(
            &scene,
            Failure {
                what: "the pool is exhausted",
                manifest: mail(&scene.host, SECOND),
                error: "AddressPoolExhausted",
                words: &["10.0.0.0/29"],
                member: "entry",
            },
        )
        .await;
        let entry: Versions = ["entry-2", "signer-1", "forward-1"];
        scene.apply_and_activate(&mail(&scene.host, entry)).await.unwrap();
        scene.is_answered_by(LIVE, &scene.seen().await.live, entry).await;
    });
}

#[test]
fn what_was_staged_before_stays_staged() {
    isolated("failures::what_was_staged_before_stays_staged", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.apply(&mail(&scene.host, WITH_NEW_SIGNER)).await.unwrap();
        let staged = scene.seen().await.staged;
        let failure = Failure {
            what: "a member does not become ready",
            manifest: never_ready(&scene),
            error: "NotReady",
            words: &[],
            member: "signer",
        };
        fails(&scene, failure).await;
        scene.is_answered_by(STAGED, &staged, WITH_NEW_SIGNER).await;
        scene.activate().await.unwrap();
        let seen = scene.seen().await;
        assert_eq!(seen.live, staged);
        scene.is_answered_by(LIVE, &staged, WITH_NEW_SIGNER).await;
    });
}

#[test]
fn the_first_of_all_fails() {
    isolated("failures::the_first_of_all_fails", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let failure = || Failure {
            what: "a member does not become ready",
            manifest: never_ready(&scene),
            error: "NotReady",
            words: &[],
            member: "signer",
        };
        fails(&scene, failure()).await;
        assert!(scene.host.running().is_empty() && scene.host.stored_images().is_empty());
        // There is nothing to put live, and nothing to go back to.
        assert!(scene.activate().await.is_err() && scene.roll_back().await.is_err());
        scene.remove().await.unwrap();
        scene.nothing_is_left().await;
        fails(&scene, failure()).await;
        recovers(&scene).await;
    });
}

/// A member that fails ends those that are under way beside it.
#[test]
fn a_failure_does_not_wait_for_the_others() {
    isolated("failures::a_failure_does_not_wait_for_the_others", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let slow = Member::new("slow", scene.host.image("slow", &["--listen-after=60000"])).more("timeout = 600000");
        let exits = Member::new("exits", scene.host.image("exits", &["--exit=3"]));
        let began = std::time::Instant::now();
        let (name, message) = error_of(scene.apply(&manifest("mail", &[slow, exits])).await);
        assert_eq!(name, "NotReady", "{message}");
        assert!(message.contains("exits"), "{message}");
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        scene.until("nothing", |account| *account == crate::account::Account::default()).await;
    });
}
