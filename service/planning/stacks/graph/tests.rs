//! What a manifest is refused for, in words, and the order of an example.

use super::*;
use crate::domain::{PortMapping, PortProtocol};
use crate::planning::stacks::samples::{mail, manifest, name, plan, tcp};

fn refused(members: impl IntoIterator<Item = (&'static str, MemberPlan)>) -> String {
    match check(&manifest(members)) {
        Err(Error::InvalidArgument(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn names(names: &[ServiceName]) -> Vec<&str> {
    names.iter().map(ServiceName::as_str).collect()
}

#[test]
fn the_example_is_fine_and_starts_from_its_end() {
    let members = mail().members;
    check(&mail()).unwrap();
    let (mut order, first) = Order::new(&members);
    assert_eq!(names(&first), ["forward"]);
    assert_eq!(names(&order.waiting().cloned().collect::<Vec<_>>()), ["entry", "signer"]);
    assert!(order.done(&name("entry")).is_empty());
    assert_eq!(names(&order.done(&name("forward"))), ["signer"]);
    assert!(order.done(&name("forward")).is_empty(), "once is enough");
    assert_eq!(names(&order.done(&name("signer"))), ["entry"]);
    assert_eq!(order.waiting().count(), 0);
    assert_eq!(names(&dependents_first(&members)), ["entry", "signer", "forward"]);
}

#[test]
fn those_that_do_not_depend_on_each_other_start_together() {
    let members = manifest([
        ("a", plan(&["{b.address}{c.address}"])),
        ("b", plan(&["{d.address}"])),
        ("c", plan(&["{d.address}"])),
        ("d", plan(&[])),
        ("e", plan(&[])),
    ]);
    let (mut order, first) = Order::new(&members.members);
    assert_eq!(names(&first), ["d", "e"]);
    assert_eq!(names(&order.done(&name("d"))), ["b", "c"]);
    assert!(order.done(&name("c")).is_empty());
    assert_eq!(names(&order.done(&name("b"))), ["a"]);
    // Of a part: what is not in it is there already.
    let part = members.members.iter().filter(|(name, _)| ["a", "b"].contains(&name.as_str()));
    assert_eq!(names(&Order::new(part).1), ["b"]);
}

#[test]
fn members_that_are_not_there() {
    assert_eq!(refused([]), "stack mail has no members: write a [service.NAME] for each");
    assert_eq!(
        refused([("a", plan(&["x", "{b.c.address}"]))]),
        "member a of stack mail: there is no member b.c for {b.c.address}: correct the name, or add a [service.b.c]"
    );
    assert_eq!(
        refused([("a", plan(&["{a.address}"]))]),
        "member a of stack mail: {a.address} is its own address: write {address}"
    );
    let message = refused([("a", plan(&["", "secret{adress}"]))]);
    assert!(message.starts_with("member a of stack mail: args[1] has a placeholder that is none of"), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn a_cycle_is_named_without_those_that_only_lead_to_it() {
    let message = refused([
        ("a", plan(&["{b.address}"])),
        ("b", plan(&["{c.address}{e.address}"])),
        ("c", plan(&["{d.address}"])),
        ("d", plan(&["{b.address}"])),
        ("e", plan(&[])),
    ]);
    assert_eq!(message, "members of stack mail wait for each other's addresses: b -> c -> d -> b");
}

#[test]
fn a_host_port_is_one_members() {
    let on = |ports: Vec<PortMapping>, staged: Vec<PortMapping>, addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        MemberPlan { ports, staged, addresses, ..plan(&[]) }
    };
    let (any, udp) = (PortMapping { protocol: PortProtocol::Any, ..tcp(25, 1) }, PortProtocol::Udp);
    let udp = PortMapping { protocol: udp, ..tcp(25, 2) };
    assert_eq!(
        refused([("a", on(vec![tcp(24, 1), any], vec![], &[])), ("b", on(vec![udp], vec![], &[]))]),
        "stack mail: udp port 25 is in ports of member a and in ports of member b: choose another host port for one \
         of them"
    );
    assert_eq!(
        refused([("a", on(vec![], vec![tcp(25, 1)], &["10.0.0.1"])), ("b", on(vec![], vec![tcp(25, 1)], &[]))]),
        "stack mail: tcp port 25 is in staged of member a and in staged of member b: choose another host port for one \
         of them"
    );
    assert_eq!(
        refused([("a", on(vec![], vec![tcp(25, 1)], &["10.0.0.1"])), ("b", on(vec![tcp(25, 1)], vec![], &[]))]),
        "stack mail: tcp port 25 on 10.0.0.1 is in ports of member b and in staged of member a: choose another host \
         port for one of them"
    );
    refused([("a", on(vec![tcp(25, 1)], vec![tcp(25, 1)], &[]))]);
    refused([("a", on(vec![tcp(25, 1)], vec![], &["::1"])), ("b", on(vec![tcp(25, 1)], vec![], &["10.0.0.1", "::1"]))]);
    let apart = [
        ("a", on(vec![tcp(25, 1)], vec![tcp(26, 1)], &["10.0.0.1"])),
        ("b", on(vec![tcp(25, 1)], vec![tcp(26, 1)], &["10.0.0.2"])),
        ("c", on(vec![udp], vec![], &[])),
    ];
    check(&manifest(apart)).unwrap();
}

#[test]
fn a_configuration_has_the_members_addresses() {
    let plan = plan(&["--ipv4={address}", "{{--relay={a.b.address}}}"]);
    let addresses = BTreeMap::from([(name("a.b"), "10.0.0.3".parse().unwrap())]);
    let filled = configuration(&plan, &addresses).unwrap();
    assert_eq!(filled.arguments.0, ["--ipv4={address}", "{{--relay=10.0.0.3}}"]);
    assert_eq!(Configuration { arguments: plan.configuration.arguments.clone(), ..filled }, plan.configuration);
    assert!(configuration(&plan, &BTreeMap::new()).unwrap_err().to_string().contains("a.b"));
}
