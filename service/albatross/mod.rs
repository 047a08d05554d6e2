//! Albatross: its messages, and a client for its daemons.

pub mod wire;
