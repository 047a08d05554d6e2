//! Decisions, all of them pure: from what is known to what is to be done. No tokio, bus, database or netlink type here.
//!
//! Each decision that changes something answers with [`crate::domain::Change`]s; the owner of state writes them down,
//! applies them to the [`world::World`], and makes the kernel follow.

pub mod address_pool;
pub mod admission;
pub mod builds;
pub mod checks;
pub mod collecting;
pub mod degraded;
pub mod error;
pub mod facts;
pub mod ports;
pub mod publishing;
pub mod reconcile;
pub mod redaction;
pub mod removal;
pub mod ruleset;
pub mod stacks;
pub mod starts;
pub mod states;
pub mod template;
pub mod world;

#[cfg(test)]
mod properties;

pub use error::Error;
