//! Albatross: its messages, and a client for its daemons.
//!
//! [`wire`] is the grammar and does no I/O. A command goes [`Client`] → `asking` (one question, one answer, or none)
//! → `endpoint` (a connection of a socket) → `framing` (bytes). What got no answer is settled by asking what runs.

mod asking;
mod client;
mod console;
mod deadline;
mod endpoint;
mod error;
mod framing;
mod values;
pub mod wire;

pub use client::{Client, Created, Settings};
pub use console::{ConsoleHistory, ConsoleStream};
pub use error::Error;
pub use values::{Creation, Policy, Running};
pub use wire::{Dialect, InvalidAlbatrossName};
