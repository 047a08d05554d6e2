//! Rules as the kernel's expressions: small instructions that load into registers, compare, look up and translate.
//!
//! What is not typed in netlink-packet-netfilter goes as [`Expressions::Other`], with the kernel's attribute numbers.

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, MetaKey,
    Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::sets::Layout;
use crate::domain::Transport;
use crate::planning::ruleset::{Action, Condition, Direction, Family, Field, InterfaceName, Rule, SetName, Side};

/// The first 32-bit register; those after it are [`register`] 1, 2, … The 128-bit register 1 begins at the same place.
const FIRST_REGISTER: u32 = 8; // NFT_REG32_00
const NETWORK_HEADER: u32 = 1; // NFT_PAYLOAD_NETWORK_HEADER
const TRANSPORT_HEADER: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const INTERFACE_NAME: usize = 16; // IFNAMSIZ
const DROPPED: u32 = 0; // NF_DROP

type Program = Vec<ListAttribute<ExpressionAttribute>>;

pub(super) fn of_rule(rule: &Rule) -> Program {
    let mut program = Program::new();
    for condition in &rule.when {
        check(&mut program, condition);
    }
    act(&mut program, rule.then);
    program
}

fn check(program: &mut Program, condition: &Condition) {
    match condition {
        Condition::AddressedToHost => {
            program.push(fib_destination_type());
            program.push(compare(true, &RTN_LOCAL.to_ne_bytes()));
        }
        Condition::Translated => check_status(program, IPS_DST_NAT),
        Condition::SourceTranslated => check_status(program, IPS_SRC_NAT),
        Condition::Family(family) => check_family(program, *family),
        Condition::Protocol(transport) => {
            program.push(load_meta(MetaKey::L4Proto, 0));
            program.push(compare(true, &[transport.number()]));
        }
        Condition::TcpSyn => check_tcp_flag(program, TCP_SYN),
        Condition::TcpReset => check_tcp_flag(program, TCP_RST),
        Condition::AnsweredFrom { prefix } => check_answering_address(program, prefix),
        Condition::Address { side, within, prefix } => {
            check_address(program, *side, *within, prefix);
        }
        Condition::Interface { direction, is, name } => {
            let key = match direction {
                Direction::In => MetaKey::Iifname,
                Direction::Out => MetaKey::Oifname,
            };
            program.push(load_meta(key, 0));
            program.push(compare(*is, &padded_name(name)));
        }
        Condition::InSet { set, is } => {
            load_set_key(program, *set);
            program.push(look_up(*set, !is, false));
        }
        Condition::OriginallyInSet { set, is } => {
            load_fields(program, *set, load_original_field);
            program.push(look_up(*set, !is, false));
        }
    }
}

fn check_tcp_flag(program: &mut Program, flag: u8) {
    check(program, &Condition::Protocol(Transport::Tcp));
    program.push(load_payload(TRANSPORT_HEADER, TCP_FLAGS, 1, 0));
    program.push(mask(&[flag]));
    program.push(compare(false, &[0]));
}

/// After [`Condition::Family`]: the other family has no such field.
fn check_answering_address(program: &mut Program, prefix: &IpNet) {
    let (key, network, netmask) = match prefix {
        IpNet::V4(net) => (CT_SOURCE_4, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (CT_SOURCE_6, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    program.push(load_of_connection(key, REPLY, 0));
    program.push(mask(&netmask));
    program.push(compare(true, &network));
}

fn check_status(program: &mut Program, bit: u32) {
    program.push(load_status());
    program.push(mask(&bit.to_ne_bytes()));
    program.push(compare(false, &[0; 4]));
}

fn act(program: &mut Program, action: Action) {
    let verdict = match action {
        Action::Jump(chain) => {
            vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.as_str().into())]
        }
        Action::Return => vec![VerdictAttribute::Code(Verdict::Return)],
        Action::Drop => vec![VerdictAttribute::Code(Verdict::Other(DROPPED))],
        Action::Masquerade => return program.push(other("masq", Vec::new())),
        Action::ResetTcp => return program.push(reject(REJECT_TCP_RESET, 0)),
        Action::Unreachable => return program.push(reject(REJECT_ICMPX, PORT_UNREACHABLE)),
        Action::ClampSegments => return clamp_segments(program),
        Action::Redirect(map) => {
            load_set_key(program, map);
            program.push(look_up(map, false, true));
            return program.push(translate(map));
        }
    };
    program.push(
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ])
        .into(),
    );
}

