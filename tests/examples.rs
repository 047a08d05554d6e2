//! Every script of `busctl-examples/` does on a real bus what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/engines.rs"]
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

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engines::{Engine, Kind};
use host::{MANAGER, Options, TestHost, eventually, options};
use netns::{isolated, sh_with_input};

/// Those that a test below runs; one more in the folder is one without a test.
const TESTED: [&str; 24] = [
    "activate",
    "apply",
    "build-log",
    "cancel",
    "collect",
    "console",
    "deploy",
    "destroy",
    "graph",
    "introspect",
    "leases",
    "of_docker",
    "of_git",
    "publish",
    "remove-stack",
    "restart",
    "rollback",
    "rollback-stack",
    "ruleset",
    "stacks",
    "status",
    "unpublish",
    "update",
    "watch",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("busctl-examples")
}

fn command(host: &TestHost, line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(folder());
    command.env("BUSCTL", format!("busctl --address={}", host.bus.address));
    // For what is no busctl.
    command.env("DBUS_SYSTEM_BUS_ADDRESS", &host.bus.address);
    command
}

/// Runs a command line in the folder; what it prints.
async fn run(host: &TestHost, line: &str) -> Result<String, String> {
    let mut command = command(host, line);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn each_script_has_a_test() {
    // A folder has an example of its own, and a test of its own.
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap());
    let scripts = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let scripts = scripts.map(|script| script.file_name().into_string().unwrap());
    assert_eq!(scripts.collect::<BTreeSet<_>>(), TESTED.map(String::from).into());
}

#[test]
fn a_website_with_the_scripts_alone() {
    isolated("a_website_with_the_scripts_alone", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (one, two) = (host.image("1", &[]), host.image("2", &[]));
        let arguments = "--ipv4='{address}/24' --ipv4-gateway='{gateway}'";
        let deployed = run(&host, &format!("READY=http:80/ ./deploy website {one} {arguments}")).await.unwrap();
        let first = host.running().remove(0);
        assert!(deployed.contains("oss \"/org/albatross/Deployer1/unikernel/website_2e"), "{deployed}");
        assert!(deployed.contains(&first) && deployed.contains("10.0.0.2"), "{deployed}");
        run(&host, "./publish website 8080 80 tcp").await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=1 "));

        let other = format!("NETWORK=br0 MEMORY=64 READY=http:80/ ./deploy website {two} {arguments}");
        let deployed = run(&host, &other).await.unwrap();
        let second = deployed.split('"').nth(3).unwrap().to_string();
        run(&host, "./publish website").await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=2 "));
        let rolled_back = run(&host, "./rollback website").await.unwrap();
        assert!(rolled_back.contains("website_2e") && host.get(8080).unwrap().starts_with("version=1 "));
        run(&host, &format!("./restart {second}")).await.unwrap();

        let console = run(&host, &format!("./console {first}")).await.unwrap();
        assert!(console.starts_with("            |      ___|\n"), "{console}");
        let console = run(&host, &format!("./console {first} 1")).await.unwrap();
        assert_eq!(console, "version=1 address=10.0.0.2 listening on 80\n");
        assert!(run(&host, "./console website.0000000000").await.unwrap_err().contains("no unikernel"));

        let status = run(&host, "./status").await.unwrap();
        for part in [env!("CARGO_PKG_VERSION"), "as 0", "u 2", "/service/website", "\"tcp\" \"\" 8080", "deploy"] {
            assert!(status.contains(part), "no {part} in {status}");
        }
        let shown = run(&host, &format!("./introspect unikernel {first}")).await.unwrap();
        assert!(shown.contains("\"live\"") && shown.contains(".ImageDigest"), "{shown}");
        let shown = run(&host, "./introspect service website; ./introspect").await.unwrap();
        assert!(shown.contains("1 \"tcp\" 8080 80") && shown.contains("AllocateAddress"), "{shown}");
        let shown = run(&host, "XML=--xml-interface ./introspect").await.unwrap();
        assert!(shown.contains("Redirects ports of the host"), "{shown}");

        let leases = run(&host, "./leases mine 10.0.0.0/24 10.0.0.4 10.0.0.5-10.0.0.9").await.unwrap();
        assert!(leases.contains("\"mine\" \"10.0.0.10\" \"10.0.0.0/24\""), "{leases}");
        assert_eq!(leases.matches("s \"10.0.0.10\"").count(), 2, "{leases}");

        let ruleset = run(&host, "./ruleset").await.unwrap();
        let namespace = netns::Namespace::create().unwrap();
        let loaded = namespace.run(move || sh_with_input("nft -j -f - && nft list ruleset", &ruleset));
        assert!(loaded.contains("10.0.0.2") && loaded.contains("8080"), "{loaded}");

        let planned = run(&host, "DRY_RUN=true ./collect").await.unwrap();
        assert_eq!(planned.trim(), "a(ss) 0", "the previous one stays");
        run(&host, "./unpublish website").await.unwrap();
        assert!(host.get(8080).is_err() && host.running().len() == 2);
        run(&host, &format!("./destroy {second}")).await.unwrap();
        assert_eq!(host.running(), [first.as_str()]);
        run(&host, &format!("./publish website; FORCE=true ./destroy {first}")).await.unwrap();
        assert!(host.running().is_empty());
        let gone = run(&host, "./collect website").await.unwrap();
        assert!(gone.contains("\"image\" \"sha256:"), "{gone}");
        assert!(run(&host, "./rollback website").await.unwrap_err().contains("no service website"));
    });
}

