//! The kernel's side of the host: nftables, links, addresses, neighbours and connections, over netlink.
//!
//! Everything here does what it is told and decides nothing. The service runs no `nft`, `ip` or `iptables`.

mod attributes;
mod connection;
mod error;
mod flows;
mod kernel;
mod link_events;
mod links;
mod listeners;
mod neighbours;
mod netlink;
pub mod nftables;

pub use error::{Errno, Error};
pub use flows::{Deletion, FlowChange, FlowEvents, FlowId, FlowNews, Flows};
pub use link_events::{LinkEvent, LinkEvents};
pub use links::{Bridge, Host, Port, forwarding};
pub use listeners::{Listeners, process_of};
