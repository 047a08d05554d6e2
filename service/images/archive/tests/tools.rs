//! Images as other programs write them: GNU tar, skopeo and umoci.

use std::fs::{self, File};
use std::io::{self, Cursor};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use super::super::saved_image::{Layer, Tar, docker_legacy, docker_oci, oci_layout, tar_of};
use super::super::{Error, Found, Limits, docker, oci_archive, oci_folder};
use super::{UNIKERNEL, for_amd64, is_unikernel, tagged, wanting};

/// Whether it is there; says so if not.
#[allow(clippy::print_stderr)]
fn is_there(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("SKIPPED: {program} is not installed (apt-get install {program})");
    }
    is_there
}

#[track_caller]
fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).env("TMPDIR", folder).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

type Reader = fn(File, &super::super::Selection, &mut Vec<u8>) -> Result<Found, Error>;

fn read(path: &Path, selection: &super::super::Selection, reader: Reader) -> super::Read {
    let mut output = Vec::new();
    let found = reader(File::open(path).unwrap(), selection, &mut output)?;
    Ok((output, found))
}

const DOCKER: Reader = |file, selection, output| docker(file, selection, &Limits::default(), &mut |_| Ok(()), output);
const OCI: Reader = |file, selection, output| oci_archive(file, selection, &Limits::default(), &mut |_| Ok(()), output);
const FOLDER: Reader =
    |file, selection, output| oci_folder(OwnedFd::from(file), selection, &Limits::default(), &mut |_| Ok(()), output);

/// Two layers, with everything that the upper one can say of the lower one.
fn layers() -> [Layer; 2] {
    let lower = Tar::new().folder("boot").file("boot/old", "x").file("unikernel.spt", "x");
    let upper = Tar::new()
        .file(".wh.unikernel.spt", "")
        .folder("boot")
        .file("boot/.wh..wh..opq", "")
        .file("boot/real", UNIKERNEL)
        .symlink("unikernel.hvt", "boot/real");
    [Layer::plain(lower), Layer::plain(upper)]
}

#[test]
fn skopeo_writes_what_is_read() {
    if !is_there("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("in.tar"), tar_of(&docker_legacy(&[(&["a/b:1"], &layers())]))).unwrap();
    let copies = [
        ("docker-archive:out.tar:c/d:2", "out.tar", DOCKER, "c/d:2"),
        ("oci-archive:oci.tar:v1", "oci.tar", OCI, "v1"),
        ("oci:oci:v1", "oci", FOLDER, "v1"),
    ];
    for (to, name, reader, tag) in copies {
        run("skopeo", &["--insecure-policy", "copy", "docker-archive:in.tar", to], folder.path());
        is_unikernel(read(&at(name), &for_amd64(), reader));
        is_unikernel(read(&at(name), &tagged(tag), reader));
        assert!(matches!(read(&at(name), &tagged("other"), reader), Err(Error::Choice(_))));
        assert!(matches!(read(&at(name), &wanting(&["/unikernel.spt"]), reader), Err(Error::NotFound(_))));
        assert!(matches!(read(&at(name), &wanting(&["/boot/old"]), reader), Err(Error::NotFound(_))));
    }
    let zstd =
        ["--insecure-policy", "copy", "--dest-compress", "--dest-compress-format", "zstd", "oci:oci:v1", "oci:zstd:v1"];
    run("skopeo", &zstd, folder.path());
    is_unikernel(read(&at("zstd"), &for_amd64(), FOLDER));
}

/// What is built here for the other tests is what skopeo takes for an image.
#[test]
fn skopeo_reads_what_is_built_here() {
    if !is_there("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let images = [
        ("docker-archive:old.tar", "old.tar", tar_of(&docker_legacy(&[(&["a:1"], &layers())]))),
        ("docker-archive:new.tar", "new.tar", tar_of(&docker_oci(&layers(), "a:1"))),
        ("oci-archive:oci.tar", "oci.tar", tar_of(&oci_layout(&layers(), "v1"))),
    ];
    for (number, (from, name, archive)) in images.into_iter().enumerate() {
        fs::write(folder.path().join(name), archive).unwrap();
        run("skopeo", &["--insecure-policy", "copy", from, &format!("dir:copy{number}")], folder.path());
    }
}

#[test]
fn umoci_writes_what_is_read() {
    if !is_there("umoci") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("new")).unwrap();
    fs::write(folder.path().join("new/unikernel.hvt"), UNIKERNEL).unwrap();
    std::os::unix::fs::symlink("unikernel.hvt", folder.path().join("new/link")).unwrap();
    fs::hard_link(folder.path().join("new/unikernel.hvt"), folder.path().join("new/hard")).unwrap();
    run("umoci", &["init", "--layout", "oci"], folder.path());
    run("umoci", &["new", "--image", "oci:v1"], folder.path());
    run("umoci", &["insert", "--rootless", "--image", "oci:v1", "new", "/deep/folder"], folder.path());
    for path in ["/deep/folder/unikernel.hvt", "/deep/folder/link", "/deep/folder/hard"] {
        is_unikernel(read(&folder.path().join("oci"), &wanting(&[path]), FOLDER));
    }
    run("umoci", &["insert", "--image", "oci:v1", "--whiteout", "/deep/folder/unikernel.hvt"], folder.path());
    let gone = read(&folder.path().join("oci"), &wanting(&["/deep/folder/unikernel.hvt"]), FOLDER);
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

/// GNU tar in each of its formats, as people make layers and unpack and pack archives by hand.
#[test]
fn gnu_tar_writes_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(120));
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("d".repeat(120))).unwrap();
    fs::write(root.join(&long), UNIKERNEL).unwrap();
    std::os::unix::fs::symlink(&long, root.join("unikernel.hvt")).unwrap();
    for format in ["gnu", "oldgnu", "pax", "posix"] {
        let name = format!("{format}.tar");
        run("tar", &["-C", "root", "--format", format, "-cf", &name, "."], folder.path());
        let tar = fs::read(folder.path().join(&name)).unwrap();
        let layer = Layer { stored: tar.clone(), tar, ..Layer::plain(Tar::new()) };
        let archive = folder.path().join("archive");
        fs::create_dir_all(&archive).unwrap();
        for (name, content) in docker_legacy(&[(&["a:1"], &[layer])]) {
            fs::create_dir_all(archive.join(&name).parent().unwrap()).unwrap();
            fs::write(archive.join(name), content).unwrap();
        }
        run("tar", &["-C", "archive", "--format", format, "-czf", "packed.tar.gz", "."], folder.path());
        is_unikernel(read(&folder.path().join("packed.tar.gz"), &for_amd64(), DOCKER));
        fs::remove_dir_all(archive).unwrap();
    }
}

/// However large an image is, it is read in pieces: no buffer is asked for that a piece of it could need.
#[test]
fn nothing_is_read_in_large_pieces() {
    struct Pieces(Cursor<Vec<u8>>, usize);
    impl io::Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1.max(buffer.len());
            self.0.read(buffer)
        }
    }
    impl io::Seek for Pieces {
        fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
    let large = Tar::new().file("filler", vec![1; 8 << 20]).file("unikernel.hvt", UNIKERNEL);
    let archive = tar_of(&docker_legacy(&[(&["a:1"], &[Layer::plain(large)])]));
    let mut pieces = Pieces(Cursor::new(archive), 0);
    docker(&mut pieces, &for_amd64(), &Limits::default(), &mut |_| Ok(()), &mut io::sink()).unwrap();
    assert!(pieces.1 <= 64 << 10, "{}", pieces.1);
}
