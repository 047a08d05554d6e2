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

use host::{HOST, Options, ROOT, TestHost, error_of, eventually, options};
use netns::isolated;

/// Seconds by which the service has the clock wrong.
const CLOCK: &str = "ALBATROSS_DEPLOYER_CLOCK";
const UNIKERNEL: &str = "org.albatross.Deployer1.Unikernel";

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

/// As a pipeline does after `git revert`.
#[test]
fn what_was_deployed_last_is_published_also_where_it_ran_already() {
    isolated("what_was_deployed_last_is_published_also_where_it_ran_already", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (one, two) = (host.image("1", &[]), host.image("2", &[]));
        let deploy = async |image: &str| manager.deploy("website", image, options("http:80/")).await.unwrap().0;
        let publish = async || manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let live = || host.get(8080).unwrap().split(' ').next().unwrap().to_string();
        let first = deploy(&one).await;
        publish().await;
        let second = deploy(&two).await;
        publish().await;
        assert_eq!(live(), "version=2");

        assert_eq!(deploy(&one).await, first);
        let revision = async |id: &str| manager.property::<u64>(&path(id), UNIKERNEL, "Revision").await.unwrap();
        assert!(revision(&first).await > revision(&second).await, "the first was deployed last");
        let nothing = manager.collect(Options::from([("keep-previous", 0u32.into())])).await.unwrap();
        assert_eq!(nothing, [], "it is the next to be published");
        publish().await;
        assert_eq!(live(), "version=1");

        // What is only started again, running or ended, is no newer for that.
        manager.call("Restart", &(&second,)).await.unwrap();
        publish().await;
        assert_eq!(live(), "version=1");
        host.albatross.control(&format!("kill {second}"));
        eventually("its death is seen", async || manager.told_of(&second, "State").await == "exited").await;
        manager.call("Restart", &(&second,)).await.unwrap();
        publish().await;
        assert_eq!(live(), "version=1");
        manager.call("Rollback", &("website",)).await.unwrap();
        assert_eq!(live(), "version=2");
        publish().await;
        assert_eq!(live(), "version=1", "a rollback is no deployment either");

        host.albatross.control(&format!("kill {second}"));
        eventually("its death is seen", async || manager.told_of(&second, "State").await == "exited").await;
        assert_eq!(deploy(&two).await, second);
        publish().await;
        assert_eq!(live(), "version=2", "and a deployment is one, also of what had ended");
    });
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_older() {
    isolated("a_clock_that_is_set_back_makes_nothing_older", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let (one, two) = (host.image("1", &[]), host.image("2", &[]));
        let port = [("tcp", 8080, 80)];
        let manager = host.manager().await;
        let (first, _) = manager.deploy("website", &one, options("http:80/")).await.unwrap();
        manager.publish("website", &port, Options::new()).await.unwrap();
        host.stop_service();
        host.environment.push((CLOCK.into(), "-3600".into()));
        host.start_service().await;

        let manager = host.manager().await;
        let (second, _) = manager.deploy("website", &two, options("http:80/")).await.unwrap();
        let created = async |id: &str| manager.property::<i64>(&path(id), UNIKERNEL, "CreatedAt").await.unwrap();
        assert!(created(&second).await < created(&first).await - 3_000_000_000, "the clock was set back");
        let nothing = manager.collect(Options::from([("keep-previous", 0u32.into())])).await.unwrap();
        assert_eq!(nothing, [], "nothing is overtaken");
        let connection = host.client.run(|| std::net::TcpStream::connect((HOST, 8080)).unwrap());
        manager.publish("website", &port, Options::from([("drain", 3000u64.into())])).await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=2 "));

        // No drain lasts as much longer as the clock was set back.
        host.stop_service();
        host.environment.push((CLOCK.into(), "-7200".into()));
        host.start_service().await;
        let manager = host.manager().await;
        eventually("its time is up", async || manager.told_of(&first, "State").await == "retired").await;
        drop(connection);
        let removed = manager.collect(Options::from([("keep-previous", 0u32.into())])).await.unwrap();
        assert_eq!((removed[0].0.as_str(), removed[0].1.as_str()), ("unikernel", first.as_str()));
    });
}

fn path(id: &str) -> String {
    format!("{ROOT}/unikernel/{}", id.replace('.', "_2e").replace('-', "_2d"))
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
