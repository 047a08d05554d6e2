//! The packet filter of before nftables, which iptables-legacy still fills: nftables' netlink does not show it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, socket};

/// The tables of this thread's network that are in use, one a line. Readable by root alone.
const NAMES: &str = "/proc/thread-self/net/ip_tables_names";
const FILTER: &[u8] = b"filter";

/// Socket options of linux/netfilter_ipv4/ip_tables.h: `struct ipt_getinfo` and `struct ipt_get_entries`.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;

/// The name stands first in both.
const NAME: usize = 32;
/// `ipt_getinfo`: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size.
const INFO: usize = NAME + 4 * (1 + 5 + 5 + 1 + 1);
const UNDERFLOW_OF_FORWARD: usize = NAME + 4 * (1 + 5 + 2);
const SIZE: usize = INFO - 4;
/// `ipt_get_entries`: name and size, filled up to the alignment of the entries.
const ENTRIES: usize = NAME + 8;

/// `ipt_entry`: where its target begins stands behind address match and cache bits. A target begins with 32 bytes of size,
/// name and revision; the standard one goes on with its verdict.
const TARGET_OFFSET: usize = 84 + 4;
const VERDICT: usize = 32;
/// `-NF_DROP - 1`.
const DROP: i32 = -1;

/// No sane table is larger: 100,000 rules have about 20 MB.
const LARGEST: usize = 64 << 20;

/// Whether the policy of iptables-legacy's chain FORWARD is DROP; `None` where that cannot be known.
pub fn drops_forwarded() -> Option<bool> {
    // To ask for a table that nobody uses would make it.
    let names = match std::fs::read_to_string(NAMES) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    if !names.lines().any(|name| name.as_bytes() == FILTER) {
        return Some(false);
    }
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    let mut info = named(INFO);
    option(&socket, GET_INFO, &mut info).ok()?;
    let size = number(&info, SIZE)? as usize;
    if size > LARGEST {
        return None;
    }
    let mut entries = named(ENTRIES + size);
    entries.get_mut(NAME..NAME + 4)?.copy_from_slice(&u32::try_from(size).ok()?.to_ne_bytes());
    option(&socket, GET_ENTRIES, &mut entries).ok()?;
    forward_policy_drops(entries.get(ENTRIES..)?, number(&info, UNDERFLOW_OF_FORWARD)? as usize)
}

/// Of the rules of a table, with the place of the one that is the policy.
fn forward_policy_drops(entries: &[u8], policy: usize) -> Option<bool> {
    let rule = entries.get(policy..)?;
    let target = usize::from(u16::from_ne_bytes(rule.get(TARGET_OFFSET..)?.first_chunk().copied()?));
    let verdict = number(rule, target.checked_add(VERDICT)?)?;
    Some(i32::from_ne_bytes(verdict.to_ne_bytes()) == DROP)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The buffer of an option: the table's name, and zeros.
fn named(length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    buffer.iter_mut().zip(FILTER).for_each(|(byte, letter)| *byte = *letter);
    buffer
}

/// Reads an option of level IP. The kernel refuses where the table has changed since its size was read.
///
/// Neither rustix nor the standard library reads options that they do not know.
#[allow(unsafe_code)]
fn option(socket: &OwnedFd, name: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is what the buffer has.
    let outcome = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, name, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of one rule, whose target has this verdict.
    fn policy(verdict: i32) -> Vec<u8> {
        let mut rule = vec![0; 112 + 40];
        rule[TARGET_OFFSET..TARGET_OFFSET + 2].copy_from_slice(&112_u16.to_ne_bytes());
        rule[112 + VERDICT..112 + VERDICT + 4].copy_from_slice(&verdict.to_ne_bytes());
        rule
    }

    #[test]
    fn the_policy_is_the_verdict_of_its_rule() {
        assert_eq!(forward_policy_drops(&policy(DROP), 0), Some(true));
        assert_eq!(forward_policy_drops(&policy(-2), 0), Some(false));
        let behind = [vec![0; 152], policy(DROP)].concat();
        assert_eq!(forward_policy_drops(&behind, 152), Some(true));
    }

    #[test]
    fn what_is_cut_off_says_nothing() {
        for (entries, at) in [(vec![], 0), (vec![0; 20], 0), (policy(DROP)[..140].to_vec(), 0), (policy(DROP), 5000)] {
            assert_eq!(forward_policy_drops(&entries, at), None);
        }
    }
}
