//! The forms in which images are saved, and which of several is taken.

use std::fs;
use std::io::Cursor;
use std::os::fd::OwnedFd;

use serde_json::json;

use super::super::saved_image::{
    Layer, OCI_INDEX, OCI_MANIFEST, Tar, artifact, blob, descriptor, docker_legacy, docker_oci, gzip, layout,
    oci_image, oci_layout, tar_of, with, zstd,
};
use super::super::{Error, Limits, docker, oci_folder};
use super::{UNIKERNEL, docker_files, for_amd64, from_docker, from_oci, is_unikernel, oci_files, tagged, wanting};

fn layer() -> Tar {
    Tar::new().folder("./").file("./etc/motd", "hello").file("./unikernel.hvt", UNIKERNEL)
}

fn every_compression() -> [Layer; 3] {
    [Layer::plain(layer()), Layer::gzip(layer()), Layer::zstd(layer())]
}

#[test]
fn archives_of_docker_old_and_new() {
    for layer in every_compression() {
        let layers = [Layer::plain(Tar::new().file("base", "x")), layer];
        let found = is_unikernel(docker_files(&docker_legacy(&[(&["a/b:1"], &layers)])));
        assert_eq!(found.path.as_deref(), Some("/unikernel.hvt"));
        assert!(found.image.is_some());
        is_unikernel(docker_files(&docker_oci(&layers, "a/b:1")));
        is_unikernel(from_docker(&tar_of(&docker_oci(&layers, "a/b:1")), &tagged("a/b:1"), &Limits::default()));
    }
}

#[test]
fn archives_and_folders_of_oci() {
    for layer in every_compression() {
        let files = oci_layout(&[Layer::gzip(Tar::new().file("base", "x")), layer], "v1");
        is_unikernel(oci_files(&files));
        is_unikernel(docker_files(&files));
        is_unikernel(from_oci(&tar_of(&files), &tagged("v1"), &Limits::default()));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        files.iter().for_each(|(name, content)| fs::write(folder.path().join(name), content).unwrap());
        let opened = || OwnedFd::from(fs::File::open(folder.path()).unwrap());
        let read = |selection| {
            let mut output = Vec::new();
            let found = oci_folder(opened(), &selection, &Limits::default(), &mut |_| Ok(()), &mut output)?;
            Ok((output, found))
        };
        is_unikernel(read(for_amd64()));
        is_unikernel(read(tagged("v1")));
        assert!(matches!(read(tagged("v2")), Err(Error::Choice(text)) if text.contains("only: v1")));
    }
}

#[test]
fn a_folder_leads_nowhere_else() {
    let files = oci_layout(&[Layer::plain(layer())], "v1");
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    files.iter().for_each(|(name, content)| {
        let file = outside.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    });
    fs::copy(outside.path().join("index.json"), folder.path().join("index.json")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("blobs"), folder.path().join("blobs")).unwrap();
    let opened = OwnedFd::from(fs::File::open(folder.path()).unwrap());
    let read = oci_folder(opened, &for_amd64(), &Limits::default(), &mut |_| Ok(()), &mut Vec::new());
    assert!(matches!(read, Err(Error::Malformed(text)) if text.contains("is a link")));
}

#[test]
fn archives_compressed_as_a_whole() {
    let layers = every_compression();
    let archive = tar_of(&docker_legacy(&[(&["a:1"], &layers)]));
    is_unikernel(from_docker(&gzip(&archive), &for_amd64(), &Limits::default()));
    is_unikernel(from_docker(&zstd(&archive), &for_amd64(), &Limits::default()));
    let archive = tar_of(&oci_layout(&layers, "v1"));
    is_unikernel(from_oci(&gzip(&archive), &for_amd64(), &Limits::default()));
}

#[test]
fn a_compressed_layer_may_have_several_parts() {
    let tar = layer().end();
    let (first, second) = tar.split_at(700);
    let skipped = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let zstd_parts = [skipped.clone(), zstd(first), skipped, zstd(second)].concat();
    for stored in [[gzip(first), gzip(second)].concat(), zstd_parts] {
        let layer = Layer { stored, ..Layer::plain(layer()) };
        is_unikernel(oci_files(&oci_layout(&[layer], "v1")));
    }
}

#[test]
fn tags_of_docker() {
    let other = [Layer::plain(Tar::new().file("unikernel.hvt", "another"))];
    let wanted = [Layer::plain(layer())];
    let archive = tar_of(&docker_legacy(&[(&["one:1", "one:latest"], &other), (&["ns/two:2"], &wanted)]));
    for tag in ["ns/two:2", "docker.io/ns/two:2"] {
        is_unikernel(from_docker(&archive, &tagged(tag), &Limits::default()));
    }
    let read = from_docker(&archive, &tagged("docker.io/library/one"), &Limits::default()).unwrap();
    assert_eq!(read.0, b"another");
    let several = from_docker(&archive, &for_amd64(), &Limits::default()).unwrap_err().to_string();
    assert!(several.ends_with("name one by its tag: ns/two:2, one:1, one:latest"), "{several}");
    let missing = from_docker(&archive, &tagged("three"), &Limits::default()).unwrap_err().to_string();
    assert!(missing.starts_with("the archive has no image three, only: ns/two:2"), "{missing}");
}

