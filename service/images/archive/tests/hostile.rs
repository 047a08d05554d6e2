//! Bad images, and the error that each must give. None of them may take more memory than a good one.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use serde_json::json;

use super::super::saved_image::{
    Files, Layer, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Tar, artifact, blob, config, descriptor, digest,
    docker_legacy, docker_oci, gzip, hex, layout, oci_image, oci_layout, tar_of, with,
};
use super::super::{Limits, docker};
use super::{UNIKERNEL, docker_files, for_amd64, from_docker, from_oci, is_unikernel, oci_files, wanting};

fn good() -> Tar {
    Tar::new().file("unikernel.hvt", UNIKERNEL)
}

/// The message that an image gives.
fn error(read: super::Read) -> String {
    read.expect_err("this should be refused").to_string()
}

/// That of an image whose upper layer is this.
fn of_layer(tar: Tar) -> String {
    of_layer_with(tar, &Limits::default())
}

fn of_layer_with(tar: Tar, limits: &Limits) -> String {
    let layers = [Layer::plain(Tar::new().file("base", "x")), Layer::plain(tar)];
    error(from_docker(&tar_of(&docker_legacy(&[(&["a:1"], &layers)])), &for_amd64(), limits))
}

#[track_caller]
fn says(message: &str, words: &str) {
    assert!(message.contains(words), "{message:?} instead of {words:?}");
    assert!(message.len() < 1000 && !message.chars().any(char::is_control), "{message:?}");
}

#[test]
fn names_that_lead_out() {
    says(&of_layer(good().file("/etc/passwd", "x")), "absolute name: /etc/passwd");
    says(&of_layer(good().file("../x", "x")), "leads upwards: ../x");
    says(&of_layer(good().file("a/../../x", "x")), "leads upwards");
    says(&of_layer(good().pax(&[("path", "../x")]).file("x", "x")), "leads upwards");
    says(&of_layer(good().entry("././@LongLink", b'L', b"/x\0").file("x", "x")), "absolute name");
    says(&of_layer(good().pax(&[("path", "a\0b")]).file("x", "x")), "NUL");
    says(&of_layer(good().entry("././@LongLink", b'L', b"a\0b\0").file("x", "x")), "NUL");
    says(&of_layer(good().file("", "x")), "without a name");
}

#[test]
fn what_is_no_file() {
    says(&of_layer(Tar::new().folder("unikernel.hvt")), "/unikernel.hvt is a directory");
    says(&of_layer(Tar::new().file("unikernel.hvt/x", "")), "/unikernel.hvt is a directory");
    says(&of_layer(Tar::new().entry("unikernel.hvt", b'3', b"")), "is a character device");
    says(&of_layer(Tar::new().entry("unikernel.hvt", b'4', b"")), "is a block device");
    says(&of_layer(Tar::new().entry("unikernel.hvt", b'6', b"")), "is a fifo");
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "/")), "is a directory");
}

#[test]
fn links_that_lead_nowhere() {
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "unikernel.hvt")), "circle of links");
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "x").symlink("x", "unikernel.hvt")), "circle of links");
    says(&of_layer(Tar::new().hard_link("unikernel.hvt", "unikernel.hvt")), "circle of links");
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "a/x").symlink("a", "a/b")), "circle of links");
    let long = (0..60).fold(Tar::new().symlink("unikernel.hvt", "0"), |tar, number| {
        tar.symlink(&number.to_string(), &(number + 1).to_string())
    });
    says(&of_layer(long), "more than 40");
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "/proc/self/exe")), "leads to /proc/self/exe, which is not");
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "../../../etc/shadow")), "leads to /etc/shadow, which is not");
    says(&of_layer(Tar::new().symlink("unikernel.hvt", "a/../x")), "back up behind a name");
    says(&of_layer(Tar::new().hard_link("unikernel.hvt", "../../etc/shadow")), "leads upwards");
    says(&of_layer(Tar::new().hard_link("unikernel.hvt", "/etc/shadow")), "leads to /etc/shadow, which is not");
    says(&of_layer(Tar::new().hard_link("unikernel.hvt", "l").symlink("l", "x")), "hard link to a symbolic link");
}

