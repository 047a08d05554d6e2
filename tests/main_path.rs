//! The main path on a real bus and a real kernel: deploy, publish, switch, roll back, collect, and all that a caller can
//! do wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use host::{Options, TestHost, error_of, options};
use netns::isolated;

#[test]
fn a_website_is_deployed_published_updated_rolled_back_and_collected() {
    isolated("a_website_is_deployed_published_updated_rolled_back_and_collected", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (first, address) = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        assert_eq!(address, "10.0.0.2");
        let again = manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        assert_eq!(again, (first.clone(), address), "the same configuration is the same unikernel");
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        assert_eq!(host.get(8080).unwrap().split(':').next(), Some("version=1 address=10.0.0.2 client=192.0.2.2"));

        let (second, _) = manager.deploy("website", &host.image("2", &[]), options("http:80/")).await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=1 "), "a deployment changes nothing that is live");
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=2 "));
        manager.call("Rollback", &("website",)).await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=1 "));

        let dry = Options::from([("dry-run", true.into()), ("keep-previous", 0u32.into())]);
        let planned = manager.collect(dry).await.unwrap();
        let removed = manager.collect(Options::from([("keep-previous", 0u32.into())])).await.unwrap();
        assert_eq!(planned, removed);
        let kinds = removed.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>();
        assert_eq!(kinds, ["unikernel", "lease", "image"]);
        assert_eq!(removed[0].1, second);
        assert_eq!(host.running(), [first]);
        assert!(host.get(8080).unwrap().starts_with("version=1 "));
    });
}

#[test]
fn a_refused_call_leaves_nothing_behind() {
    isolated("a_refused_call_leaves_nothing_behind", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let exits = host.image("exits", &["--exit=3"]);
        let (name, message) = error_of(manager.deploy("website", &exits, options("running")).await);
        assert_eq!(name, "NotReady", "{message}");
        assert!(manager.leases().await.unwrap().is_empty());
        assert!(host.running().is_empty() && host.stored_images().is_empty());
    });
}
