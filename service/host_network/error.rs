//! What the kernel says no with, in words.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// What did not work, on which object, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's own refusal. A batch that is refused has changed nothing.
    #[error("the kernel refuses {object}: {errno}{}", errno.advice())]
    Refused { object: String, errno: Errno },
    #[error("the kernel did not answer about {object} within {} s: is another program changing the network?", after.as_secs())]
    Timeout { object: String, after: Duration },
    #[error("the kernel's answer about {object} cannot be read: {reason}")]
    Unreadable { object: String, reason: String },
    /// Notifications were lost or there are too many connections, and conntrack is not walked again at once.
    #[error("the connections to {target} are not known at the moment: ask again in some seconds")]
    Uncounted { target: IpAddr },
    /// The table belongs to nobody, or to a socket that was given up.
    #[error("table inet albatross_deployer has to be taken over first; it is tried again with the next change")]
    NotHeld,
    /// Of another process, until that ends.
    #[error(
        "table inet albatross_deployer belongs to another process (netlink port {port}, mostly its process id; \
         `nft list table inet albatross_deployer` shows its name): does the service run twice on this network? Stop the other"
    )]
    HeldByAnother { port: u32 },
}

impl Error {
    pub(super) fn refused(object: impl Into<String>, errno: Errno) -> Self {
        Self::Refused { object: object.into(), errno }
    }

    pub(super) fn io(object: impl Into<String>, error: &io::Error) -> Self {
        Self::Refused { object: object.into(), errno: Errno(error.raw_os_error().unwrap_or_default()) }
    }

    pub(super) fn unreadable(object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Unreadable { object: object.into(), reason: reason.to_string() }
    }

    pub(super) fn is_missing_device(&self) -> bool {
        matches!(self, Self::Refused { errno, .. } if errno.name() == Some("ENODEV"))
    }

    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { errno, .. } if errno.name() == Some("EPERM"))
    }

    /// The table is not what it was thought to be: somebody else has flushed or changed it just now, or an answer was
    /// lost, and with it the table. `nftables::Table::install` puts it right.
    pub fn needs_install(&self) -> bool {
        match self {
            Self::Refused { errno, .. } => errno.is_of_another_table(),
            Self::Timeout { .. } | Self::Unreadable { .. } | Self::NotHeld => true,
            Self::HeldByAnother { .. } | Self::Uncounted { .. } => false,
        }
    }
}

/// An error number of the kernel, shown by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// The names that netlink is known to answer with; the rest is shown as a number.
macro_rules! names {
    ($($name:ident = $constant:ident),* $(,)?) => {
        impl Errno {
            pub fn name(self) -> Option<&'static str> {
                // Not by `from_raw_os_error`, which panics at a number that no errno has.
                $(if self.0 == rustix::io::Errno::$constant.raw_os_error() {
                    return Some(stringify!($name));
                })*
                None
            }
        }
    };
}

names! {
    EPERM = PERM, ENOENT = NOENT, ESRCH = SRCH, EINTR = INTR, EIO = IO, ENXIO = NXIO, EBADF = BADF, EAGAIN = AGAIN,
    ENOMEM = NOMEM, EACCES = ACCESS, EFAULT = FAULT, EBUSY = BUSY, EEXIST = EXIST, EXDEV = XDEV, ENODEV = NODEV,
    EINVAL = INVAL, ENFILE = NFILE, EMFILE = MFILE, EFBIG = FBIG, ENOSPC = NOSPC, EROFS = ROFS, EMLINK = MLINK,
    EDOM = DOM, ERANGE = RANGE, ENOSYS = NOSYS, ENOTEMPTY = NOTEMPTY, ELOOP = LOOP, EOVERFLOW = OVERFLOW,
    EMSGSIZE = MSGSIZE, EPROTONOSUPPORT = PROTONOSUPPORT, EOPNOTSUPP = OPNOTSUPP, EAFNOSUPPORT = AFNOSUPPORT,
    EADDRINUSE = ADDRINUSE, EADDRNOTAVAIL = ADDRNOTAVAIL, ENETDOWN = NETDOWN, ENETUNREACH = NETUNREACH,
    ENOBUFS = NOBUFS, ETIMEDOUT = TIMEDOUT, EHOSTUNREACH = HOSTUNREACH, EALREADY = ALREADY, ESTALE = STALE,
}

impl Errno {
    /// What a change gets that was made for a table with other things in it.
    pub(super) fn is_of_another_table(self) -> bool {
        matches!(self.name(), Some("ENOENT" | "EEXIST"))
    }

    /// ENOENT: what was asked for, or was to be deleted, is not there.
    pub(super) fn is_of_nothing(self) -> bool {
        self.name() == Some("ENOENT")
    }

    /// EPERM or EACCES: the service lacks a right.
    pub(super) fn is_of_rights(self) -> bool {
        matches!(self.name(), Some("EPERM" | "EACCES"))
    }

    fn advice(self) -> &'static str {
        match self.name() {
            _ if self.is_of_rights() => {
                "; the service needs CAP_NET_ADMIN: see AmbientCapabilities= and CapabilityBoundingSet= of its unit"
            }
            Some("EOPNOTSUPP" | "EPROTONOSUPPORT" | "EAFNOSUPPORT") => {
                "; the kernel lacks a part of nf_tables: load nf_tables, nft_chain_nat, nft_ct, nft_fib_inet, nft_masq, nft_reject_inet and nf_conntrack_netlink"
            }
            Some("ENODEV" | "ENXIO") => "; the device is gone: is the bridge there?",
            Some("ENOMEM" | "ENOBUFS") => "; the kernel has no memory for it",
            Some("EMSGSIZE") => "; the change is larger than the socket's buffer: allow more in net.core.wmem_max",
            _ => "",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_object_and_errno_and_says_what_to_do() {
        let error = Error::refused("element tcp 80 of ports4", Errno(1));
        assert_eq!(
            error.to_string(),
            "the kernel refuses element tcp 80 of ports4: EPERM; the service needs CAP_NET_ADMIN: see \
             AmbientCapabilities= and CapabilityBoundingSet= of its unit"
        );
        assert!(!error.needs_install());
        assert!(Error::refused("x", Errno(2)).needs_install());
        assert_eq!(Errno(9999).to_string(), "error 9999");
    }
}
