//! Images that are built from a repository: fetched by git in a worker, built by an engine, and then a unikernel that
//! answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/engines.rs"]
mod engines;
#[path = "support/git_servers.rs"]
mod git_servers;
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
use std::process::Command;
use std::time::{Duration, Instant};

use engines::{Engine, Kind};
use git_servers::{HttpsServer, SshServer};
use host::{MANAGER, Manager, NAME, Options, ROOT, TestHost, error_of, eventually, options};
use netns::isolated;
use repository::Repository;

const CONFIG: [(&str, &str); 1] = [("config.ml", "let () = register \"web\" []\n")];

/// A host with this configuration.
async fn host_with(configuration: &str) -> Option<TestHost> {
    // Others than root are to call as well, and the service itself to decide.
    let mut host = TestHost::without_service_on(private_bus::OPEN, None)?;
    std::fs::write(host.config(), configuration).unwrap();
    host.start_service().await;
    Some(host)
}

async fn restart_with(host: &mut TestHost, configuration: &str) {
    host.stop_service();
    std::fs::write(host.config(), configuration).unwrap();
    host.start_service().await;
}

/// One who waits for builds.
async fn patient(host: &TestHost) -> Manager {
    Manager(host.bus.patient_client(200).await)
}

/// Nothing of a fetch is left: no folder, no process, no image.
fn assert_nothing_left(host: &TestHost) {
    assert_nothing_left_but(host, 0);
}

/// The same, with images that were made.
fn assert_nothing_left_but(host: &TestHost, images: usize) {
    let workshop = host.state().join("workshop");
    let folders = || std::fs::read_dir(&workshop).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    let end = Instant::now() + host::PATIENCE;
    // What was killed takes a moment to be gone, and then its folder goes.
    while let left = at_work(host).into_iter().chain(folders()).collect::<Vec<_>>()
        && let stored = host.stored_images()
        && (left.len(), stored.len()) != (0, images)
    {
        assert!(Instant::now() < end, "{left:?} {stored:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Commands of the processes in the folders of fetches: git, and what it runs.
fn at_work(host: &TestHost) -> Vec<String> {
    let workshop = host.state().join("workshop");
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let of_it =
        processes.filter(|path| std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&workshop)));
    let commands = of_it.filter_map(|path| std::fs::read(path.join("cmdline")).ok());
    commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " ")).collect()
}

/// Builds that the service has begun.
fn builds(host: &TestHost) -> usize {
    host.log().matches("building an image").count()
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
        let manager = patient(&host).await;
        let no_commit = "0123456789".repeat(4);
        for (image, words) in [
            (format!("{}#absent", repository.url()), "no branch and no tag absent"),
            (format!("{}#{no_commit}", repository.url()), "no such commit"),
            (format!("git+file://{}/absent", repository.root().display()), "No such file"),
            (
                format!("git+file://{}/tree/.git/hooks#main", repository.root().display()),
                "not appear to be a git repository",
            ),
            (format!("git+{}#absent", server.url("website.git")), "no branch and no tag absent"),
            (format!("git+{}#{no_commit}", server.url("website.git")), "no such commit"),
            (format!("git+{}#main", server.url("absent.git")), "not found"),
            ("git+https://localhost:1/x#main".into(), "Failed to connect"),
            ("git+ssh://git@127.0.0.1:1/x#main".into(), "Connection refused"),
            // All of it comes as far as the engine.
            (repository.url(), "/nonexistent/engine.sock"),
            (format!("git+{}#main", server.url("website.git")), "/nonexistent/engine.sock"),
        ] {
            let (kind, message) = error_of(manager.deploy("website", &image, Options::new()).await);
            assert_eq!(kind, "ImageUnavailable", "{image}: {message}");
            assert!(message.contains(words), "{image}: {message}");
            assert_nothing_left(&host);
        }
    });
}

/// A commit of a few objects with more files and folders than a repository may have: each folder is there twice in the next.
fn overfull(repository: &Repository) {
    let mut tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    for _ in 0..17 {
        repository.git(&["read-tree", "--empty"]);
        for folder in ["a", "b"] {
            repository.git(&["read-tree", &format!("--prefix={folder}/"), &tree]);
        }
        tree = repository.git(&["write-tree"]);
    }
    let commit = repository.git(&["commit-tree", "-m", "x", &tree]);
    repository.git(&["update-ref", "refs/heads/overfull", &commit]);
    repository.push("overfull");
}

