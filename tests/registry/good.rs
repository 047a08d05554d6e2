//! Debian's registry, and images that skopeo or `oras push` would put there.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::distribution::{Distribution, REGISTRY, SKOPEO, have};
use super::host::{AT_ONCE, NAME, Options, TestHost, error_of, eventually, options};
use super::hostile::{Asked, Hostile, head};
use super::netns::{isolated, sh};
use super::saved_image::{
    Layer, OCI_INDEX, OCI_MANIFEST, Tar, artifact, descriptor, digest, hex, oci_image, oci_layout, signed_artifact,
    tar_of, with,
};
use super::scene::{JOB, Scene};
use super::small_disk::SmallDisk;
use super::solo5_image::{Image, Target};

const LONG: u64 = 20_000;

#[test]
fn images_of_a_registry_come_to_answer() {
    isolated("good::images_of_a_registry_come_to_answer", |_| async {
        if !have("images_of_a_registry_come_to_answer", &[REGISTRY, SKOPEO]) {
            return;
        }
        let Some(scene) = Scene::start(&[5000], LONG, "").await else { return };
        let registry = Distribution::start(5000);
        let one = [Layer::gzip(Tar::new().file("unikernel.spt", "hidden")), scene.layer("1", "unikernel.spt")];
        let archive = scene.save("one.tar", &tar_of(&oci_layout(&one, "1")));
        registry.copy(&format!("oci-archive:{}", archive.display()), "mirage/website:1");
        scene.answers("docker://127.0.0.1:5000/mirage/website:1", "1", Some("/unikernel.spt")).await;
        let asked = registry.blobs_asked();
        // The layer below the file is never asked for; the configuration is.
        assert_eq!(asked, 2);

        // An index, of which the image for another processor is the first.
        let (blobs, ours) = oci_image(&[scene.layer("2", "boot/it.spt")]);
        let (other_blobs, theirs) = oci_image(&[scene.layer("3", "boot/it.spt")]);
        let this = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let other = if this == "amd64" { "arm64" } else { "amd64" };
        let of = |manifest: &[u8], processor: &str| {
            with(descriptor(OCI_MANIFEST, manifest), "platform", json!({"os": "linux", "architecture": processor}))
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [of(&theirs, other), of(&ours, this)],
        });
        let index = serde_json::to_vec(&index).unwrap();
        for (blobs, manifest) in [(&blobs, &ours), (&other_blobs, &theirs)] {
            registry.push("mirage/both", &digest(manifest), blobs, manifest);
        }
        registry.push_manifest("mirage/both", "latest", &index);
        scene.answers("docker://127.0.0.1:5000/mirage/both", "2", Some("/boot/it.spt")).await;
        // By its digest, that of the index and that of one image alone.
        for (manifest, version) in [(&index, "2"), (&theirs, "3")] {
            let image = format!("docker://127.0.0.1:5000/mirage/both@{}", digest(manifest));
            scene.answers(&image, version, Some("/boot/it.spt")).await;
        }

        // As `oras push` does it, and with what signs it beside.
        let (blobs, manifest) = artifact(&scene.unikernel("4"), Some("website.spt"));
        registry.push("files", "4", &blobs, &manifest);
        scene.answers("docker://127.0.0.1:5000/files:4", "4", None).await;
        let (blobs, manifest) = signed_artifact(&scene.unikernel("5"), "website.spt", b"signed");
        registry.push("files", "5", &blobs, &manifest);
        scene.answers("docker://127.0.0.1:5000/files:5", "5", None).await;
        scene.nobody_works().await;
    });
}

