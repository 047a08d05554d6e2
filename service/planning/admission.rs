//! Whether a deployment may go ahead, and as what.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::error::Error;
use super::facts::Facts;
use super::order;
use super::template::{self, Values};
use super::world::World;
use crate::domain::{
    Arguments, Change, Check, Configuration, Exclusion, ImageDigest, ImageRecord, Lease, LeaseTag, Network, Ordinal,
    Phase, Provisional, Readiness, ServiceName, StackName, Timestamp, Unikernel, UnikernelId, UnikernelSpec,
};

/// What is asked for, once the image is known.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub service: ServiceName,
    pub spec: UnikernelSpec,
    pub image: ImageRecord,
    pub exclude: Vec<Exclusion>,
    pub readiness: Readiness,
    pub timeout: Duration,
    pub check: Option<Check>,
    /// The stack for which an Apply makes it.
    pub stack: Option<StackName>,
    /// The place among the deployments of its service that it keeps, where it is only started again.
    pub keeps: Option<Ordinal>,
}

/// What a deployment comes down to.
#[derive(Debug)]
pub enum Admitted {
    /// The same configuration runs already: it is ready, or has returned and its rule is to be waited for.
    AlreadyThere { unikernel: Unikernel, counts_as: Option<Ordinal> },
    /// A record to be started: a new one, or (`revived`) one that keeps its lease, whose unikernel has ended or was left
    /// half-made. Of that one Albatross may still have something.
    Start { unikernel: Unikernel, revived: bool, counts_as: Option<Ordinal> },
}

/// What `configuration` comes down to with this image.
pub fn specification(configuration: &Configuration, image: ImageDigest, facts: &Facts) -> Result<UnikernelSpec, Error> {
    let network = match &configuration.network {
        Some(name) => facts.network(name)?,
        None => facts.default_network()?,
    };
    Ok(UnikernelSpec {
        image,
        arguments: configuration.arguments.clone(),
        memory: configuration.memory,
        network: network.name.clone(),
        cpu: configuration.cpu,
        block_devices: configuration.block_devices.clone(),
        restart: configuration.restart.clone(),
        address: configuration.address.clone(),
    })
}

/// Decides on `deployment`: the changes hold the lease and the intent, to be written before Albatross hears of it.
///
/// The unikernel becomes the newest of its service with this decision where it is new or ready. Otherwise that is left to
/// [`ready`] and [`order::deployed_as`], for a deployment that fails changes nothing: `counts_as` is its place then.
pub fn admit(
    deployment: &Deployment,
    world: &World,
    facts: &Facts,
    now: Timestamp,
) -> Result<(Vec<Change>, Admitted), Error> {
    let id = deployment.spec.id(&deployment.service);
    match world.unikernel(&id) {
        Some(there) if there.removing => {
            Err(Error::InUse(format!("{id} is being destroyed: deploy it again after that")))
        }
        Some(there) if !matches!(there.phase, Phase::Ready | Phase::Returned) => {
            let mut unikernel = started_anew(there);
            unikernel.provisional = provisional(deployment, Some(there));
            unikernel.readiness = deployment.readiness.clone();
            unikernel.timeout = deployment.timeout;
            unikernel.check = deployment.check;
            unikernel.brought_image = is_new(&deployment.image, world);
            let counts_as = number(deployment, world);
            let mut changes = with_image(deployment, world, vec![Change::PutUnikernel(Box::new(unikernel.clone()))]);
            changes.extend(counts_as.map(Change::Count));
            Ok((changes, Admitted::Start { unikernel, revived: true, counts_as }))
        }
        Some(there) => {
            let (mut changes, mut counts_as) = (kept(deployment, there), number(deployment, world));
            if there.phase == Phase::Ready && counts_as.take().is_some() {
                order::deployed_again(world, facts, [&id], &mut changes);
            }
            changes.extend(counts_as.map(Change::Count));
            let unikernel = there.clone();
            Ok((with_image(deployment, world, changes), Admitted::AlreadyThere { unikernel, counts_as }))
        }
        None => admit_new(deployment, id, world, facts, now),
    }
}

/// The place of a deployment that somebody asked for. An Apply may still come to nothing: it counts at its end.
fn number(deployment: &Deployment, world: &World) -> Option<Ordinal> {
    (deployment.stack.is_none() && deployment.keeps.is_none()).then(|| world.next_ordinal())
}

