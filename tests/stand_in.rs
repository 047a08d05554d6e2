//! The stand-in for albatrossd does what captured frames of the real one say, and what `wire.md` says beside them.
#![allow(missing_debug_implementations)]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![allow(dead_code, reason = "the stand-in's modules are whole here, not all of them used")]

#[path = "stand-in/command.rs"]
mod command;
#[path = "stand-in/config.rs"]
mod config;
#[path = "stand-in/der.rs"]
mod der;
#[path = "stand-in/elf.rs"]
mod elf;
#[path = "stand-in/guest_mail.rs"]
mod guest_mail;
#[path = "stand-in/guest_options.rs"]
mod guest_options;
#[path = "stand-in/info.rs"]
mod info;
#[path = "stand-in/name.rs"]
mod name;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
#[path = "stand-in/time.rs"]
mod time;
#[path = "stand-in/wire.rs"]
mod wire;

use command::{Command, ConsoleCommand, UnikernelCommand};
use config::{Arguments, Block, Bridge, Config, Dialect, FailBehaviour, Typ};
use name::Name;
use solo5_image::{Image, Target};
use stand_in_process::{Connection, StandIn, frame, http_get, udp_ask};
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wire::{Data, Payload, Success, Wire};

fn decode(frame: &[u8]) -> Wire {
    Wire::decode(&frame[4..], Dialect::V2_7).expect("a message")
}

fn arguments() -> Arguments {
    Arguments {
        fail_behaviour: FailBehaviour::Quit,
        startup: None,
        add_name: false,
        cpuids: BTreeSet::from([0]),
        memory: 32,
        blocks: Vec::new(),
        bridges: vec![Bridge { netif: "service0".into(), bridge: Some("br0".into()), mac: None }],
        arguments: None,
        cpus: Some(1),
        boot_partition: None,
    }
}

fn with(words: &[&str]) -> Arguments {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Arguments { arguments: Some(words), ..arguments() }
}

fn net_image() -> Vec<u8> {
    solo5_image::image(Target::Spt, "1", &["service0"], &[], 0)
}

fn command(name: &str, command: UnikernelCommand) -> Wire {
    let name = Name::parse(name).unwrap();
    Wire { sequence: [0; 8], name, payload: Payload::Command(Command::Unikernel(command)) }
}

fn create_with(name: &str, image: Vec<u8>, arguments: Arguments) -> Wire {
    let config = Config { typ: Typ::Solo5, compressed: false, image, arguments };
    command(name, UnikernelCommand::Create { dialect: Dialect::V2_7, force: false, config })
}

fn create(name: &str, arguments: Arguments) -> Wire {
    create_with(name, net_image(), arguments)
}

fn destroy(name: &str) -> Wire {
    command(name, UnikernelCommand::Destroy)
}

fn restart(name: &str, arguments: Option<Arguments>) -> Wire {
    command(name, UnikernelCommand::Restart(arguments.map(|arguments| (Dialect::V2_7, arguments))))
}

fn ask_info(name: &str) -> Wire {
    command(name, UnikernelCommand::Info(Dialect::V2_7))
}

fn console(name: &str, command: ConsoleCommand) -> Wire {
    let name = Name::parse(name).unwrap();
    Wire { sequence: [0; 8], name, payload: Payload::Command(Command::Console(command)) }
}

fn open(daemon: &StandIn, socket: &str, request: &Wire) -> Connection {
    Connection::raw(&daemon.socket(socket), &request.frame())
}

impl StandIn {
    /// The newest line on a console.
    fn last_line(&self, name: &str) -> String {
        let mut connection = open(self, "console.sock", &console(name, ConsoleCommand::Count(1)));
        connection.frame().expect("subscribed");
        match connection.frame().map(|frame| decode(&frame).payload) {
            Some(Payload::Data(Data::Console(_, line))) => String::from_utf8_lossy(&line).into_owned(),
            other => panic!("no line: {other:?}"),
        }
    }

    fn ask(&self, request: &Wire) -> Wire {
        decode(&self.exchange(&request.frame()).expect("an answer"))
    }

