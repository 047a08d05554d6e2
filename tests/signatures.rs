//! Signed images: what minisign signs is taken in every form, and what it has not signed in none.
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

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use host::{Manager, Options, TestHost, error_of, options};
use netns::isolated;
use saved_image::{Layer, OCI_MANIFEST, Tar, docker_oci, layout, signed_artifact, tar_of};

/// Keys of people who sign.
struct Keys(tempfile::TempDir);

impl Keys {
    /// `None`, with a word about it, where there is no minisign.
    fn make() -> Option<Self> {
        let keys = Self(tempfile::tempdir().unwrap());
        if Command::new("minisign").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("SKIPPED: there is no minisign to sign with: apt install minisign");
            return None;
        }
        for name in ["alice", "bob", "mallory"] {
            keys.minisign(&["-G", "-W", "-p", &keys.path(name, "pub"), "-s", &keys.path(name, "sec")]);
        }
        Some(keys)
    }

    fn path(&self, name: &str, ending: &str) -> String {
        self.0.path().join(format!("{name}.{ending}")).display().to_string()
    }

    fn minisign(&self, arguments: &[&str]) {
        let output = Command::new("minisign").args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// As a configuration has it.
    fn public(&self, name: &str) -> String {
        fs::read_to_string(self.path(name, "pub")).unwrap().lines().nth(1).unwrap().to_owned()
    }

    fn configuration(&self, names: &[&str]) -> String {
        let keys = names.iter().map(|name| format!("{:?}", self.public(name))).collect::<Vec<_>>();
        format!("[images]\nkeys = [{}]\n", keys.join(", "))
    }

    /// What minisign writes of a file, with further arguments.
    fn sign(&self, name: &str, file: &str, further: &[&str]) -> String {
        let signature = self.path("any", "minisig");
        let arguments = ["-S", "-W", "-s", &self.path(name, "sec"), "-m", file, "-x", &signature];
        self.minisign(&[&arguments, further].concat());
        fs::read_to_string(signature).unwrap()
    }
}

/// A host whose service has the keys of these people.
async fn host(keys: &Keys, names: &[&str]) -> Option<TestHost> {
    let mut host = TestHost::without_service()?;
    fs::write(host.config(), keys.configuration(names)).unwrap();
    host.start_service().await;
    Some(host)
}

async fn again(host: &mut TestHost, configuration: &str) -> Manager {
    host.stop_service();
    fs::write(host.config(), configuration).unwrap();
    host.start_service().await;
    host.manager().await
}

fn signed(signature: &str) -> Options<'_> {
    let mut options = options("running");
    options.insert("signature", signature.into());
    options
}

impl Manager {
    async fn refused(&self, image: &str, options: Options<'_>) -> String {
        let (name, message) = error_of(self.deploy("website", image, options).await);
        assert_eq!(name, "ImageInvalid", "{image}: {message}");
        message
    }
}

#[test]
fn what_is_signed_is_taken_in_every_form() {
    isolated("what_is_signed_is_taken_in_every_form", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(host) = host(&keys, &["alice", "bob"]).await else { return };
        let manager = host.manager().await;

        let beside = host.image("beside", &[]);
        fs::write(format!("{beside}.minisig"), keys.sign("alice", &beside, &["-t", "built on a Monday"])).unwrap();
        manager.deploy("website", &beside, options("running")).await.unwrap();

        let by_option = host.image("option", &[]);
        let signature = keys.sign("bob", &by_option, &[]);
        manager.deploy("website", &by_option, signed(&signature)).await.unwrap();

        let handed_over = host.image("handed-over", &[]);
        let signature = keys.sign("alice", &handed_over, &[]);
        let descriptor = zbus::Fd::from(std::os::fd::OwnedFd::from(fs::File::open(&handed_over).unwrap()));
        manager.call("DeployImage", &("website", descriptor, signed(&signature))).await.unwrap();

        let inside = host.image("inside", &[]);
        let signature = keys.sign("alice", &inside, &[]);
        let tar = Tar::new()
            .file("unikernel.hvt", fs::read(&inside).unwrap())
            .file("unikernel.hvt.minisig", signature.as_bytes());
        let archive = host.directory.path().join("signed.tar");
        fs::write(&archive, tar_of(&docker_oci(&[Layer::gzip(tar)], "web:1"))).unwrap();
        let archive = format!("docker-archive:{}", archive.display());
        manager.deploy("website", &archive, options("running")).await.unwrap();

        let pushed = host.image("pushed", &[]);
        let signature = keys.sign("alice", &pushed, &[]);
        let (blobs, artifact) = signed_artifact(&fs::read(&pushed).unwrap(), "website.hvt", signature.as_bytes());
        let files = layout(blobs, &[saved_image::descriptor(OCI_MANIFEST, &artifact)]);
        let archive = host.directory.path().join("artifact.tar");
        fs::write(&archive, tar_of(&files)).unwrap();
        let archive = format!("oci-archive:{}", archive.display());
        manager.deploy("website", &archive, options("running")).await.unwrap();

        // What has been verified is known by its bytes, wherever they come from and whatever is called.
        manager.deploy("other", &by_option, options("running")).await.unwrap();
        fs::remove_file(format!("{beside}.minisig")).unwrap();
        manager.deploy("other", &beside, options("running")).await.unwrap();
        assert_eq!(host.running().len(), 7);
        // A signature that is not this image's is not passed over for one that is known.
        let message = manager.refused(&beside, signed(&signature)).await;
        assert!(message.contains("is of something else"), "{message}");
    });
}