/// A unikernel whose deployment has come to its end, from the record that the deployment has: what a switch has written
/// into the ledger's meanwhile stays. `counts_as`: its place among the deployments of its service, where that changes.
pub fn ready(world: &World, unikernel: Unikernel, counts_as: Option<Ordinal>) -> Vec<Change> {
    let mut ready = Unikernel { phase: Phase::Ready, exit_reason: String::new(), ..in_order(world, unikernel) };
    ready.deployed = ready.deployed.max(counts_as.unwrap_or_default());
    vec![Change::PutUnikernel(Box::new(ready))]
}

/// The record that a deployment has, with what the ledger's says of its place in the order: that is written by others.
pub fn in_order(world: &World, unikernel: Unikernel) -> Unikernel {
    match world.unikernel(&unikernel.id) {
        Some(&Unikernel { deployed, last_live, .. }) => Unikernel { deployed, last_live, ..unikernel },
        None => unikernel,
    }
}

/// What an Apply makes is its own until it has come to its end.
fn provisional(deployment: &Deployment, there: Option<&Unikernel>) -> Option<Provisional> {
    let stack = deployment.stack.clone()?;
    let ended = there.and_then(|there| match &there.provisional {
        _ if there.has_ended() => Some(there.exit_reason.clone()),
        Some(provisional) => provisional.ended.clone(),
        None => None,
    });
    Some(Provisional { stack, ended })
}

/// Who deploys by hand what an Apply has made keeps it, whatever becomes of the Apply.
fn kept(deployment: &Deployment, there: &Unikernel) -> Vec<Change> {
    if deployment.stack.is_some() || there.provisional.is_none() {
        return Vec::new();
    }
    vec![Change::PutUnikernel(Box::new(Unikernel { provisional: None, ..there.clone() }))]
}

/// The rule of the latest deployment is that of one which runs already. A member of a stack gets it with its chain.
pub fn take_over_rule(deployment: &Deployment, world: &World) -> Vec<Change> {
    let id = deployment.spec.id(&deployment.service);
    let there = world.unikernel(&id).filter(|_| deployment.stack.is_none());
    let ruled = there.and_then(|there| ruled(there, &deployment.readiness, deployment.timeout, deployment.check));
    ruled.map(|ruled| Change::PutUnikernel(Box::new(ruled))).into_iter().collect()
}

/// `there` with another rule; `None` where it has that already.
pub fn ruled(there: &Unikernel, readiness: &Readiness, timeout: Duration, check: Option<Check>) -> Option<Unikernel> {
    let ruled = Unikernel { readiness: readiness.clone(), timeout, check, ..there.clone() };
    (ruled != *there).then_some(ruled)
}

/// The record of a unikernel that is to be created once more. Why it ended stays until it is ready: it says what to go
/// back to.
fn started_anew(unikernel: &Unikernel) -> Unikernel {
    Unikernel { phase: Phase::Creating, started_at: None, ..unikernel.clone() }
}

fn admit_new(
    deployment: &Deployment,
    id: UnikernelId,
    world: &World,
    facts: &Facts,
    now: Timestamp,
) -> Result<(Vec<Change>, Admitted), Error> {
    let spec = &deployment.spec;
    let network = facts.network(&spec.network)?;
    let prefix = spec.address.prefix.unwrap_or(network.prefix);
    if !network.prefix.contains(&prefix) {
        return Err(Error::InvalidArgument(format!(
            "prefix {prefix} is not within {} of network {}",
            network.prefix, network.name
        )));
    }
    let lease = lease(&id.tag(), prefix, spec.address.address, &deployment.exclude, world, facts, now)?;
    let unikernel = Unikernel {
        cpu: spec.cpu.unwrap_or_else(|| facts.least_used_cpu(world)),
        spec: spec.clone(),
        readiness: deployment.readiness.clone(),
        timeout: deployment.timeout,
        check: deployment.check,
        phase: Phase::Creating,
        brought_image: is_new(&deployment.image, world),
        removing: false,
        address: lease.address,
        mac: None,
        created_at: now,
        deployed: deployment.keeps.unwrap_or_else(|| world.next_ordinal()),
        started_at: None,
        restarts: 0,
        exit_reason: String::new(),
        last_live: None,
        provisional: provisional(deployment, None),
        id,
    };
    // Arguments that do not fit are refused here, while nothing has been written yet.
    arguments(&unikernel, network)?;
    let changes = vec![Change::PutLease(lease), Change::PutUnikernel(Box::new(unikernel.clone()))];
    Ok((with_image(deployment, world, changes), Admitted::Start { unikernel, revived: false, counts_as: None }))
}

