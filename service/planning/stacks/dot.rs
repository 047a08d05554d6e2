//! A stack as Graphviz draws it: its chains, who talks to whom in them, and the host ports that lead in.

use std::collections::BTreeSet;

use super::graph::dependencies;
use crate::domain::{
    Chain, HostPort, Member, Publication, Service, ServiceName, Stack, Unikernel, UnikernelId, UnikernelState,
};
use crate::planning::states::{stack_state, state};
use crate::planning::world::World;

/// The stack in the language of `dot`: a cluster for each chain, the arrows going as requests do.
///
/// Chains that are the same are one cluster. The same world gives the same text.
pub fn graph(world: &World, stack: &Stack) -> String {
    let clusters = clusters(stack);
    let mut lines = vec![
        format!("digraph {} {{", quoted(stack.name.as_str())),
        "  rankdir=LR".into(),
        format!("  label={}", quoted(&format!("stack {}: {}", stack.name, stack_state(stack)))),
        "  labelloc=t fontname=\"sans-serif\"".into(),
        "  node [shape=box style=\"rounded,filled\" fontname=\"sans-serif\"]".into(),
        "  edge [fontname=\"sans-serif\"]".into(),
    ];
    lines.extend(clusters.iter().flat_map(|cluster| cluster.drawn(world)));
    lines.extend(ports(world, &clusters).iter().flat_map(Entrance::drawn));
    lines.push("}\n".into());
    lines.join("\n")
}

/// What a chain is to its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Live,
    Staged,
    Previous,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Staged => "staged",
            Self::Previous => "previous",
        }
    }

    /// Of lines, and of what they surround.
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Live => ("#2e7d32", "#d7efd8"),
            Self::Staged => ("#1565c0", "#d5e5f7"),
            Self::Previous => ("#757575", "#eeeeee"),
        }
    }
}

/// Of what has ended.
const ENDED: (&str, &str) = ("#c62828", "#f8cdcd");

/// A chain with all that it is at once.
struct Cluster<'a> {
    role: Role,
    others: Vec<Role>,
    chain: &'a Chain,
}

fn clusters(stack: &Stack) -> Vec<Cluster<'_>> {
    let chains = [(Role::Live, &stack.live), (Role::Staged, &stack.staged), (Role::Previous, &stack.previous)];
    let mut clusters = Vec::<Cluster<'_>>::new();
    for (role, chain) in chains {
        let Some(chain) = chain.as_deref() else { continue };
        match clusters.iter_mut().find(|cluster| cluster.chain == chain) {
            Some(same) => same.others.push(role),
            None => clusters.push(Cluster { role, others: Vec::new(), chain }),
        }
    }
    clusters
}

impl Cluster<'_> {
    fn is(&self, role: Role) -> bool {
        self.role == role || self.others.contains(&role)
    }

    fn node(&self, member: &ServiceName) -> String {
        quoted(&format!("{}/{member}", self.role.name()))
    }

    fn drawn(&self, world: &World) -> Vec<String> {
        let names = [self.role].iter().chain(&self.others).map(|role| role.name()).collect::<Vec<_>>();
        let (line, _) = self.role.colours();
        let mut lines = vec![
            format!("  subgraph {} {{", quoted(&format!("cluster_{}", self.role.name()))),
            format!("    label={} color=\"{line}\" fontcolor=\"{line}\"", quoted(&names.join(", "))),
        ];
        for (name, member) in &self.chain.members {
            lines.push(format!("    {} [{}]", self.node(name), self.attributes(world, name, member)));
        }
        for (name, member) in &self.chain.members {
            let named = dependencies(&member.plan);
            let named = named.iter().filter(|other| self.chain.members.contains_key(other));
            lines.extend(named.map(|other| format!("    {} -> {}", self.node(name), self.node(other))));
        }
        lines.push("  }".into());
        lines
    }

    fn attributes(&self, world: &World, name: &ServiceName, member: &Member) -> String {
        let id = &member.unikernel;
        let Some(unikernel) = world.unikernel(id) else {
            let label = label(&[name.as_str(), id.as_str(), "gone"]);
            return format!("label={label} style=\"rounded,dashed\" color=\"{}\"", ENDED.0);
        };
        let (state, (line, fill)) = self.looks(unikernel, world.service(name));
        let label = label(&[name.as_str(), id.as_str(), &unikernel.address.to_string(), &state.to_string()]);
        format!("label={label} color=\"{line}\" fillcolor=\"{fill}\"")
    }

    fn looks(
        &self,
        unikernel: &Unikernel,
        service: Option<&Service>,
    ) -> (UnikernelState, (&'static str, &'static str)) {
        let state = state(unikernel, service);
        (state, if unikernel.has_ended() { ENDED } else { self.role.colours() })
    }
}

/// A host port that leads to a member.
struct Entrance {
    port: HostPort,
    node: String,
    unikernel_port: u16,
}

impl Entrance {
    fn drawn(&self) -> [String; 2] {
        let HostPort { address, transport, port } = self.port;
        let name = match address {
            Some(address) => quoted(&format!("{transport} {port} on {address}")),
            None => quoted(&format!("{transport} {port}")),
        };
        [
            format!("  {name} [shape=cds style=solid]"),
            format!("  {name} -> {} [label=\"{}\"]", self.node, self.unikernel_port),
        ]
    }
}

/// The host ports that hold now, by number.
fn ports(world: &World, clusters: &[Cluster<'_>]) -> Vec<Entrance> {
    let members = clusters.iter().flat_map(|cluster| cluster.chain.members.keys()).collect::<BTreeSet<_>>();
    let services = members.into_iter().filter_map(|name| world.service(name));
    // A unikernel can be of more than one chain: live ports show where they are live. One that was live and has ended
    // can have left them to the one before.
    let both = services.flat_map(|service| {
        let live =
            service.publication.iter().map(|publication| (publication, [Role::Live, Role::Previous, Role::Staged]));
        let staged = service.staged.iter().map(|publication| (publication, [Role::Staged, Role::Live, Role::Previous]));
        live.chain(staged)
    });
    let mut entrances = both
        .filter_map(|(publication, roles)| Some(entrances(publication, home(&publication.unikernel, clusters, roles)?)))
        .flatten()
        .collect::<Vec<_>>();
    entrances.sort_by_key(|entrance| (entrance.port.transport, entrance.port.port, entrance.port.address));
    entrances
}

fn home<'a>(id: &UnikernelId, clusters: &'a [Cluster<'a>], roles: [Role; 3]) -> Option<&'a Cluster<'a>> {
    let of = |role| clusters.iter().find(|cluster| cluster.is(role) && cluster.chain.has(id));
    roles.into_iter().find_map(of)
}

fn entrances<'a>(publication: &'a Publication, cluster: &Cluster<'_>) -> impl Iterator<Item = Entrance> + use<'a> {
    let node = cluster.node(&publication.unikernel.service());
    publication.host_ports().map(move |(port, unikernel_port)| Entrance { port, node: node.clone(), unikernel_port })
}

fn label(lines: &[&str]) -> String {
    quoted(&lines.join("\n"))
}

/// `text` as a string of the language. In labels it reads escapes and HTML's entities as well.
fn quoted(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests;
