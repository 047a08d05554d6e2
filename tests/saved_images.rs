//! Saved images, from the archive to a unikernel that answers: read by a worker process that may nothing else.
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

use host::{Options, TestHost, error_of, eventually, options};
use netns::isolated;

use saved_image::{
    Layer, OCI_MANIFEST, Tar, artifact, descriptor, docker_legacy, docker_oci, layout, oci_layout, tar_of,
};

/// A layer with the unikernel of `version` at `path`, and something beside it.
fn layer(host: &TestHost, version: &str, path: &str) -> Layer {
    let image = std::fs::read(host.image(version, &[])).unwrap();
    Layer::gzip(Tar::new().file("README", "nothing to see").file(path, image))
}

fn save(host: &TestHost, name: &str, archive: &[u8]) -> String {
    let path = host.directory.path().join(name);
    std::fs::write(&path, archive).unwrap();
    path.display().to_string()
}

#[test]
fn every_form_comes_to_answer() {
    isolated("every_form_comes_to_answer", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let unikernel = |version: &str| layer(&host, version, "unikernel.spt");
        let legacy = tar_of(&docker_legacy(&[(&["web:1"], &[unikernel("1")]), (&["web:2"], &[unikernel("2")])]));
        let legacy = save(&host, "legacy.tar", &legacy);
        let engine = save(&host, "engine.tar", &tar_of(&docker_oci(&[unikernel("3")], "web:3")));
        let layout = save(&host, "layout.tar", &tar_of(&oci_layout(&[layer(&host, "4", "deep/inside")], "4")));
        let folder = folder(&host, "layout", &oci_layout(&[layer(&host, "5", "unikernel.hvt")], "v5"));
        for (version, image, path) in [
            ("1", format!("docker-archive:{legacy}:web:1"), None),
            ("2", format!("docker-archive:{legacy}:web:2"), None),
            ("3", format!("docker-archive:{engine}"), None),
            ("4", format!("oci-archive:{layout}"), Some("/deep/inside")),
            ("5", format!("oci:{folder}:v5"), None),
        ] {
            host.deploy_with_busctl(&image, path).await;
            let answer = host.get(8080).unwrap();
            assert!(answer.starts_with(&format!("version={version} ")), "{image}: {answer}");
        }
        // The same bytes are the same image, wherever they come from.
        let (again, _) = manager.deploy("website", &host.image("3", &[]), options("http:80/")).await.unwrap();
        let (saved, _) =
            manager.deploy("website", &format!("docker-archive:{engine}"), options("http:80/")).await.unwrap();
        assert_eq!(again, saved);
    });
}

/// Writes a saved image as a folder.
fn folder(host: &TestHost, name: &str, files: &[(String, Vec<u8>)]) -> String {
    let folder = host.directory.path().join(name);
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder.display().to_string()
}

#[test]
fn a_damaged_image_is_noticed_and_fetched_again() {
    isolated("a_damaged_image_is_noticed_and_fetched_again", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let archive = save(&host, "web.tar", &tar_of(&oci_layout(&[layer(&host, "1", "unikernel.hvt")], "1")));
        let deployed = manager.deploy("website", &format!("oci-archive:{archive}"), options("http:80/")).await.unwrap();
        let digest = manager.told_of(&deployed.0, "ImageDigest").await;
        let origin = manager.told_of(&deployed.0, "ImageOrigin").await;
        assert!(origin.starts_with(&format!("oci-archive:{archive} (sha256:")), "{origin}");
        let [stored] = &host.stored_images()[..] else { panic!() };
        let stored = host.directory.path().join("state/images").join(stored);
        let good = std::fs::read(&stored).unwrap();
        let mut damaged = good.clone();
        damaged[good.len() / 2] ^= 1;
        std::fs::write(&stored, &damaged).unwrap();
        let other = ("memory", 33u64.into());
        let mut changed = options("http:80/");
        changed.extend([other]);
        manager.deploy("website", &digest, changed).await.unwrap();
        assert!(std::fs::read(&stored).unwrap() == good, "it was replaced");
        // What it came from is not there any more.
        std::fs::write(&stored, &damaged).unwrap();
        std::fs::remove_file(&archive).unwrap();
        let mut changed = options("http:80/");
        changed.extend([("memory", 34u64.into())]);
        let (kind, message) = error_of(manager.deploy("website", &digest, changed).await);
        assert_eq!(kind, "ImageUnavailable", "{message}");
        assert!(message.contains("damaged") && message.contains(&archive), "{message}");
        assert_eq!(host.running().len(), 2);
    });
}

