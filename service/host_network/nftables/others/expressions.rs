//! The expressions of one rule: what it asks of a packet's destination, and what it does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::super::super::attributes::Attributes;
use super::LIST_ELEMENT;
use crate::domain::Transport;
use crate::planning::translations::Matched;

// NFTA_*: of an expression, and of the data of some.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
/// Of all expressions that load or compare.
const REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const META_L4PROTO: u32 = 16;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const OPERATION: u16 = 2;
const COMPARED: u16 = 3;
const RANGE_TO: u16 = 4;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_DESTINATION: u16 = 3;
const LOOKUP_FLAGS: u16 = 5;
const LOOKUP_INVERTED: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const IMMEDIATE_DATA: u16 = 2;
const NAT_TYPE: u16 = 1;
const NAT_DESTINATION: u32 = 1;
/// Of the matches and targets of iptables.
const XT_NAME: u16 = 1;
const XT_INFO: u16 = 3;

/// A rule that translates or jumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) matched: Matched,
    /// The set or map in which the destination port is looked up.
    pub(super) lookup: Option<String>,
    pub(super) then: Then,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    Translate,
    Jump(String),
    /// What the map of [`Parsed::lookup`] has for the port.
    VerdictMap,
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Transport,
    Port,
    Destination,
    Other,
}

#[derive(Default)]
struct Reader {
    registers: BTreeMap<u32, Field>,
    matched: Matched,
    lookup: Option<String>,
    then: Option<Then>,
    /// The port was loaded, and nothing that can be read was done with it: it is part of a concatenation.
    port_is_open: bool,
}

/// `None` of a rule that neither translates nor jumps, or whose ports cannot be read.
pub(super) fn parse(expressions: Attributes<'_>) -> Option<Parsed> {
    let mut reader = Reader::default();
    for expression in expressions.all(LIST_ELEMENT) {
        let name = expression.text(EXPRESSION_NAME)?;
        // Those without attributes have none of these.
        let data = expression.nested(EXPRESSION_DATA).unwrap_or(Attributes::after(0, &[]));
        reader.expression(name, data);
    }
    let Reader { matched, lookup, then, port_is_open, .. } = reader;
    let then = then.filter(|_| !port_is_open)?;
    Some(Parsed { matched, lookup, then })
}

/// The bytes of a NFTA_DATA that holds a value.
pub(super) fn value(data: Attributes<'_>) -> Option<&[u8]> {
    data.bytes(DATA_VALUE)
}

/// The chain that a NFTA_DATA with a verdict leads to.
pub(super) fn jump(data: Attributes<'_>) -> Option<String> {
    let verdict = data.nested(DATA_VERDICT)?;
    let code = i32::from_be_bytes(verdict.number_be(VERDICT_CODE)?.to_be_bytes());
    matches!(code, JUMP | GOTO).then(|| verdict.text(VERDICT_CHAIN).map(ToOwned::to_owned))?
}

impl Reader {
    fn expression(&mut self, name: &str, data: Attributes<'_>) {
        match name {
            "meta" => {
                let transport = data.number_be(META_KEY) == Some(META_L4PROTO);
                self.load(data, if transport { Field::Transport } else { Field::Other });
            }
            "payload" => self.load(data, payload(data)),
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.look_up(data),
            "immediate" => {
                if let Some(chain) = data.nested(IMMEDIATE_DATA).and_then(jump) {
                    self.then = Some(Then::Jump(chain));
                }
            }
            "nat" if data.number_be(NAT_TYPE) == Some(NAT_DESTINATION) => self.then = Some(Then::Translate),
            "redir" => self.then = Some(Then::Translate),
            "target" if matches!(data.text(XT_NAME), Some("DNAT" | "REDIRECT")) => self.then = Some(Then::Translate),
            "match" => self.xt_match(data),
            // What changes a register (a mask, a hash) leaves nothing that could be compared with a port.
            "bitwise" | "byteorder" | "numgen" | "hash" | "jhash" | "ct" | "fib" | "rt" | "socket" | "osf"
            | "exthdr" => {
                if let Some(register) = data.number_be(LOOKUP_SOURCE).or_else(|| data.number_be(REGISTER)) {
                    self.registers.insert(register, Field::Other);
                }
            }
            _ => {}
        }
    }

