//! Manifests of any kind: none makes it panic, and what was written comes back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::domain::{AddressChoice, Arguments, BlockDevice, Configuration};

/// What the head says for all members, or a member for itself.
#[derive(Debug, Clone)]
struct Options {
    network: Option<String>,
    memory: Option<u64>,
    cpu: Option<u32>,
    args: Option<Vec<String>>,
    exclude: Option<Vec<[u8; 4]>>,
    /// The power of two of its sector size.
    block_device: Option<(String, u32)>,
    exit_codes: Option<Vec<i32>>,
    /// The port of a readiness rule.
    ready: Option<u16>,
    timeout: Option<u64>,
}

#[derive(Debug, Clone)]
struct Member {
    options: Options,
    ports: BTreeMap<u16, u16>,
    staged: BTreeMap<u16, u16>,
    drain: Option<u64>,
    /// Minutes.
    watch: Option<u64>,
}

prop_compose! {
    fn options()(
        (network, memory, cpu) in (of("[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}"), of(1..=1024u64), of(any::<u32>())),
        args in of(vec("[^\0]{0,12}", 0..4)),
        exclude in of(vec(any::<[u8; 4]>(), 0..4)),
        block_device in of(("[!-~]{1,8}", 9..20u32)),
        // Albatross never starts again what exits with 1, or with 60 to 64.
        exit_codes in of(vec(prop_oneof![2..=59i32, 65..=255i32], 1..5)),
        (ready, timeout) in (of(1..=u16::MAX), of(1..=3_600_000u64)),
    ) -> Options {
        Options { network, memory, cpu, args, exclude, block_device, exit_codes, ready, timeout }
    }
}

fn ports() -> impl Strategy<Value = BTreeMap<u16, u16>> {
    btree_map(1..=u16::MAX, 1..=u16::MAX, 0..3)
}

prop_compose! {
    fn member()(
        (options, ports, staged) in (options(), ports(), ports()),
        (drain, watch) in (of(0..=86_400_000u64), of(1..=1440u64)),
    ) -> Member {
        let drain = drain.filter(|_| !ports.is_empty() || !staged.is_empty());
        Member { options, ports, staged, drain, watch }
    }
}

/// A text in TOML, with every character that could be taken for something else by its number.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | 'ä' | '{' | '}' | '=' | '.' | ':' | '/' => character.to_string(),
        other => format!("\\U{:08x}", u32::from(other)),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn list<T>(entries: impl IntoIterator<Item = T>, written: impl Fn(T) -> String) -> String {
    format!("[{}]", entries.into_iter().map(written).collect::<Vec<_>>().join(", "))
}

/// The line of a key, where it has a value.
fn line(key: &str, value: Option<impl ToString>) -> String {
    value.map(|value| format!("{key} = {}\n", value.to_string())).unwrap_or_default()
}

fn dotted([a, b, c, d]: [u8; 4]) -> String {
    format!("{a}.{b}.{c}.{d}")
}

impl Options {
    fn lines(&self) -> String {
        let device = |(name, power): &(String, u32)| format!("[[{0}, {0}, {1}]]", quoted(name), 1 << power);
        [
            line("network", self.network.as_deref().map(quoted)),
            line("memory", self.memory),
            line("cpu", self.cpu),
            line("args", self.args.as_ref().map(|args| list(args, |text| quoted(text)))),
            line("exclude", self.exclude.as_ref().map(|them| list(them, |address| quoted(&dotted(*address))))),
            line("block-devices", self.block_device.as_ref().map(device)),
            line("restart-exit-codes", self.exit_codes.as_ref().map(|codes| list(codes, i32::to_string))),
            line("ready", self.ready.map(|port| quoted(&format!("tcp:{port}")))),
            line("timeout", self.timeout),
        ]
        .concat()
    }