#[test]
fn a_repository_over_a_limit_is_too_large() {
    isolated("a_repository_over_a_limit_is_too_large", |_| async {
        let repository = Repository::new(&CONFIG);
        overfull(&repository);
        let Some(host) = host_with("[images]\ndocker-socket = \"/nonexistent/engine.sock\"\n").await else { return };
        let image = format!("{}#overfull", repository.url());
        let (kind, message) = error_of(patient(&host).await.deploy("website", &image, Options::new()).await);
        assert_eq!(kind, "ImageTooLarge", "{message}");
        assert!(message.contains("more than 250000 files and folders"), "{message}");
        assert_nothing_left(&host);
    });
}

/// The images that stand in for ocaml/opam's, and what the engine has of them alone.
const BASES: [&str; 2] = ["localhost/opam:mirage-3", "localhost/opam:mirage-4"];

/// A host whose engine has the base images, and says so where it does not.
async fn host_with_engine(engine: &Engine, more: &str) -> Option<TestHost> {
    engine.load(&opam_image::archive(&BASES));
    host_with(&configuration(engine, more)).await
}

fn configuration(engine: &Engine, more: &str) -> String {
    format!(
        "[network.br0]\nprefix = \"10.0.0.0/24\"\n[images]\ndocker-socket = \"{}\"\n\
         [build]\nmirage-3 = \"{}\"\nmirage-4 = \"{}\"\n{more}",
        engine.socket.display(),
        BASES[0],
        BASES[1]
    )
}

