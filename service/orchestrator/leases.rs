//! Addresses: leased for a tag by hand, and asked for on the network before anybody gets them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use super::owner::State;
use super::stale_flows;
use crate::domain::{Change, Exclusion, LeaseTag, NetworkName, Timestamp};
use crate::planning::{self, admission};

/// How long an ARP probe waits for an answer; the timer adds up to one more. A bridge of this host answers in
/// microseconds and a switched network in less than a millisecond; a longer wait would be most of what a deployment adds.
const PROBE: Duration = Duration::from_millis(1);

/// Addresses that are tried before giving up, when one after the other answers.
pub const PROBES: usize = 16;

/// Whether somebody on the network has `address`. Then it is noted, so that it is not chosen again.
///
/// Besides, the host forgets what it knew of the address: its last holder had another MAC.
pub async fn answers(context: &Context, network: &NetworkName, address: IpAddr) -> bool {
    match context.host.answers(network, address, PROBE).await {
        Ok(None) => false,
        Ok(Some(mac)) => {
            info!(%address, %network, %mac, "{address} answers on network {network}, from {mac}, although nobody leased it: another one is chosen");
            let noted = context.owner.observe(move |facts| {
                facts.answering.insert(address, Timestamp::now());
            });
            noted.await.is_ok()
        }
        Err(error) => {
            // A bridge that is missing or down: Albatross will say so in words of its own.
            debug!(%address, %network, %error, "no probe");
            false
        }
    }
}

/// Leases an address in `prefix` for `tag`, or the one that it has already.
pub async fn allocate(
    context: &Context,
    tag: LeaseTag,
    prefix: IpNet,
    exclude: Vec<Exclusion>,
) -> Result<IpAddr, Error> {
    for _ in 0..PROBES {
        let (wanted, excluded) = (tag.clone(), exclude.clone());
        let (lease, is_new, network) = context
            .owner
            .decide(move |state| {
                let now = Timestamp::now();
                let lease = admission::lease(&wanted, prefix, None, &excluded, &state.world, &state.facts, now)?;
                let held = state.world.pool().lease(&wanted);
                let is_new = held != Some(&lease);
                let mut changes = Vec::new();
                if is_new && is_of_unikernel(&wanted, state) {
                    return Err(planning::Error::InUse(format!(
                        "{wanted} is a unikernel, and its address stays as long as it does: choose another tag"
                    ))
                    .into());
                }
                if is_new {
                    let at = state.world.next_ordinal();
                    changes.extend(held.map(|_| Change::ReleaseLease { tag: wanted.clone(), at }));
                    changes.push(Change::PutLease(lease.clone()));
                }
                let network = state.facts.network_of(prefix).map(|network| network.name.clone());
                Ok((changes, (lease, is_new, network)))
            })
            .await?;
        let taken = match network {
            Some(network) if is_new => answers(context, &network, lease.address).await,
            _ => false,
        };
        if !taken {
            if is_new {
                stale_flows::clear_address(context, lease.address).await;
            }
            return Ok(lease.address);
        }
        give_back(context, tag.clone()).await?;
    }
    Err(planning::Error::InvalidArgument(format!(
        "the first {PROBES} free addresses of {prefix} all answer on the network: exclude those that are in use"
    ))
    .into())
}

async fn give_back(context: &Context, tag: LeaseTag) -> Result<(), Error> {
    let released = move |state: &State| {
        let at = state.world.next_ordinal();
        Ok((vec![Change::ReleaseLease { tag, at }], ()))
    };
    context.owner.decide(released).await
}

/// A unikernel's id is the tag of its lease.
fn is_of_unikernel(tag: &LeaseTag, state: &State) -> bool {
    tag.as_str().parse().is_ok_and(|id| state.world.unikernel(&id).is_some())
}

/// Frees the address of `tag`; that of a unikernel goes with the unikernel alone.
pub async fn release(context: &Context, tag: LeaseTag) -> Result<IpAddr, Error> {
    context
        .owner
        .decide(move |state| {
            let lease = state.world.pool().lease(&tag).ok_or_else(|| planning::Error::NoSuchLease(tag.clone()))?;
            if is_of_unikernel(&tag, state) {
                return Err(planning::Error::InUse(format!(
                    "{tag} is a unikernel: Destroy it, and its lease goes too"
                ))
                .into());
            }
            let address = lease.address;
            Ok((vec![Change::ReleaseLease { tag, at: state.world.next_ordinal() }], address))
        })
        .await
}