#[test]
fn layers_that_contradict_themselves() {
    says(&of_layer(good().file("unikernel.hvt", "another")), "has /unikernel.hvt twice");
    says(&of_layer(good().file("./unikernel.hvt", "another")), "has /unikernel.hvt twice");
    says(&of_layer(good().folder("unikernel.hvt")), "has /unikernel.hvt twice");
    says(&of_layer(good().file("unikernel.hvt/x", "")), "has /unikernel.hvt twice");
    says(&of_layer(good().symlink("unikernel.hvt", "x")), "has /unikernel.hvt twice");
    says(&of_layer(good().file(".wh.", "")), "whiteout that names nothing");
    says(&of_layer(good().symlink(".", "x")), "twice");
}

#[test]
fn headers_that_readers_do_not_agree_on() {
    let twice = || Tar::new().pax(&[("path", "a")]).pax(&[("path", "b")]).file("c", "x");
    says(&of_layer(twice()), "same extended header twice");
    let long = |name: &str| Tar::new().entry("././@LongLink", b'L', name.as_bytes());
    says(&of_layer(long("a\0").entry("././@LongLink", b'L', b"b\0").file("c", "x")), "same extended header twice");
    says(&of_layer(long("a\0").pax(&[("path", "b")]).file("c", "x")), "one entry two names");
    says(&of_layer(Tar::new().pax(&[("size", "1"), ("size", "2")]).file("c", "x")), "says size twice");
    let global = Tar::new().entry("g", b'g', b"13 path=all\n");
    says(&of_layer(global.file("c", "x")), "damaged extended header");
    let global = Tar::new().entry("g", b'g', b"12 path=all\n");
    says(&of_layer(global.file("c", "x")), "gives all files the same name");
    says(&of_layer(good().pax(&[("path", "x")])), "ends after an extended header");
    says(&of_layer(good().raw(&Tar::header("d/", b'5', 512), &[0; 512])), "a directory, a size");
    says(&of_layer(good().raw(&Tar::header("l", b'1', 512), &[0; 512])), "a hard link, a size");
    says(&of_layer(good().raw(&Tar::header("v7/", 0, 512), &[0; 512])), "a directory, a size");
}

/// A size in an extended header is of the file, not of a header between: readers that got this wrong took the content of a
/// file for entries (GHSA-3pv8-6f4r-ffg2).
#[test]
fn a_size_is_not_of_the_next_header() {
    let inner = Tar::new().file("unikernel.hvt", "smuggled").0;
    let size = inner.len().to_string();
    let tar = Tar::new().pax(&[("size", &size)]).entry("././@LongLink", b'L', b"outer\0");
    let tar = tar.raw(&Tar::header("outer", b'0', 0), &inner).file("unikernel.spt", UNIKERNEL);
    let found = is_unikernel(docker_files(&docker_legacy(&[(&["a:1"], &[Layer::plain(tar)])])));
    assert_eq!(found.path.as_deref(), Some("/unikernel.spt"));
}

fn with_size(field: [u8; 12]) -> Tar {
    let mut header = Tar::header("unikernel.hvt", b'0', 0);
    header.as_old_mut().size = field;
    header.set_cksum();
    Tar::new().raw(&header, b"")
}

