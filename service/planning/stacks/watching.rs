//! Which images of stacks are looked at again, and how often.

use std::sync::Arc;
use std::time::Duration;

use super::super::world::World;
use crate::domain::{Applied, Change, ImageReference, ServiceName, Stack, StackName, Timestamp};

/// An image that may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub member: ServiceName,
    pub image: ImageReference,
    pub every: Duration,
}

/// The stacks with images that are watched.
pub fn watched(world: &World) -> Vec<(StackName, Arc<Applied>, Vec<Watched>)> {
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

/// The images of a stack were looked at.
pub fn looked(world: &World, name: &StackName, now: Timestamp) -> Vec<Change> {
    let looked = world.stack(name).map(|stack| Stack { last_check: Some(now), ..stack.clone() });
    looked.map(|stack| Change::PutStack(Box::new(stack))).into_iter().collect()
}

/// What is to be said of a look at the images of a stack.
pub fn said(world: &World, name: &StackName, what: String) -> Vec<Change> {
    let said = world.stack(name).map(|stack| Stack { last_result: what, ..stack.clone() });
    said.map(|stack| Change::PutStack(Box::new(stack))).into_iter().collect()
}

/// Whether what is watched is still what was applied last.
pub fn still_applied(world: &World, watched: &Arc<Applied>) -> bool {
    let stack = world.stack(&watched.manifest.stack).filter(|stack| !stack.removing);
    stack.is_some_and(|stack| stack.applied.as_ref() == Some(watched))
}

/// The watched members whose images are others than they were.
pub fn moved(applied: &Applied, before: &Applied) -> Vec<ServiceName> {
    let watched = applied.manifest.members.iter().filter(|(_, plan)| plan.watch.is_some()).map(|(name, _)| name);
    watched.filter(|name| applied.images.get(*name) != before.images.get(*name)).cloned().collect()
}
