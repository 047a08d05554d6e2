//! Manifests of any kind: none makes it panic, and what was written comes back.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::domain::{Arguments, Configuration};

/// A member as a person would write it.
#[derive(Debug, Clone)]
struct Written {
    memory: Option<u64>,
    cpu: Option<u32>,
    timeout: Option<u64>,
    args: Option<Vec<String>>,
    restart: Option<Vec<i32>>,
    ready: Option<u16>,
    ports: Vec<(u16, u16)>,
    drain: Option<u64>,
    /// Minutes.
    watch: Option<u64>,
}

prop_compose! {
    fn written()(
        (memory, cpu, timeout) in (of(1..=1024u64), of(any::<u32>()), of(1..=3_600_000u64)),
        args in of(vec("[^\0]{0,12}", 0..4)),
        restart in of(vec(0..=255i32, 1..5)),
        ready in of(1..=u16::MAX),
        ports in proptest::collection::btree_map(1..=u16::MAX, 1..=u16::MAX, 0..4),
        drain in of(0..=86_400_000u64),
        watch in of(1..=1440u64),
    ) -> Written {
        let ports = ports.into_iter().collect::<Vec<_>>();
        let drain = drain.filter(|_| !ports.is_empty());
        Written { memory, cpu, timeout, args, restart, ready, ports, drain, watch }
    }
}

/// A text in TOML, with every character that could be taken for something else by its number.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | 'ä' | '{' | '}' | '=' => character.to_string(),
        other => format!("\\U{:08x}", u32::from(other)),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn list<T>(entries: &[T], text: impl Fn(&T) -> String) -> String {
    format!("[{}]", entries.iter().map(text).collect::<Vec<_>>().join(", "))
}

impl Written {
    fn options(&self) -> String {
        let mut lines = String::new();
        let mut line = |key: &str, value: Option<String>| {
            value.map(|value| writeln!(lines, "{key} = {value}")).transpose().unwrap();
        };
        line("memory", self.memory.map(|memory| memory.to_string()));
        line("cpu", self.cpu.map(|cpu| cpu.to_string()));
        line("timeout", self.timeout.map(|timeout| timeout.to_string()));
        line("args", self.args.as_ref().map(|args| list(args, |text| quoted(text))));
        line("restart-exit-codes", self.restart.as_ref().map(|codes| list(codes, i32::to_string)));
        line("ready", self.ready.map(|port| format!("\"tcp:{port}\"")));
        lines
    }

    fn member(&self) -> String {
        let ports = list(&self.ports, |(host, unikernel)| format!("\"{host}:{unikernel}/udp\""));
        let mut lines = self.options() + &format!("image = \"/a\"\nports = {ports}\n");
        if let Some(drain) = self.drain {
            writeln!(lines, "drain = {drain}").unwrap();
        }
        self.watch.map(|minutes| writeln!(lines, "watch = \"{minutes}m\"")).transpose().unwrap();
        lines
    }

    fn plan(&self, defaults: &Self) -> MemberPlan {
        let codes = self.restart.clone().or_else(|| defaults.restart.clone()).unwrap_or_default();
        let codes = codes.into_iter().collect::<std::collections::BTreeSet<_>>();
        let ready = self.ready.or(defaults.ready);
        MemberPlan {
            image: "/a".parse().unwrap(),
            configuration: Configuration {
                network: None,
                memory: self.memory.or(defaults.memory).unwrap_or(32),
                cpu: self.cpu.or(defaults.cpu),
                arguments: Arguments(self.args.clone().or_else(|| defaults.args.clone()).unwrap_or_default()),
                address: Default::default(),
                exclude: Vec::new(),
                block_devices: Vec::new(),
                restart: RestartPolicy::OnFailure(codes.into_iter().collect()),
                readiness: ready.map_or(Readiness::Running, |port| Readiness::Tcp { port }),
                timeout: Duration::from_millis(self.timeout.or(defaults.timeout).unwrap_or(30_000)),
            },
            ports: self
                .ports
                .iter()
                .map(|&(host, unikernel)| PortMapping { protocol: PortProtocol::Udp, host, unikernel })
                .collect(),
            staged: Vec::new(),
            addresses: Default::default(),
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
    fn what_was_written_comes_back(head in written(), members in vec(written(), 1..5)) {
        let tables = members.iter().enumerate().map(|(number, member)| {
            format!("[service.m{number}]\n{}", member.member())
        });
        let text = format!("{}stack = \"s\"\n{}", head.options(), tables.collect::<String>());
        let read = manifest(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let expected = members.iter().map(|member| member.plan(&head)).collect::<Vec<_>>();
        prop_assert_eq!(read.members.into_values().collect::<Vec<_>>(), expected);
    }
}
