//! From nothing to live, and from one chain to the next.

use crate::host::{GATE, MANAGER, Options, ROOT, eventually, open_gate};
use crate::manifest::{FIRST, LIVE, Member, PORTS, STAGED, THIRD, Versions, mail, manifest, members};
use crate::netns::isolated;
use crate::scene::{Chain, Scene, path};
use crate::told::Told;

const UNIKERNEL: &str = "org.albatross.Deployer1.Unikernel";

async fn state(scene: &Scene, id: &str) -> String {
    let path = format!("{ROOT}/unikernel/{}", id.replace('.', "_2e"));
    scene.manager.property(&path, UNIKERNEL, "State").await.unwrap_or_default()
}

#[test]
fn from_nothing_to_live() {
    isolated("chains::from_nothing_to_live", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let mut told = Told::listen(&scene.manager).await;
        let applied = scene.apply(&mail(&scene.host, FIRST)).await.unwrap();
        assert_eq!(applied.as_str(), path("mail"));
        let seen = scene.seen().await;
        assert_eq!(seen.state, "staged", "{seen:?}");
        assert_eq!(seen.staged.keys().collect::<Vec<_>>(), ["entry", "forward", "signer"]);
        assert!(seen.live.is_empty() && seen.previous.is_empty(), "{seen:?}");
        assert!(!seen.last_result.is_empty());
        scene.is_answered_by(STAGED, &seen.staged, FIRST).await;
        scene.nobody_at(LIVE);
        for id in seen.staged.values() {
            assert_eq!(state(&scene, id).await, "ready", "{id}");
        }
        let of_stack = told
            .of_mail_until(|told| told.states.ends_with(&["staged".to_owned()]) && told.changed.contains("Staged"))
            .await;
        assert_eq!(of_stack.added, 1);

        scene.activate().await.unwrap();
        let live = scene.seen().await;
        assert_eq!((live.state.as_str(), &live.live), ("live", &seen.staged));
        assert!(live.staged.is_empty() && live.previous.is_empty(), "{live:?}");
        scene.is_answered_by(LIVE, &live.live, FIRST).await;
        scene.nobody_at(STAGED);
        assert_eq!(state(&scene, &live.live["entry"]).await, "live");
        assert_eq!(state(&scene, &live.live["forward"]).await, "ready", "it has no ports");
        let of_stack =
            told.of_mail_until(|told| ["Live", "Staged"].iter().all(|property| told.changed.contains(*property))).await;
        assert_eq!(of_stack.states, ["live"]);
        // Nothing is staged any more, and what is live is.
        scene.activate().await.unwrap();
        assert_eq!(scene.seen().await, live);
        assert_eq!(told.names().await, Vec::<String>::new());
        scene.settled().await;
    });
}

#[test]
fn activate_can_be_part_of_apply() {
    isolated("chains::activate_can_be_part_of_apply", |_| async {
        let Some(scene) = Scene::new().await else { return };
        scene.apply_and_activate(&mail(&scene.host, FIRST)).await.unwrap();
        let first = scene.seen().await;
        scene.is_answered_by(LIVE, &first.live, FIRST).await;
        scene.nobody_at(STAGED);
        scene.apply_and_activate(&mail(&scene.host, THIRD)).await.unwrap();
        let third = scene.seen().await;
        scene.is_answered_by(LIVE, &third.live, THIRD).await;
        assert_eq!((third.state.as_str(), &third.previous), ("live", &first.live));
        // What is staged already goes live by an Apply that changes nothing.
        let more = Versions::from(["entry-4", "signer-3", "forward-3"]);
        scene.apply(&mail(&scene.host, more)).await.unwrap();
        scene.apply_and_activate(&mail(&scene.host, more)).await.unwrap();
        scene.is_answered_by(LIVE, &scene.seen().await.live, more).await;
        scene.settled().await;
    });
}

fn differing(one: &Chain, other: &Chain) -> Vec<String> {
    one.iter().filter(|(member, id)| other.get(*member) != Some(*id)).map(|(member, _)| member.clone()).collect()
}