/// A stack of two members, the one in front with `version`.
fn manifest(host: &TestHost, version: &str) -> String {
    let (behind, front) = (host.image("behind", &[]), host.image(version, &[]));
    let manifest = format!(
        r#"stack = "shop"
           args = ["--ipv4={{address}}/{{prefix-length}}", "--ipv4-gateway={{gateway}}"]
           ready = "http:80/"

           [service.store]
           image = "{behind}"

           [service.web-1]
           image = "{front}"
           args = ["--ipv4={{address}}/{{prefix-length}}", "--ipv4-gateway={{gateway}}", "--relay={{store.address}}:80"]
           ports = ["8080:80"]
           staged = ["8081:80"]
        "#
    );
    let path = format!("{front}.toml");
    std::fs::write(&path, manifest).unwrap();
    path
}

#[test]
fn a_stack_with_the_scripts_alone() {
    isolated("a_stack_with_the_scripts_alone", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (one, two) = (manifest(&host, "1"), manifest(&host, "2"));
        assert!(run(&host, "./apply /nonexistent").await.unwrap_err().contains("/nonexistent"));
        assert!(run(&host, &format!("./apply {one} now")).await.unwrap_err().contains("now is not known"));
        assert_eq!(run(&host, "./stacks").await.unwrap(), "");

        let applied = run(&host, &format!("./apply {one} activate")).await.unwrap();
        assert_eq!(applied, "o \"/org/albatross/Deployer1/stack/shop\"\n");
        assert!(host.get(8080).unwrap().starts_with("version=1 "));
        let stacks = run(&host, "./stacks").await.unwrap();
        let lines = stacks.lines().collect::<Vec<_>>();
        assert_eq!(&lines[..2], ["shop", "  State     live"], "{stacks}");
        assert!(lines[2].starts_with("  Live      store.") && lines[2].contains(" web-1."), "{stacks}");
        assert_eq!(&lines[3..5], ["  Staged    nothing", "  Previous  nothing"], "{stacks}");

        run(&host, &format!("./apply {two}")).await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=1 "));
        assert!(host.get(8081).unwrap().starts_with("version=2 "));
        let status = run(&host, "./status").await.unwrap();
        assert!(status.contains("  State     staged\n") && status.contains("  Staged    store."), "{status}");
        run(&host, "./activate shop").await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=2 ") && host.get(8081).is_err());
        run(&host, "./rollback-stack shop").await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=1 "));
        let shown = run(&host, "./introspect stack shop").await.unwrap();
        assert!(shown.contains("\"web-1\" \"/org/albatross/Deployer1/unikernel/web_2d1_2e"), "{shown}");

        // Whether it is in Graphviz' language only Graphviz knows; that it is asked for it needs no more than a `dot`.
        let graph = run(&host, "./graph shop").await.unwrap();
        assert!(graph.starts_with("digraph") && graph.contains("web-1") && !graph.contains("\\\""), "{graph}");
        let directory = tempfile::tempdir().unwrap();
        let (dot, picture) = (directory.path().join("dot"), directory.path().join("shop.svg"));
        std::fs::write(&dot, "#!/bin/sh\n[ \"$1 $2\" = '-Tsvg -o' ] && cat > \"$3\"\n").unwrap();
        std::fs::set_permissions(&dot, std::fs::Permissions::from_mode(0o755)).unwrap();
        let draw = format!("PATH={}:$PATH ./graph shop {}", directory.path().display(), picture.display());
        run(&host, &draw).await.unwrap();
        // What was live may have drained between the two.
        let drained = |graph: String| graph.replace("draining", "retired");
        assert_eq!(drained(std::fs::read_to_string(picture).unwrap()), drained(graph));
        assert!(run(&host, "PATH=/nonexistent ./graph shop shop.svg").await.unwrap_err().contains("graphviz"));

        run(&host, "./remove-stack shop").await.unwrap();
        assert!(host.get(8080).is_err() && host.running().is_empty());
        assert_eq!(run(&host, "./stacks").await.unwrap(), "");
        assert!(run(&host, "./activate shop").await.unwrap_err().contains("no stack shop"));
    });
}