#[test]
fn platforms_in_an_index_within_an_index() {
    let (mut blobs, amd64) = oci_image(&[Layer::gzip(layer())]);
    let (more, arm64) = oci_image(&[Layer::gzip(Tar::new().file("unikernel.hvt", "for arm"))]);
    blobs.extend(more);
    let of = |manifest: &[u8], os: &str, architecture: &str| {
        let platform = json!({"os": os, "architecture": architecture});
        with(descriptor(OCI_MANIFEST, manifest), "platform", platform)
    };
    let statement = of(b"{}", "unknown", "unknown");
    let nested = json!({"schemaVersion": 2, "manifests": [of(&arm64, "linux", "arm64"), of(&amd64, "linux", "amd64"), statement]});
    let nested = serde_json::to_vec(&nested).unwrap();
    blobs.push(blob(&nested));
    let files = layout(blobs, &[descriptor(OCI_INDEX, &nested)]);
    is_unikernel(oci_files(&files));
    let mut selection = for_amd64();
    selection.platform.architecture = "riscv64".to_owned();
    let missing = from_oci(&tar_of(&files), &selection, &Limits::default()).unwrap_err().to_string();
    assert_eq!(missing, "there is no image for linux/riscv64, only for: linux/amd64, linux/arm64");
}

#[test]
fn several_images_in_a_layout() {
    let (mut blobs, one) = oci_image(&[Layer::gzip(layer())]);
    let (more, two) = oci_image(&[Layer::gzip(Tar::new().file("unikernel.hvt", "another"))]);
    blobs.extend(more);
    let named = |manifest: &[u8], tag: &str| {
        let name = json!({"io.containerd.image.name": format!("docker.io/library/{tag}"), "org.opencontainers.image.ref.name": "1"});
        with(descriptor(OCI_MANIFEST, manifest), "annotations", name)
    };
    let of = |manifests: &[serde_json::Value], selection: &super::super::Selection| {
        from_oci(&tar_of(&layout(blobs.clone(), manifests)), selection, &Limits::default())
    };
    let both = [named(&two, "b:1"), named(&one, "a:1")];
    let several = of(&both, &for_amd64()).unwrap_err().to_string();
    assert_eq!(several, "the archive has several images, name one by its tag: a:1, b:1");
    is_unikernel(of(&both, &tagged("a:1")));
    is_unikernel(of(&[named(&one, "a:1"), named(&one, "a:latest")], &for_amd64()));
    let variant = |manifest: &[u8], variant: Option<&str>| {
        let platform = json!({"os": "linux", "architecture": "amd64", "variant": variant});
        with(named(manifest, "a:1"), "platform", platform)
    };
    is_unikernel(of(&[variant(&two, Some("v3")), variant(&one, None)], &tagged("a:1")));
}

#[test]
fn artifacts_are_the_unikernel_itself() {
    for title in [Some("unikernel.hvt"), None] {
        let (blobs, manifest) = artifact(UNIKERNEL, title);
        let found = is_unikernel(oci_files(&layout(blobs, &[descriptor(OCI_MANIFEST, &manifest)])));
        assert_eq!(found.path, None);
    }
}

#[test]
fn links_between_the_files_of_an_archive() {
    let layers = [Layer::plain(layer())];
    let mut tar = Tar::new();
    for (name, content) in docker_legacy(&[(&["a:1"], &layers)]) {
        tar = match name.strip_suffix("/layer.tar") {
            Some(id) => tar.file(&format!("{id}.tar"), content).symlink(&name, &format!("../{id}.tar")),
            None => tar.file(&name, content),
        };
    }
    is_unikernel(from_docker(&tar.end(), &for_amd64(), &Limits::default()));
}

#[test]
fn progress_is_told_and_can_end_it() {
    let archive = tar_of(&docker_legacy(&[(&["a:1"], &[Layer::plain(layer())])]));
    let mut told = Vec::new();
    let mut observer = |read| {
        told.push(read);
        Ok(())
    };
    let read = docker(Cursor::new(&archive), &for_amd64(), &Limits::default(), &mut observer, &mut Vec::new());
    assert!(read.is_ok() && told.len() > 3 && told.is_sorted());
    let calls = told.len();
    for stop in 0..calls {
        for packed in [archive.clone(), gzip(&archive)] {
            let mut left = stop;
            let mut observer = |_| {
                left = left.checked_sub(1).ok_or(Error::Deadline)?;
                Ok(())
            };
            let read = docker(Cursor::new(packed), &for_amd64(), &Limits::default(), &mut observer, &mut Vec::new());
            assert!(matches!(read, Err(Error::Deadline)), "after {stop}: {read:?}");
        }
    }
}

#[test]
fn what_is_there_is_told() {
    let layers = [Layer::plain(Tar::new().file("boot/a.hvt", "x").file("b.spt", "x").file("c.txt", "x"))];
    let missing = docker_files(&docker_legacy(&[(&["a:1"], &layers)])).unwrap_err().to_string();
    assert_eq!(
        missing,
        "/unikernel.hvt or /unikernel.spt is not in the image; give image-path one of what looks like a unikernel: \
         /b.spt, /boot/a.hvt"
    );
    let nothing =
        from_docker(&tar_of(&docker_legacy(&[(&["a:1"], &layers)])), &wanting(&["/x\u{1b}"]), &Limits::default());
    assert!(nothing.is_err());
    let many = (0..20).fold(Tar::new(), |tar, number| tar.file(&format!("{number}.hvt"), "x"));
    let missing = docker_files(&docker_legacy(&[(&["a:1"], &[Layer::plain(many)])])).unwrap_err().to_string();
    assert_eq!(missing.matches(".hvt").count(), 1 + 8, "{missing}");
}
