//! Measures the service against limits that are measured in the same run: `cargo bench`, or `cargo bench -- publish`.
//!
//! Each figure is printed beside its limit, as PASS or OVER; the exit code is 1 when one is over. Every part runs as the
//! host of a network namespace of its own, with its own bus, disk folder and stand-in for Albatross.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod counting;
mod deaths;
mod deploy;
mod figures;
mod filled;
mod idle;
mod images;
mod leases;
mod memory;
mod publish;
mod raw_batch;
mod stacks;
mod start;
mod switching;

#[allow(dead_code, reason = "the tests take more of it")]
#[path = "../registry/distribution.rs"]
mod distribution;
#[path = "../support/engines.rs"]
mod engines;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/netns.rs"]
mod netns;
#[path = "../private_bus/mod.rs"]
mod private_bus;
#[path = "../support/saved_image.rs"]
mod saved_image;
#[path = "../support/solo5_image.rs"]
mod solo5_image;
#[path = "../support/stand_in_process.rs"]
mod stand_in_process;

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    build_stand_in();
    let parts: [(&str, fn()); 11] = [
        ("publish", publish::run),
        ("stacks", stacks::run),
        ("deploy", deploy::run),
        ("start", start::run),
        ("memory", memory::run),
        ("leases", leases::run),
        ("switching", switching::run),
        ("counting", counting::run),
        ("deaths", deaths::run),
        ("idle", idle::run),
        ("images", images::run),
    ];
    for (name, run) in parts.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name)) {
        println!(
            "
{name}"
        );
        run();
    }
    if figures::any_over() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// `cargo bench` builds no examples, and the stand-in is one: into the same profile's folder, where the test's own
/// file is.
fn build_stand_in() {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().and_then(Path::parent).unwrap();
    let (target, profile) = (folder.parent().unwrap(), folder.file_name().unwrap().to_str().unwrap());
    if folder.join("examples/albatrossd-stand-in").exists() {
        return;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--profile", profile, "--example", "albatrossd-stand-in", "--target-dir"]).arg(target);
    // What cargo says to this file of its package: build scripts that look at it would run anew each time.
    let told = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("CARGO_")));
    for (name, _) in told {
        build.env_remove(name);
    }
    assert!(build.status().unwrap().success(), "the stand-in for Albatross cannot be built");
}
