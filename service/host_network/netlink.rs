//! One exchange with the kernel over a netlink socket: a request, and all that belongs to its answer, in time.
//!
//! nf_tables, conntrack and rtnetlink speak the same framing, so one small channel serves all three. What the messages
//! say is typed by netlink-packet-netfilter and netlink-packet-route.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_OVERRUN, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use tokio::time::timeout;

use super::{Errno, Error};

/// How long one exchange may take. The kernel answers within microseconds, unless somebody holds its locks.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a large batch gets besides.
const PER_MEBIBYTE: Duration = Duration::from_secs(1);

/// The kernel sends at most this much in one datagram (it sizes dumps by the reader's buffer, up to 32 KiB; bundled
/// notifications are smaller).
const DATAGRAM: usize = 64 * 1024;

/// A batch of 50,000 elements is 2.2 MiB, and must be one datagram.
const SEND_BUFFER: usize = 64 << 20;

/// Notifications of 50,000 elements, should nobody read in the meantime. Memory is used for what is queued only.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How often a dump is begun anew because the kernel says that something changed while it went.
const DUMP_ATTEMPTS: usize = 10;

const HEADER: usize = 16;

/// One message as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of the socket whose request caused this message; 0 where it was none.
    pub port: u32,
    pub payload: &'a [u8],
}

/// The messages of a datagram. Ends at the first that is cut off.
pub(super) fn frames(mut datagram: &[u8]) -> impl Iterator<Item = Frame<'_>> {
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
pub(super) struct Verdict {
    pub sequence: u32,
    pub errno: Option<Errno>,
    /// Where in the message the kernel sees the fault: bytes from the message's first.
    pub offset: Option<usize>,
}

impl Verdict {
    fn parse(frame: &Frame<'_>) -> Option<Self> {
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

/// A socket, and the exchange that is going on over it.
pub(super) struct Channel {
    protocol: isize,
    socket: Arc<TokioSocket>,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// An exchange was given up before its end: what is left of its answer would stand in the way of the next.
    unfinished: bool,
}

impl Channel {
    pub fn open(protocol: isize) -> Result<Self, Error> {
        let (socket, port) = open(protocol, 0)?;
        Ok(Self {
            protocol,
            socket: Arc::new(socket),
            port,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
            unfinished: false,
        })
    }

    /// By this number the kernel says in notifications whose request they follow from.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sequence numbers for this many messages, in order.
    pub fn sequences(&mut self, count: u32) -> RangeInclusive<u32> {
        let first = self.sequence.wrapping_add(1);
        // Far from the end of the numbers at any rate of requests; starting anew keeps a range in order.
        let first = if first > u32::MAX / 2 { 1 } else { first };
        self.sequence = first + count.saturating_sub(1);
        first..=self.sequence
    }

    /// Takes another socket, and so another port, after an exchange that was given up. Every exchange begins with it.
    pub fn renew(&mut self) -> Result<(), Error> {
        if self.unfinished {
            let (socket, port) = open(self.protocol, 0)?;
            (self.socket, self.port) = (Arc::new(socket), port);
            self.unfinished = false;
        }
        Ok(())
    }

    /// Everything that the kernel lists in answer to `request`. `object` is what an error is about.
    pub async fn dump<M, T>(
        &mut self,
        object: &str,
        request: M,
        mut read: impl FnMut(&Frame<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>> + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            self.renew()?;
            self.unfinished = true;
            let sequence = *self.sequences(1).start();
            let bytes = encode(request.clone(), NLM_F_REQUEST | NLM_F_DUMP, sequence);
            let answer = timeout(DEADLINE, self.dump_once(object, &bytes, sequence, &mut read)).await;
            let answer = answer.map_err(|_| Error::Timeout { object: object.into(), after: DEADLINE })?;
            self.unfinished = answer.is_err();
            if let Some(all) = answer? {
                return Ok(all);
            }
        }
        Err(Error::refused(object, Errno(rustix::io::Errno::BUSY.raw_os_error())))
    }

    /// `None`: something changed while the kernel listed it, so that the list may be of no single moment.
    async fn dump_once<T>(
        &mut self,
        object: &str,
        request: &[u8],
        sequence: u32,
        read: &mut impl FnMut(&Frame<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.send(object, request).await?;
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            self.receive(object).await?;
            for frame in frames(&self.buffer).filter(|frame| frame.sequence == sequence) {
                whole &= frame.flags & NLM_F_DUMP_INTR == 0;
                match frame.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        // Both begin with an error number; of a DONE an older kernel leaves it out.
                        let code = frame.payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                        return match code {
                            0 => Ok(whole.then_some(all)),
                            code => Err(Error::refused(object, Errno(code.wrapping_neg()))),
                        };
                    }
                    NLMSG_OVERRUN => whole = false,
                    _ => all.extend(read(&frame)?),
                }
            }
        }
    }

