//! What layers on one another show at a path: whiteouts, links, and folders that are files elsewhere.

use super::super::saved_image::{Layer, Tar, docker_legacy, tar_of};
use super::super::{Error, Limits};
use super::{Read, from_docker, wanting};

/// The layers from the lowest up, and what is read of them.
fn look(layers: &[Tar], paths: &[&str]) -> Read {
    let layers: Vec<Layer> = layers.iter().cloned().map(Layer::plain).collect();
    from_docker(&tar_of(&docker_legacy(&[(&["a:1"], &layers)])), &wanting(paths), &Limits::default())
}

#[track_caller]
fn finds(layers: &[Tar], paths: &[&str], content: &str) {
    assert_eq!(String::from_utf8_lossy(&look(layers, paths).unwrap().0), content);
}

#[track_caller]
fn is_absent(layers: &[Tar], path: &str) {
    let read = look(layers, &[path]);
    assert!(matches!(read, Err(Error::NotFound(_))), "{read:?}");
}

fn tar() -> Tar {
    Tar::new()
}

#[test]
fn the_upper_most_layer_counts_and_the_first_path() {
    finds(&[tar().file("a", "low"), tar().file("a", "high")], &["/a"], "high");
    finds(&[tar().file("a", "low"), tar().file("b", "high")], &["/a", "/b"], "low");
    finds(&[tar().file("a", "low"), tar().file("b", "high")], &["/c", "/b"], "high");
    finds(&[tar().file("./a//b", "x")], &["/a/b"], "x");
    finds(&[tar().file("./a//b", "x")], &["a/./b"], "x");
    finds(&[tar().file("a/b", ""), tar().folder("a")], &["/a/b"], "");
}

#[test]
fn whiteouts_hide_what_is_below_them() {
    is_absent(&[tar().file("d/a", "x"), tar().file("d/.wh.a", "")], "/d/a");
    is_absent(&[tar().file("d/a", "x"), tar().file(".wh.d", "")], "/d/a");
    is_absent(&[tar().file("d/a", "x"), tar().file("d/.wh..wh..opq", "")], "/d/a");
    is_absent(&[tar().file("d/e/a", "x"), tar().file("d/.wh..wh..opq", "")], "/d/e/a");
    is_absent(&[tar().file("d/a", "x"), tar().file(".wh..wh..opq", "")], "/d/a");
    is_absent(&[tar().file("a", "x"), tar().file(".wh.a", ""), tar()], "/a");
    finds(&[tar().file("d/a", "x"), tar().file("d/.wh.ab", "").file("e/.wh.a", "")], &["/d/a"], "x");
    finds(&[tar().file(".wh.a", ""), tar().file("a", "x")], &["/a"], "x");
}

#[test]
fn whiteouts_do_not_hide_what_is_in_their_own_layer() {
    for order in [0, 1] {
        let new = |tar: Tar| tar.file("d/e/a", "new");
        let hidden = |tar: Tar| tar.file("d/.wh..wh..opq", "").file(".wh.d", "").file("d/.wh.e", "");
        let upper = if order == 0 { hidden(new(tar())) } else { new(hidden(tar())) };
        let layers = [tar().file("d/e/a", "old").file("d/e/b", "old"), upper];
        finds(&layers, &["/d/e/a"], "new");
        is_absent(&layers, "/d/e/b");
    }
}

#[test]
fn a_file_hides_the_folder_below_it_and_the_other_way_round() {
    is_absent(&[tar().file("d/a", "x"), tar().file("d", "file")], "/d/a");
    is_absent(&[tar().file("d/a", "x"), tar().file("d", "file"), tar().folder("d")], "/d/a");
    finds(&[tar().file("d", "file"), tar().file("d/a", "x")], &["/d/a"], "x");
    finds(&[tar().file("d/a", "x"), tar().file("d/b", "y")], &["/d/a"], "x");
}

