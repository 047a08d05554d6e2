//! What a job tells while it works: its log as a pipe, and how many bytes it has come to.
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

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use host::{Manager, NAME, Options, PATIENCE, TestHost, error_of, eventually, options};
use netns::isolated;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const JOB: &str = "org.albatross.Deployer1.Job";

type Log = BufReader<Receiver>;

impl Manager {
    /// The job that was begun last and works.
    async fn job(&self) -> String {
        let mut found = String::new();
        eventually("a job that works", async || {
            let jobs: Vec<(zbus::OwnedObjectPath, String, String, String)> =
                self.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
            let running = jobs.iter().rfind(|(.., state)| state == "running");
            found = running.map(|(path, ..)| path.to_string()).unwrap_or_default();
            // Its object comes with the signals: who is told of it by InterfacesAdded finds it there.
            !found.is_empty() && self.property::<String>(&found, JOB, "Kind").await.is_some()
        })
        .await;
        found
    }

    async fn open_log(&self, job: &str) -> zbus::Result<Log> {
        let reply = self.0.call_method(Some(NAME), job, Some(JOB), "OpenLog", &()).await?;
        let pipe: zbus::OwnedFd = reply.body().deserialize()?;
        Ok(BufReader::new(Receiver::from_owned_fd(pipe.into()).unwrap()))
    }

    async fn bytes(&self, job: &str) -> Option<u64> {
        self.property(job, JOB, "Bytes").await
    }
}

async fn line(log: &mut Log) -> String {
    let mut line = String::new();
    timeout(PATIENCE, log.read_line(&mut line)).await.expect("a line in time").unwrap();
    line
}

async fn rest(mut log: Log) -> String {
    let mut text = String::new();
    timeout(PATIENCE, log.read_to_string(&mut text)).await.expect("the end in time").unwrap();
    text
}

type Call = JoinHandle<zbus::Result<()>>;

/// A DeployImage that waits for its image, and the pipe that it comes out of.
fn deploy_from_pipe(manager: &Manager) -> (Call, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let manager = manager.clone();
    let call = async move {
        let descriptor = zbus::Fd::from(std::os::fd::OwnedFd::from(reader));
        manager.call("DeployImage", &("website", descriptor, options("running"))).await.map(drop)
    };
    (tokio::spawn(call), writer)
}

#[test]
fn a_log_is_followed_to_the_end_of_its_job() {
    isolated("a_log_is_followed_to_the_end_of_its_job", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let image = std::fs::read(host.image("1", &[])).unwrap();
        let (call, mut pipe) = deploy_from_pipe(&manager);
        let job = manager.job().await;
        eventually("the import", async || {
            manager.property::<String>(&job, JOB, "Step").await.as_deref() == Some("importing")
        })
        .await;
        let mut log = manager.open_log(&job).await.unwrap();
        let unread = manager.open_log(&job).await.unwrap();
        assert_eq!(line(&mut log).await, "== importing\n");
        assert_eq!(manager.bytes(&job).await, Some(0));

        let (first, second) = image.split_at(3000);
        pipe.write_all(first).unwrap();
        eventually("its bytes", async || manager.bytes(&job).await == Some(3000)).await;
        assert_eq!(manager.property::<f64>(&job, JOB, "Progress").await, Some(-1.0), "a pipe has no length");
        pipe.write_all(second).unwrap();
        drop(pipe);
        timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
        let told = rest(log).await;
        assert!(told.starts_with("== claiming\n== reserving\n") && told.ends_with("\n== done\n"), "{told}");
        assert_eq!(rest(unread).await, format!("== importing\n{told}"));
        assert!(manager.open_log(&job).await.is_err(), "its object is gone");
    });
}