fn check_address(program: &mut Program, side: Side, within: bool, prefix: &IpNet) {
    let (family, network, netmask) = match prefix {
        IpNet::V4(net) => (Family::V4, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (Family::V6, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    check_family(program, family);
    // As nft does: whole bytes of a prefix are compared as they are, others are masked first.
    let bytes = usize::from(prefix.prefix_len() / 8);
    let whole = prefix.prefix_len().is_multiple_of(8) && bytes > 0;
    let length = if whole { bytes } else { network.len() };
    program.push(load_payload(NETWORK_HEADER, address_offset(family, side), length, 0));
    if !whole {
        program.push(mask(&netmask));
    }
    program.push(compare(within, &network[..length]));
}

/// A packet of the other family has no such field: the rest of the rule is not for it.
fn check_family(program: &mut Program, family: Family) {
    program.push(load_meta(MetaKey::Nfproto, 0));
    let number = match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    };
    program.push(compare(true, &[number]));
}

/// The set's key out of the packet.
fn load_set_key(program: &mut Program, set: SetName) {
    if set.key().iter().any(|field| matches!(field, Field::Destination(_) | Field::Source(_))) {
        check_family(program, set.family);
    }
    load_fields(program, set, load_field);
}

/// The set's key, field after field, from the first register on.
fn load_fields(program: &mut Program, set: SetName, load: fn(Field, u32) -> ListAttribute<ExpressionAttribute>) {
    let mut at = 0;
    for field in set.key() {
        program.push(load(field, at));
        at += (field.padded() / 4) as u32;
    }
}

/// A field of the packet as it is now.
fn load_field(field: Field, at: u32) -> ListAttribute<ExpressionAttribute> {
    match field {
        Field::Destination(family) => {
            load_payload(NETWORK_HEADER, address_offset(family, Side::Destination), field.length(), at)
        }
        Field::Source(family) => load_payload(NETWORK_HEADER, address_offset(family, Side::Source), field.length(), at),
        Field::Transport => load_meta(MetaKey::L4Proto, at),
        Field::Port => load_payload(TRANSPORT_HEADER, DESTINATION_PORT, field.length(), at),
    }
}

/// A field of the packet that began the connection, as it came.
fn load_original_field(field: Field, at: u32) -> ListAttribute<ExpressionAttribute> {
    const PROTOCOL_DESTINATION: u32 = 12; // NFT_CT_PROTO_DST
    const DESTINATION_4: u32 = 20; // NFT_CT_DST_IP
    const DESTINATION_6: u32 = 22;
    let original = |key| load_of_connection(key, ORIGINAL, at);
    match field {
        Field::Destination(Family::V4) => original(DESTINATION_4),
        Field::Destination(Family::V6) => original(DESTINATION_6),
        Field::Source(Family::V4) => original(CT_SOURCE_4),
        Field::Source(Family::V6) => original(CT_SOURCE_6),
        Field::Transport => load_meta(MetaKey::L4Proto, at),
        Field::Port => original(PROTOCOL_DESTINATION),
    }
}

const CT_SOURCE_4: u32 = 19; // NFT_CT_SRC_IP
const CT_SOURCE_6: u32 = 21; // NFT_CT_SRC_IP6
const ORIGINAL: u8 = 0; // IP_CT_DIR_ORIGINAL
const REPLY: u8 = 1; // IP_CT_DIR_REPLY

const TCP_FLAGS: u32 = 13;
const TCP_SYN: u8 = 1 << 1;
const TCP_RST: u8 = 1 << 2;
const DESTINATION_PORT: u32 = 2;

fn address_offset(family: Family, side: Side) -> u32 {
    match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    }
}

fn register(at: u32) -> Register {
    Register::from(FIRST_REGISTER + at)
}

fn load_meta(key: MetaKey, at: u32) -> ListAttribute<ExpressionAttribute> {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register(at))]).into()
}

fn load_payload(base: u32, offset: u32, length: usize, at: u32) -> ListAttribute<ExpressionAttribute> {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register(at)),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length as u32),
    ])
    .into()
}

