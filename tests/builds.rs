//! Images that are built from a repository: fetched by git in a worker, built by an engine, and then a unikernel that
//! answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/repository.rs"]
mod repository;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use host::{MANAGER, NAME, Options, ROOT, TestHost, error_of};
use netns::isolated;
use repository::{HttpsServer, Repository};

const CONFIG: [(&str, &str); 1] = [("config.ml", "let () = register \"web\" []\n")];

/// A host with this configuration.
async fn host_with(configuration: &str) -> Option<TestHost> {
    let mut host = TestHost::without_service()?;
    std::fs::write(host.config(), configuration).unwrap();
    host.start_service().await;
    Some(host)
}

/// Nothing of a fetch is left: no folder, no process.
fn assert_nothing_left(host: &TestHost) {
    let workshop = host.state().join("workshop");
    let left: Vec<_> = std::fs::read_dir(&workshop).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(host.stored_images().len(), 0);
    let workshop = workshop.display().to_string();
    let of_it = |process: std::path::PathBuf| {
        let folder = std::fs::read_link(process.join("cwd")).unwrap_or_default().display().to_string();
        let command = String::from_utf8_lossy(&std::fs::read(process.join("cmdline")).unwrap_or_default()).into_owned();
        folder.contains(&workshop) || (command.contains("git") && command.contains(&workshop))
    };
    let running: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| of_it(path.clone()))
        .collect();
    assert!(running.is_empty(), "{running:?}");
}

#[test]
fn what_cannot_be_fetched_is_said_in_words_that_help() {
    isolated("what_cannot_be_fetched_is_said_in_words_that_help", |_| async {
        let repository = Repository::new(&CONFIG);
        let Some(server) = HttpsServer::start(repository.root()) else { return };
        let git = format!("[git]\ncertificates = \"{}\"\n", server.certificate().display());
        let Some(host) = host_with(&format!("[images]\ndocker-socket = \"/nonexistent/engine.sock\"\n{git}")).await
        else {
            return;
        };
        let manager = host.manager().await;
        let no_commit = "0123456789".repeat(4);
        for (image, words) in [
            (format!("{}#absent", repository.url()), "no branch and no tag absent"),
            (format!("{}#{no_commit}", repository.url()), "no such commit"),
            (format!("git+file://{}/absent", repository.root().display()), "No such file"),
            (
                format!("git+file://{}/tree/.git/hooks#main", repository.root().display()),
                "not appear to be a git repository",
            ),
            (format!("{}#absent", server.url()), "no branch and no tag absent"),
            (format!("{}#{no_commit}", server.url()), "no such commit"),
            (format!("{}x#main", server.url()), "not found"),
            ("git+https://localhost:1/x#main".into(), "Failed to connect"),
            ("git+ssh://git@127.0.0.1:1/x#main".into(), "Connection refused"),
            // All of it comes as far as the engine.
            (repository.url(), "/nonexistent/engine.sock"),
            (format!("{}#main", server.url()), "/nonexistent/engine.sock"),
        ] {
            let (kind, message) = error_of(manager.deploy("website", &image, Options::new()).await);
            assert_eq!(kind, "ImageUnavailable", "{image}: {message}");
            assert!(message.contains(words), "{image}: {message}");
            assert_nothing_left(&host);
        }
    });
}
