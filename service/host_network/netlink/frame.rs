//! The messages in a datagram of netlink.

use netlink_packet_core::{
    DecodeError, NLM_F_ACK_TLVS, NLM_F_CAPPED, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator, ParseableParametrized,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::Errno;

const HEADER: usize = 16;

/// One message as it came.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of the socket whose request caused this message; 0 where it was none.
    pub port: u32,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// As a message of rtnetlink.
    pub fn route(&self) -> Result<RouteNetlinkMessage, DecodeError> {
        RouteNetlinkMessage::parse_with_param(self.payload, self.kind)
    }
}

/// The messages of a datagram. Ends at the first that is cut off.
pub fn frames(mut datagram: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = datagram.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, kind_0, kind_1, flags_0, flags_1, e, f, g, h, i, j, k, l] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let payload = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Frame {
            kind: u16::from_ne_bytes([kind_0, kind_1]),
            flags: u16::from_ne_bytes([flags_0, flags_1]),
            sequence: u32::from_ne_bytes([e, f, g, h]),
            port: u32::from_ne_bytes([i, j, k, l]),
            payload,
        })
    })
}

/// An NLMSG_ERROR: the acknowledgement of a message when `errno` is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub sequence: u32,
    pub errno: Option<Errno>,
    /// Where in the message the kernel sees the fault: bytes from the message's first.
    pub offset: Option<usize>,
}

impl Verdict {
    pub fn parse(frame: &Frame<'_>) -> Option<Self> {
        const ATTRIBUTE_OFFSET: u16 = 2; // NLMSGERR_ATTR_OFFS
        let (code, rest) = frame.payload.split_first_chunk::<4>()?;
        let code = i32::from_ne_bytes(*code);
        let mut verdict =
            Self { sequence: frame.sequence, errno: (code != 0).then_some(Errno(code.wrapping_neg())), offset: None };
        if frame.flags & NLM_F_ACK_TLVS != 0 {
            let quoted = if frame.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                rest.first_chunk::<4>().map_or(HEADER, |length| u32::from_ne_bytes(*length) as usize)
            };
            let attributes = NlasIterator::new(rest.get(quoted.next_multiple_of(4)..).unwrap_or_default());
            let offset = attributes.filter_map(Result::ok).find(|nla| nla.kind() == ATTRIBUTE_OFFSET);
            let offset = offset.and_then(|nla| nla.value().first_chunk::<4>().copied());
            verdict.offset = offset.map(|bytes| u32::from_ne_bytes(bytes) as usize);
        }
        Some(verdict)
    }
}

/// One message as bytes.
pub fn encode<M>(message: M, flags: u16, sequence: u32) -> Vec<u8>
where
    M: NetlinkSerializable + Into<NetlinkPayload<M>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLMSG_ERROR;

    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(9u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_datagram_is_cut_into_messages_and_what_is_cut_off_is_left() {
        let mut datagram = message(16, 0, b"abc");
        datagram.extend(message(17, 0, b"defg"));
        let seen: Vec<_> = frames(&datagram).map(|frame| (frame.kind, frame.payload.to_vec())).collect();
        assert_eq!(seen, [(16, b"abc".to_vec()), (17, b"defg".to_vec())]);
        for length in 0..datagram.len() {
            assert!(frames(&datagram[..length]).count() <= 2);
        }
        // A length below that of the header would not advance.
        assert_eq!(frames(&[0; 64]).count(), 0);
    }

    #[test]
    fn a_verdict_says_where_the_fault_is() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend([8, 0, 2, 0]);
        payload.extend(100u32.to_ne_bytes());
        let bytes = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &payload);
        let verdict = frames(&bytes).next().as_ref().and_then(Verdict::parse);
        assert_eq!(verdict, Some(Verdict { sequence: 7, errno: Some(Errno(17)), offset: Some(100) }));
        let bytes = message(NLMSG_ERROR, 0, &[0; 20]);
        let verdict = frames(&bytes).next().as_ref().and_then(Verdict::parse);
        assert_eq!(verdict, Some(Verdict { sequence: 7, errno: None, offset: None }));
    }
}
