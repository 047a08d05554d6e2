//! Which images of stacks are looked at again, and how often.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::world::World;
use crate::domain::{Applied, Change, ImageDigest, ImageReference, ServiceName, Stack, StackName, Timestamp};

/// An image that may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub member: ServiceName,
    pub image: ImageReference,
    pub every: Duration,
}

/// The stacks with images that are watched.
pub fn watched(world: &World) -> Vec<(StackName, Applied, Vec<Watched>)> {
    let stacks = world.stacks().filter(|stack| !stack.removing);
    let watching = stacks.filter_map(|stack| {
        let applied = stack.applied.clone()?;
        let watched = images(&applied);
        (!watched.is_empty()).then(|| (stack.name.clone(), applied, watched))
    });
    watching.collect()
}

fn images(applied: &Applied) -> Vec<Watched> {
    let members = applied.manifest.members.iter();
    let watched = members.filter_map(|(member, plan)| {
        Some(Watched { member: member.clone(), image: plan.image.clone(), every: plan.watch? })
    });
    watched.collect()
}

/// Writes down that the images of a stack were looked at, and what is to be said of it.
pub fn looked(world: &World, name: &StackName, said: Option<String>, now: Timestamp) -> Vec<Change> {
    let Some(stack) = world.stack(name).cloned() else { return Vec::new() };
    let last_result = said.unwrap_or_else(|| stack.last_result.clone());
    vec![Change::PutStack(Box::new(Stack { last_check: Some(now), last_result, ..stack }))]
}

/// The members whose images are others than they were.
pub fn moved(applied: &Applied, before: &BTreeMap<ServiceName, ImageDigest>) -> Vec<ServiceName> {
    let moved = applied.images.iter().filter(|(name, digest)| before.get(*name) != Some(digest));
    moved.map(|(name, _)| name.clone()).collect()
}
