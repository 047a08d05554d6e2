//! Readiness over HTTP, and what is live afterwards: asked again, named by Degraded, and gone back from.
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

use host::{ARGUMENTS, MANAGER, Manager, Options, ROOT, TestHost, error_of, eventually, options};
use netns::isolated;

const HEALTH: &str = "http:80/health";
const FAIL: &str = "/answer?path=/health&code=503";
const RECOVER: &str = "/answer?path=/health&code=200";

/// `version` of website, published on port 8080.
async fn live(host: &TestHost, manager: &Manager, version: &str, options: Options<'_>) -> (String, String) {
    let deployed = manager.deploy("website", &host.image(version, &[]), options).await.unwrap();
    manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
    deployed
}

fn checked(ready: &str, failures: u32) -> Options<'_> {
    let mut options = options(ready);
    options.insert("check", 100_u64.into());
    options.insert("check-failures", failures.into());
    options
}

fn never_restarted(ready: &str) -> Options<'_> {
    let mut options = options(ready);
    options.insert("restart", "never".into());
    options
}

async fn degraded(manager: &Manager) -> Vec<String> {
    manager.property(ROOT, MANAGER, "Degraded").await.unwrap()
}

/// Waits until Degraded has a line with all of `words`.
async fn until_degraded(manager: &Manager, words: &[&str]) {
    let said = |note: &String| words.iter().all(|word| note.contains(word));
    eventually(&format!("Degraded says {words:?}"), async || degraded(manager).await.iter().any(said)).await;
}

async fn until_well(manager: &Manager) {
    eventually("Degraded is empty", async || degraded(manager).await.is_empty()).await;
}

/// Asks a unikernel at its own address, whether it is published or not.
fn ask(address: &str, path: &'static str) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect((address, 80)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_virtual_host_is_asked_for() {
    isolated("a_virtual_host_is_asked_for", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &["--port=8080"]);
        let deploy = async |service: &str, ready: &str, name: &str| {
            let name = format!("--virtual-host={name}");
            let mut options = options(ready);
            options.insert("args", ARGUMENTS.into_iter().chain([name.as_str()]).collect::<Vec<_>>().into());
            options.insert("timeout", 2000_u64.into());
            manager.deploy(service, &image, options).await
        };
        // The address with its port, which small servers and virtual hosts compare.
        deploy("address", "http:8080/", "{address}:8080").await.unwrap();
        deploy("name", "http://www.example.org:8080/", "www.example.org:8080").await.unwrap();
        let (name, message) = error_of(deploy("other", "http://www.example.org:8080/", "www.example.com:8080").await);
        assert_eq!(name, "NotReady", "{message}");
        assert!(message.contains("status 421"), "{message}");
        for bad in ["http://a b:80/", "http://a\r\nX-Y:80/", "http://u@a:80/", "http://a/", "http:80/#a"] {
            let (name, message) = error_of(deploy("bad", bad, "x").await);
            assert!(name == "InvalidArgument" && message.contains("is not a readiness rule"), "{bad}: {message}");
        }
    });
}

#[test]
fn the_rule_says_which_statuses_mean_ready() {
    isolated("the_rule_says_which_statuses_mean_ready", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let deploy = async |service: &str, ready: &str| {
            let mut options = options(ready);
            options.insert("timeout", 2000_u64.into());
            manager.deploy(service, &image, options).await
        };
        for (service, ready, status) in
            [("a", "http:80/status?code=401", 401), ("b", "http:80/;status=300-599,204", 200)]
        {
            let (name, message) = error_of(deploy(service, ready).await);
            assert_eq!(name, "NotReady", "{message}");
            assert!(message.contains(&format!("answers with status {status}")), "{message}");
        }
        for (service, ready) in
            [("c", "http:80/status?code=302"), ("d", "http:80/status?code=401;status=200-299,401"), ("e", "http:80/")]
        {
            deploy(service, ready).await.unwrap();
        }
    });
}

#[test]
fn a_live_one_that_stops_answering_is_named_until_it_answers_again() {
    isolated("a_live_one_that_stops_answering_is_named_until_it_answers_again", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, _) = live(&host, &manager, "1", checked(HEALTH, 3)).await;
        host.get_path(8080, FAIL).unwrap();
        until_degraded(&manager, &[&id, "status 503", "Restart"]).await;
        assert_eq!(manager.told_of(&id, "State").await, "live");
        assert!(host.log().contains("WARN") && host.log().contains("does not hold any more"), "{}", host.log());
        host.get_path(8080, RECOVER).unwrap();
        until_well(&manager).await;
        // A start of the service knows that it is to be asked.
        host.get_path(8080, FAIL).unwrap();
        until_degraded(&manager, &[&id, "status 503"]).await;
        host.kill_service();
        host.start_service().await;
        let manager = host.manager().await;
        until_degraded(&manager, &[&id, "status 503"]).await;
        // Where nobody can reach it, nobody has to know.
        manager.call("Unpublish", &("website",)).await.unwrap();
        until_well(&manager).await;
    });
}

