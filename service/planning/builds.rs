//! Builds that were done: which are remembered, and which are forgotten.

use super::facts::Facts;
use super::world::World;
use crate::domain::{Build, Change, ImageDigest, ImageRecord};

/// That are remembered: one more, and the oldest is forgotten.
const MOST: usize = 1000;

/// Remembers `build`, and what it has made: that is not built again, also where nothing comes of this call.
pub fn remember(world: &World, build: Build, image: ImageRecord) -> Vec<Change> {
    let mut others: Vec<&Build> = world.builds().filter(|other| other.key != build.key).collect();
    others.sort_by_key(|other| other.at);
    let surplus = (others.len() + 1).saturating_sub(MOST);
    let mut changes: Vec<_> = others.into_iter().take(surplus).map(|other| Change::RemoveBuild(other.key)).collect();
    if world.image(image.digest).is_none() {
        changes.push(Change::PutImage(image));
    }
    changes.push(Change::PutBuild(Box::new(build)));
    changes
}

/// Takes the image out of the records, and with it what is said to have made it.
pub fn forget_image(world: &World, digest: ImageDigest) -> Vec<Change> {
    let builds = world.builds().filter(|build| build.image == digest).map(|build| Change::RemoveBuild(build.key));
    let image = world.image(digest).map(|image| Change::RemoveImage(image.digest));
    builds.chain(image).collect()
}

/// At the start: forgets builds whose image was never written down, since the service was killed before.
pub fn forget_lost(world: &World, facts: &Facts) -> Vec<Change> {
    let lost = |build: &&Build| world.image(build.image).is_none() && !facts.pinned.contains_key(&build.image);
    world.builds().filter(lost).map(|build| Change::RemoveBuild(build.key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BuildKey, ImageRecord, NetworkDevice, Ordinal};

    fn world() -> World {
        World::new(Vec::new(), Vec::new())
    }

    fn build(number: usize, image: u8) -> Build {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        Build {
            key: BuildKey(key),
            image: ImageDigest([image; 32]),
            url: "https://example.org/x".parse().unwrap(),
            commit: "0123456789012345678901234567890123456789".parse().unwrap(),
            at: Ordinal(number as u64),
            signature_sought: false,
        }
    }

    fn image(number: u8) -> ImageRecord {
        ImageRecord {
            origin: None,
            signature: None,
            digest: ImageDigest([number; 32]),
            size: 1,
            network_device: NetworkDevice("service".into()),
            block_devices: Vec::new(),
        }
    }

    #[test]
    fn the_oldest_is_forgotten_for_one_more() {
        let mut world = world();
        for number in (0..MOST + 2).rev() {
            world.apply(vec![Change::PutBuild(Box::new(build(number, 0)))]);
        }
        let again = Build { at: Ordinal(5000), ..build(7, 3) };
        let changes = remember(&world, again.clone(), image(3));
        assert_eq!(changes[..2], [0, 1].map(|number| Change::RemoveBuild(build(number, 0).key)));
        world.apply(changes);
        assert_eq!((world.builds().count(), world.build(&again.key)), (MOST, Some(&again)));
        let changes = remember(&world, build(MOST + 2, 0), image(0));
        assert_eq!(changes.len(), 3, "one goes, one comes, with its image");
        world.apply(changes);
        assert_eq!(world.builds().count(), MOST);
    }

    #[test]
    fn an_image_goes_with_its_builds() {
        let mut world = world();
        let image = image(1);
        for change in [(1, 1), (2, 2), (3, 1)].map(|(n, image)| Change::PutBuild(Box::new(build(n, image)))) {
            world.apply(vec![change]);
        }
        assert_eq!(forget_image(&world, ImageDigest([2; 32])).len(), 1, "also where it was not written down yet");
        world.apply(vec![Change::PutImage(image)]);
        world.apply(forget_image(&world, ImageDigest([1; 32])));
        assert_eq!(world.builds().map(|build| build.image.0[0]).collect::<Vec<_>>(), [2]);
        assert_eq!(world.images().count(), 0);
        let mut facts = Facts::default();
        facts.pinned.insert(ImageDigest([2; 32]), 1);
        assert_eq!(forget_lost(&world, &facts), []);
        assert_eq!(forget_lost(&world, &Facts::default()).len(), 1);
    }
}
