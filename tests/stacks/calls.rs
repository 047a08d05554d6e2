//! Calls that are cancelled, and calls at the same time.

use zbus::OwnedObjectPath;

use crate::host::{GATE, NAME, error_of, eventually, open_gate};
use crate::manifest::{FIRST, LIVE, Member, SECOND, STAGED, THIRD, mail, manifest, members};
use crate::netns::isolated;
use crate::scene::{Chain, Scene};

const JOB: &str = "org.albatross.Deployer1.Job";

/// The mail stack whose signer is ready when [`open_signer`] says so.
fn gated(scene: &Scene) -> String {
    let late = scene.host.image("late", &[]);
    let members = members(&scene.host, SECOND).map(|one| match one.name {
        "signer" => Member { image: late.clone(), ready: GATE, ..one }.more("timeout = 600000"),
        _ => one,
    });
    manifest("mail", &members)
}

/// Lets the newest signer become ready: the one beside those that are `known`.
async fn open_signer(scene: &Scene, known: &[&Chain]) {
    let leases = scene.manager.leases().await.unwrap();
    let is_new = |id: &String| id.starts_with("signer.") && known.iter().all(|chain| chain["signer"] != *id);
    let (_, address, ..) = leases.iter().find(|(id, ..)| is_new(id)).expect("the lease of the signer");
    open_gate(address).await;
}

/// The job of this kind that is running, once its step is this one.
async fn job(scene: &Scene, kind: &str, step: &str) -> String {
    let mut job = String::new();
    eventually(&format!("{kind} is at {step}"), async || {
        type Job = (OwnedObjectPath, String, String, String);
        let jobs: Vec<Job> = scene.manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
        let running = jobs.into_iter().find(|job| job.1 == kind && job.2 == "mail" && job.3 == "running");
        let Some((path, ..)) = running else { return false };
        job = path.to_string();
        let at: Option<String> = scene.manager.property(&job, JOB, "Step").await;
        at.is_some_and(|at| at.starts_with(step))
    })
    .await;
    job
}

#[test]
fn a_cancelled_apply_leaves_all_as_it_was() {
    isolated("calls::a_cancelled_apply_leaves_all_as_it_was", |_| async {
        let Some(scene) = Scene::new().await else { return };
        for live in [false, true] {
            if live {
                scene.go_live(FIRST).await;
            }
            let (before, seen) = (scene.settled().await, scene.mail().await);
            let (manager, manifest) = (scene.manager.clone(), gated(&scene));
            let apply =
                tokio::spawn(
                    async move { manager.call("Apply", &(manifest, crate::host::Options::new())).await.map(drop) },
                );
            let job = job(&scene, "apply", "signer: ").await;
            assert_eq!(scene.seen().await.state, "staging");
            scene.manager.0.call_method(Some(NAME), job.as_str(), Some(JOB), "Cancel", &()).await.unwrap();
            assert_eq!(error_of(apply.await.unwrap()).0, "Cancelled");
            scene.until("as before", |account| *account == before).await;
            assert_eq!(scene.mail().await, seen);
        }
        scene.answers(LIVE, FIRST).await;
    });
}

#[test]
fn of_two_applies_one_waits_for_the_other() {
    isolated("calls::of_two_applies_one_waits_for_the_other", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let (second, third) = (mail(&scene.host, SECOND), mail(&scene.host, THIRD));
        let (one, other) = tokio::join!(scene.apply(&second), scene.apply(&third));
        one.unwrap();
        other.unwrap();
        let seen = scene.seen().await;
        assert_eq!(seen.state, "staged");
        let asked = scene.ask(STAGED).unwrap().remove(0).0;
        let last = if asked == SECOND[0] { SECOND } else { THIRD };
        scene.is_answered_by(STAGED, &seen.staged, last).await;
        // The same at the same time is done once.
        scene.activate().await.unwrap();
        let created = scene.created();
        let first = mail(&scene.host, ["entry-4", "signer-4", "forward-4"]);
        let applied = futures_util::future::join_all((0..4).map(|_| scene.apply(&first))).await;
        applied.into_iter().for_each(|applied| drop(applied.unwrap()));
        assert_eq!(scene.created(), created + 3);
        scene.settled().await;
    });
}

#[test]
fn what_is_live_moves_while_an_apply_works() {
    isolated("calls::what_is_live_moves_while_an_apply_works", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.go_live(THIRD).await;
        let (first, third) = (scene.seen().await.previous, scene.seen().await.live);
        let (manager, manifest) = (scene.manager.clone(), gated(&scene));
        let apply =
            tokio::spawn(
                async move { manager.call("Apply", &(manifest, crate::host::Options::new())).await.map(drop) },
            );
        job(&scene, "apply", "signer: ").await;
        scene.roll_back().await.unwrap();
        assert!(!apply.is_finished(), "it waited");
        scene.is_answered_by(LIVE, &first, FIRST).await;
        open_signer(&scene, &[&first, &third]).await;
        apply.await.unwrap().unwrap();
        let seen = scene.seen().await;
        assert_eq!((&seen.live, &seen.previous, seen.state.as_str()), (&first, &third, "staged"));
        scene.answers(STAGED, ["entry-2", "late", "forward-2"]).await;
        scene.is_answered_by(LIVE, &first, FIRST).await;
        scene.settled().await;
    });
}

#[test]
fn a_stack_is_not_removed_under_an_apply() {
    isolated("calls::a_stack_is_not_removed_under_an_apply", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let (manager, manifest) = (scene.manager.clone(), gated(&scene));
        let apply =
            tokio::spawn(
                async move { manager.call("Apply", &(manifest, crate::host::Options::new())).await.map(drop) },
            );
        job(&scene, "apply", "signer: ").await;
        let (name, message) = error_of(scene.remove().await);
        assert!(name == "InUse" && message.contains("mail"), "{name}: {message}");
        scene.answers(LIVE, FIRST).await;
        open_signer(&scene, &[&scene.seen().await.live]).await;
        apply.await.unwrap().unwrap();
        scene.remove().await.unwrap();
        scene.nothing_is_left().await;
    });
}