#[test]
fn sizes_that_are_none() {
    let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    says(&of_layer(with_size(negative)), "size that is negative");
    says(&of_layer(with_size(*b"-0000000001\0")), "size that is negative");
    says(&of_layer(with_size(*b"0000000zz89\0")), "size that is no number");
    says(&of_layer(with_size(*b"00000 00001\0")), "size that is no number");
    says(&of_layer(with_size([0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), "size that no file can have");
    says(
        &of_layer(with_size([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        "size that no file can have",
    );
    says(&of_layer(with_size([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc, 0])), "more than the limit");
    for size in ["-1", "+1", "", "1e3", "99999999999999999999"] {
        says(&of_layer(Tar::new().pax(&[("size", size)]).file("x", "x")), "says the size is");
    }
}

#[test]
fn extended_headers_that_are_damaged() {
    for records in ["x", "5 a=b\n", "99 path=x\n", "0 a=\n", "4 ab\n", "-3 a=b\n", "00000000006 a=b\n", "6 a=b\n6 a=b"]
    {
        says(&of_layer(Tar::new().entry("x", b'x', records.as_bytes()).file("a", "x")), "damaged extended header");
    }
}

#[test]
fn sparse_files_and_unknown_kinds() {
    says(&of_layer(good().entry("s", b'S', b"")), "sparse file");
    says(&of_layer(good().pax(&[("GNU.sparse.major", "1")]).file("s", "x")), "sparse file");
    says(&of_layer(good().entry("m", b'M', b"")), "unknown type 'M'");
    says(&of_layer(good().entry("\u{7f}", 0x1b, b"")), "unknown type");
}

#[test]
fn names_and_headers_of_a_huge_size() {
    let claims = |kind| Tar::new().raw(&Tar::header("x", kind, 8 << 30), b"");
    for kind in [b'L', b'K', b'x', b'g'] {
        says(&of_layer(claims(kind)), "more than the limit of");
    }
    let long = "n".repeat(5000);
    says(&of_layer(Tar::new().pax(&[("path", &long)]).file("x", "x")), "a name that is too long");
    says(&of_layer(Tar::new().pax(&[("linkpath", &long)]).symlink("x", "x")), "a name that is too long");
    says(&of_layer(Tar::new().raw(&Tar::header("x", b'L', 4096), b"cut")), "ends too early");
}

#[test]
fn more_than_the_limits() {
    let limits = Limits { entries: 100, output: 64, layers: 3, ..Limits::default() };
    let many = (0..101).fold(good(), |tar, number| tar.file(&number.to_string(), ""));
    says(&of_layer_with(many, &limits), "more than 100 entries");
    let large = Tar::new().file("unikernel.hvt", [0; 65]);
    says(&of_layer_with(large, &limits), "has 65 bytes, more than the limit of 64");
    let layers = vec![Layer::plain(good()); 4];
    for files in [docker_legacy(&[(&["a:1"], &layers)]), docker_oci(&layers, "a:1"), oci_layout(&layers, "1")] {
        says(&error(from_docker(&tar_of(&files), &for_amd64(), &limits)), "has 4 layers, more than the limit of 3");
    }
    let (blobs, manifest) = artifact(&[UNIKERNEL, &[0; 65]].concat(), None);
    let files = layout(blobs, &[descriptor(OCI_MANIFEST, &manifest)]);
    says(&error(from_oci(&tar_of(&files), &for_amd64(), &limits)), "more than the limit of 64");
    let files = vec![("manifest.json".to_owned(), vec![b' '; 5 << 20])];
    says(&error(docker_files(&files)), "manifest.json has more than 4194304 bytes");
    let none = docker_legacy(&[(&["a:1"], &[])]);
    says(&error(docker_files(&none)), "has no layers");
}

#[test]
fn archives_with_too_many_files() {
    let many = (0..33_000).fold(Tar::new(), |tar, number| tar.file(&number.to_string(), "")).end();
    says(&error(from_docker(&many, &for_amd64(), &Limits::default())), "more than 32768 files");
    let limits = Limits { entries: 1000, ..Limits::default() };
    let folders = (0..1001).fold(Tar::new(), |tar, number| tar.folder(&number.to_string())).end();
    says(&error(from_docker(&folders, &for_amd64(), &limits)), "more than 1000 entries");
}

/// 64 MiB of zeros in 64 KiB, and a stream that never ends.
#[test]
fn decompression_bombs() {
    let bomb = Tar::new().file("zeros", vec![0; 64 << 20]);
    let limits = Limits { unpacked: 16 << 20, ..Limits::default() };
    for layer in [Layer::gzip(bomb.clone()), Layer::zstd(bomb)] {
        assert!(layer.stored.len() < 1 << 20);
        let archive = tar_of(&docker_legacy(&[(&["a:1"], &[layer])]));
        says(&error(from_docker(&archive, &for_amd64(), &limits)), "unpacks to more than 16777216 bytes");
        says(&error(from_docker(&gzip(&archive), &for_amd64(), &limits)), "unpacks to more than");
    }
    let whole = gzip(&vec![0; 64 << 20]);
    says(&error(from_docker(&whole, &for_amd64(), &limits)), "no files");
    let behind = Layer { stored: gzip(&[good().end(), vec![0; 64 << 20]].concat()), ..Layer::gzip(good()) };
    let archive = tar_of(&docker_legacy(&[(&["a:1"], &[behind])]));
    says(&error(from_docker(&archive, &for_amd64(), &limits)), "unpacks to more than");
}

/// A window of 1 GiB is asked for in six bytes.
#[test]
fn compression_that_asks_for_memory() {
    let stored = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0, 0, 0].to_vec();
    let layer = Layer { stored, ..Layer::plain(good()) };
    says(&error(oci_files(&oci_layout(&[layer], "1"))), "window");
}

/// gzip without end, as `/dev/zero` compressed would be.
struct Endless(Cursor<Vec<u8>>);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => self.0.rewind().map(|()| 0).and_then(|_| self.0.read(buffer)),
            count => Ok(count),
        }
    }
}

impl Seek for Endless {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(_) => self.0.seek(to),
            _ => Ok(u64::MAX / 2),
        }
    }
}

