//! What decides: pure functions from facts to what is to be done. No I/O, clock or netlink type in here.

pub mod ruleset;
