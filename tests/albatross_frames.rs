//! Frames captured on the sockets of a real Albatross (`frames/INDEX.md`): each is read, and written again the same.

// Clippy knows tests by their attribute and does not see what helps them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use albatross_deployer::albatross::wire::{
    Argv, Block, BlockCommand, Bridge, Command, Config, ConsoleCommand, Data, Dialect, FailBehaviour, Image, Info,
    Message, Name, Payload, Policy, PolicyCommand, Run, StatisticsCommand, Success, Text, Typ, UnikernelCommand,
};
use albatross_deployer::domain::Timestamp;

/// All frames by their file names, the length in front checked and taken off.
fn frames() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frames");
    let mut frames = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            let bytes = std::fs::read(&path).unwrap();
            let (length, body) = bytes.split_at(4);
            assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, body.len(), "{}", path.display());
            frames.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), body.to_vec());
        }
    }
    frames
}

fn encoded(message: &Message) -> Vec<u8> {
    let frame = message.encode().unwrap();
    assert_eq!((frame.image_length, frame.tail.len()), (0, 0));
    frame.head[4..].to_vec()
}

fn request(name: &str, command: Command) -> Message {
    Message { sequence: 0, name: name.parse().unwrap(), payload: Payload::Command(command) }
}

fn unikernel(name: &str, command: UnikernelCommand) -> Message {
    request(name, Command::Unikernel(command))
}

fn info(name: &str) -> Message {
    unikernel(name, UnikernelCommand::Info(Dialect::V2_7))
}

fn console(name: &str, command: ConsoleCommand) -> Message {
    request(name, Command::Console(command))
}

fn plain_run() -> Run {
    Run {
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpuids: BTreeSet::from([0]),
        memory: 32,
        blocks: BTreeSet::new(),
        bridges: BTreeSet::new(),
        arguments: None,
        cpus: Some(1),
        linux_boot_partition: None,
    }
}

fn plain_config() -> Config {
    Config { typ: Typ::Solo5, compressed: false, image: Image::Bytes(b"not-an-elf-image".to_vec()), run: plain_run() }
}

/// The create that uses every optional part.
fn full_config() -> Config {
    let block = |name: &str, device: Option<&str>, sector_size| Block {
        name: name.into(),
        device: device.map(Text::from),
        sector_size,
    };
    let bridge =
        |netif: &str, bridge: Option<&str>, mac| Bridge { netif: netif.into(), bridge: bridge.map(Text::from), mac };
    let run = Run {
        startup: Some(0),
        add_name: false,
        fail_behaviour: FailBehaviour::Restart(BTreeSet::from([255, 2])),
        cpuids: BTreeSet::from([1, 0]),
        memory: 128,
        blocks: BTreeSet::from([block("storage", Some("disk"), Some(4096)), block("data", None, None)]),
        bridges: BTreeSet::from([
            bridge("service0", Some("br0"), Some([2, 0, 0, 0, 0, 0x42])),
            bridge("br1", None, None),
        ]),
        arguments: Some(argv(&["--ipv4=10.0.0.2/24", "-l", "*:debug"])),
        cpus: Some(2),
        linux_boot_partition: Some("hd0".into()),
    };
    Config { run, ..plain_config() }
}

fn argv(arguments: &[&str]) -> Argv {
    Argv(arguments.iter().copied().map(Text::from).collect())
}

fn create(name: &str, config: Config) -> Message {
    unikernel(name, UnikernelCommand::Create { dialect: Dialect::V2_7, force: false, config: Box::new(config) })
}

fn restart_with_arguments() -> Message {
    let bridge = Bridge { netif: "service0".into(), bridge: Some("br0".into()), mac: None };
    let run = Run {
        add_name: false,
        memory: 48,
        bridges: BTreeSet::from([bridge]),
        arguments: Some(argv(&["verbose"])),
        ..plain_run()
    };
    unikernel(":net", UnikernelCommand::Restart(Some((Dialect::V2_7, Box::new(run)))))
}