#[test]
fn what_is_not_signed_is_refused_and_leaves_nothing() {
    isolated("what_is_not_signed_is_refused_and_leaves_nothing", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(host) = host(&keys, &["alice", "bob"]).await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &[]);
        let message = manager.refused(&image, options("running")).await;
        for part in ["no signature", "minisign -Sm unikernel.hvt", "option signature", &format!("{image}.minisig")] {
            assert!(message.contains(part), "no {part}: {message}");
        }

        let good = keys.sign("alice", &image, &[]);
        let damaged = host.image("damaged", &[]);
        let mut bytes = fs::read(&image).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let legacy = keys.sign("alice", &image, &["-l"]);
        let foreign = keys.sign("mallory", &image, &[]);
        let comment = good.replace("trusted comment: ", "trusted comment: not ");
        for (image, signature, says) in [
            (&damaged, good.as_str(), "is of something else"),
            (&image, &foreign, "none of images.keys"),
            (&image, &legacy, "without -l"),
            (&image, &comment, "is of something else"),
            (&image, "signed, Alice", "not the text that minisign writes"),
            (&image, "", "not the text that minisign writes"),
        ] {
            let message = manager.refused(image, signed(signature)).await;
            assert!(message.contains(says), "{says}: {message}");
            fs::write(format!("{image}.minisig"), signature).unwrap();
            let message = manager.refused(image, options("running")).await;
            assert!(message.contains(says), "{says}: {message}");
            fs::remove_file(format!("{image}.minisig")).unwrap();
        }
        fs::write(format!("{image}.minisig"), "x".repeat(5000)).unwrap();
        let message = manager.refused(&image, options("running")).await;
        assert!(message.contains("longer than 4096 bytes"), "{message}");

        for (file, says) in [("README", "/unikernel.hvt.minisig"), ("unikernel.hvt.minisig", "none of images.keys")] {
            let tar = Tar::new().file("unikernel.hvt", fs::read(&image).unwrap()).file(file, foreign.as_bytes());
            let archive = host.directory.path().join("archive.tar");
            fs::write(&archive, tar_of(&docker_oci(&[Layer::gzip(tar)], "web:1"))).unwrap();
            let archive = format!("docker-archive:{}", archive.display());
            let message = manager.refused(&archive, options("running")).await;
            assert!(message.contains(says), "{message}");
        }

        let descriptor = zbus::Fd::from(std::os::fd::OwnedFd::from(fs::File::open(&image).unwrap()));
        let call = manager.call("DeployImage", &("website", descriptor, options("running"))).await;
        let (name, message) = error_of(call.map(drop));
        assert!(name == "ImageInvalid" && message.contains("in option signature"), "{name} {message}");
        assert!(host.running().is_empty());
        host.until_no_image_is_left().await;
    });
}

