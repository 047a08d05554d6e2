//! Runs a test again in a network namespace of its own: as root directly, otherwise as root of a user namespace.
#![allow(dead_code, reason = "each test takes of this module what it needs")]
#![allow(clippy::print_stdout, reason = "the reason of a skipped test is for whoever runs it")]

use std::process::Command;

const INSIDE: &str = "ALBATROSS_DEPLOYER_TEST_INSIDE";

/// True inside. Outside, runs the test of this name inside, fails if it fails, and returns false.
pub fn enter(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let flags = if rustix::process::geteuid().is_root() { "-n" } else { "-Urn" };
    if !Command::new("unshare").args([flags, "true"]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: {test}: no network namespace can be made here (unshare {flags})");
        return false;
    }
    let inside = Command::new("unshare")
        .arg(flags)
        .arg(std::env::current_exe().expect("the test's own file"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs");
    let output = String::from_utf8_lossy(&inside.stdout) + String::from_utf8_lossy(&inside.stderr);
    println!("{output}");
    assert!(inside.status.success(), "{test} failed in its namespace:\n{output}");
    assert!(output.contains("1 passed"), "{test} did not run in its namespace:\n{output}");
    false
}

/// `ip` with these words, which must succeed.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A bridge with an address, e.g. `br0` and `10.0.0.1/24`.
pub fn add_bridge(name: &str, address: &str) {
    ip(&format!("link add {name} type bridge"));
    ip(&format!("addr add {address} dev {name}"));
    ip(&format!("link set {name} up"));
}