#[test]
fn a_log_says_why_its_job_failed_and_of_which_member_it_speaks() {
    isolated("a_log_says_why_its_job_failed_and_of_which_member_it_speaks", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (call, mut pipe) = deploy_from_pipe(&manager);
        let log = manager.open_log(&manager.job().await).await.unwrap();
        pipe.write_all(&[0xa5; 5000]).unwrap();
        drop(pipe);
        let (_, message) = error_of(timeout(PATIENCE, call).await.unwrap().unwrap());
        let told = rest(log).await;
        assert!(told.ends_with(&format!("== failed: {message}\n")), "{told}");

        let (call, pipe) = deploy_from_pipe(&manager);
        let job = manager.job().await;
        let log = manager.open_log(&job).await.unwrap();
        manager.0.call_method(Some(NAME), &*job, Some(JOB), "Cancel", &()).await.unwrap();
        assert_eq!(error_of(timeout(PATIENCE, call).await.unwrap().unwrap()).0, "Cancelled");
        assert!(rest(log).await.ends_with("== cancelled\n"));
        drop(pipe);

        let image = host.image("1", &["--listen-after=500"]);
        let manifest = format!(
            "stack = \"shop\"\nargs = [\"--ipv4={{address}}/{{prefix-length}}\"]\nready = \"tcp:80\"\n\
             [service.front]\nimage = \"{image}\"\n"
        );
        let applying = manager.clone();
        let call = tokio::spawn(async move { applying.call("Apply", &(manifest, Options::new())).await.map(drop) });
        let log = manager.open_log(&manager.job().await).await.unwrap();
        timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
        let told = rest(log).await;
        assert!(told.contains("\n== front: waiting\n") && told.ends_with("== done\n"), "{told}");
    });
}

#[test]
fn bytes_are_signalled_and_do_not_flood() {
    isolated("bytes_are_signalled_and_do_not_flood", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (call, mut pipe) = deploy_from_pipe(&manager);
        let job = manager.job().await;
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .path(zbus::ObjectPath::try_from(job.as_str()).unwrap())
            .build();
        let mut signals = zbus::MessageStream::for_match_rule(rule.unwrap(), &manager.0, None).await.unwrap();
        let writing = tokio::task::spawn_blocking(move || {
            let begin = std::time::Instant::now();
            let (mut seen, chunk) = (0, [0xa5; 1000]);
            while begin.elapsed() < Duration::from_millis(1000) {
                pipe.write_all(&chunk).unwrap();
                seen += chunk.len() as u64;
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        let written = writing.await.unwrap();
        assert_eq!(error_of(timeout(PATIENCE, call).await.unwrap().unwrap()).0, "ImageInvalid");
        let (mut told, mut largest) = (0, 0);
        while let Ok(Some(Ok(message))) = timeout(Duration::from_millis(300), signals.next()).await {
            let (_, mut changed, _): (String, std::collections::HashMap<String, zbus::OwnedVariant>, Vec<String>) =
                message.body().deserialize().unwrap();
            if let Some(bytes) = changed.remove("Bytes") {
                let bytes = u64::try_from(bytes).unwrap();
                (told, largest) = (told + 1, largest.max(bytes));
            }
        }
        println!("{told} signals for {written} bytes in a second");
        assert!((2..=22).contains(&told) && largest <= written && largest > written / 2, "{told} {largest} {written}");
    });
}

#[test]
fn only_who_may_change_things_may_read_a_log() {
    isolated("only_who_may_change_things_may_read_a_log", |_| async {
        let Some(mut host) = TestHost::without_service_on(private_bus::OPEN, None) else { return };
        host.start_service().await;
        let manager = host.manager().await;
        let (call, pipe) = deploy_from_pipe(&manager);
        let job = manager.job().await;
        if !rustix::process::geteuid().is_root() || std::env::var_os("ALBATROSS_TEST_IN_USER_NAMESPACE").is_some() {
            return println!("SKIPPED: only root can call as somebody else");
        }
        let mut refused = Command::new("setpriv");
        refused.args(["--reuid=65534", "--regid=65534", "--clear-groups", "busctl"]);
        refused.arg(format!("--address={}", host.bus.address)).args(["call", NAME, &job, JOB, "OpenLog"]);
        let output = tokio::task::spawn_blocking(move || refused.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("may not call OpenLog"), "{said}");
        drop(pipe);
        let _ = call.await;
    });
}

#[test]
fn readers_that_do_not_read_hold_nothing_up_and_are_counted() {
    isolated("readers_that_do_not_read_hold_nothing_up_and_are_counted", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let image = std::fs::read(host.image("1", &[])).unwrap();
        let (call, mut pipe) = deploy_from_pipe(&manager);
        let job = manager.job().await;
        let mut logs = Vec::new();
        for _ in 0..32 {
            logs.push(manager.open_log(&job).await.unwrap());
        }
        let (name, message) = error_of(manager.open_log(&job).await.map(|_| ()));
        assert!(name == "InUse" && message.contains("32"), "{message}");
        logs.pop();
        eventually("a free place", async || match manager.open_log(&job).await {
            Ok(log) => {
                logs.push(log);
                true
            }
            Err(_) => false,
        })
        .await;
        pipe.write_all(&image).unwrap();
        drop(pipe);
        timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
        for log in logs {
            assert!(rest(log).await.ends_with("== done\n"));
        }
    });
}
