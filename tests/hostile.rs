//! Bad images through the real service and its worker: each gives the error that it must, in time, and leaves nothing.
//! What is bad is in `hostile/`, one line for each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/saved_image.rs"]
mod saved_image;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

#[path = "hostile/bombs.rs"]
mod bombs;
#[path = "hostile/cases.rs"]
mod cases;
#[path = "hostile/documents.rs"]
mod documents;
#[path = "hostile/elves.rs"]
mod elves;
#[path = "hostile/tars.rs"]
mod tars;
#[path = "hostile/workers.rs"]
mod workers;

use std::time::{Duration, Instant};

use cases::{Case, good};
use host::{AT_ONCE, Manager, TestHost, error_of, eventually, options};
use netns::isolated;
use rustix::process::Signal;
use saved_image::{Layer, docker_legacy, gzip, tar_of};
use workers::{Watch, Worker, workers_of};

/// What a bad image may take, without optimization on a busy machine. Most take a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(40);
/// The same for what is read up to a limit.
const LIMIT: Duration = Duration::from_secs(240);
/// Bytes of memory that a worker may come to.
const MEMORY: u64 = 64 << 20;

#[test]
fn hostile_layers_and_archives() {
    isolated("hostile_layers_and_archives", |_| refused(tars::all, PATIENCE));
}

#[test]
fn hostile_documents() {
    isolated("hostile_documents", |_| refused(documents::all, PATIENCE));
}

#[test]
fn hostile_elf_files() {
    isolated("hostile_elf_files", |_| refused(elves::all, PATIENCE));
}

#[test]
fn what_is_large_only_when_it_is_unpacked() {
    isolated("what_is_large_only_when_it_is_unpacked", |_| refused(bombs::all, LIMIT));
}

/// Deploys each, and a good image behind them.
async fn refused(cases: impl FnOnce() -> Vec<Case>, patience: Duration) {
    let Some(host) = TestHost::start().await else { return };
    let bus = zbus::connection::Builder::address(host.bus.address.as_str());
    let manager = Manager(bus.method_timeout(LIMIT).build().await.unwrap());
    let (mut slowest, mut largest) = ((Duration::ZERO, ""), (0, ""));
    let cases = cases();
    let count = cases.len();
    // Of several that are wrong, all are shown.
    let mut wrong = Vec::new();
    for case in cases {
        let watch = Watch::start(host.service_pid());
        let began = Instant::now();
        let outcome = is_refused(&host, &manager, &case).await;
        let (took, memory) = (began.elapsed(), watch.largest());
        if took > Duration::from_secs(1) {
            println!("{}: {took:?}", case.name);
        }
        slowest = slowest.max((took, case.name));
        largest = largest.max((memory, case.name));
        wrong.extend(outcome.err().map(|why| format!("{}: {why}", case.name)));
        if took > patience || memory > MEMORY {
            wrong.push(format!("{}: it took {took:?} and {memory} bytes", case.name));
        }
    }
    println!("{count} bad images; slowest {slowest:?}; most memory of those that were seen {largest:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    still_deploys(&host).await;
}

async fn is_refused(host: &TestHost, manager: &Manager, case: &Case) -> Result<(), String> {
    let image = case.write(host.directory.path());
    let outcome = manager.deploy("website", &image, options("running")).await;
    if !matches!(outcome, Err(zbus::Error::MethodError(..))) {
        return Err(format!("it ends with {outcome:?}"));
    }
    let (error, message) = error_of(outcome);
    if error != case.error || !message.contains(case.says) {
        return Err(format!("{error}: {message:?} instead of {}: {:?}", case.error, case.says));
    }
    if message.chars().any(char::is_control) || message.len() > 1500 {
        return Err(format!("not fit to be shown: {message:?}"));
    }
    nothing_is_left(host).await;
    let left = (host.stored_images(), host.running(), manager.leases().await.unwrap());
    if left != Default::default() {
        return Err(format!("it leaves {left:?}"));
    }
    Ok(())
}

/// Nothing of what came before has done the service any harm.
async fn still_deploys(host: &TestHost) {
    let path = host.directory.path().join("good.tar");
    std::fs::write(&path, tar_of(&docker_legacy(&[(&["a:1"], &[Layer::gzip(good())])]))).unwrap();
    let image = format!("docker-archive:{}", path.display());
    host.manager().await.deploy("website", &image, options("running")).await.unwrap();
}

/// An image that keeps its worker at work for a while, and gives a unikernel in the end.
fn slow_image(host: &TestHost) -> String {
    let path = host.directory.path().join("slow.tar.gz");
    let large = Layer::gzip(good().file("filler", vec![7; 200 << 20]));
    std::fs::write(&path, gzip(&tar_of(&docker_legacy(&[(&["a:1"], &[large])])))).unwrap();
    format!("docker-archive:{}", path.display())
}

/// The call that is under way, and its worker.
async fn at_work(host: &TestHost, image: &str) -> (tokio::task::JoinHandle<zbus::Result<(String, String)>>, Worker) {
    let (manager, image) = (host.manager().await, image.to_owned());
    let call = tokio::spawn(async move { manager.deploy("website", &image, options("running")).await });
    eventually("a worker is at work", async || workers_of(host.service_pid()).iter().any(Worker::is_confined)).await;
    (call, workers_of(host.service_pid()).remove(0))
}

/// What a worker leaves goes after the answer of its call.
async fn nothing_is_left(host: &TestHost) {
    eventually("no worker, and nothing of its image", async || {
        workers_of(host.service_pid()).is_empty() && host.stored_images().is_empty()
    })
    .await;
}

#[test]
fn a_worker_that_is_killed_is_an_error_of_its_call() {
    isolated("a_worker_that_is_killed_is_an_error_of_its_call", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let image = slow_image(&host);
        for signal in [Signal::KILL, Signal::ABORT, Signal::SYS] {
            let (call, worker) = at_work(&host, &image).await;
            worker.signal(signal);
            let (error, message) = error_of(call.await.unwrap());
            assert_eq!(error, "ImageUnavailable", "{message}");
            assert!(message.contains("the process that reads it ended (signal: "), "{message}");
            nothing_is_left(&host).await;
        }
        still_deploys(&host).await;
    });
}

#[test]
fn a_worker_that_is_stuck_is_given_up_at_once() {
    isolated("a_worker_that_is_stuck_is_given_up_at_once", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (call, worker) = at_work(&host, &slow_image(&host)).await;
        worker.signal(Signal::STOP);
        let manager = host.manager().await;
        let jobs: Vec<(zbus::OwnedObjectPath, String, String, String)> =
            manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
        let job = jobs.iter().find(|job| job.3 == "running").expect("the job of the call").0.clone();
        let began = Instant::now();
        let interface = Some("org.albatross.Deployer1.Job");
        manager.0.call_method(Some(host::NAME), job.as_str(), interface, "Cancel", &()).await.unwrap();
        assert_eq!(error_of(call.await.unwrap()).0, "Cancelled");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        nothing_is_left(&host).await;
        still_deploys(&host).await;
    });
}

/// Also one that can notice nothing itself.
#[test]
fn no_worker_outlives_the_service() {
    isolated("no_worker_outlives_the_service", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let (call, worker) = at_work(&host, &slow_image(&host)).await;
        worker.signal(Signal::STOP);
        host.kill_service();
        assert!(call.await.unwrap().is_err());
        eventually("the worker has gone", async || !worker.is_there()).await;
    });
}