    /// One request that changes something.
    pub async fn execute<M>(&mut self, object: &str, request: M, flags: u16) -> Result<(), Error>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        let sequences = self.sequences(1);
        let bytes = encode(request, NLM_F_REQUEST | NLM_F_ACK | flags, *sequences.start());
        self.renew()?;
        self.unfinished = true;
        let answer = timeout(DEADLINE, async {
            self.send(object, &bytes).await?;
            self.verdicts(object, sequences).await
        });
        let answer = answer.await.map_err(|_| Error::Timeout { object: object.into(), after: DEADLINE })?;
        self.unfinished = answer.is_err();
        match answer?.into_iter().find_map(|verdict| verdict.errno) {
            Some(errno) => Err(Error::refused(object, errno)),
            None => Ok(()),
        }
    }

    /// Sends a batch, of which the last message asks for an acknowledgement, and gathers every verdict on any of its
    /// messages. Gives the messages back, for the verdicts point into them.
    pub async fn exchange(
        &mut self,
        object: &str,
        messages: Vec<u8>,
        sequences: RangeInclusive<u32>,
    ) -> Result<(Vec<u8>, Vec<Verdict>), Error> {
        self.renew()?;
        self.unfinished = true;
        let deadline = DEADLINE + PER_MEBIBYTE * u32::try_from(messages.len() >> 20).unwrap_or(u32::MAX);
        let answer = timeout(deadline, async {
            // All of the kernel's work on a batch is done inside of this call, and it waits for whoever else changes
            // the ruleset: not on the thread that everything else runs on.
            let socket = self.socket.clone();
            let sent = tokio::task::spawn_blocking(move || {
                let result = socket.socket_ref().send(&messages, 0);
                (messages, result)
            });
            let (messages, result) = sent.await.map_err(|error| Error::unreadable(object, error))?;
            result.map_err(|error| Error::io(object, &error))?;
            Ok((messages, self.verdicts(object, sequences).await?))
        });
        let answer = answer.await.map_err(|_| Error::Timeout { object: object.into(), after: deadline })?;
        self.unfinished = answer.is_err();
        answer
    }

    async fn verdicts(&mut self, object: &str, sequences: RangeInclusive<u32>) -> Result<Vec<Verdict>, Error> {
        let mut verdicts = Vec::new();
        loop {
            self.receive(object).await?;
            for frame in frames(&self.buffer).filter(|frame| frame.kind == NLMSG_ERROR) {
                let Some(verdict) = Verdict::parse(&frame).filter(|verdict| sequences.contains(&verdict.sequence))
                else {
                    continue;
                };
                // What is refused as a whole (no right, no memory, a commit that failed) is answered at the first
                // message; else verdicts come in order, and the last message asked for one.
                let last = verdict.sequence == *sequences.end()
                    || (verdict.sequence == *sequences.start() && verdict.errno.is_some());
                verdicts.push(verdict);
                if last {
                    return Ok(verdicts);
                }
            }
        }
    }

    async fn send(&self, object: &str, bytes: &[u8]) -> Result<(), Error> {
        self.socket.send(bytes).await.map(drop).map_err(|error| Error::io(object, &error))
    }

    async fn receive(&mut self, object: &str) -> Result<(), Error> {
        loop {
            self.buffer.clear();
            let sender = self.socket.recv_from(&mut self.buffer).await.map_err(|error| Error::io(object, &error))?;
            if sender.port_number() == 0 {
                return Ok(()); // from the kernel, not from a program that guessed the port
            }
        }
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("port", &self.port).finish_non_exhaustive()
    }
}

/// A socket that hears what happens.
pub(super) struct Subscription {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What a [`Subscription`] heard.
pub(super) enum Heard<'a> {
    Datagram(&'a [u8]),
    /// More happened than the socket could hold: what is known must be looked at afresh.
    Lost,
}

impl Subscription {
    /// `groups` by their numbers, as in the kernel's headers.
    pub fn open(protocol: isize, groups: &[u32]) -> Result<Self, Error> {
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        let (socket, _) = open(protocol, mask)?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    pub async fn next(&mut self, object: &str) -> Result<Heard<'_>, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(sender) if sender.port_number() == 0 => break,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(Heard::Lost);
                }
                Err(error) => return Err(Error::io(object, &error)),
            }
        }
        Ok(Heard::Datagram(&self.buffer))
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

fn open(protocol: isize, groups: u32) -> Result<(TokioSocket, u32), Error> {
    let attempt = || -> io::Result<(TokioSocket, u32)> {
        let mut socket = TokioSocket::new(protocol)?;
        let inner = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, groups))?;
        let mut address = SocketAddr::new(0, 0);
        inner.get_address(&mut address)?;
        inner.connect(&SocketAddr::new(0, 0))?;
        inner.set_cap_ack(true)?;
        inner.set_ext_ack(true)?;
        enlarge(inner);
        Ok((socket, address.port_number()))
    };
    attempt().map_err(|error| Error::io("a netlink socket", &error))
}

/// The forced sizes need CAP_NET_ADMIN, as does most of what is done here; what the limits allow has to do without.
fn enlarge(socket: &Socket) {
    use rustix::net::sockopt;
    if sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER);
    }
    if sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER);
    }
}

/// One message as bytes.
pub(super) fn encode<M>(message: M, flags: u16, sequence: u32) -> Vec<u8>
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