#[test]
fn layers_are_kept_and_compared_again() {
    isolated("good::layers_are_kept_and_compared_again", |_| async {
        if !have("layers_are_kept_and_compared_again", &[REGISTRY]) {
            return;
        }
        let Some(scene) = Scene::start(&[5000], LONG, "cache-size = \"16 KiB\"").await else { return };
        let registry = Distribution::start(5000);
        let layer = |version: &str| Layer::plain(Tar::new().file("unikernel.spt", scene.unikernel(version)));
        let layers = ["1", "2", "3", "4"].map(|version| (version, layer(version)));
        let size = layers[0].1.stored.len() as u64;
        assert!((6 << 10..8 << 10).contains(&size), "two fit into the cache, and three do not: {size}");
        for (version, layer) in &layers {
            let (blobs, manifest) = oci_image(std::slice::from_ref(layer));
            registry.push("web", version, &blobs, &manifest);
        }
        let path = |layer: &Layer| scene.cache().join(hex(&layer.stored));
        scene.answers("docker://127.0.0.1:5000/web:1", "1", None).await;
        assert_eq!(scene.cached().len(), 2, "the layer and the configuration: {:?}", scene.cached());
        assert_eq!(std::fs::read(path(&layers[0].1)).unwrap(), layers[0].1.stored);
        let mode = |path: &Path| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(&scene.cache()), mode(&path(&layers[0].1))), (0o700, 0o600));

        // Nothing is downloaded twice, and what is damaged is.
        let asked = registry.blobs_asked();
        scene.deploy("docker://127.0.0.1:5000/web:1").await.unwrap();
        assert_eq!(registry.blobs_asked(), asked);
        for damaged in [vec![0xa5; layers[0].1.stored.len()], b"short".to_vec(), Vec::new()] {
            std::fs::write(path(&layers[0].1), damaged).unwrap();
            let asked = registry.blobs_asked();
            scene.deploy("docker://127.0.0.1:5000/web:1").await.unwrap();
            assert_eq!(registry.blobs_asked(), asked + 1);
            assert_eq!(std::fs::read(path(&layers[0].1)).unwrap(), layers[0].1.stored, "it is good again");
        }

        // What was not used for longest makes room.
        for (version, _) in &layers[1..] {
            tokio::time::sleep(Duration::from_millis(20)).await;
            scene.deploy("docker://127.0.0.1:5000/web:1").await.unwrap();
            scene.answers(&format!("docker://127.0.0.1:5000/web:{version}"), version, None).await;
            let sum: u64 = scene.cached().iter().map(|(_, size)| size).sum();
            assert!(sum <= 16 << 10, "{:?}", scene.cached());
        }
        assert!(path(&layers[0].1).exists(), "it was used again and again");
        assert!(path(&layers[3].1).exists());
        assert!(!path(&layers[1].1).exists());
    });
}

#[test]
fn who_may_have_an_image() {
    isolated("good::who_may_have_an_image", |_| async {
        if !have("who_may_have_an_image", &[REGISTRY, SKOPEO, ("htpasswd", "apache2-utils")]) {
            return;
        }
        let more = "auth-file = \"FOLDER/auth.json\"";
        let Some(scene) = Scene::start(&[5000], LONG, more).await else { return };
        let registry = Distribution::for_user(5000, "me", "hunter2");
        let archive = scene.save("one.tar", &tar_of(&oci_layout(&[scene.layer("1", "unikernel.spt")], "1")));
        registry.copy(&format!("oci-archive:{}", archive.display()), "mirage/website:1");
        let image = "docker://127.0.0.1:5000/mirage/website:1";
        let unavailable = async |says: &[&str]| {
            let message = scene.refuses(image, "ImageUnavailable", says).await;
            assert!(!message.contains("hunter") && !scene.host.log().contains("hunter"), "{message}");
        };
        unavailable(&["auth.json", "cannot be read", "podman login --authfile"]).await;
        scene.save("auth.json", b"{\"auths\": {\"127.0.0.1:5000\": \"hunter3\"}}");
        unavailable(&["auth.json", "is broken", "line 1, column", "podman login"]).await;
        scene.save("auth.json", b"{\"auths\": {\"127.0.0.1:5000\": {\"auth\": \"hunter3\"}}}");
        unavailable(&["is broken", "base64"]).await;
        scene.save("auth.json", &vec![b' '; (1 << 20) + 1]);
        unavailable(&["cannot be read"]).await;
        scene.log_in(&[("example.org", "me:hunter2")]);
        unavailable(&["127.0.0.1:5000 wants to know who asks", "images.auth-file"]).await;
        scene.log_in(&[("127.0.0.1:5000", "me:hunter3")]);
        unavailable(&["refuses the credentials", "podman login"]).await;
        scene.save(
            "auth.json",
            b"{\"auths\": {\"127.0.0.1:5000\": {}}, \"credHelpers\": {\"127.0.0.1:5000\": \"desktop\"}}",
        );
        unavailable(&["only the helper \"desktop\"", "not run"]).await;
        // The entry that says most of the name.
        scene.log_in(&[("127.0.0.1:5000", "me:hunter3"), ("127.0.0.1:5000/mirage", "me:hunter2")]);
        scene.answers(image, "1", None).await;
        scene.log_in(&[("127.0.0.1:5000", "me:hunter2")]);
        scene.answers(image, "1", None).await;
        assert!(!scene.host.log().contains("hunter"));
    });
}

