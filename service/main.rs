//! The executable: signals first, then flags and configuration, then it serves until it is told to stop.

mod executable;

use std::process::ExitCode;

use albatross_deployer::images;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|flag| flag == images::worker::FLAG) {
        return images::worker::run();
    }
    executable::run()
}