    /// With what `defaults` say where these do not.
    fn over(self, defaults: &Self) -> Self {
        let defaults = defaults.clone();
        Self {
            network: self.network.or(defaults.network),
            memory: self.memory.or(defaults.memory),
            cpu: self.cpu.or(defaults.cpu),
            args: self.args.or(defaults.args),
            exclude: self.exclude.or(defaults.exclude),
            block_device: self.block_device.or(defaults.block_device),
            exit_codes: self.exit_codes.or(defaults.exit_codes),
            ready: self.ready.or(defaults.ready),
            timeout: self.timeout.or(defaults.timeout),
        }
    }

    fn configuration(self) -> Configuration {
        let device =
            |(name, power): (String, u32)| BlockDevice { device: name.clone(), name, sector_size: Some(1 << power) };
        let exclude = self.exclude.unwrap_or_default().into_iter();
        let codes = self.exit_codes.unwrap_or_default().into_iter().collect::<BTreeSet<_>>();
        Configuration {
            network: self.network.map(|name| name.parse().unwrap()),
            memory: self.memory.unwrap_or(32),
            cpu: self.cpu,
            arguments: Arguments(self.args.unwrap_or_default()),
            address: AddressChoice::default(),
            exclude: exclude.map(|address| dotted(address).parse().unwrap()).collect(),
            block_devices: self.block_device.into_iter().map(device).collect(),
            restart: RestartPolicy::OnFailure(codes.into_iter().collect()),
            readiness: self.ready.map_or(Readiness::Running, |port| Readiness::Tcp { port }),
            timeout: Duration::from_millis(self.timeout.unwrap_or(30_000)),
            check: None,
        }
    }
}

impl Member {
    fn lines(&self) -> String {
        let ports = |ports: &BTreeMap<u16, u16>| list(ports, |(host, unikernel)| format!("\"{host}:{unikernel}/udp\""));
        [
            line("image", Some("\"/a\"")),
            line("ports", Some(ports(&self.ports))),
            line("staged", Some(ports(&self.staged))),
            line("drain", self.drain),
            line("watch", self.watch.map(|minutes| format!("\"{minutes}m\""))),
            self.options.lines(),
        ]
        .concat()
    }

    fn plan(self, head: &Options) -> MemberPlan {
        let mappings = |ports: BTreeMap<u16, u16>| {
            let mapping = |(host, unikernel)| PortMapping { protocol: PortProtocol::Udp, host, unikernel };
            ports.into_iter().map(mapping).collect()
        };
        MemberPlan {
            image: "/a".parse().unwrap(),
            image_options: crate::domain::ImageOptions::default(),
            configuration: self.options.over(head).configuration(),
            ports: mappings(self.ports),
            staged: mappings(self.staged),
            addresses: BTreeSet::new(),
            sources: Vec::new(),
            drain: self.drain.map(Duration::from_millis),
            watch: self.watch.map(|minutes| Duration::from_secs(minutes * 60)),
        }
    }
}

/// Pieces of a manifest in any order: more of it is read than of any characters.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("stack = \"s\"\n".to_owned()),
        Just("[service.a]\n".to_owned()),
        Just("image = \"/a\"\n".to_owned()),
        ("[a-z-]{1,8}|args|block-devices|restart-exit-codes|ports|service", "[\\[\\]{}\",=a-z0-9.:/\\\\ä\n-]{0,12}")
            .prop_map(|(key, value)| format!("{key} = {value}\n")),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), pieces()]) {
        if let Err(refused) = manifest(&text) {
            prop_assert!(refused.to_string().starts_with("line "), "{}", refused);
        }
    }

    #[test]
    fn what_was_written_comes_back(head in options(), members in vec(member(), 1..5)) {
        let tables = members.iter().enumerate().map(|(number, member)| format!("[service.m{number}]\n{}", member.lines()));
        let text = format!("{}stack = \"s\"\n{}", head.lines(), tables.collect::<String>());
        let read = manifest(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let expected = members.into_iter().map(|member| member.plan(&head)).collect::<Vec<_>>();
        prop_assert_eq!(read.members.into_values().collect::<Vec<_>>(), expected);
    }
}