#[test]
fn what_a_registry_does_not_have() {
    isolated("good::what_a_registry_does_not_have", |_| async {
        if !have("what_a_registry_does_not_have", &[REGISTRY]) {
            return;
        }
        let Some(scene) = Scene::start(&[5000, 5009], LONG, "").await else { return };
        let (registry, unlisted) = (Distribution::start(5000), Distribution::start(5001));
        for registry in [&registry, &unlisted] {
            let (blobs, manifest) = oci_image(&[scene.layer("1", "elsewhere.spt")]);
            registry.push("web", "1", &blobs, &manifest);
        }
        let missing = digest(b"no such manifest");
        for (image, name, says) in [
            ("127.0.0.1:5000/web:2", "ImageUnavailable", "127.0.0.1:5000 has no web:2"),
            ("127.0.0.1:5000/nowhere", "ImageUnavailable", "has no"),
            (&format!("127.0.0.1:5000/web@{missing}"), "ImageUnavailable", "has no"),
            ("127.0.0.1:5001/web:1", "ImageUnavailable", "images.insecure-registries"),
            ("127.0.0.1:5009/web:1", "ImageUnavailable", "refuses the connection"),
            ("nowhere.invalid/web:1", "ImageUnavailable", "nowhere.invalid"),
            ("127.0.0.1:5000/web:1", "ImageInvalid", "/elsewhere.spt"),
        ] {
            scene.refuses(&format!("docker://{image}"), name, &[says]).await;
        }
        assert!(unlisted.log().lines().all(|line| !line.contains("GET /v2/")), "nothing is said without TLS");
        assert!(scene.host.running().is_empty());
        scene.host.until_no_image_is_left().await;
        scene.nobody_works().await;
    });
}