fn is_new(image: &ImageRecord, world: &World) -> bool {
    world.image(image.digest).is_none()
}

/// The image's record is written with the first that is made of it: a file without one is nobody's. Later only what signs
/// it is, the signature that is valid now, and where it came from, where that was not known.
fn with_image(deployment: &Deployment, world: &World, mut changes: Vec<Change>) -> Vec<Change> {
    let image = &deployment.image;
    let known = world.image(image.digest);
    let record = known.map_or_else(
        || image.clone(),
        |known| ImageRecord {
            signature: image.signature.clone().or_else(|| known.signature.clone()),
            origin: known.origin.clone().or_else(|| image.origin.clone()),
            ..known.clone()
        },
    );
    if known != Some(&record) {
        changes.push(Change::PutImage(record));
    }
    changes
}

/// The lease of `tag` in `prefix`: the one that it has, where that still fits, or else a free address.
pub fn lease(
    tag: &LeaseTag,
    prefix: IpNet,
    address: Option<IpAddr>,
    exclude: &[Exclusion],
    world: &World,
    facts: &Facts,
    now: Timestamp,
) -> Result<Lease, Error> {
    if let Some(held) = world.pool().lease(tag) {
        let excluded = exclude.iter().any(|exclusion| exclusion.contains(held.address));
        let asked_for = address.is_none_or(|address| address == held.address);
        if prefix.contains(&held.address) && !excluded && asked_for {
            return Ok(held.clone());
        }
    }
    let address = match address {
        Some(address) => {
            world.pool().check(address, prefix, &facts.exclusions(prefix, exclude))?;
            address
        }
        None => world.pool().choose(prefix, &facts.exclusions_of_any(prefix, exclude, now))?,
    };
    Ok(Lease { tag: tag.clone(), address, prefix, since: now })
}

/// Another address for a unikernel whose first one turned out to be somebody's.
pub fn move_lease(
    unikernel: &Unikernel,
    exclude: &[Exclusion],
    world: &World,
    facts: &Facts,
    now: Timestamp,
) -> Result<(Vec<Change>, Unikernel), Error> {
    let tag = unikernel.id.tag();
    let held = world.pool().lease(&tag).ok_or_else(|| Error::NoSuchLease(tag.clone()))?;
    let address = world.pool().choose(held.prefix, &facts.exclusions_of_any(held.prefix, exclude, now))?;
    let lease = Lease { tag: tag.clone(), address, prefix: held.prefix, since: now };
    let moved = Unikernel { address, ..unikernel.clone() };
    let changes = vec![
        Change::ReleaseLease { tag, at: world.next_ordinal() },
        Change::PutLease(lease),
        Change::PutUnikernel(Box::new(moved.clone())),
    ];
    Ok((changes, moved))
}

/// The arguments of `unikernel`, filled in.
pub fn arguments(unikernel: &Unikernel, network: &Network) -> Result<Arguments, Error> {
    let values = Values {
        address: unikernel.address,
        prefix_length: network.prefix.prefix_len(),
        gateway: network.gateway,
        network: &network.name,
        id: &unikernel.id,
        service: &unikernel.id.service(),
    };
    template::expand(&unikernel.spec.arguments, &values)
}

/// The block devices that are given must be those of the image's manifest, by name, no more and no fewer.
pub fn check_devices(spec: &UnikernelSpec, image: &ImageRecord) -> Result<(), Error> {
    let given = spec.block_devices.iter().map(|block| block.name.as_str()).collect::<BTreeSet<_>>();
    let wanted = image.block_devices.iter().map(String::as_str).collect::<BTreeSet<_>>();
    if given.len() != spec.block_devices.len() {
        return Err(Error::InvalidArgument("block-devices names a device twice".into()));
    }
    if given == wanted {
        return Ok(());
    }
    let list = |names: BTreeSet<&str>| {
        if names.is_empty() { "none".into() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
    };
    Err(Error::ImageInvalid(format!(
        "the image's block devices are {}, but block-devices gives {}: they must be the same",
        list(wanted),
        list(given)
    )))
}
