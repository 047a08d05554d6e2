//! Small files that are large when they are unpacked, or never end.

use super::cases::Case;
use super::saved_image::{Layer, Tar, docker_legacy, gzip, tar_of, zstd};

/// Each is unpacked up to a limit: how long that takes depends on the machine.
pub fn all() -> Vec<Case> {
    let zeros = vec![0; 64 << 20];
    let name = Tar::header("zeros", b'0', 8 << 30);
    let front = name.as_bytes().as_slice();
    // Both formats allow several streams one after the other: 64 MiB each.
    let long = [gzip(front), gzip(&zeros).repeat(128)].concat();
    let longer = [zstd(front), zstd(&zeros).repeat(128)].concat();
    // Of another name in the archive than the good one below it.
    let bomb = |stored: &[u8]| Layer { stored: stored.to_vec(), ..Layer::plain(Tar::new()) };
    let nested = gzip(&gzip(&gzip(&zeros)));
    let within = tar_of(&docker_legacy(&[(&["a:1"], &[bomb(&long)])]));
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0, 0, 0].to_vec();
    let skipped = [&b"\x50\x2a\x4d\x18\xff\xff\xff\xff"[..], &[0; 1000]].concat();
    vec![
        Case::layer("8 GiB of zeros in gzip", bomb(&long), "unpacks to more than"),
        Case::layer("8 GiB of zeros in zstd", bomb(&longer), "unpacks to more than"),
        Case::docker("8 GiB of zeros in gzip in gzip", gzip(&within), "unpacks to more than"),
        Case::docker("8 GiB of zeros, no image", long, "unpacks to more than"),
        Case::oci_layer("gzip in gzip in gzip", bomb(&nested), "no tar"),
        Case::oci_layer("a window of 1 GiB", bomb(&window), "window"),
        Case::oci_layer("a frame of 4 GiB to be skipped", bomb(&skipped), "cut off"),
        Case::layer("ten million entries", bomb(&entries()), "more than 1000000 entries"),
        Case::docker("40000 files in the archive", files(), "more than 32768 files"),
        Case::oci_layer("streams of gzip with nothing in them", bomb(&empty()), "not in the image"),
    ]
}

/// 1000 times the same ten thousand.
fn entries() -> Vec<u8> {
    let some = (0..10_000).fold(Tar::new(), |tar, number| tar.file(&format!("f{number}"), ""));
    gzip(&some.0).repeat(1000)
}

fn files() -> Vec<u8> {
    (0..40_000).fold(Tar::new(), |tar, number| tar.file(&number.to_string(), "")).end()
}

/// 50000 empty streams.
fn empty() -> Vec<u8> {
    [gzip(b"").repeat(50_000), gzip(&Tar::new().end())].concat()
}
