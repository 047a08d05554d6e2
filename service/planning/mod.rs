//! Decisions, all of them pure: from what is known to what is to be done. No tokio, bus, database or netlink type here.
//!
//! Each decision that changes something answers with [`crate::domain::Change`]s; the owner of state writes them down,
//! applies them to the [`world::World`], and makes the kernel follow.

pub mod address_pool;
pub mod admission;
pub mod bridge_settings;
pub mod builds;
pub mod checks;
pub mod collecting;
pub mod degraded;
pub mod draining;
pub mod error;
pub mod facts;
pub mod gone;
pub mod host_health;
pub mod host_ports;
pub mod listing;
pub mod networks;
pub mod order;
pub mod ports;
pub mod publishing;
pub mod reconcile;
pub mod redaction;
pub mod reload;
pub mod removal;
pub mod ruleset;
pub mod stacks;
pub mod stale_flows;
pub mod starts;
pub mod states;
pub mod template;
pub mod translations;
pub mod world;

#[cfg(test)]
mod properties;

pub use error::Error;
