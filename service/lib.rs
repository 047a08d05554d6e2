//! albatross-deployer: the library behind the service.

pub mod domain;
pub mod images;
