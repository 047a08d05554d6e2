//! What decides. Pure: no runtime, bus, database or netlink type comes in here.

pub mod address_pool;
