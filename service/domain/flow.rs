//! Which entries of conntrack an operation is about.

use std::net::IpAddr;

use super::Transport;

/// A kind of flow, as precisely as the kernel can select it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlowSelector {
    /// UDP flows that were redirected to `target`; `host_port`: only those that came to this port of the host.
    RedirectedUdp { target: IpAddr, host_port: Option<u16> },
    /// TCP flows that were redirected to `target` and have had no answer yet.
    Unanswered { target: IpAddr },
    /// All flows whose answers come from `address`.
    To { address: IpAddr },
    /// All flows that `address` began.
    From { address: IpAddr },
    /// Flows to a port of the host that were not redirected. Of TCP only those that have had no answer: what the host itself
    /// has answered is a connection of the host's own.
    NotRedirected { address: IpAddr, transport: Transport, port: u16 },
}
