//! Images of registries, from Debian's registry to a unikernel that answers; and registries that mean no good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "registry/bad.rs"]
mod bad;
#[path = "registry/distribution.rs"]
mod distribution;
#[path = "registry/good.rs"]
mod good;
#[path = "support/host.rs"]
mod host;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/saved_image.rs"]
mod saved_image;
#[path = "registry/scene.rs"]
mod scene;
#[path = "support/small_disk.rs"]
mod small_disk;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