fn compare(equal: bool, value: &[u8]) -> ListAttribute<ExpressionAttribute> {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(register(0)),
        Cmp::Op(if equal { Operator::Equal } else { Operator::NotEqual }),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

fn mask(mask: &[u8]) -> ListAttribute<ExpressionAttribute> {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
    .into()
}

fn look_up(set: SetName, inverted: bool, value: bool) -> ListAttribute<ExpressionAttribute> {
    const INVERTED: u32 = 1; // NFT_LOOKUP_F_INV
    let mut attributes = vec![Lookup::Set(set.to_string()), Lookup::SourceRegister(register(0))];
    if value {
        attributes.push(Lookup::DestinationRegister(register(0)));
    }
    if inverted {
        attributes.push(Lookup::Flags(INVERTED));
    }
    Expressions::Lookup(attributes).into()
}

const RTN_LOCAL: u32 = 2;
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;

fn fib_destination_type() -> ListAttribute<ExpressionAttribute> {
    const DREG: u16 = 1; // NFTA_FIB_DREG
    const RESULT: u16 = 2;
    const FLAGS: u16 = 3;
    const ADDRESS_TYPE: u32 = 3; // NFT_FIB_RESULT_ADDRTYPE
    const OF_DESTINATION: u32 = 1 << 1; // NFTA_FIB_F_DADDR
    other("fib", vec![number(DREG, FIRST_REGISTER), number(RESULT, ADDRESS_TYPE), number(FLAGS, OF_DESTINATION)])
}

fn load_status() -> ListAttribute<ExpressionAttribute> {
    const STATUS: u32 = 2; // NFT_CT_STATUS
    other("ct", vec![number(CT_DREG, FIRST_REGISTER), number(CT_KEY, STATUS)])
}

const CT_DREG: u16 = 1; // NFTA_CT_DREG
const CT_KEY: u16 = 2;

/// A field of the connection in one of its directions.
fn load_of_connection(key: u32, direction: u8, at: u32) -> ListAttribute<ExpressionAttribute> {
    const DIRECTION: u16 = 3; // NFTA_CT_DIRECTION
    let direction = DefaultNla::new(DIRECTION, vec![direction]);
    other("ct", vec![number(CT_DREG, FIRST_REGISTER + at), number(CT_KEY, key), direction])
}

const REJECT_TCP_RESET: u32 = 1; // NFT_REJECT_TCP_RST
const REJECT_ICMPX: u32 = 2; // NFT_REJECT_ICMPX_UNREACH
const PORT_UNREACHABLE: u8 = 1; // NFT_REJECT_ICMPX_PORT_UNREACH

fn reject(kind: u32, code: u8) -> ListAttribute<ExpressionAttribute> {
    const TYPE: u16 = 1; // NFTA_REJECT_TYPE
    const CODE: u16 = 2;
    other("reject", vec![number(TYPE, kind), DefaultNla::new(CODE, vec![code])])
}

/// `tcp option maxseg size set rt mtu`. The kernel takes the smaller MTU of both directions, and never raises the option.
fn clamp_segments(program: &mut Program) {
    const RT_DREG: u16 = 1; // NFTA_RT_DREG
    const RT_KEY: u16 = 2;
    const TCP_MSS: u32 = 3; // NFT_RT_TCPMSS
    program.push(other("rt", vec![number(RT_DREG, FIRST_REGISTER), number(RT_KEY, TCP_MSS)]));
    const BYTEORDER_SREG: u16 = 1; // NFTA_BYTEORDER_SREG
    const BYTEORDER_DREG: u16 = 2;
    const BYTEORDER_OP: u16 = 3;
    const BYTEORDER_LEN: u16 = 4;
    const BYTEORDER_SIZE: u16 = 5;
    const TO_NETWORK: u32 = 1; // NFT_BYTEORDER_HTON
    program.push(other(
        "byteorder",
        vec![
            number(BYTEORDER_SREG, FIRST_REGISTER),
            number(BYTEORDER_DREG, FIRST_REGISTER),
            number(BYTEORDER_OP, TO_NETWORK),
            number(BYTEORDER_LEN, 2),
            number(BYTEORDER_SIZE, 2),
        ],
    ));
    const EXTHDR_TYPE: u16 = 2; // NFTA_EXTHDR_TYPE
    const EXTHDR_OFFSET: u16 = 3;
    const EXTHDR_LEN: u16 = 4;
    const EXTHDR_OP: u16 = 6;
    const EXTHDR_SREG: u16 = 7;
    const MAXIMUM_SEGMENT_SIZE: u8 = 2; // TCPOPT_MAXSEG
    const TCP_OPTION: u32 = 1; // NFT_EXTHDR_OP_TCPOPT
    program.push(other(
        "exthdr",
        vec![
            number(EXTHDR_SREG, FIRST_REGISTER),
            DefaultNla::new(EXTHDR_TYPE, vec![MAXIMUM_SEGMENT_SIZE]),
            number(EXTHDR_OFFSET, 2),
            number(EXTHDR_LEN, 2),
            number(EXTHDR_OP, TCP_OPTION),
        ],
    ));
}

/// dnat to the address and port that the look-up has left in the registers.
fn translate(map: SetName) -> ListAttribute<ExpressionAttribute> {
    const TYPE: u16 = 1; // NFTA_NAT_TYPE
    const FAMILY: u16 = 2;
    const ADDRESS: u16 = 3; // NFTA_NAT_REG_ADDR_MIN; the kernel takes it for the maximum too
    const PORT: u16 = 5; // NFTA_NAT_REG_PROTO_MIN
    const DNAT: u32 = 1;
    let (family, address_registers) = match map.family {
        Family::V4 => (NFPROTO_IPV4, 1),
        Family::V6 => (NFPROTO_IPV6, 4),
    };
    other(
        "nat",
        vec![
            number(TYPE, DNAT),
            number(FAMILY, family.into()),
            number(ADDRESS, FIRST_REGISTER),
            number(PORT, FIRST_REGISTER + address_registers),
        ],
    )
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn other(expression: &str, attributes: Vec<DefaultNla>) -> ListAttribute<ExpressionAttribute> {
    Expressions::Other { expression_type: expression.into(), attributes }.into()
}

fn padded_name(name: &InterfaceName) -> [u8; INTERFACE_NAME] {
    let mut padded = [0; INTERFACE_NAME];
    // A bridge's name has at most 15 bytes.
    padded.iter_mut().zip(name.as_str().bytes()).for_each(|(to, from)| *to = from);
    padded
}
