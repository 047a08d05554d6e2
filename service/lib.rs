//! albatross-deployer: the library behind the service.

pub mod config;
pub mod domain;
pub mod ledger;
pub mod planning;
