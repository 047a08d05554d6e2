//! What clients may rely on, written down once more: interfaces, policy file and examples must name the same members,
//! with the contract's signatures.

// A test stops at the first thing that is not as it should be, and says what it skips.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod private_bus;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use albatross_deployer::domain::{Event, StackState, UnikernelState};
use albatross_deployer::orchestrator::InitialViews;
use private_bus::{OPEN, PrivateBus, views};

/// Interface, kind, member, types in (of a property: its type), types out.
const CONTRACT: &[(&str, &str, &str, &str, &str)] = &[
    ("Manager", "method", "Deploy", "ssa{sv}", "oss"),
    ("Manager", "method", "DeployImage", "sha{sv}", "oss"),
    ("Manager", "method", "Publish", "sa(sqq)a{sv}", ""),
    ("Manager", "method", "Unpublish", "s", ""),
    ("Manager", "method", "Rollback", "s", "o"),
    ("Manager", "method", "Collect", "a{sv}", "a(ss)"),
    ("Manager", "method", "Restart", "s", ""),
    ("Manager", "method", "Destroy", "sa{sv}", ""),
    ("Manager", "method", "AllocateAddress", "ssas", "s"),
    ("Manager", "method", "ReleaseAddress", "s", "s"),
    ("Manager", "method", "ListLeases", "", "a(sssx)"),
    ("Manager", "method", "ListPublications", "", "a(ssssqsq)"),
    ("Manager", "method", "ListJobs", "", "a(osss)"),
    ("Manager", "method", "ExportRuleset", "", "s"),
    ("Manager", "method", "Apply", "sa{sv}", "o"),
    ("Manager", "method", "Activate", "s", ""),
    ("Manager", "method", "RollbackStack", "s", ""),
    ("Manager", "method", "RemoveStack", "s", ""),
    ("Manager", "method", "ExportGraph", "s", "s"),
    ("Manager", "method", "OpenConsole", "sa{sv}", "h"),
    ("Manager", "method", "ReadConsole", "su", "a(xs)"),
    ("Manager", "property", "Version", "s", ""),
    ("Manager", "property", "AlbatrossVersion", "s", ""),
    ("Manager", "property", "Degraded", "as", ""),
    ("Manager", "property", "ServiceCount", "u", ""),
    ("Manager", "property", "UnikernelCount", "u", ""),
    ("Manager", "property", "LeaseCount", "u", ""),
    ("Manager", "signal", "UnikernelStateChanged", "", "osssa{sv}"),
    ("Manager", "signal", "ServiceSwitched", "", "sss"),
    ("Manager", "signal", "JobRemoved", "", "os"),
    ("Unikernel", "property", "Id", "s", ""),
    ("Unikernel", "property", "Service", "s", ""),
    ("Unikernel", "property", "State", "s", ""),
    ("Unikernel", "property", "Address", "s", ""),
    ("Unikernel", "property", "Network", "s", ""),
    ("Unikernel", "property", "Mac", "s", ""),
    ("Unikernel", "property", "Memory", "t", ""),
    ("Unikernel", "property", "Cpu", "u", ""),
    ("Unikernel", "property", "ImageDigest", "s", ""),
    ("Unikernel", "property", "ImageOrigin", "s", ""),
    ("Unikernel", "property", "CreatedAt", "x", ""),
    ("Unikernel", "property", "Revision", "t", ""),
    ("Unikernel", "property", "StartedAt", "x", ""),
    ("Unikernel", "property", "Restarts", "u", ""),
    ("Unikernel", "property", "ActiveConnections", "u", ""),
    ("Unikernel", "property", "ExitReason", "s", ""),
    ("Service", "property", "Name", "s", ""),
    ("Service", "property", "Live", "o", ""),
    ("Service", "property", "Previous", "o", ""),
    ("Service", "property", "Ports", "a(sqq)", ""),
    ("Stack", "property", "Name", "s", ""),
    ("Stack", "property", "State", "s", ""),
    ("Stack", "property", "Live", "a{so}", ""),
    ("Stack", "property", "Staged", "a{so}", ""),
    ("Stack", "property", "Previous", "a{so}", ""),
    ("Stack", "property", "LastCheck", "x", ""),
    ("Stack", "property", "LastResult", "s", ""),
    ("Job", "property", "Kind", "s", ""),
    ("Job", "property", "Subject", "s", ""),
    ("Job", "property", "Step", "s", ""),
    ("Job", "property", "Progress", "d", ""),
    ("Job", "property", "Bytes", "t", ""),
    ("Job", "method", "Cancel", "", ""),
    ("Job", "method", "OpenLog", "", "h"),
];

