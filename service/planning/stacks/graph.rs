//! Who of a stack depends on whom: what a manifest may say, and in which order its members start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::domain::{Configuration, HostPort, Manifest, MemberPlan, ServiceName, StackName, host_ports};
use crate::planning::error::{Error, port_text};
use crate::planning::ports::Ports;
use crate::planning::template;

/// Refuses a manifest that cannot become a chain, before anything starts: `InvalidArgument` with the members' names.
pub fn check(manifest: &Manifest) -> Result<(), Error> {
    let stack = &manifest.stack;
    if manifest.members.is_empty() {
        return Err(Error::InvalidArgument(format!("stack {stack} has no members: write a [service.NAME] for each")));
    }
    for (name, plan) in &manifest.members {
        check_references(manifest, name, plan)?;
    }
    if let Some(cycle) = cycle(&manifest.members) {
        return Err(Error::InvalidArgument(format!(
            "members of stack {stack} wait for each other's addresses: {}",
            cycle.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(" -> ")
        )));
    }
    check_ports(manifest)
}

/// The members whose addresses `plan` uses.
///
/// None where its arguments cannot be read: [`check`] has refused those.
pub fn dependencies(plan: &MemberPlan) -> BTreeSet<ServiceName> {
    template::members(&plan.configuration.arguments).unwrap_or_default()
}

/// What `plan` asks for, the addresses of other members filled in. Fails where one of those is not in `addresses`.
pub fn configuration(plan: &MemberPlan, addresses: &BTreeMap<ServiceName, IpAddr>) -> Result<Configuration, Error> {
    let arguments = template::fill_members(&plan.configuration.arguments, |name| addresses.get(name).copied())?;
    Ok(Configuration { arguments, ..plan.configuration.clone() })
}

/// In which order members start: each as soon as those that it depends on are done.
#[derive(Debug, Clone)]
pub struct Order {
    /// How many each still waits for; those that may start are not here.
    waiting: BTreeMap<ServiceName, usize>,
    dependents: BTreeMap<ServiceName, Vec<ServiceName>>,
}

impl Order {
    /// The order of `members`, and those that start at once. What is not among them counts as done.
    pub fn new<'a>(members: impl IntoIterator<Item = (&'a ServiceName, &'a MemberPlan)>) -> (Self, Vec<ServiceName>) {
        let members = members.into_iter().map(|(name, plan)| (name, dependencies(plan))).collect::<BTreeMap<_, _>>();
        let mut order = Self { waiting: BTreeMap::new(), dependents: BTreeMap::new() };
        let mut first = Vec::new();
        for (&name, dependencies) in &members {
            let among = dependencies.iter().filter(|dependency| members.contains_key(dependency)).collect::<Vec<_>>();
            if among.is_empty() {
                first.push(name.clone());
            } else {
                order.waiting.insert(name.clone(), among.len());
            }
            for dependency in among {
                order.dependents.entry(dependency.clone()).or_default().push(name.clone());
            }
        }
        (order, first)
    }

    /// Those that start now that `member` is done.
    pub fn done(&mut self, member: &ServiceName) -> Vec<ServiceName> {
        let dependents = self.dependents.remove(member).unwrap_or_default();
        dependents.into_iter().filter(|dependent| self.waits_no_more(dependent)).collect()
    }

    fn waits_no_more(&mut self, member: &ServiceName) -> bool {
        let Some(count) = self.waiting.get_mut(member) else { return false };
        *count -= 1;
        *count == 0 && self.waiting.remove(member).is_some()
    }

    /// Those that have not been started.
    pub fn waiting(&self) -> impl Iterator<Item = &ServiceName> {
        self.waiting.keys()
    }
}

/// `members`, each before those that it depends on: the order in which they are taken away.
pub fn dependents_first<'a>(members: impl IntoIterator<Item = (&'a ServiceName, &'a MemberPlan)>) -> Vec<ServiceName> {
    let (mut order, mut sorted) = Order::new(members);
    finish(&mut order, &mut sorted);
    // Members in a cycle never start: a manifest with one is refused, and nobody is left out here all the same.
    sorted.extend(order.waiting().cloned());
    sorted.reverse();
    sorted
}

/// Does all that can be done, and appends it to `started`, whose members are not done yet.
fn finish(order: &mut Order, started: &mut Vec<ServiceName>) {
    let mut next = 0;
    while let Some(member) = started.get(next) {
        let now = order.done(member);
        started.extend(now);
        next += 1;
    }
}

fn check_references(manifest: &Manifest, name: &ServiceName, plan: &MemberPlan) -> Result<(), Error> {
    let wrong = |what: String| Error::InvalidArgument(format!("member {name} of stack {}: {what}", manifest.stack));
    let references = template::members(&plan.configuration.arguments).map_err(|error| wrong(error.to_string()))?;
    for reference in &references {
        if reference == name {
            return Err(wrong(format!("{{{name}.address}} is its own address: write {{address}}")));
        }
        if !manifest.members.contains_key(reference) {
            return Err(wrong(format!(
                "there is no member {reference} for {{{reference}.address}}: correct the name, or add a \
                 [service.{reference}]"
            )));
        }
    }
    Ok(())
}

/// The members of a cycle, the first one at its end again.
fn cycle(members: &BTreeMap<ServiceName, MemberPlan>) -> Option<Vec<ServiceName>> {
    let (mut order, mut started) = Order::new(members);
    finish(&mut order, &mut started);
    // Whoever still waits does so for another one that waits: going from one to the next must come back.
    let mut path = vec![order.waiting().next()?.clone()];
    let mut places = BTreeMap::from([(path[0].clone(), 0)]);
    loop {
        let dependencies = dependencies(members.get(path.last()?)?);
        let next = dependencies.into_iter().find(|dependency| order.waiting.contains_key(dependency))?;
        path.push(next.clone());
        if let Some(first) = places.insert(next, path.len() - 1) {
            return Some(path.split_off(first));
        }
    }
}

#[derive(Clone, Copy)]
struct Claim<'a> {
    member: &'a ServiceName,
    key: &'static str,
}

/// Every host port once: while a chain is staged, what is live keeps its own.
fn check_ports(manifest: &Manifest) -> Result<(), Error> {
    let mut claims = Ports::<Claim<'_>>::default();
    let live = manifest.members.iter().map(|(member, plan)| (Claim { member, key: "ports" }, plan, &plan.ports));
    let staged = manifest.members.iter().map(|(member, plan)| (Claim { member, key: "staged" }, plan, &plan.staged));
    for (claim, plan, ports) in live.chain(staged) {
        for (port, _) in host_ports(ports, &plan.addresses) {
            if let Some(&other) = claims.takers(&port).next() {
                return Err(taken(&manifest.stack, &port, other, claim));
            }
            claims.insert(port, claim);
        }
    }
    Ok(())
}

fn taken(stack: &StackName, port: &HostPort, first: Claim<'_>, second: Claim<'_>) -> Error {
    let port = port_text(port);
    Error::InvalidArgument(format!(
        "stack {stack}: {port} is in {} of member {} and in {} of member {}: choose another host port for one of them",
        first.key, first.member, second.key, second.member
    ))
}

#[cfg(test)]
mod tests;