#[test]
fn only_what_depends_on_a_change_is_new() {
    isolated("chains::only_what_depends_on_a_change_is_new", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await;
        let mut told = Told::listen(&scene.manager).await;
        assert_eq!(scene.created(), 3);
        scene.apply(&mail(&scene.host, FIRST)).await.unwrap();
        assert_eq!(scene.seen().await, first);
        assert_eq!(scene.created(), 3, "nothing was started");
        assert_eq!(told.names().await, Vec::<String>::new());

        // The entry alone.
        let entry: Versions = ["entry-2", "signer-1", "forward-1"];
        scene.apply(&mail(&scene.host, entry)).await.unwrap();
        let second = scene.seen().await;
        assert_eq!((second.state.as_str(), &second.live), ("staged", &first.live));
        assert_eq!(differing(&second.staged, &first.live), ["entry"]);
        assert_eq!(scene.created(), 4);
        scene.is_answered_by(LIVE, &first.live, FIRST).await;
        scene.is_answered_by(STAGED, &second.staged, entry).await;
        scene.apply(&mail(&scene.host, entry)).await.unwrap();
        assert_eq!(scene.created(), 4, "what is staged is not made again");
        scene.activate().await.unwrap();
        let second = scene.seen().await;
        assert_eq!(second.previous, first.live);
        scene.is_answered_by(LIVE, &second.live, entry).await;

        // What everybody depends on: a chain beside the other.
        let forward: Versions = ["entry-2", "signer-1", "forward-2"];
        scene.apply(&mail(&scene.host, forward)).await.unwrap();
        let third = scene.seen().await;
        assert_eq!(differing(&third.staged, &second.live), ["entry", "forward", "signer"]);
        assert_eq!(scene.created(), 7);
        for _ in 0..20 {
            scene.is_answered_by(LIVE, &second.live, entry).await;
            scene.is_answered_by(STAGED, &third.staged, forward).await;
        }
        // The one in the middle: those below it are the ones of the chain that is staged.
        let signer: Versions = ["entry-2", "signer-2", "forward-2"];
        scene.apply(&mail(&scene.host, signer)).await.unwrap();
        let fourth = scene.seen().await;
        assert_eq!(differing(&fourth.staged, &third.staged), ["entry", "signer"]);
        assert_eq!(scene.created(), 9);
        scene.is_answered_by(LIVE, &second.live, entry).await;
        scene.is_answered_by(STAGED, &fourth.staged, signer).await;
        scene.activate().await.unwrap();
        scene.is_answered_by(LIVE, &fourth.staged, signer).await;
        scene.nobody_at(STAGED);
        scene.settled().await;
    });
}

#[test]
fn what_was_there_is_taken_again() {
    isolated("chains::what_was_there_is_taken_again", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await;
        scene.go_live(THIRD).await;
        // Another way back: it runs still.
        let created = scene.created();
        scene.apply(&mail(&scene.host, FIRST)).await.unwrap();
        let back = scene.seen().await;
        assert_eq!((back.state.as_str(), &back.staged), ("staged", &first.live));
        scene.is_answered_by(STAGED, &first.live, FIRST).await;
        // And what is live is wanted after all.
        scene.apply(&mail(&scene.host, THIRD)).await.unwrap();
        let seen = scene.seen().await;
        assert_eq!(scene.created(), created, "nothing was started");
        scene.is_answered_by(LIVE, &seen.live, THIRD).await;
        scene.settled().await;
    });
}

#[test]
fn ports_alone_can_change() {
    isolated("chains::ports_alone_can_change", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await;
        let other = mail(&scene.host, FIRST).replace("\"25:25\"", "\"25:25\", \"2626:25/tcp\"");
        scene.apply(&other).await.unwrap();
        assert_eq!(scene.created(), 3);
        scene.nobody_at(2626);
        scene.activate().await.unwrap();
        scene.is_answered_by(2626, &first.live, FIRST).await;
        scene.is_answered_by(LIVE, &first.live, FIRST).await;
        // A member that is no more: its ports are nobody's.
        let alone = Member::new("forward", scene.host.image("forward-1", &[])).more("ports = [\"8080:80\"]");
        scene.apply_and_activate(&manifest("mail", &[alone])).await.unwrap();
        assert_eq!(scene.created(), 3);
        assert_eq!(scene.host.get(8080).unwrap().split(' ').next(), Some("version=forward-1"));
        for port in [LIVE, 2626, STAGED] {
            scene.nobody_at(port);
        }
        scene.roll_back().await.unwrap();
        scene.is_answered_by(LIVE, &first.live, FIRST).await;
        scene.nobody_at(8080);
        scene.settled().await;
    });
}