/// Everybody may call these: they change nothing.
const READING: &[&str] = &["ListLeases", "ListPublications", "ListJobs", "ExportRuleset", "ExportGraph"];

const INTERFACE_PREFIX: &str = "org.albatross.Deployer1.";

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A member as the introspection has it.
#[derive(Debug, Default, PartialEq)]
struct Member {
    types_in: String,
    types_out: String,
    documentation: String,
}

type Members = BTreeMap<(String, String, String), Member>;

fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!(" {name}=\""))?.1.split('"').next()
}

/// Reads zbus's introspection, which has one element a line.
fn members(xml: &str) -> Members {
    let (mut members, mut interface, mut comment) = (Members::new(), String::new(), String::new());
    let (mut current, mut in_comment) = (None, false);
    for line in xml.lines().map(str::trim) {
        let kind = line.trim_start_matches('<').split([' ', '>', '/']).next().unwrap_or_default();
        if line == "<!--" {
            (in_comment, comment) = (true, String::new());
        } else if line == "-->" {
            in_comment = false;
        } else if in_comment {
            comment.push_str(line);
            comment.push('\n');
        } else if kind == "interface" {
            interface = attribute(line, "name").unwrap().to_owned();
        } else if matches!(kind, "method" | "signal" | "property") && interface.starts_with(INTERFACE_PREFIX) {
            let key = (interface.clone(), kind.to_owned(), attribute(line, "name").unwrap().to_owned());
            let member = members.entry(key.clone()).or_insert_with(Member::default);
            member.documentation = std::mem::take(&mut comment);
            if kind == "property" {
                member.types_in = attribute(line, "type").unwrap().to_owned();
                assert_eq!(attribute(line, "access"), Some("read"), "{line}");
            }
            current = Some(key);
        } else if kind == "arg"
            && let Some(member) = current.as_ref().and_then(|key| members.get_mut(key))
        {
            // A signal's arguments have no direction: they go out.
            let incoming = attribute(line, "direction") == Some("in");
            let types = if incoming { &mut member.types_in } else { &mut member.types_out };
            types.push_str(attribute(line, "type").unwrap());
        } else if matches!(line, "</method>" | "</signal>" | "</property>" | "</interface>") {
            current = None;
        }
    }
    members
}

async fn introspect(client: &zbus::Connection, path: &str) -> String {
    let interface = Some("org.freedesktop.DBus.Introspectable");
    let reply = client.call_method(Some("org.albatross.Deployer1"), path, interface, "Introspect", &()).await;
    reply.unwrap().body().deserialize().unwrap()
}