#[test]
fn unikernels_of_docker_and_of_git() {
    isolated("unikernels_of_docker_and_of_git", |_| async {
        let Some(engine) = Engine::start(Kind::Docker) else { return };
        let Some(mut host) = TestHost::without_service() else { return };
        let configuration = format!(
            "[images]\ndocker-socket = \"{}\"\n[build]\nmirage-3 = \"localhost/opam:3\"\nmirage-4 = \"localhost/opam:4\"\n",
            engine.socket.display()
        );
        std::fs::write(host.config(), configuration).unwrap();
        host.start_service().await;
        engine.load(&opam_image::archive(&["localhost/opam:3", "localhost/opam:4"]));
        let unikernel = std::fs::read(host.image("1", &[])).unwrap();
        let layer = saved_image::Layer::plain(saved_image::Tar::new().file("unikernel.spt", unikernel));
        let names = ["localhost/website:1", "website:latest"];
        engine.load(&saved_image::tar_of(&saved_image::docker_legacy(&[(&names, &[layer])])));
        let arguments = "'--ipv4={address}/{prefix-length}' '--ipv4-gateway={gateway}'";
        let ready = "READY=http:80/";

        // The seed's 1.a,
        run(&host, &format!("{ready} ./of_docker website localhost/website:1 {arguments}")).await.unwrap();
        run(&host, "./publish website").await.unwrap();
        assert!(host.get(8080).unwrap().starts_with("version=1 "));
        // and 1.b, with both versions.
        let repository = repository::Repository::new(&[("config.ml", "let () = register \"web\" []\n")]);
        let url = format!("file://{}#main", repository.path().display());
        for (variables, told) in [
            ("MIRAGE=3", ["mirage=3 target=hvt", "arguments=[]"]),
            (
                "MIRAGE_ARGS='--net=direct -v *' IMAGE_PATH=/web.spt",
                ["mirage=4 target=spt", "arguments=[--net=direct -v *]"],
            ),
            (
                "EXTRA_INSTRUCTIONS='ENV MORE=\"*  2\"\nRUN echo \"$MORE\" > /home/opam/extra' \
                 OPAM_REPOSITORY_COMMIT=0123456789abcdef0123456789abcdef01234567",
                ["packages=0123456789abcdef", "extra=*  2"],
            ),
        ] {
            let line = format!("{variables} {ready} ./of_git website '{url}' {arguments}");
            run(&host, &line).await.unwrap();
            run(&host, "./publish website").await.unwrap();
            let answer = host.get(8080).unwrap();
            assert!(told.iter().all(|words| answer.contains(words)), "{told:?}: {answer}");
        }
        let no_signature = host.directory.path().join("no.minisig");
        std::fs::write(&no_signature, "\u{1}").unwrap();
        for line in ["./of_docker website localhost/website:1".into(), format!("./of_git website '{url}'")] {
            let line = format!("SIGNATURE={} {line} {arguments}", no_signature.display());
            let refused = run(&host, &line).await.unwrap_err();
            assert!(refused.contains("signature is not the text of a .minisig file"), "{refused}");
        }
        // Both as the README has them, but for where the repository is.
        let [of_docker, of_git] = lines_of_the_readme();
        assert!(of_git.contains("git+https://git.example.org/website.git#main"), "{of_git}");
        let of_git = of_git.replace("https://git.example.org/website.git#main", &url);
        for (line, told) in [(of_docker, "version=1 "), (of_git, "mirage=4 target=hvt")] {
            let deployed = run(&host, &line).await.unwrap();
            let address = deployed.trim_end().trim_end_matches('"').rsplit('"').next().unwrap();
            let ask = format!("curl --silent --max-time 5 http://{address}/");
            eventually(told, async || run(&host, &ask).await.is_ok_and(|answer| answer.contains(told))).await;
        }
    });
}

