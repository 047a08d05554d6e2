//! Calls that end while the engine, or another call, is still at work.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake::{Answers, Fake, json};
use crate::host::{Manager, NAME, TestHost, error_of, eventually, options};
use crate::netns::isolated;
use crate::saved_image::{Layer, Tar, docker_legacy, tar_of};
use crate::start;

/// A host whose engine has `unikernel` in its image, and answers so.
async fn scene(unikernel: Option<&str>, answers: Arc<Answers>, more: &str) -> Option<(TestHost, Manager, Fake)> {
    let mut host = TestHost::without_service()?;
    let content = unikernel.map(|version| std::fs::read(host.image(version, &[])).unwrap()).unwrap_or_default();
    let fake = Fake::start(Tar::new().file("u", content).end(), answers);
    let manager = start(&mut host, &fake.socket, more).await;
    Some((host, manager, fake))
}

const JOB: &str = "org.albatross.Deployer1.Job";

type Failed = tokio::task::JoinHandle<(String, String)>;

/// Deploys what will not come to an end.
fn deploy_in_vain(manager: &Manager, service: String, image: String) -> Failed {
    let calling = manager.clone();
    tokio::spawn(async move {
        let mut options = options("http:80/");
        options.insert("timeout", 60_000_u64.into());
        error_of(calling.deploy(&service, &image, options).await)
    })
}

#[test]
fn an_image_goes_with_a_call_that_waits_for_its_turn() {
    isolated("crowd::an_image_goes_with_a_call_that_waits_for_its_turn", |_| async {
        let limit = "[limits]\nconcurrent-deploys = 1\n";
        let (is_asked, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&is_asked), Arc::clone(&goes_on));
        let answers = move |_: &str, _: &mut UnixStream| {
            shared.0.fetch_or(true, Ordering::SeqCst);
            while !shared.1.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            false
        };
        let Some((host, manager, _fake)) = scene(Some("1"), Arc::new(answers), limit).await else { return };
        let waiting = deploy_in_vain(&manager, "website".into(), "docker-daemon:web:1".into());
        eventually("the engine is asked", async || is_asked.load(Ordering::SeqCst)).await;
        // Whoever fetches gives its place away meanwhile.
        let slow = deploy_in_vain(&manager, "slow".into(), host.image("2", &["--listen-after=60000"]));
        eventually("the place is taken", async || host.running().len() == 1).await;
        goes_on.store(true, Ordering::SeqCst);
        eventually("the image is there", async || host.stored_images().len() == 2).await;
        manager.cancel("importing").await;
        assert_eq!(waiting.await.unwrap().0, "Cancelled");
        eventually("its image goes", async || host.stored_images().len() == 1).await;
        manager.cancel("").await;
        assert_eq!(slow.await.unwrap().0, "Cancelled");
        eventually("and the first's", async || host.stored_images().is_empty()).await;
    });
}

async fn cancel_all(manager: &Manager) {
    let jobs: Vec<(zbus::OwnedObjectPath, String, String, String)> =
        manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
    for (path, ..) in jobs.iter().filter(|job| job.3 == "running") {
        // It may have ended by itself.
        let _ = manager.0.call_method(Some(NAME), path.as_str(), Some(JOB), "Cancel", &()).await;
    }
}

/// Fewer than the store takes at a time, see `service/orchestrator/imports/sources.rs`.
const ROWS: usize = 8;

#[test]
fn slow_imports_leave_room_for_others() {
    isolated("crowd::slow_imports_leave_room_for_others", |_| async {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let answers = move |line: &str, _: &mut UnixStream| {
            let is_slow = line.contains("/images/web:1/json");
            if is_slow {
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_secs(30));
            }
            is_slow
        };
        let Some((host, manager, _fake)) = scene(None, Arc::new(answers), "").await else { return };
        let many: Vec<Failed> = (0..3 * ROWS)
            .map(|number| deploy_in_vain(&manager, format!("slow{number}"), "docker-daemon:web:1".into()))
            .collect();
        eventually("as many as may are asked for", async || asked.load(Ordering::SeqCst) == ROWS).await;
        manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
        let layer = Layer::plain(Tar::new().file("unikernel.spt", std::fs::read(host.image("2", &[])).unwrap()));
        let archive = host.directory.path().join("web.tar");
        std::fs::write(&archive, tar_of(&docker_legacy(&[(&["web:2"], &[layer])]))).unwrap();
        let archive = format!("docker-archive:{}", archive.display());
        manager.deploy("shop", &archive, options("http:80/")).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), ROWS);
        // Those that wait for a place, and those that have one.
        while many.iter().any(|call| !call.is_finished()) {
            cancel_all(&manager).await;
        }
        for call in many {
            assert_eq!(call.await.unwrap().0, "Cancelled");
        }
        eventually("only the images of others are left", async || host.stored_images().len() == 2).await;
    });
}

#[test]
fn a_container_that_comes_after_a_cancellation_goes_too() {
    isolated("crowd::a_container_that_comes_after_a_cancellation_goes_too", |_| async {
        // Nothing, then asked for, there, and removed.
        let (asked_for, there, label) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(String::new())));
        let shared = (Arc::clone(&asked_for), Arc::clone(&there), Arc::clone(&label));
        let answers = move |line: &str, stream: &mut UnixStream| {
            let (asked_for, there, label) = &shared;
            if let Some((_, name)) = line.split_once("/containers/create?name=albatross-deployer-") {
                *label.lock().unwrap() = name.split([' ', '&']).next().unwrap().to_owned();
                asked_for.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_secs(3));
                there.store(true, Ordering::SeqCst);
            } else if line.starts_with("DELETE ") && line.contains("/containers/") {
                let was = there.swap(false, Ordering::SeqCst);
                let answer = if was { "204 No Content" } else { "404 Not Found" };
                let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
                return true;
            } else if line.contains("/containers/json") && there.load(Ordering::SeqCst) {
                let label = label.lock().unwrap();
                let _ = stream
                    .write_all(&json(&format!(r#"[{{"Id":"late","Labels":{{"org.albatross.deployer":"{label}"}}}}]"#)));
                return true;
            }
            false
        };
        let Some((_host, manager, _fake)) = scene(None, Arc::new(answers), "").await else { return };
        let deploying = deploy_in_vain(&manager, "website".into(), "docker-daemon:web:1".into());
        eventually("it is asked for", async || asked_for.load(Ordering::SeqCst)).await;
        manager.cancel("importing").await;
        assert_eq!(deploying.await.unwrap().0, "Cancelled");
        assert!(!there.load(Ordering::SeqCst), "it comes later");
        eventually("it comes", async || there.load(Ordering::SeqCst)).await;
        eventually("it goes", async || !there.load(Ordering::SeqCst)).await;
    });
}
