//! What a manifest may not say is refused before anything starts, by what the contract has for it.

use crate::host::{Options, error_of, options};
use crate::manifest::{FIRST, LIVE, Member, STAGED, mail, manifest, members};
use crate::netns::isolated;
use crate::scene::{Scene, stack};

struct Refused {
    what: &'static str,
    manifest: String,
    error: &'static str,
    words: &'static [&'static str],
}

/// Beside a published service and a stack that is live.
fn all(scene: &Scene) -> Vec<Refused> {
    let host = &scene.host;
    let mail = mail(host, FIRST);
    let [entry, signer, forward] = members(host, FIRST);
    let refused = |what, manifest: String, error, words| Refused { what, manifest, error, words };
    let invalid = |what, manifest: String, words| refused(what, manifest, "InvalidArgument", words);
    let taken = |what, port: &str, words| {
        let lines = format!("ports = [\"{port}:80\"]");
        refused(what, manifest("mail", &[forward.clone().more(&lines)]), "PortConflict", words)
    };
    let [cycle, itself] =
        ["entry", "forward"].map(|to| manifest("mail", &[entry.clone(), signer.clone(), forward.clone().relay(to)]));
    let staged_of_another = signer.clone().more("ports = [\"2525:80\"]");
    vec![
        invalid("a cycle", cycle, &["entry", "signer", "forward"]),
        invalid("a member that needs itself", itself, &["forward"]),
        invalid(
            "a member that is not there",
            manifest("mail", &[entry.clone(), signer.clone()]),
            &["signer", "forward"],
        ),
        invalid(
            "two members with one port",
            manifest("mail", &[entry.clone(), signer.clone().more("ports = [\"25:80\"]"), forward.clone()]),
            &["entry", "signer", "25"],
        ),
        invalid(
            "a port of one that is another's while it is staged",
            manifest("mail", &[entry, staged_of_another, forward.clone()]),
            &["entry", "signer", "2525"],
        ),
        taken("a port of another service", "8080", &["8080", "website"]),
        taken("a port of another stack", "9090", &["9090", "other"]),
        taken("a staged port of another stack", "9191", &["9191", "other"]),
        invalid("a table that does not end", mail.replace("[service.signer]", "[service.signer"), &["line", "column"]),
        invalid(
            "a key that is not known",
            mail.replacen("image = ", "imagee = ", 1),
            &["line 5", "column 1", "imagee"],
        ),
        invalid("an option that is not known", format!("colour = \"red\"\n{mail}"), &["line 1", "colour"]),
        invalid("a value of another type", mail.replacen("ready = \"tcp:25\"", "ready = 25", 1), &["line 7", "ready"]),
        invalid("no port", mail.replacen("\"25:25\"", "\"25\"", 1), &["line 8", "25"]),
        invalid("no member", "stack = \"mail\"\n".to_owned(), &["service"]),
        invalid("no name", mail.replacen("stack = \"mail\"", "", 1), &["stack"]),
        invalid(
            "no name of a stack",
            mail.replacen("stack = \"mail\"", "stack = \"Mail/1\"", 1),
            &["line 1", "Mail/1"],
        ),
        invalid("a template that does not end", mail.replacen("{signer.address}", "{signer.address", 1), &["entry"]),
        invalid(
            "another property of a member",
            mail.replacen("{signer.address}", "{signer.mac}", 1),
            &["entry", "args[2]"],
        ),
        invalid("nothing at all", "[".to_owned(), &["line 1"]),
    ]
}

#[test]
fn nothing_starts_for_what_cannot_be() {
    isolated("refusals::nothing_starts_for_what_cannot_be", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let manager = &scene.manager;
        manager.deploy("website", &scene.host.image("website", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let other = |version| {
            Member::new("another", scene.host.image(version, &[])).more("ports = [\"9090:80\"]\nstaged = [\"9191:80\"]")
        };
        scene.apply_and_activate(&manifest("other", &[other("other-1")])).await.unwrap();
        scene.apply(&manifest("other", &[other("other-2")])).await.unwrap();
        let (before, others) = (scene.settled().await, stack(manager, "other").await);
        let created = scene.created();
        let mut wrong = Vec::new();
        for Refused { what, manifest, error, words } in all(&scene) {
            match scene.apply(&manifest).await {
                Ok(_) => {
                    wrong.push(format!("{what}: it was applied"));
                    scene.remove().await.unwrap();
                }
                refused => {
                    let (name, message) = error_of(refused);
                    let lacking = words.iter().filter(|word| !message.contains(**word)).collect::<Vec<_>>();
                    if name != error || !lacking.is_empty() {
                        wrong.push(format!("{what}: {name} in place of {error}, lacking {lacking:?}: {message}"));
                    }
                    assert_eq!(scene.mail().await, None, "{what}: a stack is there");
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(scene.created(), created);
        assert_eq!(scene.settled().await, before);
        assert_eq!(stack(manager, "other").await, others);
        scene.nobody_at(LIVE);
        scene.nobody_at(STAGED);
    });
}

#[test]
fn a_stack_that_is_not_there_is_named() {
    isolated("refusals::a_stack_that_is_not_there_is_named", |_| async {
        let Some(scene) = Scene::new().await else { return };
        for (member, outcome) in [
            ("Activate", scene.activate().await),
            ("RollbackStack", scene.roll_back().await),
            ("RemoveStack", scene.remove().await),
            ("ExportGraph", scene.manager.call("ExportGraph", &("mail",)).await.map(drop)),
        ] {
            let (name, message) = error_of(outcome);
            assert_eq!(name, "NoSuchStack", "{member}: {message}");
            assert!(message.contains("mail"), "{member}: {message}");
        }
        let (name, _) = error_of(scene.manager.call("Activate", &("../mail",)).await);
        assert_eq!(name, "InvalidArgument");
    });
}

#[test]
fn a_member_is_moved_by_its_stack_alone() {
    isolated("refusals::a_member_is_moved_by_its_stack_alone", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.apply(&mail(&scene.host, ["entry-2", "signer-1", "forward-1"])).await.unwrap();
        let (seen, before) = (scene.seen().await, scene.settled().await);
        let manager = &scene.manager;
        for service in ["entry", "forward"] {
            for (member, outcome) in [
                ("Publish", manager.publish(service, &[("tcp", 8080, 80)], Options::new()).await),
                ("Unpublish", manager.call("Unpublish", &(service,)).await.map(drop)),
                ("Rollback", manager.call("Rollback", &(service,)).await.map(drop)),
            ] {
                let (name, message) = error_of(outcome);
                assert_eq!(name, "InUse", "{member} of {service}: {message}");
                assert!(message.contains("mail"), "{member} of {service}: {message}");
            }
        }
        for id in seen.live.values().chain(seen.staged.values()) {
            let (name, message) = error_of(scene.destroy(id, false).await);
            assert_eq!(name, "InUse", "{id}: {message}");
            assert!(message.contains("mail"), "{id}: {message}");
        }
        // A stack of another name has no part in them.
        let thief = manifest("thief", &[Member::new("forward", scene.host.image("thief", &[]))]);
        let (name, message) = error_of(scene.apply(&thief).await);
        assert!(["InUse", "InvalidArgument"].contains(&name.as_str()) && message.contains("mail"), "{name}: {message}");
        assert_eq!(stack(manager, "thief").await, None);
        assert_eq!((scene.seen().await, scene.settled().await), (seen.clone(), before));
        scene.destroy(&seen.staged["entry"], true).await.unwrap();
        assert_eq!(scene.seen().await.staged["entry"], "");
        scene.is_answered_by(LIVE, &seen.live, FIRST).await;
    });
}
