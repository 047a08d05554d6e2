//! albatross-deployer: the library behind the service.

pub mod domain;
pub mod host_network;
pub mod planning;
