//! What must hold of every message: it is read as it was written, and bytes from outside never panic.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::domain::Timestamp;

// The greater generators are boxed: nested by value they do not fit a test's stack.

fn text() -> impl Strategy<Value = Text> {
    vec(any::<u8>(), 0..20).prop_map(Text)
}

fn name() -> impl Strategy<Value = Name> {
    let label = "[a-z0-9.][a-z0-9.-]{0,62}";
    (vec(label, 0..3), of(label)).prop_map(|(path, label)| {
        let path: Path = path.join(":").parse().unwrap();
        Name { path, label: label.map(|label| label.parse().unwrap()) }
    })
}

/// Whole milliseconds of the years 0 to 9999: Albatross says no more.
fn time() -> impl Strategy<Value = Timestamp> {
    (-62_167_219_200_000_i64..=253_402_300_799_999).prop_map(|milliseconds| Timestamp(milliseconds * 1_000))
}

fn dialect() -> impl Strategy<Value = Dialect> {
    prop::sample::select(Dialect::NEWEST_FIRST.to_vec())
}

fn typ() -> impl Strategy<Value = Typ> {
    prop::sample::select(vec![Typ::Solo5, Typ::BHyve])
}

fn fail_behaviour() -> impl Strategy<Value = FailBehaviour> {
    prop_oneof![Just(FailBehaviour::Quit), btree_set(any::<i64>(), 0..4).prop_map(FailBehaviour::Restart)]
}

fn argv() -> impl Strategy<Value = Option<Argv>> {
    of(vec(text(), 0..4).prop_map(Argv))
}

fn cpuids(dialect: Dialect) -> impl Strategy<Value = BTreeSet<i64>> {
    if dialect == Dialect::V2_7 { btree_set(any::<i64>(), 0..4) } else { btree_set(any::<i64>(), 1..=1) }
}

prop_compose! {
    fn block()(name in text(), device in of(text()), sector_size in of(any::<i64>())) -> Block {
        Block { name, device, sector_size }
    }
}

prop_compose! {
    fn bridge()(netif in text(), bridge in of(text()), mac in of(any::<[u8; 6]>())) -> Bridge {
        Bridge { netif, bridge, mac }
    }
}

/// What `dialect` can say, with what it leaves out as it is read.
fn run(dialect: Dialect) -> BoxedStrategy<Run> {
    let start = (of(any::<i64>()), any::<bool>(), fail_behaviour());
    let resources = (cpuids(dialect), any::<i64>(), btree_set(block(), 0..3), btree_set(bridge(), 0..3), argv());
    let machine = (of(any::<i64>()), of(text()));
    (start, resources, machine)
        .prop_map(move |(start, resources, machine)| {
            let (cpuids, memory, blocks, bridges, arguments) = resources;
            let (startup, add_name) = if dialect == Dialect::Before2_6 { (None, true) } else { (start.0, start.1) };
            let (cpus, linux_boot_partition) = if dialect == Dialect::V2_7 { machine } else { (None, None) };
            Run {
                startup,
                add_name,
                fail_behaviour: start.2,
                cpuids,
                memory,
                blocks,
                bridges,
                arguments,
                cpus,
                linux_boot_partition,
            }
        })
        .boxed()
}

fn config(dialect: Dialect) -> BoxedStrategy<Config> {
    (typ(), any::<bool>(), vec(any::<u8>(), 0..300), run(dialect))
        .prop_map(|(typ, compressed, image, run)| Config { typ, compressed, image: Image::Bytes(image), run })
        .boxed()
}

fn info(dialect: Dialect) -> BoxedStrategy<Info> {
    let block = (text(), text(), any::<i64>(), any::<i64>()).prop_map(|(unikernel, host, sector_size, size)| {
        BlockInfo { unikernel_device: unikernel, host_device: host, sector_size, size }
    });
    let bridge = (text(), text(), any::<[u8; 6]>()).prop_map(|(unikernel, host, mac)| BridgeInfo {
        unikernel_device: unikernel,
        host_device: host,
        mac,
    });
    let rest = (typ(), any::<[u8; 32]>(), btree_set(block, 0..3), btree_set(bridge, 0..3), of(time()));
    (run(dialect), rest)
        .prop_map(|(run, (typ, digest, blocks, bridges, started))| Info {
            typ,
            startup: run.startup,
            fail_behaviour: run.fail_behaviour,
            cpuids: run.cpuids,
            memory: run.memory,
            digest,
            blocks,
            bridges,
            arguments: run.arguments,
            started,
            cpus: run.cpus,
            linux_boot_partition: run.linux_boot_partition,
        })
        .boxed()
}

