//! albatross-deployer: the library behind the service.

pub mod bus;
pub mod domain;
pub mod images;
pub mod orchestrator;
