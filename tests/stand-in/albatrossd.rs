//! A stand-in for albatrossd, its console daemon and its tender: behaves on the sockets and on the host's network as the real ones
//! do, with small processes in place of virtual machines. For tests and demos; see `options.rs` for its command line, `control.rs`
//! for how to make it misbehave, and `guest_options.rs` for what its unikernels obey.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test tool that talks to its terminal"
)]
#![allow(missing_debug_implementations)]

mod accounts;
mod command;
mod config;
mod console;
mod control;
mod daemon;
mod der;
mod elf;
mod guest;
mod guest_http;
mod guest_mail;
mod guest_options;
mod image_file;
mod info;
mod name;
mod network;
mod options;
#[path = "../support/pattern.rs"]
mod pattern;
mod policy;
mod resources;
mod serve;
#[path = "../support/solo5_image.rs"]
mod solo5_image;
mod time;
mod unikernel;
mod unikernel_commands;
mod wire;

use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let outcome = match arguments.peek().and_then(|word| word.to_str()) {
        Some("guest") => guest::run(arguments.skip(1).map(|word| word.to_string_lossy().into_owned()).collect()),
        Some("image") => image_file::write(pico_args::Arguments::from_vec(arguments.skip(1).collect())),
        _ => Options::parse(pico_args::Arguments::from_vec(arguments.collect())).and_then(serve::run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n{}", options::USAGE);
            ExitCode::FAILURE
        }
    }
}

/// For whoever runs it, beside the sockets.
fn log(text: &str) {
    eprintln!("albatrossd-stand-in: {text}");
}
