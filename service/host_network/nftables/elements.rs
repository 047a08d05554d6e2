//! Elements of sets and maps as bytes, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLA_TYPE_MASK, NlaBuffer, NlasIterator};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
};

use super::sets::Layout;
use crate::domain::Transport;
use crate::planning::ruleset::{Element, Field, PortKey, SetKind, SetName, TABLE};

/// How many elements go into one message: their list is one attribute, which has 16 bits for its length, and an
/// element of the longest kind is 120 bytes.
pub(super) const CHUNK: usize = 500;

/// NFTA_SET_ELEM_LIST_ELEMENTS
const LIST: u16 = 3;
const VALUE: u16 = 1; // NFTA_DATA_VALUE
const KEY: u16 = 1; // NFTA_SET_ELEM_KEY
const DATA: u16 = 2; // NFTA_SET_ELEM_DATA
const KEY_END: u16 = 10; // NFTA_SET_ELEM_KEY_END
const NETFILTER_HEADER: usize = 4;
const MESSAGE_HEADER: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Delete,
}

/// A message for elements of one set.
pub(super) fn message(verb: Verb, elements: &[Element]) -> NfTablesMessage {
    let set = elements.first().map(|element| element.set().to_string()).unwrap_or_default();
    let message = SetElementMessage {
        attributes: vec![
            SetElementList::Table(TABLE.into()),
            SetElementList::Set(set),
            SetElementList::Elements(elements.iter().map(|element| ListAttribute::Element(encode(element))).collect()),
        ],
    };
    match verb {
        Verb::Add => NfTablesMessage::NewSetElement(message),
        Verb::Delete => NfTablesMessage::DeleteSetElement(message),
    }
}

fn encode(element: &Element) -> Vec<SetElementAttribute> {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key(element, IpNet::network)))];
    match element {
        Element::Redirect(_, target) => {
            let mut value = Vec::new();
            push_address(&mut value, target.ip());
            push_port(&mut value, target.port());
            attributes.push(SetElementAttribute::Data(DataAttribute::Value(value)));
        }
        Element::Guarded(_) | Element::Enforced(_) | Element::Gone(_) => {}
        // `broadcast` is the last address of a prefix for either family.
        Element::Source(..) => {
            attributes.push(SetElementAttribute::KeyEnd(vec![DefaultNla::new(VALUE, key(element, IpNet::broadcast))]));
        }
    }
    attributes
}

/// The key, with this end of the source's range.
fn key(element: &Element, end: impl Fn(&IpNet) -> IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48);
    if let Element::Gone(address) = element {
        push_address(&mut bytes, *address);
    }
    let Some(PortKey { port, .. }) = element.port() else { return bytes };
    if let Some(address) = port.address {
        push_address(&mut bytes, address);
    }
    bytes.extend([port.transport.number(), 0, 0, 0]);
    push_port(&mut bytes, port.port);
    if let Element::Source(_, prefix) = element {
        push_address(&mut bytes, end(prefix));
    }
    bytes
}

fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
}

fn push_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 0]);
}

/// The elements of a message that lists those of `set`. `None` when one of them is none that the service makes.
pub(super) fn decode(set: SetName, payload: &[u8]) -> Option<Vec<Element>> {
    listed(payload)?.map(|(_, nla)| element(set, nla.value())).collect()
}

/// Which element of a message of ours the offset (from the first byte of the message) points into.
pub(super) fn index_at(payload: &[u8], offset: usize) -> Option<usize> {
    let offset = offset.checked_sub(MESSAGE_HEADER)?;
    listed(payload)?.position(|(start, nla)| (start..start + usize::from(nla.length())).contains(&offset))
}

/// The list's members, with their places in the payload.
fn listed(payload: &[u8]) -> Option<impl Iterator<Item = (usize, NlaBuffer<&[u8]>)>> {
    let (mut start, list) = placed(payload.get(NETFILTER_HEADER..)?).find(|(_, nla)| nla.kind() == LIST)?;
    start += NETFILTER_HEADER + 4;
    Some(placed(list.into_inner().get(4..usize::from(list.length()))?).map(move |(place, nla)| (start + place, nla)))
}

fn placed(bytes: &[u8]) -> impl Iterator<Item = (usize, NlaBuffer<&[u8]>)> {
    let mut place = 0;
    NlasIterator::new(bytes).map_while(Result::ok).map(move |nla| {
        let start = place;
        place += usize::from(nla.length()).next_multiple_of(4);
        (start, nla)
    })
}

