//! What the options of Deploy mean, wherever they are written: in a call, or in a stack's manifest.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

use super::options::Known;
use super::refusal::{Refusal, about, each};
use super::{
    InvalidArgument, MAX_ITEMS, Options, address, at_most, exclusion, milliseconds, not_empty, own_words, prefix,
    shortened,
};
use crate::domain::{AddressChoice, Arguments, BlockDevice, Check, Configuration, Exclusion, Readiness, RestartPolicy};

pub(super) const KNOWN: &[Known] = &[
    ("network", "s"),
    ("memory", "t"),
    ("cpu", "u"),
    ("args", "as"),
    ("prefix", "s"),
    ("exclude", "as"),
    ("address", "s"),
    ("block-devices", "a(ssu)"),
    ("restart", "s"),
    ("restart-exit-codes", "ai"),
    ("ready", "s"),
    ("timeout", "t"),
    ("check", "t"),
    ("check-failures", "u"),
];

const DEFAULT_MEMORY: u64 = 32;
/// 1 TiB in MiB.
pub(super) const MAX_MEMORY: u64 = 1 << 20;
pub(super) const MAX_ARGUMENTS: usize = 1024;
/// Bytes of all arguments together. The tenders' own limit is lower; this one keeps a mistake out of the ledger.
pub(super) const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
const MAX_BLOCK_DEVICES: usize = 64;
const DEFAULT_TIMEOUT: u64 = 30_000;
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Milliseconds between two checks. A shorter time asks a unikernel for little else.
const MIN_CHECK: u64 = 100;
const MAX_CHECK: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_CHECK_FAILURES: u32 = 3;
const MAX_CHECK_FAILURES: u32 = 1000;

/// The options as they are written, `None` where they are not. No `Debug`: the arguments can hold secrets.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct DeployOptions {
    network: Option<String>,
    memory: Option<u64>,
    cpu: Option<u32>,
    args: Option<Vec<String>>,
    prefix: Option<String>,
    exclude: Option<Vec<String>>,
    address: Option<String>,
    block_devices: Option<Vec<(String, String, u32)>>,
    restart: Option<String>,
    restart_exit_codes: Option<Vec<i32>>,
    ready: Option<String>,
    timeout: Option<u64>,
    check: Option<u64>,
    check_failures: Option<u32>,
}

impl DeployOptions {
    /// Those of a call.
    pub(super) fn take(options: &mut Options) -> Result<Self, InvalidArgument> {
        Ok(Self {
            network: options.take("network")?,
            memory: options.take("memory")?,
            cpu: options.take("cpu")?,
            args: options.take("args")?,
            prefix: options.take("prefix")?,
            exclude: options.take("exclude")?,
            address: options.take("address")?,
            block_devices: options.take("block-devices")?,
            restart: options.take("restart")?,
            restart_exit_codes: options.take("restart-exit-codes")?,
            ready: options.take("ready")?,
            timeout: options.take("timeout")?,
            check: options.take("check")?,
            check_failures: options.take("check-failures")?,
        })
    }

    /// What they ask for, with the defaults of the contract where nothing is written.
    pub(super) fn configuration(self) -> Result<Configuration, Refusal> {
        let configuration = self.default_configuration()?;
        if configuration.check.is_some() && !configuration.readiness.is_repeatable() {
            let reason = "check goes with ready tcp:PORT or http:PORT/PATH only: of others nothing can be asked again; 0 is \
                 none";
            return about("check", Err(InvalidArgument::new(reason)));
        }
        Ok(configuration)
    }

    /// The same of options that stand for several: what of each is valid only with another one is not checked.
    pub(super) fn default_configuration(self) -> Result<Configuration, Refusal> {
        let timeout = milliseconds("timeout", self.timeout.unwrap_or(DEFAULT_TIMEOUT), 1, MAX_TIMEOUT);
        Ok(Configuration {
            network: about("network", self.network.map(|text| own_words(&text)).transpose())?,
            memory: about("memory", memory(self.memory.unwrap_or(DEFAULT_MEMORY)))?,
            cpu: self.cpu,
            arguments: about("args", arguments(self.args.unwrap_or_default()))?,
            address: address_choice(self.prefix.as_deref(), self.address.as_deref())?,
            exclude: exclude(self.exclude.unwrap_or_default())?,
            block_devices: block_devices(self.block_devices.unwrap_or_default())?,
            restart: restart(self.restart.as_deref(), self.restart_exit_codes)?,
            readiness: about("ready", self.ready.map_or(Ok(Readiness::default()), |text| own_words(&text)))?,
            timeout: about("timeout", timeout)?,
            check: check(self.check, self.check_failures)?,
        })
    }
}