/// The certificates of the host cannot be changed by a test, so they are laid over in a mount namespace of this thread.
#[test]
fn tls_by_certificates_that_the_host_believes() {
    isolated("good::tls_by_certificates_that_the_host_believes", |_| async {
        let test = "tls_by_certificates_that_the_host_believes";
        if !have(test, &[REGISTRY, SKOPEO, ("openssl", "openssl")]) {
            return;
        }
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        if !Path::new(bundle).exists() {
            return println!("SKIPPED: {test}: apt-get install ca-certificates");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        sh(&format!(
            "cd {path} && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -days 2 \
             -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
        ));
        let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        let registry = Distribution::with_tls(5000, &certificate, &key);
        let untrusting = Scene::start(&[], LONG, "").await;
        let Some(untrusting) = untrusting else { return };
        untrusting.refuses("docker://127.0.0.1:5000/web:1", "ImageUnavailable", &["is not trusted"]).await;
        drop(untrusting);
        sh("ip link delete br0");
        own_mounts();
        sh(&format!("mount --make-rprivate / && mount --bind {path}/certificate.pem {bundle}"));
        let trusting = Scene::start(&[], LONG, "").await.unwrap();
        let archive = trusting.save("one.tar", &tar_of(&oci_layout(&[trusting.layer("1", "unikernel.spt")], "1")));
        registry.copy(&format!("oci-archive:{}", archive.display()), "web:1");
        trusting.answers("docker://127.0.0.1:5000/web:1", "1", None).await;
        drop(trusting);
        sh("ip link delete br0");
        // That it may be asked without TLS does not mean that it is.
        let listed = Scene::start(&[5000], LONG, "").await.unwrap();
        listed.answers("docker://127.0.0.1:5000/web:1", "1", None).await;
    });
}

/// Gives this thread, and what it starts, mounts of their own.
#[allow(unsafe_code)]
fn own_mounts() {
    // SAFETY: the table of descriptors stays shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
}

#[test]
fn cancel_leaves_nothing() {
    isolated("good::cancel_leaves_nothing", |_| async {
        let Some(scene) = Scene::start(&[6000], LONG, "").await else { return };
        let layers = [Layer::plain(Tar::new().file("unikernel.spt", vec![7; 1 << 20]))];
        let layer = layers[0].stored.clone();
        let slowly = move |asked: &Asked, _, stream: &mut TcpStream| {
            let is_layer = asked.path.ends_with(&digest(&layer));
            if is_layer {
                head(stream, "200 OK", &format!("Content-Length: {}\r\n", layer.len()));
                let _ = layer.chunks(1000).try_for_each(|piece| {
                    std::thread::sleep(Duration::from_millis(20));
                    stream.write_all(piece)
                });
            }
            is_layer
        };
        let slow = Hostile::start(6000, oci_image(&layers), Box::new(slowly));
        let deploying = scene.manager.clone();
        let image = format!("docker://{}/web", slow.host);
        let deploy = tokio::spawn(async move { deploying.deploy("website", &image, options("running")).await });
        let mut job = String::new();
        eventually("a worker reads", async || {
            let jobs: Vec<(zbus::OwnedObjectPath, String, String, String)> =
                scene.manager.call("ListJobs", &()).await.unwrap().deserialize().unwrap();
            job = jobs.iter().find(|job| job.3 == "running").map(|job| job.0.to_string()).unwrap_or_default();
            // The manifest, the configuration, the layer.
            slow.asked().len() == 3 && scene.nameless(&scene.cache()) == 1
        })
        .await;
        assert_eq!(scene.workers().len(), 1);
        let before = Instant::now();
        scene.manager.0.call_method(Some(NAME), job.as_str(), Some(JOB), "Cancel", &()).await.unwrap();
        assert_eq!(error_of(deploy.await.unwrap()).0, "Cancelled");
        assert!(before.elapsed() < AT_ONCE, "at once: {:?}", before.elapsed());
        scene.nobody_works().await;
        assert_eq!(scene.cached().len(), 1, "the configuration was there: {:?}", scene.cached());
        scene.host.until_no_image_is_left().await;
    });
}

#[test]
fn layers_give_way_to_images() {
    isolated("good::layers_give_way_to_images", |_| async {
        const MIB: usize = 1 << 20;
        let Some(host) = TestHost::without_service() else { return };
        let _disk = match SmallDisk::mount(&host.state(), 16) {
            Ok(disk) => disk,
            Err(why) => return println!("SKIPPED: layers_give_way_to_images: no small file system: {why}"),
        };
        let Some(scene) = Scene::start_on(host, &[6100, 6101], LONG, "").await else { return };
        let of = |size: usize| Image::new(Target::Spt, "1").net(&["service"]).padding(size * MIB).build();
        let served = |port: u16, size: usize| {
            let image = oci_image(&[Layer::plain(Tar::new().file("unikernel.spt", of(size)))]);
            Hostile::start(port, image, Box::new(|_, _, _| false))
        };
        let deploy = async |image: &str| {
            let (id, _) = scene.deploy(image).await.unwrap_or_else(|error| panic!("{image}: {error}"));
            scene.manager.call("Destroy", &(id, Options::new())).await.unwrap();
            scene.manager.collect(Options::new()).await.unwrap();
            assert!(scene.host.stored_images().is_empty());
        };
        // Documents are kept as well.
        let kept = || scene.cached().iter().filter(|(_, size)| *size > MIB as u64).count();
        let (_small, _large) = (served(6100, 2), served(6101, 6));
        deploy("docker://127.0.0.1:6100/web:1").await;
        assert_eq!(kept(), 1);
        // Twice as much there is not room for: it comes, and is not kept.
        deploy("docker://127.0.0.1:6101/web:1").await;
        assert_eq!(kept(), 1);
        let file = scene.save("large", &of(14));
        deploy(&file.display().to_string()).await;
        assert_eq!(kept(), 0, "the layer has given way");
    });
}