prop_compose! {
    fn policy()(
        cpuids in vec(any::<i64>(), 0..4),
        unikernels in any::<i64>(),
        memory in any::<i64>(),
        block in of(any::<i64>()),
        bridges in vec(text(), 0..3),
    ) -> Policy {
        Policy { cpuids, unikernels, memory, block, bridges }
    }
}

fn unikernel_command() -> BoxedStrategy<UnikernelCommand> {
    let create = dialect().prop_flat_map(|dialect| {
        (any::<bool>(), config(dialect)).prop_map(move |(force, config)| UnikernelCommand::Create {
            dialect,
            force,
            config: Box::new(config),
        })
    });
    let restart = dialect().prop_flat_map(|dialect| run(dialect).prop_map(move |run| (dialect, Box::new(run))));
    prop_oneof![
        Just(UnikernelCommand::Destroy),
        create,
        any::<i64>().prop_map(UnikernelCommand::Get),
        of(restart).prop_map(UnikernelCommand::Restart),
        dialect().prop_map(UnikernelCommand::Info),
    ]
    .boxed()
}

fn block_command() -> BoxedStrategy<BlockCommand> {
    let data = || vec(any::<u8>(), 0..40);
    prop_oneof![
        Just(BlockCommand::Info),
        any::<i64>().prop_map(BlockCommand::Add),
        Just(BlockCommand::Remove),
        (any::<i64>(), any::<bool>(), of(data())).prop_map(|(size, compressed, data)| BlockCommand::AddOld {
            size,
            compressed,
            data
        }),
        (any::<bool>(), data()).prop_map(|(compressed, data)| BlockCommand::SetOld { compressed, data }),
        any::<i64>().prop_map(BlockCommand::DumpOld),
        any::<i64>().prop_map(BlockCommand::Dump),
        any::<bool>().prop_map(BlockCommand::Set),
    ]
    .boxed()
}

fn command() -> BoxedStrategy<Command> {
    let console = prop_oneof![
        any::<i64>().prop_map(ConsoleCommand::Add),
        time().prop_map(ConsoleCommand::SubscribeSince),
        any::<i64>().prop_map(ConsoleCommand::SubscribeCount),
        Just(ConsoleCommand::ListInactive),
    ];
    let statistics = prop_oneof![
        (text(), any::<i64>(), vec((text(), text()), 0..3))
            .prop_map(|(vmm_device, pid, network)| { StatisticsCommand::Add { vmm_device, pid, network } }),
        Just(StatisticsCommand::Remove),
        Just(StatisticsCommand::Subscribe),
        Just(StatisticsCommand::Initial),
    ];
    let policy =
        prop_oneof![Just(PolicyCommand::Info), policy().prop_map(PolicyCommand::Add), Just(PolicyCommand::Remove)];
    prop_oneof![
        console.prop_map(Command::Console),
        statistics.prop_map(Command::Statistics),
        unikernel_command().prop_map(Command::Unikernel),
        policy.prop_map(Command::Policy),
        block_command().prop_map(Command::Block),
    ]
    .boxed()
}

fn success() -> BoxedStrategy<Success> {
    let image = || (any::<bool>(), vec(any::<u8>(), 0..40));
    let device =
        (name(), any::<i64>(), any::<bool>()).prop_map(|(name, size, active)| BlockDeviceInfo { name, size, active });
    let infos = dialect().prop_flat_map(|dialect| {
        vec((name(), info(dialect)), 0..3).prop_map(move |infos| Success::Info(dialect, infos))
    });
    prop_oneof![
        Just(Success::Empty),
        text().prop_map(Success::Text),
        vec((name(), policy()), 0..3).prop_map(Success::Policies),
        vec(device, 0..3).prop_map(Success::BlockDevices),
        image().prop_map(|(compressed, image)| Success::UnikernelImage { compressed, image }),
        image().prop_map(|(compressed, image)| Success::OldBlockImage { compressed, image }),
        any::<bool>().prop_map(Success::BlockImage),
        vec(name(), 0..3).prop_map(Success::Consoles),
        infos,
    ]
    .boxed()
}

