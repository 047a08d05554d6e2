//! Images that are built from a repository: fetched by git in a worker, built by an engine, and then a unikernel that
//! answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "engine/engines.rs"]
mod engines;
#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/opam_image.rs"]
mod opam_image;
mod private_bus;
#[path = "support/repository.rs"]
mod repository;
#[path = "support/saved_image.rs"]
mod saved_image;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use engines::{Engine, Kind};
use host::{MANAGER, Manager, NAME, Options, ROOT, TestHost, error_of, eventually, options};
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

/// The images that stand in for ocaml/opam's, and what the engine has of them alone.
const BASES: [&str; 2] = ["localhost/opam:mirage-3", "localhost/opam:mirage-4"];

/// A host whose engine has the base images, and says so where it does not.
async fn host_with_engine(engine: &Engine, more: &str) -> Option<TestHost> {
    engine.load(&opam_image::archive(&BASES));
    let configuration = format!(
        "[network.br0]\nprefix = \"10.0.0.0/24\"\n[images]\ndocker-socket = \"{}\"\n\
         [build]\nmirage-3 = \"{}\"\nmirage-4 = \"{}\"\n{more}",
        engine.socket.display(),
        BASES[0],
        BASES[1]
    );
    host_with(&configuration).await
}

fn list<'a>(words: &'a [&'a str]) -> zbus::Variant<'a> {
    words.to_vec().into()
}

/// Lets a test run with each engine that is here.
fn with_engines(test: &str, body: impl AsyncFn(&Engine) + Copy + Send + 'static) {
    for kind in [Kind::Docker, Kind::Podman] {
        isolated(test, move |_| async move {
            let Some(engine) = Engine::start(kind) else { return };
            println!("{kind:?}");
            body(&engine).await;
        });
    }
}

const WEB: [(&str, &str); 2] = [
    ("config.ml", "let () = register \"web\" [] (* config 1 *)\n"),
    ("unikernel.ml", "let start () = (* code 1 *) ()\n"),
];

#[test]
fn mirage_3_and_4_come_to_answer() {
    with_engines("mirage_3_and_4_come_to_answer", async |engine| {
        let repository = Repository::new(&WEB);
        let in_folder = [("src/config.ml", "let () = register \"deep\" []\n")];
        repository.commit(&in_folder);
        let Some(host) = host_with_engine(engine, "").await else { return };
        let manager = host.manager().await;
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let mirage_3 = [("mirage", "3".into())];
        let mirage_4 = [
            ("mirage", "4".into()),
            ("image-path", "/out/web.spt".into()),
            ("config-file", "src/config.ml".into()),
            ("mirage-args", list(&["--kv_ro=crunch", "--hello=it's a \"$name\""])),
            ("extra-instructions", list(&["RUN echo more > /home/opam/extra"])),
            ("opam-repository-commit", commit.into()),
        ];
        let told_3 = [
            "mirage=3 target=hvt config=[let () = register \"web\"",
            "(* config 1 *)",
            "(* code 1 *)",
            "packages=own extra=none",
        ];
        let told_4 = [
            "mirage=4 target=spt",
            "\"deep\"",
            "arguments=[--kv_ro=crunch --hello=it's a \"$name\"]",
            "packages=0123456789abcdef",
            "extra=more",
        ];
        for (given, told) in [(&mirage_3[..], &told_3[..]), (&mirage_4[..], &told_4[..])] {
            let mut options = options("http:80/");
            options.extend(given.iter().map(|(key, value)| (*key, value.try_clone().unwrap())));
            manager.deploy("website", &format!("{}#main", repository.url()), options).await.unwrap();
            manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
            let answer = host.get(8080).unwrap();
            for words in told {
                assert!(answer.contains(words), "no {words} in {answer}");
            }
        }
        engine.assert_clean("builds");
    });
}