fn creates(frames: &BTreeMap<String, Vec<u8>>) -> Vec<(&'static str, Message)> {
    let compressed = b"\x78\xda\xcb\xcb/\xd1M\xcc\xd3M\xcdI\xd3\xcd\xccMLO\x05\x001\xf6\x05\xe2";
    let compressed = Config { compressed: true, image: Image::Bytes(compressed.to_vec()), ..plain_config() };
    let any = Run { fail_behaviour: FailBehaviour::Restart(BTreeSet::new()), ..plain_run() };
    // 3000 random bytes, which only the frame itself knows.
    let garbage = Image::Bytes(frames["create_garbage.request"][54..3054].to_vec());
    let force = UnikernelCommand::Create { dialect: Dialect::V2_7, force: true, config: Box::new(plain_config()) };
    vec![
        ("create_garbage", create(":hello", Config { image: garbage, ..plain_config() })),
        ("create_tiny_compressed", create(":a", compressed)),
        ("create_tiny_full", create("foo:b", full_config())),
        ("create_tiny_minimal", create(":a", plain_config())),
        ("create_tiny_restart_any", create(":a", Config { run: any, ..plain_config() })),
        ("force_create_tiny", unikernel(":a", force)),
    ]
}

/// What each captured request says, put together from values.
fn described(frames: &BTreeMap<String, Vec<u8>>) -> BTreeMap<&'static str, Message> {
    let policy = Policy { cpuids: vec![0], unikernels: 2, memory: 128, block: None, bridges: vec!["br0".into()] };
    let count = ConsoleCommand::SubscribeCount;
    let restart = UnikernelCommand::Restart(None);
    let mut described = BTreeMap::from([
        ("block_add", request(":disk", Command::Block(BlockCommand::Add(1)))),
        ("block_info", request(":", Command::Block(BlockCommand::Info))),
        ("block_remove", request(":disk", Command::Block(BlockCommand::Remove))),
        ("console_inactive", console(":", ConsoleCommand::ListInactive)),
        ("console_inactive_two", console(":", ConsoleCommand::ListInactive)),
        ("console_live", console(":tick", count(1))),
        ("console_odd", console(":net", count(3))),
        ("console_subscribe_count", console(":net", count(20))),
        ("console_subscribe_exited", console(":hello", count(4))),
        ("console_subscribe_since", console(":net", ConsoleCommand::SubscribeSince(Timestamp(1_577_836_800_000_000)))),
        ("console_subscribe_waiting", console(":nope", count(5))),
        ("destroy_again_after_destroy", unikernel(":net", UnikernelCommand::Destroy)),
        ("destroy_bootloop", unikernel(":loop", UnikernelCommand::Destroy)),
        ("destroy_existing", unikernel(":net", UnikernelCommand::Destroy)),
        ("destroy_hvt", unikernel(":hvtnet", UnikernelCommand::Destroy)),
        ("destroy_missing", unikernel(":nope", UnikernelCommand::Destroy)),
        ("destroy_restarting", unikernel(":net3", UnikernelCommand::Destroy)),
        ("info_named", info(":net")),
        ("info_named_missing", info(":nope")),
        ("info_named_nested", info("foo:bar")),
        ("info_path", info("foo:")),
        ("info_root_empty", info(":")),
        ("info_root_nested", info(":")),
        ("info_running", info(":")),
        ("info_seq42", Message { sequence: 42, ..info(":") }),
        ("info_two_running", info(":")),
        ("policy_add", request("foo:", Command::Policy(PolicyCommand::Add(policy)))),
        ("policy_info_path", request("foo:", Command::Policy(PolicyCommand::Info))),
        ("policy_info_root", request(":", Command::Policy(PolicyCommand::Info))),
        ("policy_info_two", request(":", Command::Policy(PolicyCommand::Info))),
        ("policy_remove", request("foo:", Command::Policy(PolicyCommand::Remove))),
        ("restart", unikernel(":net", restart.clone())),
        ("restart_after_destroy", unikernel(":net3", restart.clone())),
        ("restart_args", restart_with_arguments()),
        ("restart_missing", unikernel(":nope", restart)),
        ("stats_subscribe", request(":net", Command::Statistics(StatisticsCommand::Subscribe))),
        ("unikernel_get", unikernel(":net", UnikernelCommand::Get(0))),
        (
            "unknown_command",
            Message { sequence: 0, name: ":".parse().unwrap(), payload: Payload::Success(Success::Text("hi".into())) },
        ),
        ("wrong_socket_console_to_vmmd", console(":net", count(5))),
    ]);
    described.extend(creates(frames));
    described
}

