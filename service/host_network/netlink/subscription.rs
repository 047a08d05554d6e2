//! What the kernel tells without being asked.

use std::io;

use netlink_sys::{AsyncSocketExt, Socket, SocketAddr, TokioSocket};

use super::{DATAGRAM, Error, RECEIVE_BUFFER, open};

/// A socket that hears what happens.
pub struct Subscription {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What a [`Subscription`] heard.
pub enum Heard<'a> {
    Datagram(&'a [u8]),
    /// More happened than the socket could hold: what is known must be looked at afresh.
    Lost,
}

impl Subscription {
    /// `groups` by their numbers, as in the kernel's headers.
    pub fn open(protocol: isize, groups: &[u32]) -> Result<Self, Error> {
        Self::with_buffer(protocol, groups, RECEIVE_BUFFER)
    }

    /// With room for `bytes` of notifications that nobody has read yet.
    pub fn with_buffer(protocol: isize, groups: &[u32], bytes: usize) -> Result<Self, Error> {
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        let (socket, _) = open(protocol, mask, bytes)?;
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

/// A member of a group that never reads: the kernel counts it as a listener, and drops what does not fit. It wakes
/// nobody, for nobody waits for it.
#[derive(Debug)]
pub struct Mute {
    _socket: Socket,
}

impl Mute {
    /// `group` by its number, as in the kernel's headers.
    pub fn open(protocol: isize, group: u32) -> Result<Self, Error> {
        let attempt = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            // The kernel makes that the least it allows.
            socket.set_rx_buf_sz(0_i32)?;
            socket.set_no_enobufs(true)?;
            socket.bind(&SocketAddr::new(0, 1 << (group - 1)))?;
            Ok(socket)
        };
        attempt().map(|_socket| Self { _socket }).map_err(|error| Error::io("a netlink socket", &error))
    }
}