#[test]
fn streams_without_end() {
    let limits = Limits { unpacked: 8 << 20, ..Limits::default() };
    let folder = Tar::new().folder("d").0;
    let read = docker(Endless(Cursor::new(gzip(&folder))), &for_amd64(), &limits, &mut |_| Ok(()), &mut io::sink());
    says(&read.unwrap_err().to_string(), "unpacks to more than");
    let limits = Limits { entries: 20_000, ..Limits::default() };
    let read = docker(Endless(Cursor::new(folder)), &for_amd64(), &limits, &mut |_| Ok(()), &mut io::sink());
    says(&read.unwrap_err().to_string(), "more than 20000 entries");
}

#[test]
fn truncated_anywhere() {
    let layers = [Layer::plain(Tar::new().file("base", "x")), Layer::gzip(good())];
    for files in [docker_legacy(&[(&["a:1"], &layers)]), docker_oci(&layers, "a:1")] {
        let archive = tar_of(&files);
        // The last block is of the end's two, which nobody misses.
        for length in (0..archive.len() - 1024).step_by(7).chain(archive.len() - 1100..archive.len() - 1023) {
            let read = from_docker(&archive[..length], &for_amd64(), &Limits::default());
            assert!(read.is_err(), "{length} of {}", archive.len());
        }
        let packed = gzip(&archive);
        for length in (0..packed.len() - 8).step_by(11) {
            let read = from_docker(&packed[..length], &for_amd64(), &Limits::default());
            assert!(read.is_err(), "{length} of {}", packed.len());
        }
    }
}

#[test]
fn layers_that_are_cut_off() {
    for whole in [Layer::plain(good()), Layer::gzip(good()), Layer::zstd(good())] {
        for length in 0..whole.stored.len().min(700) {
            // With a digest that fits what is left, so that only the form tells.
            let cut = Layer { stored: whole.stored[..length].to_vec(), ..whole.clone() };
            let read = oci_files(&oci_layout(&[cut], "1"));
            assert!(read.is_err(), "{length} of {}", whole.stored.len());
        }
    }
}

/// `files` with `name`'s content changed in one bit.
fn damaged(mut files: Files, name: &str) -> Files {
    let file = files.iter_mut().find(|(known, _)| known == name).expect("such a file");
    let middle = file.1.len() / 2;
    file.1[middle] ^= 1;
    files
}

#[test]
fn digests_that_are_wrong() {
    let tar = good().file("padding", [7; 4096]);
    let layers = [Layer::plain(tar)];
    let legacy = docker_legacy(&[(&["a:1"], &layers)]);
    let layer_path = format!("{}/layer.tar", hex(&layers[0].tar));
    says(
        &error(docker_files(&damaged(legacy.clone(), &layer_path))),
        "layer 1 of 1, unpacked, is damaged: it should have the digest",
    );
    says(
        &error(docker_files(&damaged(legacy, &format!("{}.json", hex(&config(&layers)))))),
        "the configuration of the image is damaged",
    );
    let (_, manifest) = oci_image(&layers);
    let files = oci_layout(&layers, "1");
    says(
        &error(oci_files(&damaged(files.clone(), &blob(&layers[0].stored).0))),
        "layer 1 of 1 is damaged: it should have",
    );
    says(&error(oci_files(&damaged(files.clone(), &blob(&manifest).0))), "a manifest of the image is damaged");
    says(
        &error(oci_files(&damaged(files.clone(), &blob(&config(&layers)).0))),
        "the configuration of the image is damaged",
    );
    let (blobs, manifest) = artifact(&[UNIKERNEL, UNIKERNEL].concat(), None);
    let name = blobs[0].0.clone();
    let files = layout(blobs, &[descriptor(OCI_MANIFEST, &manifest)]);
    says(&error(oci_files(&damaged(files, &name))), "layer 1 of 1 is damaged: it should have");
    // The blob is what the manifest says, and what is in it is not what the configuration says.
    let other = Layer { tar: layers[0].tar.clone(), ..Layer::gzip(good()) };
    says(&error(oci_files(&oci_layout(&[other], "1"))), "layer 1 of 1, unpacked, is damaged");
}