    fn load(&mut self, data: Attributes<'_>, field: Field) {
        if let Some(register) = data.number_be(REGISTER) {
            self.registers.insert(register, field);
            self.port_is_open |= field == Field::Port;
        }
    }

    fn field(&self, data: Attributes<'_>, register: u16) -> Option<Field> {
        self.registers.get(&data.number_be(register)?).copied()
    }

    fn compare(&mut self, data: Attributes<'_>) {
        let value = data.nested(COMPARED).and_then(value);
        let (Some(field), Some(value)) = (self.field(data, REGISTER), value) else { return };
        let equals = data.number_be(OPERATION) == Some(0);
        match field {
            Field::Port => {
                self.port_is_open = false;
                let port = value.try_into().map(u16::from_be_bytes).ok();
                let range = port.and_then(|port| compared(data.number_be(OPERATION), port));
                if let Some(range) = range {
                    self.port_within([range]);
                }
            }
            Field::Transport if equals => self.matched.transport = transport(value),
            Field::Destination if equals => {
                let octets = <[u8; 4]>::try_from(value).ok();
                self.matched.destination = octets.map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
            }
            _ => {}
        }
    }

    fn range(&mut self, data: Attributes<'_>) {
        if self.field(data, REGISTER) != Some(Field::Port) {
            return;
        }
        self.port_is_open = false;
        let port =
            |attribute| -> Option<u16> { value(data.nested(attribute)?)?.try_into().ok().map(u16::from_be_bytes) };
        if let (Some(0), Some(first), Some(last)) = (data.number_be(OPERATION), port(COMPARED), port(RANGE_TO)) {
            self.port_within([(first, last)]);
        }
    }

    /// `>= 80` and `<= 90` are two comparisons of one range.
    fn port_within(&mut self, ranges: impl IntoIterator<Item = (u16, u16)>) {
        let before = self.matched.ports.take().unwrap_or_else(|| vec![(1, u16::MAX)]);
        let both = ranges
            .into_iter()
            .flat_map(|(first, last)| before.iter().map(move |before| (before.0.max(first), before.1.min(last))));
        self.matched.ports = Some(both.filter(|(first, last)| first <= last).collect());
    }

    fn look_up(&mut self, data: Attributes<'_>) {
        let field = self.field(data, LOOKUP_SOURCE);
        let inverted = data.number_be(LOOKUP_FLAGS).unwrap_or(0) & LOOKUP_INVERTED != 0;
        if field == Some(Field::Port) {
            // A concatenation begins with something else, and its lookup names the first register alone.
            self.port_is_open = false;
            self.lookup = data.text(LOOKUP_SET).filter(|_| !inverted).map(ToOwned::to_owned);
            if data.number_be(LOOKUP_DESTINATION) == Some(VERDICT_REGISTER) {
                self.then = Some(Then::VerdictMap);
            }
        }
    }

    /// `struct xt_tcp` and `struct xt_udp` begin with first and last source port, then first and last destination port, in
    /// the host's order.
    fn xt_match(&mut self, data: Attributes<'_>) {
        const DESTINATION_INVERTED: u8 = 2;
        let transport = match data.text(XT_NAME) {
            Some("tcp") => Transport::Tcp,
            Some("udp") => Transport::Udp,
            Some("multiport") => return self.xt_multiport(data.bytes(XT_INFO).unwrap_or_default()),
            _ => return,
        };
        let flags_at = if transport == Transport::Tcp { 11 } else { 8 };
        let Some(info) = data.bytes(XT_INFO) else { return };
        let port = |at: usize| info.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        self.matched.transport = Some(transport);
        let inverted = info.get(flags_at).is_some_and(|flags| flags & DESTINATION_INVERTED != 0);
        if let (Some(first), Some(last), false) = (port(4), port(6), inverted) {
            self.port_within([(first, last)]);
        }
    }