#[test]
fn a_signature_beside_a_file_is_read_with_the_callers_rights() {
    isolated("a_signature_beside_a_file_is_read_with_the_callers_rights", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(mut host) = TestHost::without_service_on(private_bus::OPEN, None) else { return };
        let access = "[access]\ngroup = \"nogroup\"\n";
        fs::write(host.config(), format!("{}{access}", keys.configuration(&["alice"]))).unwrap();
        host.start_service().await;
        let image = host.image("1", &[]);
        let signature = format!("{image}.minisig");
        let manager = host.manager().await;
        std::os::unix::fs::symlink("/proc/self/environ", &signature).unwrap();
        let message = manager.refused(&image, options("running")).await;
        assert!(message.contains("is in /proc"), "{message}");
        fs::remove_file(&signature).unwrap();
        fs::create_dir(&signature).unwrap();
        let message = manager.refused(&image, options("running")).await;
        assert!(message.contains("is not a regular file"), "{message}");
        fs::remove_dir(&signature).unwrap();

        if !rustix::process::geteuid().is_root() || std::env::var_os("ALBATROSS_TEST_IN_USER_NAMESPACE").is_some() {
            return println!("SKIPPED: only root can call as somebody else");
        }
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(host.directory.path(), 0o755);
        mode(Path::new(&image), 0o644);
        fs::write(&signature, keys.sign("alice", &image, &[])).unwrap();
        mode(Path::new(&signature), 0o600);
        let deploy = async || {
            let mut call = Command::new("setpriv");
            call.args(["--reuid=65534", "--regid=65534", "--clear-groups", "busctl", "call"]);
            call.arg(format!("--address={}", host.bus.address));
            call.args([host::NAME, host::ROOT, host::MANAGER, "Deploy", "ssa{sv}", "website", &image, "0"]);
            let output = tokio::task::spawn_blocking(move || call.output()).await.unwrap().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (done, said) = deploy().await;
        assert!(!done && said.contains("no signature") && said.contains("Permission denied"), "{said}");
        mode(Path::new(&signature), 0o644);
        let (done, said) = deploy().await;
        assert!(done, "{said}");
    });
}

#[test]
fn what_is_stored_is_asked_for_its_signature_by_the_keys_of_today() {
    isolated("what_is_stored_is_asked_for_its_signature_by_the_keys_of_today", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(mut host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &[]);
        let (id, _) = manager.deploy("website", &image, options("running")).await.unwrap();
        let digest = host.stored_images()[0].replace("sha256-", "sha256:");
        let in_other_words = |memory: u64| Options::from([("memory", memory.into())]);

        let manager = again(&mut host, &keys.configuration(&["alice"])).await;
        let message = manager.refused(&digest, in_other_words(40)).await;
        assert!(message.contains("no signature") && message.contains("in option signature"), "{message}");
        manager.refused(&image, options("running")).await;
        assert_eq!(host.stored_images().len(), 1, "another has it");
        // What runs already goes on, and so it does when it is started once more.
        manager.call("Restart", &(&id,)).await.unwrap();
        host.albatross.control(&format!("lose {id}"));
        host::eventually("the end", async || host.running().is_empty()).await;
        let path = format!("{}/unikernel/{}", host::ROOT, id.replace('.', "_2e"));
        host::eventually("it is seen", async || {
            let state = manager.property::<String>(&path, "org.albatross.Deployer1.Unikernel", "State").await;
            state.as_deref() == Some("exited")
        })
        .await;
        manager.call("Restart", &(&id,)).await.unwrap();
        assert_eq!(host.running(), [id.as_str()]);

        // A call that says who signed it is enough, also one that finds everything there already.
        let signature = keys.sign("alice", &image, &[]);
        manager.deploy("website", &image, signed(&signature)).await.unwrap();
        manager.deploy("website", &digest, in_other_words(48)).await.unwrap();
        host.kill_service();
        host.start_service().await;
        let manager = host.manager().await;
        manager.deploy("website", &digest, in_other_words(56)).await.unwrap();

        let manager = again(&mut host, &keys.configuration(&["bob"])).await;
        let message = manager.refused(&digest, in_other_words(64)).await;
        assert!(message.contains("none of images.keys"), "{message}");
        let signature = keys.sign("bob", &image, &[]);
        manager.deploy("website", &digest, signed(&signature)).await.unwrap();
        manager.deploy("website", &digest, in_other_words(72)).await.unwrap();
        let manager = again(&mut host, "").await;
        manager.deploy("website", &digest, in_other_words(80)).await.unwrap();
        let manager = again(&mut host, &keys.configuration(&["bob"])).await;
        manager.deploy("website", &digest, in_other_words(88)).await.unwrap();
    });
}

