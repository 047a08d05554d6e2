//! Stacks on a real bus and a real kernel: chains of services that are staged beside the one that is live, and go live in
//! one move.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "never_lost/account.rs"]
mod account;
#[path = "never_lost/asking.rs"]
mod asking;
#[path = "stacks/calls.rs"]
mod calls;
#[path = "stacks/chains.rs"]
mod chains;
#[path = "zero_downtime/chance.rs"]
mod chance;
#[path = "stacks/collecting.rs"]
mod collecting;
#[path = "stacks/datagrams.rs"]
mod datagrams;
#[path = "stacks/failures.rs"]
mod failures;
#[path = "support/held_download.rs"]
mod held_download;
#[path = "support/host.rs"]
mod host;
#[path = "stacks/load.rs"]
mod load;
#[path = "stacks/manifest.rs"]
mod manifest;
#[path = "stacks/mended.rs"]
mod mended;
#[path = "support/netns.rs"]
mod netns;
#[path = "load/open_loop.rs"]
mod open_loop;
mod private_bus;
#[path = "stacks/refusals.rs"]
mod refusals;
#[path = "stacks/restarts.rs"]
mod restarts;
#[path = "stacks/returning.rs"]
mod returning;
#[path = "stacks/scene.rs"]
mod scene;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
#[path = "stacks/steps.rs"]
mod steps;
#[path = "zero_downtime/timeline.rs"]
mod timeline;
#[path = "stacks/told.rs"]
mod told;
#[path = "stacks/watches.rs"]
mod watches;