#[test]
fn one_that_hangs_is_named_and_a_restart_mends_it() {
    isolated("one_that_hangs_is_named_and_a_restart_mends_it", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, _) = live(&host, &manager, "1", checked("http:80/", 1)).await;
        host.get_path(8080, "/hang").unwrap();
        until_degraded(&manager, &[&id, "accepts and does not answer"]).await;
        manager.call("Restart", &(id.as_str(),)).await.unwrap();
        until_well(&manager).await;
        assert!(host.get(8080).unwrap().starts_with("version=1"));
    });
}

#[test]
fn the_rule_of_the_newest_deployment_counts() {
    isolated("the_rule_of_the_newest_deployment_counts", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, _) = live(&host, &manager, "1", options(HEALTH)).await;
        host.get_path(8080, FAIL).unwrap();
        let image = host.image("1", &[]);
        // It runs already, and is not ready by this rule.
        let mut short = checked(HEALTH, 1);
        short.insert("ready", "http:80/health?now".into());
        short.insert("timeout", 2000_u64.into());
        let (name, message) = error_of(manager.deploy("website", &image, short).await);
        assert!(name == "NotReady" && message.contains("status 503"), "{name}: {message}");
        assert_eq!(manager.told_of(&id, "State").await, "live");
        // It was ready by this one when it was deployed: from now on it is asked again.
        assert_eq!(manager.deploy("website", &image, checked(HEALTH, 1)).await.unwrap().0, id);
        until_degraded(&manager, &[&id, "status 503"]).await;
        assert_eq!(manager.deploy("website", &image, checked("http:80/", 1)).await.unwrap().0, id);
        until_well(&manager).await;
        host.get_path(8080, "/answer?path=/&code=500").unwrap();
        until_degraded(&manager, &[&id, "status 500"]).await;
        assert_eq!(manager.deploy("website", &image, options("http:80/")).await.unwrap().0, id);
        until_well(&manager).await;
    });
}

#[test]
fn fall_back_takes_one_that_does_not_answer_for_dead() {
    isolated("fall_back_takes_one_that_does_not_answer_for_dead", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        std::fs::write(host.config(), "[publish]\nfall-back = true\n").unwrap();
        host.start_service().await;
        let manager = host.manager().await;
        let (first, first_address) = live(&host, &manager, "1", options(HEALTH)).await;
        let (second, _) = live(&host, &manager, "2", checked(HEALTH, 2)).await;
        // Where neither works, it stays where it is.
        ask(&first_address, FAIL);
        host.get_path(8080, FAIL).unwrap();
        until_degraded(&manager, &[&second, "status 503"]).await;
        assert!(host.get(8080).unwrap().starts_with("version=2"));
        ask(&first_address, RECOVER);
        eventually("the one before is live", async || manager.told_of(&first, "State").await == "live").await;
        assert!(host.get(8080).unwrap().starts_with("version=1"));
        until_degraded(&manager, &[&second, "went back"]).await;
        // It is not live any more: of it nothing else is said.
        eventually("one line", async || degraded(&manager).await.len() == 1).await;
        live(&host, &manager, "3", checked(HEALTH, 2)).await;
        until_well(&manager).await;
        assert!(host.get(8080).unwrap().starts_with("version=3"));
    });
}

#[test]
fn a_live_one_that_has_ended_is_named_until_it_is_no_more() {
    isolated("a_live_one_that_has_ended_is_named_until_it_is_no_more", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (first, _) = live(&host, &manager, "1", never_restarted("http:80/")).await;
        let kill = |id: &str| host.albatross.control(&format!("kill {id}"));
        kill(&first);
        until_degraded(&manager, &[&first, "is live and has ended", "Restart"]).await;
        manager.call("Restart", &(first.as_str(),)).await.unwrap();
        until_well(&manager).await;
        kill(&first);
        until_degraded(&manager, &[&first, "is live and has ended"]).await;
        // Another one takes its place.
        let (second, _) = live(&host, &manager, "2", never_restarted("http:80/")).await;
        until_well(&manager).await;
        host.albatross.control(&format!("kill {second}"));
        until_degraded(&manager, &[&second, "is live and has ended"]).await;
        host.kill_service();
        host.start_service().await;
        let manager = host.manager().await;
        until_degraded(&manager, &[&second, "is live and has ended"]).await;
        manager.call("Unpublish", &("website",)).await.unwrap();
        until_well(&manager).await;
    });
}

#[test]
fn one_that_albatross_starts_again_has_not_ended() {
    isolated("one_that_albatross_starts_again_has_not_ended", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, _) = live(&host, &manager, "1", options("http:80/")).await;
        let _ = host.get_path(8080, "/exit?code=3");
        eventually("it is back", async || manager.told_of(&id, "State").await == "live" && host.get(8080).is_ok())
            .await;
        assert!(!host.log().contains("is live and has ended"), "{}", host.log());
    });
}