/// The two calls of Deploy that the README shows, on the bus of the test.
fn lines_of_the_readme() -> [String; 2] {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let lines = readme.lines().filter(|line| line.starts_with("busctl ") && line.contains(".Manager Deploy "));
    let lines: Vec<String> = lines.map(|line| line.replacen("busctl", "$BUSCTL", 1)).collect();
    lines.try_into().unwrap()
}

#[test]
fn update_watch_and_cancel() {
    isolated("update_watch_and_cancel", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (one, two) = (host.image("1", &[]), host.image("2", &[]));
        let arguments = "'--ipv4={address}/{prefix-length}' '--ipv4-gateway={gateway}'";
        let lines_of = |script: &str, until: &'static str| {
            let mut watch = command(&host, script).stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
            let watched = std::thread::spawn(move || {
                let mut lines = lines;
                let mut seen = Vec::new();
                while seen.last().is_none_or(|line: &String| !line.contains(until)) {
                    seen.extend(Some(lines.next().expect("the watch goes on")));
                }
                seen
            });
            (watch, watched)
        };
        let (mut raw, raw_lines) = lines_of("RAW=yes exec ./watch", "ServiceCount");
        let (mut watch, lines) = lines_of("./watch", "-> retired");
        run(&host, &format!("DRAIN=100 ./update website {one} 8080 80 {arguments}")).await.unwrap();
        eventually("version 1", async || host.get(8080).is_ok_and(|answer| answer.starts_with("version=1 "))).await;
        run(&host, &format!("DRAIN=100 ./update website {two} 8080 80 {arguments}")).await.unwrap();
        eventually("version 2", async || host.get(8080).is_ok_and(|answer| answer.starts_with("version=2 "))).await;
        assert!(run(&host, "./update website /nonexistent").await.is_err());
        assert!(host.get(8080).unwrap().starts_with("version=2 "));
        let lines = lines.join().unwrap().join("\n");
        for part in [
            ": nothing -> creating (restarts 0)",
            ": ready -> live (",
            "website: switched from nothing to website.",
            ": done",
        ] {
            assert!(lines.contains(part), "no {part} in {lines}");
        }
        raw_lines.join().unwrap();
        for watch in [&mut raw, &mut watch] {
            watch.kill().unwrap();
            watch.wait().unwrap();
        }

        let late = host.image("late", &["--listen-after=60000"]);
        let calling = {
            let manager = manager.clone();
            tokio::spawn(async move { manager.deploy("late", &late, options("tcp:80")).await })
        };
        eventually("the job", async || {
            let status = run(&host, "./status").await.unwrap();
            let job = status.split("job/_").find(|part| part.contains("\"deploy\" \"late\" \"running\""));
            let Some(number) = job.and_then(|job| job.split('"').next()) else { return false };
            run(&host, &format!("./cancel {number}")).await.unwrap();
            true
        })
        .await;
        assert_eq!(host::error_of(calling.await.unwrap()).0, "Cancelled");
        assert_eq!(manager.property::<u32>(host::ROOT, MANAGER, "ServiceCount").await, Some(1));
        manager.collect(Options::new()).await.unwrap();
    });
}

