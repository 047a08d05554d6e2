//! Sockets of netlink.
//!
//! rtnetlink is asked through its crate; nf_tables and conntrack, which have none, through [`Channel`]. Notifications of
//! all three come by [`Subscription`], which keeps no more than the socket holds and says when that was too little; the
//! crate would keep them without a bound, and would pass over what it cannot read.

mod channel;
mod frame;
mod subscription;

use std::io;
use std::time::Duration;

use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};

pub use channel::{Channel, Sending};
pub use frame::{Frame, Verdict, encode, frames};
pub use subscription::{Heard, Mailbox, Mute, Subscription, Waiter};

use super::{Errno, Error};

/// How long one exchange may take. The kernel answers within microseconds, unless somebody holds its locks.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The kernel sends at most this much in one datagram (it sizes dumps by the reader's buffer, up to 32 KiB; bundled
/// notifications are smaller).
const DATAGRAM: usize = 64 * 1024;

/// A batch of 50,000 elements is 2.2 MiB, and must be one datagram.
const SEND_BUFFER: usize = 64 << 20;

/// Notifications of 50,000 elements, should nobody read in the meantime. Memory is used for what is queued only.
const RECEIVE_BUFFER: usize = 16 << 20;

fn open(protocol: isize, groups: u32) -> Result<(TokioSocket, u32), Error> {
    let attempt = || -> io::Result<(TokioSocket, u32)> {
        let mut socket = TokioSocket::new(protocol)?;
        let port = prepare(socket.socket_mut(), groups, RECEIVE_BUFFER)?;
        Ok((socket, port))
    };
    attempt().map_err(|error| Error::io("a netlink socket", &error))
}

/// Binds it to `groups`. Returns its port.
fn prepare(socket: &mut Socket, groups: u32, receive_buffer: usize) -> io::Result<u32> {
    socket.bind(&SocketAddr::new(0, groups))?;
    let mut address = SocketAddr::new(0, 0);
    socket.get_address(&mut address)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_cap_ack(true)?;
    socket.set_ext_ack(true)?;
    set_buffers(socket, receive_buffer);
    Ok(address.port_number())
}

/// The forced sizes need CAP_NET_ADMIN, as does most of what is done here; what the limits allow has to do without.
fn set_buffers(socket: &Socket, receive: usize) {
    use rustix::net::sockopt;
    if sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER);
    }
    if sockopt::set_socket_recv_buffer_size_force(socket, receive).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, receive);
    }
}