fn list<'a>(words: &'a [&'a str]) -> zbus::Variant<'a> {
    words.to_vec().into()
}

/// Lets a test run with each of these engines that is here.
fn with_engines(test: &str, kinds: &[Kind], body: impl AsyncFn(&Engine) + Copy + Send + 'static) {
    for kind in kinds.iter().copied() {
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
    with_engines("mirage_3_and_4_come_to_answer", &[Kind::Docker, Kind::Podman], async |engine| {
        let repository = Repository::new(&WEB);
        let in_folder = [("src/config.ml", "let () = register \"deep\" []\n")];
        repository.commit(&in_folder);
        let Some(host) = host_with_engine(engine, "").await else { return };
        let manager = patient(&host).await;
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

#[test]
fn the_same_is_built_once() {
    with_engines("the_same_is_built_once", &[Kind::Docker], async |engine| {
        let repository = Repository::new(&WEB);
        let Some(mut host) = host_with_engine(engine, "").await else { return };
        let manager = patient(&host).await;
        let image = format!("{}#main", repository.url());
        // At the same time: one builds, the other one waits for it.
        let (one, other) = tokio::join!(
            manager.deploy("website", &image, options("http:80/")),
            manager.deploy("shop", &image, options("http:80/"))
        );
        assert_eq!((one.is_ok(), other.is_ok(), builds(&host)), (true, true, 1), "{one:?} {other:?}");
        let (id, _) = one.unwrap();
        let commit = repository.git(&["rev-parse", "HEAD"]);
        repository.git(&["tag", "-a", "-m", "x", "v1"]);
        repository.push("v1");
        for reference in ["#main", "", "#v1", "#refs/heads/main", &format!("#{commit}")] {
            let image = format!("{}{reference}", repository.url());
            let (again, _) = manager.deploy("website", &image, options("http:80/")).await.unwrap();
            assert_eq!((&again, builds(&host)), (&id, 1), "{reference}");
        }
        assert_eq!(manager.told_of(&id, "ImageOrigin").await, format!("{image} ({commit})"));
        // It is still known to the next run of the service.
        host.stop_service();
        host.start_service().await;
        let manager = patient(&host).await;
        manager.deploy("website", &image, options("http:80/")).await.unwrap();
        assert_eq!(builds(&host), 1);
        // Other options, and another commit, are other builds.
        let mut other = options("http:80/");
        other.insert("mirage-args", list(&["--net=direct"]));
        manager.deploy("website", &image, other).await.unwrap();
        assert_eq!(builds(&host), 2);
        repository.commit(&[("unikernel.ml", "let start () = (* code 2 *) ()\n")]);
        let (newer, _) = manager.deploy("website", &image, options("http:80/")).await.unwrap();
        assert_eq!((newer == id, builds(&host)), (false, 3));
        // One whose image is gone is built again.
        for id in host.running() {
            manager.call("Destroy", &(id, Options::new())).await.unwrap();
        }
        manager.collect(Options::new()).await.unwrap();
        assert_eq!(host.stored_images().len(), 0);
        let image = format!("{}#v1", repository.url());
        assert_eq!(manager.deploy("website", &image, options("http:80/")).await.unwrap().0, id);
        assert_eq!(builds(&host), 4);
        // So is one whose image is damaged, by its digest alone.
        let [stored] = &host.stored_images()[..] else { panic!("{:?}", host.stored_images()) };
        std::fs::write(host.state().join("images").join(stored), b"damaged").unwrap();
        let digest = manager.told_of(&id, "ImageDigest").await;
        manager.deploy("shop", &digest, options("http:80/")).await.unwrap();
        assert_eq!(builds(&host), 5);
        engine.assert_clean("builds");
    });
}

#[test]
fn a_repository_builds_with_its_own_file_over_https_and_as_who_may_read_it() {
    with_engines(
        "a_repository_builds_with_its_own_file_over_https_and_as_who_may_read_it",
        &[Kind::Docker],
        async |engine| {
            let own = format!(
                "FROM {}\nUSER 1000:1000\nWORKDIR /home/opam\nCOPY config.ml .\nRUN echo 4 > depends && mirage configure -f config.ml -t spt own && unikernel . && cp web.spt own.spt\nFROM scratch\nCOPY --from=0 /home/opam/own.spt /unikernel.spt\n",
                BASES[1]
            );
            let repository = Repository::new(&[("deploy/Dockerfile", &own), WEB[0]]);
            let Some(server) = HttpsServer::start(repository.root()) else { return };
            let more =
                format!("[git]\ncertificates = \"{}\"\n[access]\ngroup = \"daemon\"\n", server.certificate().display());
            let Some(host) = host_with_engine(engine, &more).await else { return };
            let manager = patient(&host).await;
            let mut own = options("http:80/");
            own.insert("dockerfile", "deploy/Dockerfile".into());
            manager.deploy("website", &format!("git+{}#main", server.url("website.git")), own).await.unwrap();
            manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
            let answer = host.get(8080).unwrap();
            assert!(answer.contains("target=spt") && answer.contains("arguments=[own]"), "{answer}");

            // Who may not read it gets nothing of it, built or not.
            let open =
                |mode| std::fs::set_permissions(repository.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let commit = repository.git(&["rev-parse", "HEAD"]);
            let objects = repository.path().join("objects");
            let daemon = uzers::get_group_by_name("daemon").unwrap().gid();
            let deploy = async |image: String| {
                let options = ["2", "dockerfile", "s", "deploy/Dockerfile", "ready", "s", "running"];
                let arguments = [&["Deploy", "ssa{sv}", "other", &image][..], &options].concat();
                busctl_as(&host, 65534, daemon, &arguments).await
            };
            open(0o700);
            for image in [format!("{}#main", repository.url()), format!("{}#{commit}", repository.url())] {
                let refused = deploy(image).await.unwrap_err();
                assert!(refused.contains("uid 65534") && refused.contains("ermission denied"), "{refused}");
            }
            open(0o755);
            repository.commit(&[("config.ml", "let () = register \"other\" []\n")]);
            std::fs::set_permissions(&objects, std::fs::Permissions::from_mode(0o700)).unwrap();
            for reference in ["main", &commit] {
                let refused = deploy(format!("{}#{reference}", repository.url())).await.unwrap_err();
                assert!(refused.contains("with the caller's rights"), "{reference}: {refused}");
            }
            std::fs::set_permissions(&objects, std::fs::Permissions::from_mode(0o755)).unwrap();
            deploy(format!("{}#main", repository.url())).await.unwrap();
            assert_eq!(builds(&host), 2);
        },
    );
}

#[test]
fn a_repository_is_built_over_ssh_from_a_host_that_is_known() {
    with_engines("a_repository_is_built_over_ssh_from_a_host_that_is_known", &[Kind::Docker], async |engine| {
        let repository = Repository::new(&WEB);
        let Some(server) = SshServer::start() else { return };
        let image = format!("git+{}#main", server.url(&repository.path()));
        let key = format!("ssh-key = \"{}\"", server.key().display());
        let hosts = format!("known-hosts = \"{}\"", server.known_hosts().display());
        let Some(mut host) = host_with_engine(engine, "").await else { return };
        let unknown = "the host is not known here";
        for (access, words) in [("", unknown), (&key, unknown), (&hosts, "the service has no access to it")] {
            restart_with(&mut host, &configuration(engine, &format!("[git]\n{access}\n"))).await;
            let manager = patient(&host).await;
            let (kind, message) = error_of(manager.deploy("website", &image, options("running")).await);
            assert!(kind == "ImageUnavailable" && message.contains(words), "{kind}: {message}");
            assert_nothing_left(&host);
        }
        restart_with(&mut host, &configuration(engine, &format!("[git]\n{key}\n{hosts}\n"))).await;
        let manager = patient(&host).await;
        manager.deploy("website", &image, options("http:80/")).await.unwrap();
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let answer = host.get(8080).unwrap();
        assert!(answer.contains("(* config 1 *)"), "{answer}");
        assert_nothing_left_but(&host, 1);
        engine.assert_clean("builds");
    });
}

/// What `busctl` says when somebody else calls.
async fn busctl_as(host: &TestHost, uid: u32, gid: u32, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into(), "busctl".into()]);
    command.args([&format!("--address={}", host.bus.address), "--timeout=100", "call", "--", NAME, ROOT, MANAGER]);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn a_build_that_fails_or_is_cancelled_leaves_nothing() {
    with_engines("a_build_that_fails_or_is_cancelled_leaves_nothing", &[Kind::Docker], async |engine| {
        let repository = Repository::new(&[WEB[0], ("unikernel.ml", "syntax error\n")]);
        let Some(mut host) = host_with_engine(engine, "").await else { return };
        let manager = patient(&host).await;
        let image = format!("{}#main", repository.url());
        let (kind, message) = error_of(manager.deploy("website", &image, options("running")).await);
        assert_eq!(kind, "BuildFailed", "{message}");
        assert!(message.contains("Error: Syntax error") && message.contains("unikernel.ml"), "{message}");
        let mut absent = options("running");
        absent.insert("config-file", "absent.ml".into());
        let (kind, message) = error_of(manager.deploy("website", &image, absent).await);
        assert!(kind == "BuildFailed" && message.contains("absent.ml"), "{kind}: {message}");
        assert_nothing_left(&host);
        engine.assert_clean("a build that failed");

        repository.commit(&[("unikernel.ml", "endless\n")]);
        let deploying = {
            let (manager, image) = (manager.clone(), image.clone());
            tokio::spawn(async move { manager.deploy("website", &image, options("running")).await })
        };
        eventually("it takes long", async || sleeps()).await;
        manager.cancel("importing: building").await;
        let (kind, _) = error_of(deploying.await.unwrap());
        assert_eq!(kind, "Cancelled");
        eventually("the build ends", async || !sleeps()).await;
        assert_nothing_left(&host);
        engine.assert_clean("a build that was cancelled");

        // Killed, and started again.
        let deploying = tokio::spawn(async move { manager.deploy("website", &image, options("running")).await });
        eventually("it takes long", async || sleeps()).await;
        host.kill_service();
        assert!(deploying.await.unwrap().is_err());
        eventually("the build ends", async || !sleeps()).await;
        std::fs::create_dir_all(host.state().join("workshop/1-0/repository")).unwrap();
        host.start_service().await;
        assert_nothing_left(&host);
        engine.assert_clean("a build whose service was killed");
    });
}

#[test]
fn no_git_outlives_its_call() {
    isolated("no_git_outlives_its_call", |_| async {
        let Some(host) = host_with("[network.br0]\nprefix = \"10.0.0.0/24\"\n").await else { return };
        let manager = patient(&host).await;
        // A server that takes a connection and says nothing.
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let image = format!("git+https://{}/x#main", server.local_addr().unwrap());
        for ends in ["Cancelled", "ImageUnavailable"] {
            let deploying = {
                let (manager, image) = (manager.clone(), image.clone());
                tokio::spawn(async move { manager.deploy("website", &image, options("running")).await })
            };
            let asks = |commands: Vec<String>| commands.iter().any(|command| command.contains("remote-https"));
            eventually("git asks", async || asks(at_work(&host))).await;
            if ends == "Cancelled" {
                manager.cancel("importing: looking up").await;
            } else {
                // The worker alone: what it has started is ended by who has started it.
                let children = format!("/proc/{0}/task/{0}/children", host.service_pid());
                for worker in std::fs::read_to_string(children).unwrap().split_whitespace() {
                    let worker = rustix::process::Pid::from_raw(worker.parse().unwrap()).unwrap();
                    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
                }
            }
            let (kind, message) = error_of(deploying.await.unwrap());
            assert_eq!(kind, ends, "{message}");
            assert_nothing_left(&host);
        }
    });
}

/// Whether the build runs that does not end.
fn sleeps() -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| command == b"sleep\x007193\x00")
}