fn check(interval: Option<u64>, failures: Option<u32>) -> Result<Option<Check>, Refusal> {
    const FAILURES: &str = "check-failures";
    let Some(interval) = interval.filter(|&interval| interval != 0) else {
        let alone =
            failures.map(|_| Err(InvalidArgument::new("check-failures goes with check, the time between checks")));
        return about(FAILURES, alone.unwrap_or(Ok(None)));
    };
    let interval = about("check", milliseconds("check", interval, MIN_CHECK, MAX_CHECK))?;
    let failures = failures.unwrap_or(DEFAULT_CHECK_FAILURES);
    let in_bounds = NonZeroU32::new(failures).filter(|failures| failures.get() <= MAX_CHECK_FAILURES);
    let refused = || InvalidArgument(format!("{FAILURES} is {failures}: it can be 1 to {MAX_CHECK_FAILURES}"));
    Ok(Some(Check { interval, failures: about(FAILURES, in_bounds.ok_or_else(refused))? }))
}

fn memory(memory: u64) -> Result<u64, InvalidArgument> {
    if (1..=MAX_MEMORY).contains(&memory) {
        return Ok(memory);
    }
    Err(InvalidArgument(format!("memory is {memory} MiB: it can be 1 to {MAX_MEMORY}")))
}

fn arguments(arguments: Vec<String>) -> Result<Arguments, InvalidArgument> {
    at_most("args", arguments.len(), MAX_ARGUMENTS)?;
    let bytes = arguments.iter().map(String::len).sum::<usize>();
    if bytes > MAX_ARGUMENT_BYTES {
        // Never with the arguments themselves: they can hold secrets.
        return Err(InvalidArgument(format!("args are {bytes} bytes together: at most {MAX_ARGUMENT_BYTES} can be")));
    }
    Ok(Arguments(arguments))
}

fn address_choice(prefix_text: Option<&str>, address_text: Option<&str>) -> Result<AddressChoice, Refusal> {
    let prefix = about("prefix", prefix_text.map(|text| prefix("prefix", text)).transpose())?;
    let address = about("address", address_text.map(|text| address("address", text)).transpose())?;
    if let (Some(prefix), Some(address)) = (prefix, address)
        && !prefix.contains(&address)
    {
        return about("address", Err(InvalidArgument(format!("address {address} is not in prefix {prefix}"))));
    }
    Ok(AddressChoice { prefix, address })
}

fn exclude(texts: Vec<String>) -> Result<Vec<Exclusion>, Refusal> {
    about("exclude", at_most("exclude", texts.len(), MAX_ITEMS))?;
    each("exclude", texts, |text| exclusion("exclude", &text))
}

fn block_devices(devices: Vec<(String, String, u32)>) -> Result<Vec<BlockDevice>, Refusal> {
    about("block-devices", at_most("block-devices", devices.len(), MAX_BLOCK_DEVICES))?;
    let mut names = BTreeSet::new();
    each("block-devices", devices, |(name, device, sector_size)| {
        if !is_word(&name) || !is_word(&device) {
            let (name, device) = (shortened(&name), shortened(&device));
            return Err(InvalidArgument(format!("block-devices: ({name:?}, {device:?}) does not name two devices")));
        }
        if !names.insert(name.clone()) {
            return Err(InvalidArgument(format!("block-devices names {name:?} twice")));
        }
        let sector_size = sector_size_of(&name, sector_size)?;
        Ok(BlockDevice { name, device, sector_size })
    })
}

fn sector_size_of(name: &str, bytes: u32) -> Result<Option<u32>, InvalidArgument> {
    match bytes {
        0 => Ok(None),
        512.. if bytes.is_power_of_two() => Ok(Some(bytes)),
        _ => Err(InvalidArgument(format!(
            "block-devices: sector size {bytes} of {name:?} is not a power of two from 512 on (0: 512)"
        ))),
    }
}

fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn restart(policy: Option<&str>, codes: Option<Vec<i32>>) -> Result<RestartPolicy, Refusal> {
    match (policy, codes) {
        (None | Some("on-failure"), codes) => exit_codes(codes).map(RestartPolicy::OnFailure),
        (Some("never"), None) => Ok(RestartPolicy::Never),
        (Some("never"), Some(_)) => {
            let reason = InvalidArgument::new("restart-exit-codes goes with restart on-failure only");
            about("restart-exit-codes", Err(reason))
        }
        (Some(other), _) => {
            let other = shortened(other);
            about("restart", Err(InvalidArgument(format!("restart {other:?} is neither never nor on-failure"))))
        }
    }
}

fn exit_codes(codes: Option<Vec<i32>>) -> Result<Vec<i32>, Refusal> {
    const OPTION: &str = "restart-exit-codes";
    let Some(codes) = codes else { return Ok(Vec::new()) };
    let instead = "leave it out for all exit codes, or say restart never for none";
    about(OPTION, not_empty(OPTION, &codes, instead))?;
    about(OPTION, at_most(OPTION, codes.len(), MAX_ITEMS))?;
    // A set: the order that somebody wrote them in must not make another unikernel of it.
    let codes: BTreeSet<i32> = each(OPTION, codes, |code| match code {
        1 | 60..=64 => Err(InvalidArgument(format!(
            "{OPTION}: Albatross never starts again what exits with {code}: the tender's own errors are 1, and 60 to 64 tell \
             Albatross why a unikernel could not begin"
        ))),
        0..=255 => Ok(code),
        _ => Err(InvalidArgument(format!("{OPTION}: {code} is no exit code, those are 0 to 255"))),
    })?;
    Ok(codes.into_iter().collect())
}