fn time_value() -> impl Strategy<Value = TimeValue> {
    any::<(i64, i64)>().prop_map(|(seconds, microseconds)| TimeValue { seconds, microseconds })
}

fn statistics() -> BoxedStrategy<Statistics> {
    let usage = (time_value(), time_value(), any::<[i64; 14]>()).prop_map(|(user, system, counters)| Usage {
        user,
        system,
        counters,
    });
    let interface = (text(), any::<[i64; 5]>(), any::<[i64; 12]>()).prop_map(|(bridge, numbers, counters)| Interface {
        bridge,
        numbers,
        counters,
    });
    let memory = (any::<[i64; 6]>(), any::<i64>(), time_value())
        .prop_map(|(counters, copied_on_write, start)| Memory { counters, copied_on_write, start });
    (usage, vec(interface, 0..3), of(vec((text(), any::<i64>()), 0..3)), of(memory))
        .prop_map(|(usage, interfaces, hypervisor, memory)| Statistics { usage, interfaces, hypervisor, memory })
        .boxed()
}

fn payload() -> BoxedStrategy<Payload> {
    let data = prop_oneof![
        statistics().prop_map(|statistics| Data::Statistics(Box::new(statistics))),
        (time(), text()).prop_map(|(at, line)| Data::Console { at, line }),
        of(vec(any::<u8>(), 0..40)).prop_map(Data::Block),
    ];
    prop_oneof![
        3 => command().prop_map(Payload::Command),
        2 => success().prop_map(Payload::Success),
        1 => text().prop_map(Payload::Failure),
        1 => data.prop_map(Payload::Data),
    ]
    .boxed()
}

fn message() -> impl Strategy<Value = Message> {
    (any::<u64>(), name(), payload()).prop_map(|(sequence, name, payload)| Message { sequence, name, payload })
}

fn bytes(message: &Message) -> Vec<u8> {
    message.encode().unwrap().head.split_off(4)
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(message in message()) {
        let frame = message.encode().unwrap();
        prop_assert_eq!(frame.head.len() - 4, u32::from_be_bytes(frame.head[..4].try_into().unwrap()) as usize);
        prop_assert_eq!(Message::decode(&frame.head[4..]), Ok(message));
    }

    #[test]
    fn what_is_read_of_changed_bytes_stays_the_same_when_written(message in message(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = bytes(&message);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // Most changes are refused. Read, but written otherwise, are only sets that are out of order or have a member
        // twice, empty ones, and times that write out a fraction of nothing: it must settle after one turn.
        if let Ok(changed) = Message::decode(&bytes) && let Ok(frame) = changed.encode() {
            prop_assert_eq!(Message::decode(&frame.head[4..]), Ok(changed));
        }
    }

    #[test]
    fn a_part_of_a_message_is_refused(message in message(), at in any::<prop::sample::Index>()) {
        let bytes = bytes(&message);
        prop_assert!(Message::decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn what_a_dialect_has_no_words_for_is_refused() {
    let run = Run {
        startup: None,
        add_name: false,
        fail_behaviour: FailBehaviour::Quit,
        cpuids: BTreeSet::from([0]),
        memory: 32,
        blocks: BTreeSet::new(),
        bridges: BTreeSet::new(),
        arguments: None,
        cpus: Some(1),
        linux_boot_partition: None,
    };
    let said = |dialect, run: &Run| {
        let command = UnikernelCommand::Restart(Some((dialect, Box::new(run.clone()))));
        let payload = Payload::Command(Command::Unikernel(command));
        Message { sequence: 0, name: ":a".parse().unwrap(), payload }.encode().is_ok()
    };
    for dialect in Dialect::NEWEST_FIRST {
        assert!(said(dialect, &run), "{dialect}");
        let newest = dialect == Dialect::V2_7;
        assert_eq!(said(dialect, &Run { cpuids: BTreeSet::from([0, 1]), ..run.clone() }), newest);
        assert_eq!(said(dialect, &Run { cpus: Some(2), ..run.clone() }), newest);
        assert_eq!(said(dialect, &Run { linux_boot_partition: Some("hd0".into()), ..run.clone() }), newest);
        assert_eq!(said(dialect, &Run { startup: Some(1), ..run.clone() }), dialect != Dialect::Before2_6);
    }
}
