//! An address held for somebody.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{LeaseTag, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub tag: LeaseTag,
    pub address: IpAddr,
    /// The prefix that the address was asked for in.
    pub prefix: IpNet,
    pub since: Timestamp,
}
