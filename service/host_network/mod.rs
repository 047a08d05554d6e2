//! The kernel's side of the host: nftables, links, addresses, neighbours and connections, over netlink.
//!
//! Everything here does what it is told and decides nothing. The service runs no `nft`, `ip` or `iptables`.

mod attributes;
mod connection;
mod error;
mod flows;
mod link_events;
mod links;
mod neighbours;
mod netlink;
pub mod nftables;

pub use error::{Errno, Error};
pub use flows::{
    Census, EventsWaiter, FlowChange, FlowEvents, FlowId, FlowLists, FlowNews, Flows, Listed, events_enabled,
};
pub use link_events::{LinkEvent, LinkEvents};
pub use links::{Bridge, Host, Port, forwarding};
