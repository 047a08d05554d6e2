//! albatross-deployer: the library behind the service.

pub mod albatross;
pub mod domain;