#[test]
fn members_of_stacks_are_asked_as_well() {
    isolated("members_of_stacks_are_asked_as_well", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(host) = host(&keys, &["alice"]).await else { return };
        let manager = host.manager().await;
        let (front, behind) = (host.image("front", &[]), host.image("behind", &[]));
        let manifest = |more: &str| {
            format!(
                "stack = \"shop\"\nargs = [\"--ipv4={{address}}/{{prefix-length}}\"]\n\
                 [service.front]\nimage = \"{front}\"\n\
                 [service.behind]\nimage = \"{behind}\"\n{more}"
            )
        };
        let apply = async |manifest: String| manager.call("Apply", &(manifest, Options::new())).await.map(drop);
        fs::write(format!("{front}.minisig"), keys.sign("alice", &front, &[])).unwrap();
        let (name, message) = error_of(apply(manifest("")).await);
        assert!(name == "ImageInvalid" && message.contains("member behind of stack shop"), "{name} {message}");
        assert!(host.running().is_empty());
        host.until_no_image_is_left().await;
        let signature = keys.sign("alice", &behind, &[]);
        apply(manifest(&format!("signature = '''\n{signature}'''\n"))).await.unwrap();
        assert_eq!(host.running().len(), 2);
        apply(manifest("")).await.unwrap();
    });
}

#[test]
fn who_cancels_while_an_image_is_verified_leaves_nothing() {
    isolated("who_cancels_while_an_image_is_verified_leaves_nothing", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(host) = host(&keys, &["alice"]).await else { return };
        let manager = host.manager().await;
        let image = host.image("large", &[]);
        let large = solo5_image::Image::new(solo5_image::Target::Spt, "large").net(&["service"]).padding(100 << 20);
        fs::write(&image, large.build()).unwrap();
        let signature = keys.sign("alice", &image, &[]);
        fs::write(format!("{image}.minisig"), &signature).unwrap();
        let calling = (manager.clone(), image.clone());
        let call = tokio::spawn(async move { calling.0.deploy("website", &calling.1, options("running")).await });
        let (job, interface) = (format!("{}/job/_1", host::ROOT), "org.albatross.Deployer1.Job");
        let step = async || manager.property::<String>(&job, interface, "Step").await;
        host::eventually("it is verified", async || step().await.as_deref() == Some("importing: verifying")).await;
        manager.0.call_method(Some(host::NAME), &*job, Some(interface), "Cancel", &()).await.unwrap();
        assert_eq!(error_of(call.await.unwrap()).0, "Cancelled");
        host.until_no_image_is_left().await;
        manager.deploy("website", &image, options("running")).await.unwrap();
    });
}

#[test]
fn a_key_that_is_none_stops_the_start() {
    isolated("a_key_that_is_none_stops_the_start", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        fs::write(host.config(), "[images]\nkeys = [\n  \"minisign.pub\",\n]\n").unwrap();
        host.spawn_service();
        assert!(!host.wait_for_end().success());
        let log = host.log();
        assert!(log.contains("config.toml:3: images.keys: not a public key of minisign"), "{log}");
    });
}

#[test]
fn the_log_shows_what_was_signed_with_it() {
    isolated("the_log_shows_what_was_signed_with_it", |_| async {
        let Some(keys) = Keys::make() else { return };
        let Some(host) = host(&keys, &["alice"]).await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &[]);
        let signature = keys.sign("alice", &image, &["-t", "built on a Monday"]);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let calling = manager.clone();
        let call = tokio::spawn(async move {
            let descriptor = zbus::Fd::from(std::os::fd::OwnedFd::from(reader));
            calling.call("DeployImage", &("website", descriptor, signed(&signature))).await.map(drop)
        });
        let job = format!("{}/job/_1", host::ROOT);
        let mut log = None;
        host::eventually("its job", async || {
            let interface = Some("org.albatross.Deployer1.Job");
            log = manager.0.call_method(Some(host::NAME), &*job, interface, "OpenLog", &()).await.ok();
            log.is_some()
        })
        .await;
        std::io::Write::write_all(&mut writer, &fs::read(&image).unwrap()).unwrap();
        drop(writer);
        call.await.unwrap().unwrap();
        let pipe: zbus::OwnedFd = log.unwrap().body().deserialize().unwrap();
        let told = tokio::task::spawn_blocking(move || {
            std::io::read_to_string(fs::File::from(std::os::fd::OwnedFd::from(pipe))).unwrap()
        });
        let told = told.await.unwrap();
        assert!(told.contains("\nthe image is signed, with the comment built on a Monday\n"), "{told}");
    });
}
