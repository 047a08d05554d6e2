//! What an operator reads in the journal: each line alone says what happened, to whom, and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "journal/lines.rs"]
mod lines;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "journal/sources.rs"]
mod sources;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use host::{Options, TestHost, error_of, eventually, options};
use lines::Journal;
use netns::{isolated, sh};

/// Part of an argument that nobody but the unikernel is to see, which prints it.
const SECRET: &str = "hunter2-hunter2";

/// What every unikernel of a test needs, and the secret.
fn with_secret<'a>(ready: &'a str) -> Options<'a> {
    let print = format!("--print=password={SECRET}");
    let mut options = options(ready);
    options.insert("args", [host::ARGUMENTS[0], host::ARGUMENTS[1], &print].map(String::from).to_vec().into());
    options
}

async fn host_with_journal() -> Option<(TestHost, Journal)> {
    let mut host = TestHost::without_service()?;
    let journal = Journal::listen(host.directory.path());
    host.environment.push(("JOURNAL_STREAM".into(), "1:1".into()));
    host.wrapper = journal.wrapper();
    host.start_service().await;
    Some((host, journal))
}

#[test]
fn a_line_alone_says_what_happened_to_whom_and_why() {
    isolated("a_line_alone_says_what_happened_to_whom_and_why", |_| async {
        let Some((host, journal)) = host_with_journal().await else { return };
        let manager = host.manager().await;
        journal.has("albatross-deployer 0.1.0 is ready on the bus at unix:", &[]).await;

        let image = host.image("1", &[]);
        let (first, _) = manager.deploy("website", &image, with_secret("http:80/")).await.unwrap();
        journal.has(&format!("{first} is deployed at 10.0.0.2 and ready"), &[("ID", &first)]).await;
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let live = format!("service website: {first} is live on port 8080/tcp");
        journal.has(&live, &[("SERVICE", "website"), ("TO", &first)]).await;
        let (second, _) = manager.deploy("website", &host.image("2", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let live = format!("service website: {second} is live on port 8080/tcp, and {first} was before");
        journal.has(&live, &[("SERVICE", "website"), ("FROM", &first), ("TO", &second)]).await;
        manager.call("Rollback", &("website",)).await.unwrap();
        manager.call("Unpublish", &("website",)).await.unwrap();
        let nothing = format!("service website: {first} is not published any more");
        journal.has(&nothing, &[("SERVICE", "website"), ("FROM", &first)]).await;
        manager.call("Destroy", &(&second, Options::new())).await.unwrap();
        journal.has(&format!("{second} is destroyed"), &[("ID", &second)]).await;
        journal.assert_whole(SECRET);
    });
}

#[test]
fn a_call_that_fails_is_named_with_its_subject_and_the_reason() {
    isolated("a_call_that_fails_is_named_with_its_subject_and_the_reason", |_| async {
        let Some((host, journal)) = host_with_journal().await else { return };
        let manager = host.manager().await;
        error_of(manager.publish("nobody", &[("tcp", 8080, 80)], Options::new()).await);
        let failed = "Publish of nobody failed: no service nobody: ";
        journal.has(failed, &[("METHOD", "Publish"), ("SUBJECT", "nobody")]).await;
        error_of(manager.call("ReleaseAddress", &("dns",)).await);
        journal.has("ReleaseAddress of dns failed: no lease for the tag \"dns\"", &[("SUBJECT", "dns")]).await;
        error_of(manager.call("Restart", &("website.0123456789",)).await);
        journal.has("Restart of website.0123456789 failed: no unikernel website.0123456789", &[]).await;
        error_of(manager.call("ExportGraph", &("mail",)).await);
        journal.has("ExportGraph of mail failed: no stack mail", &[]).await;

        // It prints, and never listens there.
        let mut never = with_secret("tcp:4242");
        never.insert("timeout", 500_u64.into());
        let (name, message) = error_of(manager.deploy("website", &host.image("1", &[]), never).await);
        assert_eq!(name, "NotReady", "{message}");
        let line = journal.has("Deploy of website failed: website.", &[("SUBJECT", "website")]).await;
        let printed = message.split_once("its console said last: ").expect(&message).1;
        assert!(line.contains("is not ready: ") && !line.contains(printed), "{line}");
        assert_eq!(journal.count("Deploy of website failed"), 1, "{journal}");
        journal.assert_whole(SECRET);
    });
}

#[test]
fn what_is_degraded_stands_in_the_line_and_in_that_of_its_end() {
    isolated("what_is_degraded_stands_in_the_line_and_in_that_of_its_end", |_| async {
        let Some((host, journal)) = host_with_journal().await else { return };
        let manager = host.manager().await;
        manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        sh("ip link set br0 down");
        let line = journal.has("degraded: network br0: its bridge is down. ", &[("SUBJECT", "Bridges")]).await;
        let note = line.trim_start_matches("degraded: ").to_string();
        sh("ip link set br0 up");
        journal.has(&format!("works again, no longer degraded: {note}"), &[("NOTE", &note)]).await;
        eventually("nothing is degraded", async || {
            let degraded = manager.property::<Vec<String>>(host::ROOT, host::MANAGER, "Degraded").await;
            degraded.is_some_and(|notes| notes.is_empty())
        })
        .await;
        journal.assert_whole(SECRET);
    });
}