fn element(set: SetName, bytes: &[u8]) -> Option<Element> {
    let (mut first, mut last, mut value) = (None, None, None);
    for nla in NlasIterator::new(bytes) {
        let nla = nla.ok()?;
        let data = |nla: &NlaBuffer<&[u8]>| {
            let data = NlasIterator::new(nla.value()).find_map(Result::ok)?;
            (data.kind() & NLA_TYPE_MASK == VALUE).then(|| data.value().to_vec())
        };
        match nla.kind() & NLA_TYPE_MASK {
            KEY => first = Some(data(&nla)?),
            KEY_END => last = Some(data(&nla)?),
            DATA => value = Some(data(&nla)?),
            _ => {}
        }
    }
    let first = first?;
    let mut fields = split(&first, &set.key())?.into_iter();
    if set.kind == SetKind::Gone {
        return Some(Element::Gone(ip(fields.next()?)?));
    }
    let address = if set.on_address { Some(ip(fields.next()?)?) } else { None };
    let transport = transport(fields.next()?)?;
    let key = PortKey::new(set.family, address, transport, port(fields.next()?)?)?;
    match set.kind {
        SetKind::Guarded => Some(Element::Guarded(key)),
        SetKind::Enforced => Some(Element::Enforced(key)),
        // Of no port: decoded above.
        SetKind::Gone => None,
        SetKind::Ports => {
            let value = value?;
            let [address, number] = <[_; 2]>::try_from(split(&value, &set.value()?)?).ok()?;
            Some(Element::Redirect(key, SocketAddr::new(ip(address)?, port(number)?)))
        }
        SetKind::Sources => {
            let last = last.unwrap_or_else(|| first.clone());
            let last = split(&last, &set.key())?.pop()?;
            Some(Element::Source(key, prefix(ip(fields.next()?)?, ip(last)?)?))
        }
    }
}

/// The fields of a concatenation, without their padding.
fn split<'a>(mut bytes: &'a [u8], fields: &[Field]) -> Option<Vec<&'a [u8]>> {
    fields
        .iter()
        .map(|field| {
            let (one, rest) = bytes.split_at_checked(field.padded())?;
            bytes = rest;
            one.get(..field.length())
        })
        .collect()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))))
        .ok()
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().map(u16::from_be_bytes).ok()
}

fn transport(bytes: &[u8]) -> Option<Transport> {
    [Transport::Tcp, Transport::Udp].into_iter().find(|transport| [transport.number()] == bytes)
}

/// The prefix that is this range and no other.
fn prefix(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let common = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first) ^ u32::from(last)).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (u128::from(first) ^ u128::from(last)).leading_zeros(),
        _ => return None,
    };
    let prefix = IpNet::new(first, u8::try_from(common).ok()?).ok()?;
    (prefix.network() == first && prefix.broadcast() == last).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::super::batch::inet;
    use super::*;
    use crate::domain::HostPort;
    use crate::planning::ruleset::Family;

    fn samples() -> Vec<Element> {
        let mut all = Vec::new();
        for (family, host, target, prefix) in [
            (Family::V4, "192.0.2.1", "10.0.0.2:8080", "10.1.0.0/16"),
            (Family::V6, "2001:db8::1", "[fd00::2]:8080", "fd01::/64"),
        ] {
            for address in [None, Some(host.parse().unwrap())] {
                let key = PortKey { family, port: HostPort { address, transport: Transport::Udp, port: 53 } };
                all.push(Element::Redirect(key, target.parse().unwrap()));
                all.push(Element::Guarded(key));
                all.push(Element::Enforced(key));
                all.push(Element::Source(key, prefix.parse().unwrap()));
            }
            all.push(Element::Gone(target.parse::<SocketAddr>().unwrap().ip()));
        }
        all
    }

    #[test]
    fn every_kind_of_element_comes_back() {
        for element in samples() {
            let message = inet(message(Verb::Add, &[element]));
            let mut bytes = vec![0; Emitable::buffer_len(&message)];
            message.emit(&mut bytes);
            assert_eq!(decode(element.set(), &bytes), Some(vec![element]));
        }
    }

    #[test]
    fn an_offset_finds_its_element_and_a_full_chunk_fits_an_attribute() {
        for element in samples() {
            let message = inet(message(Verb::Add, &vec![element; CHUNK]));
            let mut bytes = vec![0; Emitable::buffer_len(&message)];
            message.emit(&mut bytes);
            assert!(bytes.len() < usize::from(u16::MAX), "{} for {element}", bytes.len());
            let (start, _) = listed(&bytes).unwrap().nth(7).unwrap();
            assert_eq!(index_at(&bytes, start + MESSAGE_HEADER), Some(7));
            assert_eq!(index_at(&bytes, 0), None);
        }
    }

    #[test]
    fn bytes_are_those_that_nft_sends() {
        let element = samples()[0];
        let encoded = encode(&element);
        let value = |bytes: &[u8]| DataAttribute::Value(bytes.to_vec());
        assert_eq!(
            encoded,
            [
                SetElementAttribute::Key(value(&[17, 0, 0, 0, 0, 53, 0, 0])),
                SetElementAttribute::Data(value(&[10, 0, 0, 2, 0x1f, 0x90, 0, 0])),
            ]
        );
    }

    #[test]
    fn a_range_that_is_no_prefix_is_nothing_of_ours() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(prefix(ip("10.0.0.0"), ip("10.255.255.255")), "10.0.0.0/8".parse().ok());
        assert_eq!(prefix(ip("10.0.0.1"), ip("10.0.0.1")), "10.0.0.1/32".parse().ok());
        assert_eq!(prefix(ip("0.0.0.0"), ip("255.255.255.255")), "0.0.0.0/0".parse().ok());
        assert_eq!(prefix(ip("10.0.0.1"), ip("10.0.0.2")), None);
    }
}