#[test]
fn digests_that_are_none() {
    let other = |digest: &str| layout(Files::new(), &[json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1})]);
    says(&error(oci_files(&other(&format!("sha512:{}", "0".repeat(128))))), "a digest of sha512, only sha256");
    says(&error(oci_files(&other("sha256:../../../etc/passwd"))), "bad digest");
    says(&error(oci_files(&other(&format!("sha256:{}", "A".repeat(64))))), "bad digest");
    says(&error(oci_files(&other("0"))), "without an algorithm");
    says(&error(oci_files(&other(&digest(b"")))), "is missing in the image");
}

#[test]
fn documents_that_are_wrong() {
    let manifest_json = |text: &str| vec![("manifest.json".to_owned(), text.as_bytes().to_vec())];
    says(&error(docker_files(&manifest_json("not JSON"))), "manifest.json of the image is wrong");
    says(&error(docker_files(&manifest_json("[]"))), "has no image");
    says(
        &error(docker_files(&manifest_json(&format!(r#"[{{"x":{}"#, "[".repeat(100_000))))),
        "manifest.json of the image is wrong",
    );
    says(&error(docker_files(&manifest_json(r#"[{"Config": "../x", "Layers": ["a"]}]"#))), "leads upwards");
    says(&error(docker_files(&manifest_json(r#"[{"Config": "/x", "Layers": ["a"]}]"#))), "absolute name");
    says(&error(docker_files(&manifest_json(r#"[{"Config": "x", "Layers": ["a"]}]"#))), "is missing in the archive: x");
    let many = format!("[{}]", vec![r#"{"Config":""}"#; 5000].join(","));
    says(&error(docker_files(&manifest_json(&many))), "at most 4096");
    let twice = r#"[{"Config": "x", "Config": "y", "Layers": ["a"]}]"#;
    says(&error(docker_files(&manifest_json(twice))), "duplicate field");
    let mut files = docker_legacy(&[(&["a:1"], &[Layer::plain(good())])]);
    files.push(files[files.len() - 1].clone());
    says(&error(docker_files(&files)), "/manifest.json in the archive is there twice");
    says(&error(docker_files(&vec![("x".to_owned(), Vec::new())])), "no index.json");
    let mut files = docker_legacy(&[(&["a:1"], &[Layer::plain(good())])]);
    files.remove(0);
    says(&error(docker_files(&files)), "layer 1 is missing in the archive");
}

/// A document that is an index to one program and a manifest to another (CVE-2021-41190).
#[test]
fn documents_that_are_two_things() {
    let layers = [Layer::plain(good())];
    let (mut blobs, manifest) = oci_image(&layers);
    let inner = descriptor(OCI_MANIFEST, &manifest);
    let described = descriptor(OCI_LAYER, &layers[0].stored);
    let both = json!({"schemaVersion": 2, "manifests": [inner], "layers": [described]});
    let both = serde_json::to_vec(&both).unwrap();
    blobs.push(blob(&both));
    for media_type in [OCI_INDEX, OCI_MANIFEST] {
        let files = layout(blobs.clone(), &[descriptor(media_type, &both)]);
        says(&error(oci_files(&files)), "both an index and a manifest");
    }
    let files = layout(blobs.clone(), &[descriptor(OCI_INDEX, &manifest)]);
    says(&error(oci_files(&files)), "or not what it is called");
    blobs.push(blob(b"{}"));
    let files = layout(blobs, &[descriptor(OCI_MANIFEST, b"{}")]);
    says(&error(oci_files(&files)), "neither an index nor a manifest");
}

#[test]
fn indexes_without_an_end() {
    let (mut blobs, manifest) = oci_image(&[Layer::plain(good())]);
    let mut inner = descriptor(OCI_MANIFEST, &manifest);
    for _ in 0..6 {
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [inner]})).unwrap();
        inner = descriptor(OCI_INDEX, &index);
        blobs.push(blob(&index));
    }
    says(&error(oci_files(&layout(blobs, &[inner]))), "indexes within indexes");
}

#[test]
fn layers_that_are_not_read() {
    for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY", "bzip2"), (b"\x04\x22\x4d\x18aa", "lz4")] {
        let layer = Layer { stored: [magic, &[0; 600]].concat(), ..Layer::plain(good()) };
        says(&error(oci_files(&oci_layout(&[layer], "1"))), &format!("is compressed with {name}"));
    }
    let secret = Layer { media_type: format!("{OCI_LAYER}+gzip+encrypted"), ..Layer::gzip(good()) };
    says(&error(oci_files(&oci_layout(&[secret], "1"))), "is encrypted");
    let text = Layer { stored: vec![b'x'; 600], ..Layer::plain(good()) };
    says(&error(oci_files(&oci_layout(&[text], "1"))), "no tar, or a damaged one");
    let (mut blobs, manifest) = artifact(UNIKERNEL, None);
    let mut two: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    two["layers"] = json!([two["layers"][0], two["layers"][0]]);
    let two = serde_json::to_vec(&two).unwrap();
    blobs.push(blob(&two));
    says(&error(oci_files(&layout(blobs, &[descriptor(OCI_MANIFEST, &two)]))), "artifact has 2 files");
}

#[test]
fn sizes_that_are_not_the_blobs() {
    let layers = [Layer::plain(good())];
    let config = config(&layers);
    let mut described = descriptor(OCI_LAYER, &layers[0].stored);
    for size in [0, 1, layers[0].stored.len() - 1, layers[0].stored.len() + 1] {
        described = with(described, "size", json!(size));
        let manifest = json!({"schemaVersion": 2, "config": descriptor(OCI_CONFIG, &config), "layers": [described]});
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let blobs = vec![blob(&config), blob(&layers[0].stored), blob(&manifest)];
        says(&error(oci_files(&layout(blobs, &[descriptor(OCI_MANIFEST, &manifest)]))), "bytes and not");
    }
    let short = [(
        "index.json".to_owned(),
        json!({"manifests": [{"digest": digest(b""), "size": -1}]}).to_string().into_bytes(),
    )];
    says(&error(oci_files(&short.to_vec())), "invalid value");
}

#[test]
fn counts_of_layers_that_differ() {
    let layers = [Layer::plain(good()), Layer::plain(Tar::new())];
    let mut files = docker_legacy(&[(&["a:1"], &layers)]);
    let listed = files.last_mut().expect("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&listed.1).unwrap();
    manifest[0]["Layers"].as_array_mut().unwrap().pop();
    listed.1 = serde_json::to_vec(&manifest).unwrap();
    says(&error(docker_files(&files)), "has 1 layers and 2 diff_ids");
}

/// Names from the image stand in messages, which people see in a terminal.
#[test]
fn messages_are_fit_to_be_shown() {
    says(&of_layer(good().file("/\u{1b}[2J\n\r", "x")), "absolute name: /\\u{1b}[2J\\n\\r");
    says(&of_layer(good().pax(&[("path", &format!("/{}", "ä".repeat(2000)))]).file("x", "x")), "…");
    let long = "x".repeat(4000);
    says(
        &error(from_docker(
            &tar_of(&docker_legacy(&[(&["a:1"], &[Layer::plain(good())])])),
            &wanting(&[&long]),
            &Limits::default(),
        )),
        "not in the image",
    );
}

/// What cannot be written is an error of its own.
#[test]
fn an_output_that_fails() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let archive = tar_of(&docker_legacy(&[(&["a:1"], &[Layer::zstd(good())])]));
    let read = docker(Cursor::new(archive), &for_amd64(), &Limits::default(), &mut |_| Ok(()), &mut Full);
    says(&read.unwrap_err().to_string(), "cannot be handed on");
}
