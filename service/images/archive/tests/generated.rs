//! Made-up and mutated images: nothing panics, and what is written is the file or an error.

use proptest::prelude::*;

use super::super::saved_image::{Layer, Tar, docker_legacy, docker_oci, gzip, oci_layout, tar_of};
use super::super::{Error, Limits};
use super::{UNIKERNEL, for_amd64, from_docker, from_oci};

fn limits() -> Limits {
    Limits { unpacked: 4 << 20, entries: 1000, ..Limits::default() }
}

/// A good image of every form, whole and as it is.
fn images() -> Vec<Vec<u8>> {
    let lower = Tar::new().folder("d/").file("d/x", "old").symlink("unikernel.hvt", "d/x");
    let upper = Tar::new()
        .file("d/.wh.x", "")
        .hard_link("d/l", "d/real")
        .pax(&[("path", "d/real"), ("SCHILY.xattr.user.a", "b")])
        .file("cut", UNIKERNEL)
        .symlink("unikernel.hvt", "./d/l");
    let mut images = Vec::new();
    for upper in [Layer::plain(upper.clone()), Layer::gzip(upper.clone()), Layer::zstd(upper)] {
        let layers = [Layer::plain(lower.clone()), upper];
        images.push(tar_of(&docker_legacy(&[(&["a:1"], &layers)])));
        images.push(tar_of(&docker_oci(&layers, "a:1")));
        images.push(tar_of(&oci_layout(&layers, "1")));
        images.push(gzip(&tar_of(&oci_layout(&layers, "1"))));
    }
    images
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    /// 512 bytes from here to there, as headers are.
    Block(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1..=255_u8).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..600))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(from, to)| Mutation::Block(from, to)),
    ]
}

fn mutated(mut image: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        if image.is_empty() {
            break;
        }
        match mutation {
            Mutation::Flip(at, bits) => *at.get_mut(&mut image) ^= bits,
            Mutation::Cut(at) => image.truncate(at.index(image.len())),
            Mutation::Insert(at, bytes) => {
                let at = at.index(image.len());
                image.splice(at..at, bytes.iter().copied());
            }
            Mutation::Block(from, to) => {
                let blocks = image.len() / 512;
                if blocks > 0 {
                    let from = from.index(blocks) * 512;
                    image.copy_within(from..from + 512, to.index(blocks) * 512);
                }
            }
        }
    }
    image
}

proptest! {
    #[test]
    fn any_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(from_docker(&bytes, &for_amd64(), &limits()).is_err());
        prop_assert!(from_oci(&bytes, &for_amd64(), &limits()).is_err());
    }

    /// The unikernel stands under digests, so a change gives it or an error. Where a name in `manifest.json` is what has
    /// changed, the error may be that there is no such file.
    #[test]
    fn a_changed_image_gives_the_file_or_an_error(
        image in prop::sample::select(images()),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let image = mutated(image, &mutations);
        for read in [from_docker(&image, &for_amd64(), &limits()), from_oci(&image, &for_amd64(), &limits())] {
            match read {
                Ok((bytes, _)) => prop_assert_eq!(bytes, UNIKERNEL),
                Err(Error::Read(error)) => prop_assert!(false, "{}", error),
                Err(_) => {}
            }
        }
    }

    /// Layers that are themselves well-formed for their digests, whatever is in them.
    #[test]
    fn any_layer_ends_well(
        tar in prop::collection::vec(any::<u8>(), 0..2000),
        mutations in prop::collection::vec(mutation(), 0..4),
        how in 0..3,
    ) {
        let good = Tar::new().file("a/x", "y").pax(&[("path", "unikernel.hvt")]).file("x", UNIKERNEL).end();
        let tar = if mutations.is_empty() { tar } else { mutated(good, &mutations) };
        let layer = match how {
            0 => Layer { stored: tar.clone(), tar, ..Layer::plain(Tar::new()) },
            1 => Layer { stored: gzip(&tar), tar, ..Layer::plain(Tar::new()) },
            _ => Layer { stored: mutated(super::super::saved_image::zstd(&tar), &mutations), tar, ..Layer::plain(Tar::new()) },
        };
        let read = from_oci(&tar_of(&oci_layout(&[layer], "1")), &for_amd64(), &limits());
        if let Ok((bytes, found)) = read {
            prop_assert_eq!(bytes.len() as u64, found.size);
        }
    }
}
