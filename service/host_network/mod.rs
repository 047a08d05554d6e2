//! The kernel's side of the host: nftables, links, addresses, neighbours and connections, over netlink.
//!
//! Everything here does what it is told and decides nothing. The service runs no `nft`, `ip` or `iptables`.

mod attributes;
mod connection;
mod conntrack_table;
mod error;
mod flows;
mod kernel;
mod legacy_tables;
mod link_events;
mod links;
mod listeners;
mod neighbours;
mod netlink;
pub mod nftables;

pub use conntrack_table::conntrack_fill;
pub use error::{Errno, Error};
pub use flows::{
    Census, Deletion, EventsWaiter, FlowChange, FlowEvents, FlowId, FlowKey, FlowLists, FlowNews, Flows, Listed,
    events_enabled,
};
pub use legacy_tables::drops_forwarded;
pub use link_events::{LinkEvent, LinkEvents};
pub use links::{Host, Port, boot_id, forwarding};
pub use listeners::{Listeners, process_of};
