//! What the kernel tells without being asked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_sys::{AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{DATAGRAM, Error, open, prepare};

fn mask(groups: &[u32]) -> u32 {
    groups.iter().fold(0, |mask, group| mask | 1 << (group - 1))
}

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
        let (socket, _) = open(protocol, mask(groups))?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    pub async fn next(&mut self, object: &str) -> Result<Heard<'_>, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(sender) if sender.port_number() == 0 => break,
                Ok(_) => {}
                Err(error) if is_lost(&error) => return Ok(Heard::Lost),
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

/// A socket for what happens so often that it is to be read in bunches: it wakes somebody only while [`Self::wait`] does.
pub struct Mailbox {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Mailbox {
    /// `groups` by their numbers, as in the kernel's headers; with room for `bytes` that nobody has read yet. What
    /// `filter` drops takes no room and wakes nobody.
    pub fn open(protocol: isize, groups: &[u32], bytes: usize, filter: &[SockFilter]) -> Result<Self, Error> {
        let attempt = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.set_non_blocking(true)?;
            // Before the groups are joined, so that nothing comes unfiltered.
            SockRef::from(&socket).attach_filter(filter)?;
            prepare(&mut socket, mask(groups), bytes)?;
            Ok(socket)
        };
        let socket = attempt().map_err(|error| Error::io("a netlink socket", &error))?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits until there is something to take.
    pub async fn wait(&self, object: &str) -> Result<(), Error> {
        readable(self.socket.as_fd(), object).await
    }

    /// A second descriptor of the socket, to wait on while somebody else reads.
    pub fn waiter(&self) -> Result<Waiter, Error> {
        let socket = self.socket.as_fd().try_clone_to_owned();
        socket.map(Waiter).map_err(|error| Error::io("a netlink socket", &error))
    }

    /// The next, where there is one.
    pub fn take(&mut self, object: &str) -> Result<Option<Heard<'_>>, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                Ok((_, sender)) if sender.port_number() == 0 => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if is_lost(&error) => return Ok(Some(Heard::Lost)),
                Err(error) => return Err(Error::io(object, &error)),
            }
        }
        Ok(Some(Heard::Datagram(&self.buffer)))
    }
}

/// Waits for what comes into a [`Mailbox`].
#[derive(Debug)]
pub struct Waiter(OwnedFd);

impl Waiter {
    /// Waits until there is something to take.
    pub async fn wait(&self, object: &str) -> Result<(), Error> {
        readable(self.0.as_fd(), object).await
    }
}

async fn readable(socket: BorrowedFd<'_>, object: &str) -> Result<(), Error> {
    // What is registered for longer wakes the runtime with every notification, whether somebody waits or not.
    #[allow(deprecated, reason = "sound for a BorrowedFd; its successor takes an unsafe block for any type")]
    let registered = AsyncFd::with_interest(socket, Interest::READABLE);
    let registered = registered.map_err(|error| Error::io(object, &error))?;
    registered.readable().await.map(drop).map_err(|error| Error::io(object, &error))
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
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
