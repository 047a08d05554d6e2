//! What policies allow, in albatrossd's words.

use crate::config::Arguments;
use crate::info::Policy;
use crate::name::Name;
use crate::resources::Resources;
use std::collections::BTreeSet;

type Checked = Result<(), String>;

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

/// Whether one more unikernel fits under a policy.
pub fn allows(policy: &Policy, running: i64, used: i64, wanted: &Arguments) -> Checked {
    if running + 1 > policy.unikernels {
        return Err(format!("maximum amount of unikernels ({}) reached", policy.unikernels));
    }
    if wanted.memory > policy.memory - used {
        return Err(format!(
            "maximum allowed memory ({}, used {used}) would be exceeded (requesting {})",
            policy.memory, wanted.memory
        ));
    }
    let cpuids: Vec<_> = wanted.cpuids.difference(&policy.cpuids).collect();
    if !cpuids.is_empty() {
        return Err(format!("CPUids {} are not allowed by policy", joined(cpuids)));
    }
    let bridges: Vec<_> = wanted.bridges.iter().map(|bridge| bridge.host_device()).collect();
    let denied: Vec<_> = bridges.into_iter().filter(|bridge| !policy.bridges.contains(*bridge)).collect();
    if denied.is_empty() { Ok(()) } else { Err(format!("bridges {} not allowed by policy", joined(denied))) }
}

/// Whether a policy may be set: no wider than those above, no narrower than those below and than what runs.
pub fn fits(resources: &Resources, path: &[String], policy: &Policy) -> Checked {
    for length in (1..path.len()).rev() {
        if let Some(above) = resources.policies.get(&path[..length]) {
            is_smaller(above, policy)?;
        }
    }
    for (below, other) in &resources.policies {
        if below.len() > path.len() && below.starts_with(path) {
            is_smaller(policy, other)?;
        }
    }
    covers_what_runs(resources, path, policy)
}

fn is_smaller(above: &Policy, below: &Policy) -> Checked {
    if above.unikernels < below.unikernels {
        let (allowed, wanted) = (above.unikernels, below.unikernels);
        return Err(format!("policy above allows {allowed} unikernels, which is fewer than {wanted}"));
    }
    if above.memory < below.memory {
        let (allowed, wanted) = (above.memory, below.memory);
        return Err(format!("policy above allows {allowed} MB memory, which is fewer than {wanted} MB"));
    }
    let cpuids: Vec<_> = below.cpuids.difference(&above.cpuids).collect();
    if !cpuids.is_empty() {
        return Err(format!("policy above does not allow CPUids {}", joined(cpuids)));
    }
    if !below.bridges.is_subset(&above.bridges) {
        let (allowed, wanted) = (joined(&above.bridges), joined(&below.bridges));
        return Err(format!("policy above allows bridge(s) {allowed}, which is not a superset of {wanted}"));
    }
    if below.block.is_some_and(|wanted| above.block.is_none_or(|allowed| allowed < wanted)) {
        let (allowed, wanted) = (above.block.unwrap_or(0), below.block.unwrap_or(0));
        return Err(format!("policy above allows {allowed} MB block storage, which is fewer than {wanted} MB"));
    }
    Ok(())
}

fn covers_what_runs(resources: &Resources, path: &[String], policy: &Policy) -> Checked {
    let running: Vec<&Arguments> = resources.arguments_below(path).collect();
    let cpuids: BTreeSet<i64> = running.iter().flat_map(|unikernel| unikernel.cpuids.iter().copied()).collect();
    let denied: Vec<_> = cpuids.difference(&policy.cpuids).collect();
    if !denied.is_empty() {
        return Err(format!("policy does not allow CPUids {}", joined(denied)));
    }
    let bridges = running.iter().flat_map(|unikernel| unikernel.bridges.iter());
    let bridges: BTreeSet<String> = bridges.map(|bridge| bridge.host_device().to_owned()).collect();
    if !bridges.is_subset(&policy.bridges) {
        let allowed = joined(&policy.bridges);
        return Err(format!("policy allows bridges {allowed}, which is not a superset of {}", joined(&bridges)));
    }
    let (count, memory) = resources.usage(path);
    if count > policy.unikernels {
        let limit = policy.unikernels;
        return Err(format!(
            "unikernel would exceed running unikernel limit set by policy to {limit}, running {count}"
        ));
    }
    if memory > policy.memory {
        let limit = policy.memory;
        return Err(format!(
            "unikernel would exceed running memory limit set by policy to {limit} MB, used {memory} MB"
        ));
    }
    let (limit, used) = (policy.block.unwrap_or(0), resources.block_usage(path));
    if used > limit {
        return Err(format!(
            "unikernel would exceed running block storage limit set by policy to {limit} MB, used {used} MB"
        ));
    }
    Ok(())
}

/// Whether a block device of this size may be added.
pub fn allows_block(resources: &Resources, name: &Name, size: i64) -> Checked {
    let Some(policy) = resources.policies.get(&name.path) else { return Ok(()) };
    let Some(limit) = policy.block else { return Err("no block devices are allowed by policy".into()) };
    let used = resources.block_usage(&name.path);
    if size <= limit - used {
        return Ok(());
    }
    Err(format!(
        "block device policy limit of {limit} MB (used {used} MB) would be exceeded by the request ({size} MB)"
    ))
}