    /// `struct xt_multiport_v1`: which ports, how many, fifteen of them in the host's order, for each whether a range begins with
    /// it, and whether all of that is inverted.
    fn xt_multiport(&mut self, info: &[u8]) {
        const SOURCE: u8 = 0;
        const PORTS: usize = 15;
        let [kind, count, ports @ ..] = info else { return };
        let (Some((ports, rest)), count) = (ports.split_at_checked(2 * PORTS), usize::from(*count).min(PORTS)) else {
            return;
        };
        // Other ports than these: such a rule cannot be read.
        self.port_is_open |= rest.get(PORTS).is_some_and(|inverted| *inverted != 0);
        if *kind == SOURCE {
            return;
        }
        let mut numbers =
            ports.chunks_exact(2).map(|port| u16::from_ne_bytes([port[0], port[1]])).zip(rest).take(count);
        let ranges = std::iter::from_fn(|| {
            let (first, begins) = numbers.next()?;
            let last = if *begins == 0 { first } else { numbers.next()?.0 };
            Some((first, last))
        });
        self.port_within(ranges.collect::<Vec<_>>());
    }
}

fn payload(data: Attributes<'_>) -> Field {
    let at = [PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LENGTH].map(|attribute| data.number_be(attribute));
    match at {
        [Some(TRANSPORT_HEADER), Some(2), Some(2)] => Field::Port,
        [Some(NETWORK_HEADER), Some(16), Some(4)] => Field::Destination,
        [Some(NETWORK_HEADER), Some(9), Some(1)] => Field::Transport,
        _ => Field::Other,
    }
}

fn transport(value: &[u8]) -> Option<Transport> {
    [Transport::Tcp, Transport::Udp].into_iter().find(|transport| value == [transport.number()])
}