#[test]
fn links_are_followed_inside_the_image() {
    let file = || tar().file("real/a", "x");
    finds(&[file().symlink("l", "real/a")], &["/l"], "x");
    finds(&[file().symlink("l", "/real/a")], &["/l"], "x");
    finds(&[file().symlink("d/l", "../real/a")], &["/d/l"], "x");
    finds(&[file().symlink("d/l", "../../../real/./a")], &["/d/l"], "x");
    finds(&[file().symlink("d", "real")], &["/d/a"], "x");
    finds(&[file().symlink("l2", "l1").symlink("l1", "d/a").symlink("d", "/real/")], &["/l2"], "x");
    finds(&[file(), tar().symlink("l", "real/a"), tar()], &["/l"], "x");
    finds(&[tar().symlink("l", "real/a"), file()], &["/l"], "x");
    finds(&[file().symlink("l", "real/a"), tar().file("l", "other")], &["/l"], "other");
    finds(&[file().symlink("l", "real/a"), tar().file("real/a", "new")], &["/l"], "new");
    finds(&[file().symlink("l", "/nowhere"), tar().file("b", "y")], &["/c", "/b"], "y");
}

#[test]
fn a_hard_link_is_to_what_its_own_layer_knows() {
    let file = || tar().file("a", "old");
    finds(&[file().hard_link("l", "a")], &["/l"], "old");
    finds(&[tar().hard_link("l", "./a").file("a", "old")], &["/l"], "old");
    finds(&[file(), tar().hard_link("l", "/a")], &["/l"], "old");
    finds(&[file().hard_link("l", "a"), tar().file("a", "new")], &["/l"], "old");
    finds(&[file().hard_link("l", "a"), tar().file(".wh.a", "")], &["/l"], "old");
    finds(&[file().hard_link("m", "a").hard_link("l", "m")], &["/l"], "old");
    finds(&[file().hard_link("m", "a").symlink("l", "m")], &["/l"], "old");
}

#[test]
fn names_longer_than_a_header_holds() {
    let (folder, name) = ("f".repeat(90), "n".repeat(200));
    let path = format!("{folder}/{name}");
    let gnu = tar().entry("././@LongLink", b'L', format!("{path}\0").as_bytes()).file("cut", "x");
    finds(&[gnu], &[&path], "x");
    finds(&[tar().pax(&[("path", &path), ("SCHILY.xattr.user.x", "a\nb=\n")]).file("cut", "x")], &[&path], "x");
    let gnu = tar().file(&folder, "x").entry("././@LongLink", b'K', folder.as_bytes()).symlink("l", "cut");
    finds(&[gnu], &["/l"], "x");
    finds(&[tar().file(&folder, "x").pax(&[("linkpath", &folder)]).symlink("l", "cut")], &["/l"], "x");
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("{}/{}", "p".repeat(120), "n".repeat(90))).unwrap();
    header.set_size(1);
    header.set_cksum();
    finds(&[tar().raw(&header, b"x")], &[&format!("{}/{}", "p".repeat(120), "n".repeat(90))], "x");
}

#[test]
fn sizes_are_read_in_every_way() {
    finds(&[tar().pax(&[("size", "3")]).raw(&Tar::header("a", b'0', 0), b"abc")], &["/a"], "abc");
    let mut binary = Tar::header("a", b'0', 0);
    binary.as_old_mut().size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    binary.set_cksum();
    finds(&[tar().raw(&binary, b"abc")], &["/a"], "abc");
    let mut spaced = Tar::header("a", b'0', 0);
    spaced.as_old_mut().size = *b"          3 ";
    spaced.set_cksum();
    finds(&[tar().raw(&spaced, b"abc")], &["/a"], "abc");
}

#[test]
fn a_tar_without_its_end_is_read_where_a_digest_stands_for_it() {
    let layer = Layer { tar: tar().file("a", "x").0, ..Layer::plain(tar()) };
    let layer = Layer { stored: layer.tar.clone(), ..layer };
    let read = from_docker(&tar_of(&docker_legacy(&[(&["a:1"], &[layer])])), &wanting(&["/a"]), &Limits::default());
    assert_eq!(read.unwrap().0, b"x");
}