#[test]
fn every_frame_is_read_and_written_again_the_same() {
    let frames = frames();
    assert_eq!(frames.len(), 147, "a frame was added or lost: see to it that it is covered here");
    for (file, bytes) in &frames {
        let message = Message::decode(bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(&encoded(&message), bytes, "{file}: {message:?}");
    }
}

#[test]
fn every_captured_request_is_written_from_its_description() {
    let frames = frames();
    let described = described(&frames);
    let captured: BTreeSet<_> = frames.keys().filter_map(|file| file.strip_suffix(".request")).collect();
    let known: BTreeSet<_> = described.keys().copied().collect();
    assert_eq!(known, captured, "every request has its description, and no other has");
    for (file, message) in &described {
        let bytes = &frames[&format!("{file}.request")];
        assert_eq!(&encoded(message), bytes, "{file}");
        assert_eq!(&Message::decode(bytes).unwrap(), message, "{file}");
    }
}

#[test]
fn a_create_whose_image_comes_from_elsewhere_has_the_same_bytes_around_it() {
    let frames = frames();
    for file in ["create_garbage", "create_tiny_full", "create_tiny_minimal"] {
        let bytes = &frames[&format!("{file}.request")];
        let mut message = Message::decode(bytes).unwrap();
        let Payload::Command(Command::Unikernel(UnikernelCommand::Create { config, .. })) = &mut message.payload else {
            panic!("{file} is no create");
        };
        let length = match &config.image {
            Image::Bytes(image) => image.len() as u64,
            Image::Elsewhere(length) => *length,
        };
        let Image::Bytes(image) = std::mem::replace(&mut config.image, Image::Elsewhere(length)) else {
            panic!("{file} was read without its image");
        };
        let frame = message.encode().unwrap();
        assert_eq!(frame.image_length, length);
        assert_eq!([&frame.head[4..], &image, &frame.tail].concat(), *bytes, "{file}");
        assert_eq!(frame.head[..4], u32::try_from(bytes.len()).unwrap().to_be_bytes());
    }
}

fn answer(frames: &BTreeMap<String, Vec<u8>>, file: &str) -> Payload {
    Message::decode(&frames[&format!("{file}.reply")]).unwrap().payload
}

fn infos(frames: &BTreeMap<String, Vec<u8>>, file: &str) -> Vec<(Name, Info)> {
    match answer(frames, file) {
        Payload::Success(Success::Info(Dialect::V2_7, infos)) => infos,
        other => panic!("{file}: {other:?}"),
    }
}

#[test]
fn what_the_answers_say_is_understood() {
    let frames = frames();
    let two = infos(&frames, "info_two_running");
    assert_eq!(two.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), [":net3", ":net"]);
    let (_, net3) = &two[0];
    assert_eq!((net3.startup, net3.memory, &net3.cpuids), (Some(10), 64, &BTreeSet::from([1])));
    assert_eq!(net3.fail_behaviour, FailBehaviour::Restart(BTreeSet::from([7, 9])));
    assert_eq!(net3.bridges.first().unwrap().mac, [2, 0, 0, 0, 0, 0x42]);
    assert_eq!(net3.arguments, Some(argv(&["verbose"])));
    assert_eq!(two[1].1.started, Some(Timestamp(1_795_359_288_132_000)));
    assert_eq!(two[1].1.digest[..4], [0xff, 0x06, 0x46, 0x08]);

    assert_eq!(infos(&frames, "info_path")[0].0.to_string(), ":bar");
    assert_eq!(infos(&frames, "info_named_nested")[0].0.to_string(), "foo:bar");
    assert_eq!(infos(&frames, "info_named_missing"), []);
    assert_eq!(answer(&frames, "destroy_missing"), Payload::Failure("destroy: not found".into()));

    let Payload::Success(Success::Policies(policies)) = answer(&frames, "policy_info_root") else { panic!() };
    assert_eq!(policies[0].1.unikernels, 4_611_686_018_427_387_903);
    assert_eq!(policies[0].1.block, Some(258_019));
}

#[test]
fn a_console_line_that_is_not_utf8_survives() {
    let message = Message::decode(&frames()["console_odd.reply.4"]).unwrap();
    let Payload::Data(Data::Console { line, .. }) = message.payload else { panic!("{message:?}") };
    assert_eq!(line.0, b"caf\xc3\xa9 \xff\xfe\0bin");
}

#[test]
fn a_frame_cut_short_or_changed_is_refused_or_read_and_never_panics() {
    for bytes in frames().into_values().filter(|bytes| bytes.len() < 600) {
        for length in 0..bytes.len() {
            assert!(Message::decode(&bytes[..length]).is_err(), "a cut frame was read");
        }
        assert!(Message::decode(&[&bytes[..], &[0]].concat()).is_err(), "a frame with a byte more was read");
        for at in 0..bytes.len() {
            for mask in [0x01, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                let _ = Message::decode(&changed);
            }
        }
    }
}