#[test]
fn the_log_of_a_job() {
    isolated("the_log_of_a_job", |_| async {
        let has_dbus = |python: &&str| {
            let imported = Command::new(python).args(["-c", "import dbus"]).stderr(Stdio::null()).status();
            imported.is_ok_and(|status| status.success())
        };
        if !["python3", "/usr/bin/python3"].iter().any(has_dbus) {
            return println!("SKIPPED: there is no python3-dbus to read a pipe with: apt install python3-dbus");
        }
        let Some(host) = TestHost::start().await else { return };
        assert!(run(&host, "./build-log").await.unwrap_err().contains("no job is running"));
        let late = host.image("late", &["--listen-after=3000"]);
        let deploy = format!("READY=tcp:80 ./deploy late {late} '--ipv4={{address}}/24'");
        let mut deploying = command(&host, &deploy).stdout(Stdio::null()).spawn().unwrap();
        eventually("its job", async || run(&host, "./status").await.unwrap().contains("\"late\" \"running\"")).await;
        let told = run(&host, "./build-log").await.unwrap();
        assert!(told.starts_with("== ") && told.ends_with("== done\n"), "{told}");
        assert!(run(&host, "./build-log 1").await.is_err(), "it has ended");
        let ended = tokio::task::spawn_blocking(move || deploying.wait()).await.unwrap().unwrap();
        assert!(ended.success());
    });
}

/// The images of `mail-stack`, that greet as mail servers do.
fn mail_images(host: &TestHost) -> PathBuf {
    let folder = host.directory.path().join("unikernels");
    std::fs::create_dir(&folder).unwrap();
    for member in ["entry", "signer", "forward"] {
        std::fs::rename(host.image(member, &["--mail"]), folder.join(format!("{member}.hvt"))).unwrap();
    }
    folder
}

#[test]
fn the_mail_stack_from_nothing_to_nothing() {
    isolated("the_mail_stack_from_nothing_to_nothing", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let line = format!("IMAGES={} HOST=127.0.0.1 mail-stack/run", mail_images(&host).display());
        let shown = run(&host, &line).await.unwrap();
        println!("{shown}");
        let ports = |step: usize| {
            let lines = shown.split("== ").nth(step + 1).unwrap().lines().collect::<Vec<_>>();
            let port = |port: &str| {
                let greeting = lines.iter().find_map(|line| line.strip_prefix(&format!("port {port}: "))).unwrap();
                assert!(greeting == "nobody" || ["entry", "signer", "forward"].iter().all(|v| greeting.contains(v)));
                greeting.to_owned()
            };
            (port("25"), port("2525"))
        };
        let nobody = || "nobody".to_owned();
        let (none, first) = ports(0);
        assert_eq!((none, ports(1)), (nobody(), (first.clone(), nobody())));
        let (old, second) = ports(2);
        assert!(old == first && second != first, "{second}");
        assert_eq!(ports(3), (second, nobody()));
        assert_eq!(ports(4), (first, nobody()));
        assert_eq!(ports(5), (nobody(), nobody()));
        assert!(host.running().is_empty() && host.manager().await.leases().await.unwrap().is_empty());
    });
}

/// As its page says: the text of the file is the argument.
#[test]
fn the_mail_stack_by_hand() {
    isolated("the_mail_stack_by_hand", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = "org.albatross.Deployer1 /org/albatross/Deployer1 org.albatross.Deployer1.Manager";
        let file = host.directory.path().join("mail.toml").display().to_string();
        let images = mail_images(&host).display().to_string();
        let line = format!(
            "sed 's|/srv/unikernels|{images}|' mail-stack/mail.toml > {file}\n\
             $BUSCTL call {manager} Apply 'sa{{sv}}' \"$(cat {file})\" 1 activate b true"
        );
        assert_eq!(run(&host, &line).await.unwrap(), "o \"/org/albatross/Deployer1/stack/mail\"\n");
        let (stack, interface) = ("/org/albatross/Deployer1/stack/mail", "org.albatross.Deployer1.Stack");
        let state: Option<String> = host.manager().await.property(stack, interface, "State").await;
        assert_eq!(state.as_deref(), Some("live"));
    });
}