/// What the service shows on a bus that has the shipped policy file; `None` where no bus can be run.
async fn introspected() -> Option<Members> {
    let bus = PrivateBus::start(OPEN, None)?;
    let initial = InitialViews {
        unikernels: vec![views::unikernel("website.0123456789", UnikernelState::Ready)],
        services: vec![views::service("website", None)],
        stacks: vec![views::stack("mail", StackState::Live)],
        ..InitialViews::default()
    };
    let (_service, events) = bus.serve(initial).await;
    let client = bus.client().await;
    events.send(Event::Job(views::job(1, "create"))).await.unwrap();
    let mut all = Members::new();
    for object in ["", "/unikernel/website_2e0123456789", "/service/website", "/stack/mail", "/job/_1"] {
        let path = format!("/org/albatross/Deployer1{object}");
        // The job's object comes through the publisher: give it the time.
        for _ in 0..100 {
            let found = members(&introspect(&client, &path).await);
            if !found.is_empty() {
                all.extend(found);
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    Some(all)
}

#[tokio::test]
async fn interfaces_are_the_contracts() {
    let Some(shown) = introspected().await else { return };
    let expected = CONTRACT.iter().map(|(interface, kind, name, types_in, types_out)| {
        let key = (format!("{INTERFACE_PREFIX}{interface}"), (*kind).to_owned(), (*name).to_owned());
        (key, ((*types_in).to_owned(), (*types_out).to_owned()))
    });
    let signatures = shown.iter().map(|(key, member)| (key, (&member.types_in, &member.types_out)));
    let expected = expected.collect::<BTreeMap<_, _>>();
    assert_eq!(
        signatures.collect::<BTreeMap<_, _>>(),
        expected.iter().map(|(key, types)| (key, (&types.0, &types.1))).collect()
    );
}

#[tokio::test]
async fn every_member_is_explained() {
    let Some(shown) = introspected().await else { return };
    assert!(!shown.is_empty());
    for (key, member) in shown {
        assert!(member.documentation.trim().len() > 15, "{key:?} has no documentation");
        // Two hyphens end a comment for an XML parser.
        assert!(!member.documentation.contains("--"), "{key:?}: {}", member.documentation);
    }
}

/// Interface and method of each `allow` of a policy file, under its `<policy …>`.
fn allowed(policy_file: &str) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let (mut allowed, mut context) = (BTreeMap::<_, BTreeSet<_>>::new(), String::new());
    for line in policy_file.lines().map(str::trim) {
        if let Some(policy) = line.strip_prefix("<policy ") {
            context = policy.trim_end_matches('>').to_owned();
        } else if line.starts_with("<allow ")
            && let (Some(interface), Some(member)) = (attribute(line, "send_interface"), attribute(line, "send_member"))
        {
            assert_eq!(attribute(line, "send_destination"), Some("org.albatross.Deployer1"), "{line}");
            allowed.entry(context.clone()).or_default().insert((interface.to_owned(), member.to_owned()));
        }
    }
    allowed
}

#[test]
fn the_policy_names_every_method() {
    let text = fs::read_to_string(repository("dbus-policy/org.albatross.Deployer1.conf")).unwrap();
    let allowed = allowed(&text);
    let methods = CONTRACT.iter().filter(|row| row.1 == "method");
    let (reading, changing): (BTreeSet<_>, BTreeSet<_>) = methods
        .map(|(interface, _, name, ..)| (format!("{INTERFACE_PREFIX}{interface}"), (*name).to_owned()))
        .partition(|(_, name)| READING.contains(&name.as_str()));
    assert_eq!(allowed[r#"group="albatross""#], changing);
    assert_eq!(allowed[r#"user="root""#], changing);
    let open = &allowed[r#"context="default""#];
    let own = open.iter().filter(|(interface, _)| interface.starts_with(INTERFACE_PREFIX)).cloned();
    assert_eq!(own.collect::<BTreeSet<_>>(), reading);
    for standard in ["Introspect", "Get", "GetAll", "GetManagedObjects"] {
        assert!(open.iter().any(|(_, name)| name == standard), "{standard}");
    }
    assert!(!text.contains("send_member=\"Set\""));
}

/// Commands of a script: comments gone, continued lines joined.
fn commands(script: &str) -> Vec<Vec<String>> {
    let joined = script.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// What stands behind an interface of ours (or `$manager`) in a command: a member, and what follows it.
fn named_in(command: &[String]) -> Option<(&str, &[String])> {
    let at = command.iter().position(|word| word == "$manager" || word.starts_with(INTERFACE_PREFIX))?;
    // An assignment ends with its quote and calls nothing.
    if command[at].ends_with('"') {
        return None;
    }
    let interface = command[at].strip_prefix(INTERFACE_PREFIX).unwrap_or("Manager");
    Some((interface, &command[at + 1..]))
}

#[test]
fn the_examples_call_every_method_with_its_types() {
    let mut called = BTreeSet::new();
    // A folder has an example of its own.
    let entries = fs::read_dir(repository("busctl-examples")).unwrap().map(|entry| entry.unwrap().path());
    for path in entries.filter(|path| path.is_file()) {
        let script = fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("#!/bin/sh\n#") && script.contains("\nset -eu\n"), "{path:?}");
        assert!(script.contains("${BUSCTL:-busctl --system}") || path.ends_with("update"), "{path:?}");
        assert_ne!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0, "{path:?} cannot be run");
        for command in commands(&script) {
            let Some((interface, words)) = named_in(&command) else { continue };
            let find = |kind: &str, name: &str| {
                CONTRACT.iter().find(|row| row.0 == interface && row.1 == kind && row.2 == name)
            };
            if command.iter().any(|word| word == "get-property") {
                assert!(!words.is_empty());
                let names = words.iter().map(|word| word.trim_end_matches(')'));
                names.for_each(|name| assert!(find("property", name).is_some(), "{path:?}: {name}"));
                continue;
            }
            let row = find("method", &words[0]).unwrap_or_else(|| panic!("{path:?}: {}", words[0]));
            let types = words.get(1).filter(|word| !word.starts_with('|')).map_or("", |word| word.trim_matches('\''));
            assert_eq!(types, row.3, "{path:?}: {}", words[0]);
            called.insert(row.2);
        }
    }
    // busctl can neither hand a file descriptor over nor read one.
    let descriptors = ["DeployImage", "OpenConsole", "OpenLog"];
    let methods = CONTRACT.iter().filter(|row| row.1 == "method" && !descriptors.contains(&row.2));
    assert_eq!(called, methods.map(|row| row.2).collect());
}

#[test]
fn the_watching_example_names_every_signal() {
    let script = fs::read_to_string(repository("busctl-examples/watch")).unwrap();
    for (_, _, name, ..) in CONTRACT.iter().filter(|row| row.1 == "signal") {
        assert!(script.contains(name), "{name}");
    }
}
