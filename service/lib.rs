//! albatross-deployer: deploys unikernels on Albatross and publishes them, as a D-Bus system service.

pub mod albatross;
pub mod bus;
pub mod config;
pub mod domain;
pub mod host_network;
pub mod images;
pub mod ledger;
pub mod orchestrator;
pub mod planning;
pub mod privilege;