#[test]
fn members_of_a_stack_come_out_of_saved_images() {
    isolated("members_of_a_stack_come_out_of_saved_images", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let archive = save(&host, "web.tar", &tar_of(&oci_layout(&[layer(&host, "7", "deep/inside")], "1")));
        let manifest = format!(
            "stack = \"web\"\nimage-path = \"/deep/inside\"\nargs = {:?}\n[service.front]\nimage = \"oci-archive:{archive}\"\n\
             ports = [\"8080:80\"]\nready = \"http:80/\"\nwatch = \"1s\"\n[service.back]\nimage = \"{}\"\n",
            host::ARGUMENTS,
            host.image("8", &[])
        );
        manager.call("Apply", &(manifest, Options::new())).await.unwrap();
        manager.call("Activate", &("web",)).await.unwrap();
        let answer = host.get(8080).unwrap();
        assert!(answer.starts_with("version=7 "), "{answer}");
        // What is watched is looked at again; with the choice of who applied it, the new chain is staged.
        let staged = async || {
            let object = "/org/albatross/Deployer1/stack/web";
            let staged =
                manager.property::<zbus::OwnedVariant>(object, "org.albatross.Deployer1.Stack", "Staged").await;
            staged.is_some_and(|staged| format!("{staged:?}").contains("front"))
        };
        assert!(!staged().await);
        save(&host, "web.tar", &tar_of(&oci_layout(&[layer(&host, "9", "deep/inside")], "1")));
        eventually("the new chain", staged).await;
    });
}

/// What `oras push` makes has no paths in it.
#[test]
fn a_path_is_refused_where_the_image_is_the_unikernel_itself() {
    isolated("a_path_is_refused_where_the_image_is_the_unikernel_itself", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let unikernel = std::fs::read(host.image("1", &[])).unwrap();
        let (blobs, manifest) = artifact(&unikernel, Some("web.hvt"));
        let files = layout(blobs, &[descriptor(OCI_MANIFEST, &manifest)]);
        let archive = save(&host, "artifact.tar", &tar_of(&files));
        for image in [format!("oci-archive:{archive}"), format!("oci:{}", folder(&host, "artifact", &files))] {
            let mut with_path = options("running");
            with_path.insert("image-path", "/unikernel.hvt".into());
            let (kind, message) = error_of(manager.deploy("website", &image, with_path).await);
            assert_eq!(kind, "ImageInvalid", "{message}");
            assert!(message.contains("/unikernel.hvt") && message.contains("leave option image-path out"), "{message}");
            assert!(host.running().is_empty());
            host.until_no_image_is_left().await;
        }
        host.deploy_with_busctl(&format!("oci-archive:{archive}"), None).await;
        assert!(host.get(8080).unwrap().starts_with("version=1 "));
    });
}

#[test]
fn what_gives_no_unikernel_is_refused_and_leaves_nothing() {
    isolated("what_gives_no_unikernel_is_refused_and_leaves_nothing", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let good = tar_of(&oci_layout(&[layer(&host, "1", "elsewhere.spt")], "1"));
        let nowhere = save(&host, "nowhere.tar", &good);
        let cut = save(&host, "cut.tar", &good[..good.len() / 2]);
        let garbage = save(&host, "garbage.tar", &[0xa5; 100_000]);
        let no_image = tar_of(&oci_layout(&[Layer::plain(Tar::new().file("unikernel.spt", "no ELF"))], "1"));
        let no_image = save(&host, "no-image.tar", &no_image);
        for (image, name, says) in [
            (format!("oci-archive:{nowhere}"), "ImageInvalid", "elsewhere.spt"),
            (format!("oci-archive:{cut}"), "ImageInvalid", "cut off"),
            (format!("docker-archive:{garbage}"), "ImageInvalid", ""),
            (format!("oci-archive:{garbage}"), "ImageInvalid", ""),
            (format!("oci-archive:{no_image}"), "ImageInvalid", "ELF"),
            (format!("oci-archive:{nowhere}:2"), "ImageUnavailable", "no image 2, only: 1"),
            ("oci-archive:/nowhere".into(), "ImageUnavailable", "/nowhere"),
        ] {
            let (kind, message) = error_of(manager.deploy("website", &image, options("running")).await);
            assert_eq!(kind, name, "{image}: {message}");
            assert!(message.contains(says), "{image}: {message}");
        }
        assert!(host.running().is_empty());
        let stored = std::fs::read_dir(host.directory.path().join("state/images")).unwrap().count();
        assert_eq!(stored, 0, "nothing is left in the store");
    });
}