/// The ports for which a comparison holds (NFT_CMP_*); `None`: nearly all.
fn compared(operation: Option<u32>, port: u16) -> Option<(u16, u16)> {
    match operation {
        Some(0) => Some((port, port)),
        Some(2) => Some((0, port.saturating_sub(1))),
        Some(3) => Some((0, port)),
        Some(4) => Some((port.saturating_add(1), u16::MAX)),
        Some(5) => Some((port, u16::MAX)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (u16::try_from(4 + value.len()).unwrap()).to_ne_bytes().to_vec();
        bytes.extend(number.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[(u16, &[u8])]) -> Vec<u8> {
        let data = data.iter().flat_map(|(number, value)| attribute(*number, value)).collect::<Vec<_>>();
        let name = attribute(EXPRESSION_NAME, format!("{name}\0").as_bytes());
        attribute(LIST_ELEMENT, &[name, attribute(EXPRESSION_DATA, &data)].concat())
    }

    fn parsed(expressions: &[Vec<u8>]) -> Option<Parsed> {
        parse(Attributes::after(0, &expressions.concat()))
    }

    fn be(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    fn load_port() -> Vec<u8> {
        let at = [(1, be(1)), (2, be(TRANSPORT_HEADER)), (3, be(2)), (4, be(2))];
        expression("payload", &at.each_ref().map(|(number, value)| (*number, value.as_slice())))
    }

    fn compare_port(operation: u32, port: u16) -> Vec<u8> {
        let value = attribute(DATA_VALUE, &port.to_be_bytes());
        expression("cmp", &[(1, &be(1)), (2, &be(operation)), (3, &value)])
    }

    fn dnat() -> Vec<u8> {
        expression("nat", &[(NAT_TYPE, &be(NAT_DESTINATION))])
    }

    /// Its name and its beginning, as iptables-nft before 1.8.8 has it.
    fn xt(name: &str, ports: [u16; 2], inverted: bool) -> Vec<u8> {
        let mut info =
            [0u16.to_ne_bytes(), u16::MAX.to_ne_bytes(), ports[0].to_ne_bytes(), ports[1].to_ne_bytes()].concat();
        info.resize(if name == "tcp" { 11 } else { 8 }, 0);
        info.push(if inverted { 2 } else { 0 });
        expression("match", &[(XT_NAME, format!("{name}\0").as_bytes()), (XT_INFO, &info)])
    }

    #[test]
    fn comparisons_narrow_the_ports() {
        let ports = |comparisons: &[(u32, u16)]| {
            let comparisons = comparisons.iter().map(|&(operation, port)| compare_port(operation, port));
            let rule = [load_port()].into_iter().chain(comparisons).chain([dnat()]).collect::<Vec<_>>();
            parsed(&rule).unwrap().matched.ports
        };
        for (comparisons, expected) in [
            (&[(0, 80)][..], Some(vec![(80, 80)])),
            (&[(5, 80), (3, 90)], Some(vec![(80, 90)])),
            (&[(4, 80), (2, 90)], Some(vec![(81, 89)])),
            (&[(1, 80)], None),
        ] {
            assert_eq!(ports(comparisons), expected, "{comparisons:?}");
        }
    }

    #[test]
    fn matches_of_iptables_count() {
        let target = || expression("target", &[(XT_NAME, b"DNAT\0")]);
        for (name, inverted, transport, ports) in [
            ("tcp", false, Transport::Tcp, Some(vec![(80, 90)])),
            ("udp", false, Transport::Udp, Some(vec![(80, 90)])),
            ("tcp", true, Transport::Tcp, None),
            ("udp", true, Transport::Udp, None),
        ] {
            let rule = parsed(&[xt(name, [80, 90], inverted), target()]).unwrap();
            assert_eq!((rule.matched.transport, rule.matched.ports), (Some(transport), ports), "{name} {inverted}");
        }
        assert_eq!(parsed(&[expression("target", &[(XT_NAME, b"LOG\0")])]), None);
    }

    #[test]
    fn a_list_of_ports_of_iptables_is_read() {
        let rule = |kind: u8, inverted: u8| {
            let mut info = vec![kind, 4];
            info.extend([22u16, 80, 90, 443].into_iter().flat_map(u16::to_ne_bytes));
            info.resize(32, 0);
            info.extend([0, 1, 0, 0]);
            info.resize(47, 0);
            info.push(inverted);
            let listed = expression("match", &[(XT_NAME, b"multiport\0"), (XT_INFO, &info)]);
            parsed(&[xt("tcp", [0, u16::MAX], false), listed, expression("target", &[(XT_NAME, b"DNAT\0")])])
        };
        let ports = Some(vec![(22, 22), (80, 90), (443, 443)]);
        assert_eq!(rule(1, 0).unwrap().matched.ports, ports);
        assert_eq!(rule(2, 0).unwrap().matched.ports, ports, "either port");
        assert_eq!(rule(0, 0).unwrap().matched.ports, Some(vec![(1, u16::MAX)]), "source ports");
        assert_eq!(rule(1, 1), None, "all others");
    }

    #[test]
    fn a_port_in_a_concatenation_makes_a_rule_unreadable() {
        assert_eq!(parsed(&[load_port(), dnat()]), None);
        assert!(parsed(&[dnat()]).is_some());
        assert_eq!(parsed(&[load_port(), compare_port(0, 80)]), None, "it does nothing");
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(Attributes::after(0, &bytes));
            for name in ["meta", "payload", "cmp", "range", "lookup", "immediate", "nat", "target", "match", "bitwise"] {
                let name = attribute(EXPRESSION_NAME, name.as_bytes());
                let data = attribute(EXPRESSION_DATA, &bytes);
                let _ = parsed(&[load_port(), attribute(LIST_ELEMENT, &[name, data].concat()), dnat()]);
            }
        }
    }
}
