//! The command line, and the root policy that follows from it and from the host.

use crate::config::Dialect;
use crate::info::Policy;
use crate::network::Link;
use std::collections::BTreeSet;
use std::path::PathBuf;

pub const USAGE: &str = "\
usage: albatrossd-stand-in --directory DIR [--bridge NAME ...] [--policy-cpus 0,1] [--policy-memory MB]
                           [--dialect 2.7|2.6|2.5] [--backlog 1]
       albatrossd-stand-in image --version 1 [--target spt|hvt] [--net service] [--block storage] [--size BYTES]
                           [--argument --exit=3] [--no-name-option] OUTPUT";

/// How the daemon runs.
#[derive(Debug, Clone)]
pub struct Options {
    pub directory: PathBuf,
    /// What the root policy allows; none given: those that exist when it starts.
    pub bridges: Vec<String>,
    pub policy_cpus: Option<BTreeSet<i64>>,
    pub policy_memory: Option<i64>,
    pub dialect: Dialect,
    pub backlog: i32,
}

impl Options {
    pub fn parse(mut arguments: pico_args::Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let cpus = |text: &str| text.split(',').map(str::parse).collect::<Result<BTreeSet<i64>, _>>();
        let options = Self {
            directory: arguments.value_from_str("--directory")?,
            bridges: arguments.values_from_str("--bridge")?,
            policy_cpus: arguments.opt_value_from_fn("--policy-cpus", cpus)?,
            policy_memory: arguments.opt_value_from_str("--policy-memory")?,
            dialect: arguments.opt_value_from_fn("--dialect", dialect)?.unwrap_or(Dialect::V2_7),
            backlog: arguments.opt_value_from_str("--backlog")?.unwrap_or(1),
        };
        match arguments.finish() {
            unknown if unknown.is_empty() => Ok(options),
            unknown => Err(format!("unknown arguments: {unknown:?}").into()),
        }
    }

    /// What the host has: every core, its memory, its bridges.
    pub fn root_policy(&self, links: Vec<Link>) -> std::io::Result<Policy> {
        let there = links.into_iter().filter(|link| link.is_bridge).map(|link| link.name);
        let bridges = if self.bridges.is_empty() { there.collect() } else { self.bridges.iter().cloned().collect() };
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as i64);
        let disk = rustix::fs::statvfs(&self.directory)?;
        Ok(Policy {
            cpuids: self.policy_cpus.clone().unwrap_or_else(|| (0..cores).collect()),
            unikernels: i64::MAX >> 1, // OCaml's largest integer
            memory: self.policy_memory.unwrap_or_else(memory),
            // All of the disk, not what is free of it.
            block: Some(((disk.f_blocks * disk.f_frsize) >> 20) as i64),
            bridges,
        })
    }
}

fn dialect(text: &str) -> Result<Dialect, String> {
    match text {
        "2.5" => Ok(Dialect::V2_5),
        "2.6" => Ok(Dialect::V2_6),
        "2.7" => Ok(Dialect::V2_7),
        other => Err(format!("no dialect {other}; there are 2.5, 2.6 and 2.7")),
    }
}

/// The host's memory in MB.
fn memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kilobytes.unwrap_or(1 << 20) / 1024
}