#[test]
fn members_that_do_not_depend_on_each_other_start_together() {
    isolated("chains::members_that_do_not_depend_on_each_other_start_together", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let gated = |name| Member::new(name, scene.host.image(name, &[])).ready(GATE).more("timeout = 600000");
        let text = manifest("wide", &["one", "two", "three"].map(gated));
        let manager = scene.manager.clone();
        let apply = tokio::spawn(async move { manager.call("Apply", &(text, Options::new())).await.map(drop) });
        // None of them is ready before the others have started.
        eventually("all three have started", async || scene.host.running().len() == 3).await;
        assert!(!apply.is_finished());
        for (_, address, ..) in scene.manager.leases().await.unwrap() {
            open_gate(&address).await;
        }
        apply.await.unwrap().unwrap();
        scene.settled().await;
    });
}

/// As many at a time as the configuration has it, also when a chain is longer than that.
#[test]
fn a_chain_needs_one_place_only() {
    isolated("chains::a_chain_needs_one_place_only", |_| async {
        let Some(scene) = Scene::configured("[limits]\nconcurrent-deploys = 1\n").await else { return };
        scene.apply(&mail(&scene.host, FIRST)).await.unwrap();
        scene.answers(STAGED, FIRST).await;
        let wide = ["one", "two", "three"].map(|name| Member::new(name, scene.host.image(name, &[])));
        scene.apply(&manifest("wide", &wide)).await.unwrap();
        scene.settled().await;
    });
}

/// A member of more than one word, ports for both protocols, options of the head for all, braces that are braces.
#[test]
fn a_manifest_says_what_deploy_and_publish_can_be_told() {
    isolated("chains::a_manifest_says_what_deploy_and_publish_can_be_told", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let image = scene.host.image("1", &["--port=53"]);
        let dns = Member::new("dns-resolver.test", image).ready("tcp:53").more(
            "ports = [\"5353:53/any\"]\nsources = [\"192.0.2.0/24\"]\naddresses = [\"192.0.2.1\"]\ndrain = 0\nmemory = 64",
        );
        let other = Member::new("other", scene.host.image("2", &[])).argument("--version={{{service}}}");
        let other = other.argument("--relay={dns-resolver.test.address}:53").more(&PORTS.replace(":25\"", ":80\""));
        let text =
            manifest("mail", &[dns, other]).replace("[service.dns-resolver.test]", "[service.\"dns-resolver.test\"]");
        let text = text.replacen("network = \"br0\"", "network = \"br0\"\nmemory = 48\nrestart = \"never\"", 1);
        scene.apply_and_activate(&text).await.unwrap();
        let asked = scene.ask(LIVE).unwrap();
        assert_eq!(asked.iter().map(|(version, _)| version.as_str()).collect::<Vec<_>>(), ["{other}", "1"]);
        assert!(scene.host.get(5353).unwrap().starts_with("version=1 "));
        let seen = scene.seen().await;
        for (member, memory) in [("dns-resolver.test", 64_u64), ("other", 48)] {
            let id = seen.live[member].replace('.', "_2e").replace('-', "_2d");
            let has = scene.manager.property::<u64>(&format!("{ROOT}/unikernel/{id}"), UNIKERNEL, "Memory").await;
            assert_eq!(has, Some(memory), "{member}");
        }
        eventually("counted", async || scene.manager.property::<u32>(ROOT, MANAGER, "ServiceCount").await == Some(2))
            .await;
    });
}

#[test]
fn many_members_of_any_shape() {
    isolated("chains::many_members_of_any_shape", |_| async {
        let Some(scene) = Scene::new().await else { return };
        // A diamond under the mail stack: both go through what is below.
        let host = &scene.host;
        let [entry, signer, forward] = members(host, FIRST);
        let filter = Member::new("filter", host.image("filter-1", &[])).relay("forward");
        let entry = entry.argument("--version={filter.address}");
        let text =
            |forward: &Member| manifest("mail", &[entry.clone(), filter.clone(), signer.clone(), forward.clone()]);
        scene.apply_and_activate(&text(&forward)).await.unwrap();
        let first = scene.seen().await;
        let leases = scene.manager.leases().await.unwrap();
        let address = leases.iter().find(|lease| lease.0 == first.live["filter"]).unwrap().1.clone();
        assert_eq!(scene.ask(LIVE).unwrap()[0].0, address);
        scene.apply(&text(&Member::new("forward", host.image("forward-2", &[])))).await.unwrap();
        assert_eq!(differing(&scene.seen().await.staged, &first.live).len(), 4);
        assert_eq!(scene.created(), 8);
        scene.settled().await;
    });
}
