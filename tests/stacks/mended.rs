//! What once went wrong on a bad day.

use crate::host::{Options, ROOT, error_of, eventually, options};
use crate::manifest::{FIRST, LIVE, Member, SECOND, STAGED, mail, manifest, members};
use crate::netns::isolated;
use crate::scene::Scene;

#[test]
fn a_chain_goes_live_only_where_its_members_know_each_other() {
    isolated("mended::a_chain_goes_live_only_where_its_members_know_each_other", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await.live;
        scene.go_live(SECOND).await;
        // Deployed again it is the same unikernel on another address, which the signer of the previous chain does not know.
        scene.destroy(&first["forward"], false).await.unwrap();
        scene.apply(&mail(&scene.host, FIRST)).await.unwrap();
        scene.roll_back().await.unwrap();
        scene.is_answered_by(LIVE, &scene.seen().await.live, FIRST).await;
        scene.settled().await;
    });
}

#[test]
fn what_is_destroyed_is_off_its_staged_ports() {
    isolated("mended::what_is_destroyed_is_off_its_staged_ports", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.apply(&mail(&scene.host, SECOND)).await.unwrap();
        let seen = scene.seen().await;
        scene.is_answered_by(STAGED, &seen.staged, SECOND).await;
        scene.destroy(&seen.staged["entry"], true).await.unwrap();
        scene.nobody_at(STAGED);
        // Of what is live one is destroyed: to stage another chain opens nothing.
        scene.destroy(&seen.live["entry"], true).await.unwrap();
        scene.nobody_at(LIVE);
        scene.apply(&mail(&scene.host, SECOND)).await.unwrap();
        scene.answers(STAGED, SECOND).await;
        scene.nobody_at(LIVE);
        scene.apply(&mail(&scene.host, FIRST)).await.unwrap();
        scene.answers(LIVE, FIRST).await;
        scene.settled().await;
    });
}

#[test]
fn what_is_published_by_hand_keeps_its_port() {
    isolated("mended::what_is_published_by_hand_keeps_its_port", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let manager = &scene.manager;
        manager.deploy("entry", &scene.host.image("by-hand", &[]), options("http:80/")).await.unwrap();
        manager.publish("entry", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let (name, message) = error_of(scene.apply(&mail(&scene.host, FIRST)).await);
        assert!(name == "InUse" && message.contains("8080") && message.contains("entry"), "{name}: {message}");
        // With the port it is taken over, and without a gap.
        let asking = crate::asking::Asking::start(&scene.host, 8080);
        let [entry, signer, forward] = members(&scene.host, FIRST);
        let entry = Member { more: "ports = [\"25:25\", \"8080:25\"]\n".into(), ..entry };
        let failing = Member { image: "/nowhere.hvt".into(), ..signer.clone() };
        error_of(scene.apply(&manifest("mail", &[entry.clone(), failing, forward.clone()])).await);
        assert!(scene.host.get(8080).unwrap().contains("by-hand"));
        scene.apply(&manifest("mail", &[entry, signer, forward])).await.unwrap();
        assert!(scene.host.get(8080).unwrap().contains("by-hand"));
        scene.activate().await.unwrap();
        scene.answers(8080, FIRST).await;
        asking.nothing_lost();
        scene.settled().await;
    });
}

#[test]
fn what_guests_print_is_not_for_everybody() {
    isolated("mended::what_guests_print_is_not_for_everybody", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let [entry, signer, forward] = members(&scene.host, FIRST);
        let chatty = scene.host.image("chatty", &["--print=the-password-of-somebody", "--exit=3"]);
        let text = manifest("mail", &[entry, Member { image: chatty, ..signer }, forward]);
        let (name, message) = error_of(scene.apply(&text).await);
        assert_eq!(name, "NotReady", "{message}");
        let result = scene.seen().await.last_result;
        assert!(result.contains("member signer of stack mail") && !result.contains("password"), "{result}");
    });
}

#[test]
fn what_albatross_starts_again_by_itself_stays() {
    isolated("mended::what_albatross_starts_again_by_itself_stays", |_| async {
        let Some(mut scene) = Scene::live(FIRST).await else { return };
        let live = scene.seen().await.live;
        // It writes down what it runs, ends it, and starts it again when it comes back.
        scene.host.albatross.terminate();
        let exited = async || {
            let states = live.values().map(|id| {
                let path = format!("{ROOT}/unikernel/{}", id.replace('.', "_2e"));
                let manager = &scene.manager;
                async move { manager.property::<String>(&path, "org.albatross.Deployer1.Unikernel", "State").await }
            });
            futures_util::future::join_all(states).await.into_iter().all(|state| state.as_deref() == Some("exited"))
        };
        eventually("all have ended", exited).await;
        let (name, message) = error_of(scene.apply(&mail(&scene.host, FIRST)).await);
        assert_eq!(name, "AlbatrossUnavailable", "{message}");
        scene.host.albatross.again();
        scene.answers(LIVE, FIRST).await;
        scene.is_answered_by(LIVE, &live, FIRST).await;
        scene.settled().await;
    });
}
