//! One exchange with the kernel: a request, and all that belongs to its answer, in time.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use tokio::time::timeout;

use super::frame::{Frame, Verdict, encode, frames};
use super::{DATAGRAM, DEADLINE, Errno, Error, open};

/// What a large batch gets besides.
const PER_MEBIBYTE: Duration = Duration::from_secs(1);

/// How often a dump is begun anew because the kernel says that something changed while it went.
const DUMP_ATTEMPTS: usize = 10;

/// A socket, and the exchange that is going on over it.
pub struct Channel {
    protocol: isize,
    socket: Arc<TokioSocket>,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// An exchange was given up before its end: what is left of its answer would stand in the way of the next.
    unfinished: bool,
}

/// On which thread a request is sent: the kernel works on it inside of the call.
#[derive(Debug, Clone, Copy)]
pub enum Sending {
    Here,
    /// Not on the thread that everything else runs on: for what the kernel takes long to begin.
    Apart,
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
        sending: Sending,
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
            let answer = timeout(DEADLINE, self.dump_once(sending, object, &bytes, sequence, &mut read)).await;
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
        sending: Sending,
        object: &str,
        request: &[u8],
        sequence: u32,
        read: &mut impl FnMut(&Frame<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        match sending {
            Sending::Here => self.send(object, request).await?,
            Sending::Apart => self.send_apart(object, request.to_vec()).await.map(drop)?,
        }
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
    pub async fn execute<M>(&mut self, sending: Sending, object: &str, request: M, flags: u16) -> Result<(), Error>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        let sequences = self.sequences(1);
        let bytes = encode(request, NLM_F_REQUEST | NLM_F_ACK | flags, *sequences.start());
        self.renew()?;
        self.unfinished = true;
        let answer = timeout(DEADLINE, async {
            match sending {
                Sending::Here => self.send(object, &bytes).await?,
                Sending::Apart => drop(self.send_apart(object, bytes).await?),
            }
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
            let messages = self.send_apart(object, messages).await?;
            Ok((messages, self.verdicts(object, sequences).await?))
        });
        let answer = answer.await.map_err(|_| Error::Timeout { object: object.into(), after: deadline })?;
        self.unfinished = answer.is_err();
        answer
    }

    /// Sends several requests in one datagram, of which the last message asks for an acknowledgement, and reads every
    /// object that is answered. What the kernel has not got is left out; any other refusal is an error, also of one alone.
    pub async fn gather<T>(
        &mut self,
        sending: Sending,
        object: &str,
        messages: Vec<u8>,
        sequences: RangeInclusive<u32>,
        mut read: impl FnMut(&Frame<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.renew()?;
        self.unfinished = true;
        let answer = timeout(DEADLINE, async {
            match sending {
                Sending::Here => self.send(object, &messages).await?,
                Sending::Apart => drop(self.send_apart(object, messages).await?),
            }
            let (mut all, mut refused) = (Vec::new(), None);
            loop {
                self.receive(object).await?;
                for frame in frames(&self.buffer).filter(|frame| sequences.contains(&frame.sequence)) {
                    if frame.kind != NLMSG_ERROR {
                        all.extend(read(&frame));
                        continue;
                    }
                    let errno = Verdict::parse(&frame).and_then(|verdict| verdict.errno);
                    refused = refused.or(errno.filter(|errno| !errno.is_of_nothing()));
                    // Who has no right to ask is told so once, at the first.
                    let all_refused = frame.sequence == *sequences.start() && refused.is_some_and(Errno::is_of_rights);
                    if frame.sequence == *sequences.end() || all_refused {
                        return refused.map_or(Ok(all), |errno| Err(Error::refused(object, errno)));
                    }
                }
            }
        });
        let answer = answer.await.map_err(|_| Error::Timeout { object: object.into(), after: DEADLINE })?;
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

    /// For what makes the kernel work long: all of a batch is done inside of the call, after whoever else changes the
    /// ruleset, and so is the first part of a list, for which all connections are walked. Not on the thread that
    /// everything else runs on. Gives the messages back.
    async fn send_apart(&self, object: &str, messages: Vec<u8>) -> Result<Vec<u8>, Error> {
        let socket = self.socket.clone();
        let sent = tokio::task::spawn_blocking(move || {
            let result = socket.socket_ref().send(&messages, 0);
            (messages, result)
        });
        let (messages, result) = sent.await.map_err(|error| Error::unreadable(object, error))?;
        result.map_err(|error| Error::io(object, &error))?;
        Ok(messages)
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
