//! Whatever fails or dies, and whenever: nothing is lost, nothing is left over, and what is published answers.
#![cfg_attr(not(feature = "fault-injection"), allow(dead_code, unused_imports))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "never_lost/account.rs"]
mod account;
#[path = "never_lost/albatross.rs"]
mod albatross;
#[path = "never_lost/asking.rs"]
mod asking;
#[path = "support/host.rs"]
mod host;
#[path = "never_lost/kernel.rs"]
mod kernel;
#[path = "never_lost/ledger.rs"]
mod ledger;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "never_lost/scene.rs"]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "the steps take most of it"))]
mod scene;
#[path = "support/small_disk.rs"]
mod small_disk;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
#[path = "never_lost/steps.rs"]
mod steps;