    /// The text of the answer, or of the failure.
    fn words(&self, request: &Wire) -> String {
        match self.ask(request).payload {
            Payload::Success(Success::Text(text)) | Payload::Failure(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    fn listed(&self, name: &str) -> Vec<(Name, info::Info)> {
        match self.ask(&ask_info(name)).payload {
            Payload::Success(Success::Infos(Dialect::V2_7, infos)) => infos,
            other => panic!("no infos: {other:?}"),
        }
    }

    fn assert_answers(&self, request: &Wire, captured: &str) {
        assert_eq!(self.ask(request), decode(&frame(&format!("{captured}.reply"))), "{captured}");
    }

    /// The captured request gets the captured reply, byte for byte.
    fn assert_replays(&self, captured: &str) {
        let reply = self.exchange(&frame(&format!("{captured}.request"))).expect("an answer");
        assert_eq!(reply, frame(&format!("{captured}.reply")), "{captured}");
    }

    fn wait_for(&self, what: &str, mut condition: impl FnMut(&serde_json::Value) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition(&self.dump()) {
            assert!(Instant::now() < end, "{what} did not come: {}", self.dump());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn started() -> StandIn {
    namespace::add_bridge("br0", "10.0.0.1/24");
    StandIn::start(&["--policy-cpus", "0,1", "--policy-memory", "24105"])
}

#[test]
fn every_captured_frame_is_decoded_and_encoded_to_the_same_bytes() {
    let mut count = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/frames")).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "bin") {
            let bytes = std::fs::read(&file).unwrap();
            assert_eq!(decode(&bytes).frame(), bytes, "{}", file.display());
            for end in 4..bytes.len() {
                assert!(Wire::decode(&bytes[4..end], Dialect::V2_7).is_err(), "{} cut at {end}", file.display());
            }
            let longer = [&bytes[4..], &[0]].concat();
            assert!(Wire::decode(&longer, Dialect::V2_7).is_err(), "{} with a byte more", file.display());
            count += 1;
        }
    }
    assert!(count > 100, "only {count} frames");
}

#[test]
fn older_daemons_do_not_know_newer_commands() {
    let newest = &create("a", arguments()).encode();
    assert!(Wire::decode(newest, Dialect::V2_7).is_ok());
    assert!(Wire::decode(newest, Dialect::V2_6).is_err());
    for dialect in [Dialect::V2_5, Dialect::V2_6] {
        let config = Config { typ: Typ::Solo5, compressed: false, image: vec![1], arguments: arguments() };
        let request = command("a", UnikernelCommand::Create { dialect, force: true, config }).encode();
        assert_eq!(Wire::decode(&request, dialect).map(|wire| wire.encode()), Ok(request));
    }
}

#[test]
fn images_have_the_notes_of_real_ones() {
    use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
    let image = solo5_image::image(Target::Hvt, "7", &["service", "other"], &["storage"], 100_000);
    assert_eq!(elf::target(&image), Ok(elf::Target::Hvt));
    let devices = elf::devices(&image).unwrap();
    assert_eq!(elf::devices_match(&devices, &["other", "service"], &["storage"]), Ok(()));
    assert!(elf::devices_match(&devices, &["service"], &["storage"]).is_err());
    let file = ElfFile64::<object::LittleEndian>::parse(&*image).unwrap();
    let header = file.elf_header();
    let mut notes = Vec::new();
    for segment in header.program_headers(object::LittleEndian, &*image).unwrap() {
        if let Some(mut found) = segment.notes(object::LittleEndian, &*image).unwrap() {
            while let Some(note) = found.next().unwrap() {
                notes.push((note.name().to_vec(), note.n_type(object::LittleEndian).0, note.desc().len()));
            }
        }
    }
    let solo5 = b"Solo5".to_vec();
    assert_eq!(notes, [(solo5.clone(), 0x3149_4241, 16), (solo5, 0x3154_464d, 12 + 4 * 104)]);
}

#[test]
fn a_command_line_is_split_as_the_guest_of_a_tender_splits_it() {
    let words = guest_options::split(r#" --a  '--b=c d' "e\"f" g\ h ''"#);
    assert_eq!(words, ["--a", "--b=c d", "e\"f", "g h", ""]);
}

#[test]
fn answers_are_those_that_were_captured() {
    if !namespace::enter("answers_are_those_that_were_captured") {
        return;
    }
    let daemon = started();
    for captured in [
        "info_root_empty",
        "info_named_missing",
        "destroy_missing",
        "restart_missing",
        "unknown_command",
        "wrong_socket_console_to_vmmd",
        "create_garbage",
        "create_tiny_minimal",
        "create_tiny_compressed",
        "create_tiny_full",
        "create_tiny_restart_any",
        "force_create_tiny",
        "policy_info_path",
        "policy_add",
        "policy_remove",
        "block_add",
        "block_info",
        "block_remove",
    ] {
        daemon.assert_replays(captured);
    }
    let reply = daemon.exchange_with("console.sock", &frame("console_inactive.request"));
    assert_eq!(reply, Some(frame("console_inactive.reply")));
    let reply = daemon.exchange_with("stat.sock", &frame("stats_subscribe.request"));
    assert_eq!(reply, Some(frame("stats_subscribe.reply")));
    let info = daemon.ask(&decode(&frame("info_seq42.request")));
    assert_eq!(info.sequence, 42_u64.to_be_bytes());

    let mut policies = daemon.ask(&decode(&frame("policy_info_root.request")));
    if let Payload::Success(Success::Policies(policies)) = &mut policies.payload {
        policies[0].1.block = Some(258_019);
    }
    assert_eq!(policies.frame(), frame("policy_info_root.reply"));
}

#[test]
fn creates_are_refused_in_the_real_ones_words() {
    if !namespace::enter("creates_are_refused_in_the_real_ones_words") {
        return;
    }
    namespace::add_bridge("br9", "10.9.0.1/24");
    let daemon = started();
    namespace::ip("link del br9");
    let on = |bridge: &str| {
        let bridges = vec![Bridge { netif: "service0".into(), bridge: Some(bridge.into()), mac: None }];
        Arguments { bridges, ..arguments() }
    };
    let hello = || solo5_image::image(Target::Spt, "1", &[], &[], 0);
    let plain = || Arguments { bridges: Vec::new(), ..arguments() };
    daemon.assert_answers(&create("net", arguments()), "create_success");
    daemon.assert_answers(&create("net", arguments()), "create_duplicate");
    let other_core = Arguments { cpuids: BTreeSet::from([0, 7]), ..plain() };
    daemon.assert_answers(&create_with("big", hello(), other_core), "create_cpu_not_allowed");
    daemon.assert_answers(&create_with("net2", net_image(), plain()), "create_manifest_mismatch");
    daemon.assert_answers(&create("net2", on("brnope")), "create_missing_bridge");
    daemon.assert_answers(&create("foo:net2", on("brnope")), "create_missing_bridge_nopolicy_path");
    daemon.assert_answers(&create("net5", on("br9")), "create_missing_interface");
    daemon.assert_answers(&create("foo:bar", arguments()), "create_in_path");
    let image = solo5_image::image(Target::Spt, "1", &[], &["storage"], 0);
    let block = Block { name: "storage".into(), device: Some("disk".into()), sector_size: None };
    let with_block = Arguments { blocks: vec![block], ..plain() };
    daemon.assert_answers(&create_with("blk", image.clone(), with_block.clone()), "create_missing_block");
    daemon.assert_replays("block_add");
    daemon.assert_answers(&create_with("blk", image, with_block), "create_with_block");
    let hvt = solo5_image::image(Target::Hvt, "1", &["service0"], &[], 0);
    daemon.assert_answers(&create_with("hvtnet", hvt, arguments()), "create_hvt");
    daemon.assert_answers(&destroy("hvtnet"), "destroy_hvt");
    for name in ["net", "foo:bar", "blk"] {
        assert_eq!(daemon.words(&destroy(name)), "destroyed unikernel");
    }
    let large = Arguments { memory: 99_999, ..plain() };
    daemon.assert_answers(&create_with("big", hello(), large), "create_too_much_memory");
    assert_eq!(daemon.control("console-down on"), "ok");
    daemon.assert_answers(&create("net5", arguments()), "create_console_down");
    assert!(!daemon.links().contains("vmmtap"), "{}", daemon.links());
}

#[test]
fn a_unikernel_lives_and_ends() {
    if !namespace::enter("a_unikernel_lives_and_ends") {
        return;
    }
    let daemon = started();
    let words = ["--ipv4=10.0.0.2/24", "--ipv4-gateway=10.0.0.1"];
    let (mut creating, mut answering, mut destroying) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(daemon.words(&create("net", with(&words))), "created unikernel");
        creating.push(start.elapsed());
        let body = http_get("10.0.0.2:80", "/");
        answering.push(start.elapsed());
        assert!(body.starts_with("version=1 address=10.0.0.2 client=10.0.0.1:"), "{body}");
        let start = Instant::now();
        assert_eq!(daemon.words(&destroy("net")), "destroyed unikernel");
        destroying.push(start.elapsed());
        assert!(!daemon.links().contains("vmmtap"), "{}", daemon.links());
    }
    for (what, mut times) in [("create", creating), ("create to HTTP", answering), ("destroy", destroying)] {
        times.sort();
        println!("{what}: median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    daemon.assert_answers(&destroy("net"), "destroy_again_after_destroy");
    assert_eq!(daemon.words(&destroy("net")), "destroy: not found");

    daemon.words(&create("net", with(&words)));
    let infos = daemon.listed(":net");
    let Payload::Success(Success::Infos(_, captured)) = decode(&frame("info_named.reply")).payload else { panic!() };
    assert_eq!((&infos[0].0, &infos[0].1.bridges), (&captured[0].0, &captured[0].1.bridges), "the MAC of service0:net");
    let udp = udp_ask("10.0.0.2:80");
    assert!(udp.starts_with("version=1 address=10.0.0.2 client=10.0.0.1:"), "{udp}");
    daemon.assert_answers(&restart("net", None), "restart");
    daemon.assert_answers(&restart("net", Some(with(&["--ipv4=10.0.0.3/24"]))), "restart_args");
    assert!(http_get("10.0.0.3:80", "/").contains("address=10.0.0.3"));
    let many = Instant::now();
    (0..1000).for_each(|_| drop(http_get("10.0.0.3:80", "/")));
    println!("1000 connections one after the other: {:?}", many.elapsed());
    assert!(http_get("10.0.0.3:80", "/download?bytes=100000&rate=1000000").len() == 100_000);
    let large = Image::new(Target::Spt, "2").net(&["service0"]).padding(8 << 20).build();
    let force = match create_with("net", large, with(&["--ipv4=10.0.0.3/24"])).payload {
        Payload::Command(Command::Unikernel(UnikernelCommand::Create { dialect, config, .. })) => {
            command("net", UnikernelCommand::Create { dialect, force: true, config })
        }
        _ => panic!(),
    };
    daemon.assert_answers(&force, "force_create");
    assert!(http_get("10.0.0.3:80", "/").starts_with("version=2 "));
    daemon.words(&create("foo:bar", arguments()));
    let names = |path| daemon.listed(path).into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (names(":"), names("foo:"), names("foo:bar")),
        (vec![":net".into(), "foo:bar".into()], vec![":bar".into()], vec!["foo:bar".into()])
    );
    assert_eq!(daemon.words(&destroy("net")), "destroyed unikernel");
    assert_eq!(daemon.words(&restart("net", None)), "destroyed: removed from restarting");
    daemon.assert_replays("restart_missing");
}

#[test]
fn it_restarts_as_the_exit_code_says() {
    if !namespace::enter("it_restarts_as_the_exit_code_says") {
        return;
    }
    let daemon = started();
    let any = FailBehaviour::Restart(BTreeSet::new());
    let restarts = |name: &str| daemon.dump()["restarts"][name].as_u64().unwrap_or(0);
    for (name, words, behaviour, expected) in [
        ("quit", "--exit=2", FailBehaviour::Quit, false),
        ("loop", "--exit=2", any.clone(), true),
        ("one", "--exit=1", any.clone(), false),
        ("sixty", "--exit=60", any.clone(), false),
        ("other", "--exit=7", FailBehaviour::Restart(BTreeSet::from([9])), false),
        ("listed", "--exit=9", FailBehaviour::Restart(BTreeSet::from([9])), true),
    ] {
        let arguments = Arguments { fail_behaviour: behaviour, ..with(&[words]) };
        assert_eq!(daemon.words(&create(name, arguments)), "created unikernel");
        let name = format!(":{name}");
        match expected {
            true => daemon.wait_for(&format!("a restart of {name}"), |_| restarts(&name) > 0),
            false => std::thread::sleep(Duration::from_millis(200)),
        }
        assert_eq!(restarts(&name) > 0, expected, "{name} with {words}");
        let gone = daemon.words(&destroy(&name));
        assert_eq!(gone.starts_with("destroyed"), expected, "{name}: {gone}");
    }
    let signalled = Arguments { fail_behaviour: any, ..arguments() };
    daemon.words(&create("signal", signalled));
    assert_eq!(daemon.control("kill signal"), "ok");
    daemon.wait_for("the end of a killed one", |dump| dump["unikernels"].as_array().unwrap().is_empty());

    let named = Arguments { add_name: true, ..arguments() };
    let knows_no_name = Image::new(Target::Spt, "1").net(&["service0"]).without_name_option().build();
    daemon.words(&create_with("named", knows_no_name, named.clone()));
    daemon.wait_for("a start without --name", |dump| dump["unikernels"][0]["add_name"] == false);
    daemon.words(&create("knows", named));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(restarts(":knows"), 0);
}

#[test]
fn consoles_keep_and_deliver_lines() {
    if !namespace::enter("consoles_keep_and_deliver_lines") {
        return;
    }
    let daemon = started();
    let subscribe = |count| open(&daemon, "console.sock", &console(":c", ConsoleCommand::Count(count)));
    let line = |connection: &mut Connection| match decode(&connection.frame().expect("a line")).payload {
        Payload::Data(Data::Console(_, line)) => String::from_utf8_lossy(&line).into_owned(),
        other => panic!("no line: {other:?}"),
    };
    let text = |connection: &mut Connection| match decode(&connection.frame().expect("an answer")).payload {
        Payload::Success(Success::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    };
    let mut early = subscribe(5);
    assert_eq!(text(&mut early), "waiting for VM");
    let long = "A".repeat(2000);
    let words = [&format!("--print={long}")[..], "--print=last", "--print-invalid", "--exit=0"];
    daemon.words(&create("c", with(&words)));
    assert_eq!(line(&mut early), "            |      ___|");
    let ended = vec![Name::parse(":c").unwrap()];
    let inactive = || {
        let answer = daemon.exchange_with("console.sock", &console(":", ConsoleCommand::ListInactive).frame());
        decode(&answer.expect("an answer")).payload
    };
    daemon.wait_for("the end of its console", |_| inactive() == Payload::Success(Success::Consoles(ended.clone())));
    drop(early); // one that does not read would stop what comes
    let mut late = subscribe(4);
    assert_eq!(text(&mut late), "subscribed");
    assert_eq!(line(&mut late), format!("{} [truncated]", "A".repeat(512)));
    assert_eq!(line(&mut late), "last");
    let odd = late.frame().unwrap();
    assert!(odd.ends_with(b"caf\xc3\xa9 \xff\xfe\0bin"));
    assert_eq!(line(&mut late), "Solo5: solo5_exit(0) called");
    // The end of its console can be known before that of its process: until then there is no second one of its name.
    daemon.wait_for("its end", |dump| dump["unikernels"].as_array().is_some_and(Vec::is_empty));
    daemon.words(&create("c", with(&["--print-rate=0"])));
    drop(late);
    let mut fast = subscribe(1);
    assert_eq!(text(&mut fast), "subscribed");
    (0..2000).for_each(|_| drop(line(&mut fast)));
    // `fast` reads no more: the unikernel stands still before long.
    let last = || daemon.last_line("c");
    let end = Instant::now() + Duration::from_secs(60);
    while last() != {
        std::thread::sleep(Duration::from_millis(100));
        last()
    } {
        assert!(Instant::now() < end, "a subscriber that does not read stops nothing");
    }
    drop(fast);
    daemon.words(&destroy("c"));
}

#[test]
fn the_list_outlives_the_daemon() {
    if !namespace::enter("the_list_outlives_the_daemon") {
        return;
    }
    let mut daemon = started();
    daemon.words(&create("net", with(&["--ipv4=10.0.0.2/24"])));
    daemon.words(&create("gone", arguments()));
    daemon.words(&destroy("gone"));
    let before = daemon.dump();
    daemon.terminate();
    assert!(!daemon.links().contains("vmmtap"), "its unikernels ended: {}", daemon.links());
    daemon.again();
    let after = daemon.dump();
    assert_eq!(before["unikernels"][0]["mac"], after["unikernels"][0]["mac"]);
    assert_ne!(before["unikernels"][0]["pid"], after["unikernels"][0]["pid"]);
    assert_eq!(after["unikernels"].as_array().unwrap().len(), 1);
    assert!(http_get("10.0.0.2:80", "/").contains("version=1"));
    assert_eq!(daemon.control("restart-self 20"), "ok");
    let pid = after["unikernels"][0]["pid"].clone();
    daemon.wait_for("the restart", |dump| dump["unikernels"][0]["pid"].is_u64() && dump["unikernels"][0]["pid"] != pid);
    daemon.kill();
    daemon.again();
    let taps = daemon.links().matches("vmmtap").count();
    assert!(taps >= 2, "the orphan keeps its tap beside the new one: {}", daemon.links());
    daemon.kill_orphans();
}

#[test]
fn it_hangs_and_misbehaves_when_told() {
    if !namespace::enter("it_hangs_and_misbehaves_when_told") {
        return;
    }
    let daemon = started();
    daemon.words(&create("stuck", with(&["--stuck", "--print=on"])));
    daemon.wait_for("its signal handler", |_| daemon.last_line("stuck").contains("listening"));
    let mut first = open(&daemon, "vmmd.sock", &destroy("stuck"));
    first.set_timeout(Duration::from_millis(300));
    assert_eq!(first.frame(), None, "a stuck unikernel makes the call hang");
    assert_eq!(daemon.listed(":").len(), 1, "while others go on");
    let mut second = open(&daemon, "vmmd.sock", &destroy("stuck"));
    daemon.wait_for("the second destroy", |dump| dump["commands"]["destroy"] == 2);
    daemon.control("kill stuck");
    assert!(second.frame().is_some(), "the second is answered");
    assert_eq!(first.frame(), None, "the first never");

    let ask = || daemon.exchange(&ask_info(":").frame());
    let good = ask();
    for (command, expected) in [("close-without-answer", Some(0)), ("close-mid-frame", None), ("garbage", Some(12))] {
        daemon.control(command);
        let bytes = daemon.raw(&ask_info(":").frame());
        assert!(expected.is_none_or(|length| bytes.len() == length), "{command}: {bytes:?}");
        assert_ne!(Some(bytes), good, "{command}");
        assert_eq!(ask(), good, "{command} ends by itself");
    }
    daemon.control("refuse create 1 out of luck today");
    assert_eq!(daemon.words(&create("a", arguments())), "out of luck today");
    assert_eq!(daemon.words(&create("a", arguments())), "created unikernel");
    daemon.control("hide a");
    assert_eq!(daemon.listed(":").len(), 0);
    daemon.control("show a");
    daemon.control("lose a");
    daemon.wait_for("its loss", |dump| dump["unikernels"].as_array().unwrap().is_empty());
    assert_eq!(daemon.control("foreign theirs br0"), "ok");
    assert_eq!(daemon.listed(":").len(), 1);
    daemon.control("delay 100 info");
    let start = Instant::now();
    ask();
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(daemon.control("nonsense").starts_with("error"));
    assert_eq!(daemon.raw(b"\0\0\0\x03abc"), b"", "what cannot be decoded is not answered");
    let mut partial = Connection::raw(&daemon.socket("vmmd.sock"), &ask_info(":").frame()[..10]);
    partial.set_timeout(Duration::from_millis(200));
    assert_eq!(partial.frame(), None);
}

#[test]
fn it_refuses_connections_until_it_listens() {
    if !namespace::enter("it_refuses_connections_until_it_listens") {
        return;
    }
    let daemon = started();
    daemon.words(&create("late", with(&["--ipv4=10.0.0.2/24", "--listen-after=500"])));
    let refused = loop {
        match TcpStream::connect("10.0.0.2:80") {
            Err(error) if error.kind() == std::io::ErrorKind::HostUnreachable => {}
            other => break other.err().map(|error| error.kind()),
        }
    };
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
    assert!(http_get("10.0.0.2:80", "/").contains("version=1"));
}
