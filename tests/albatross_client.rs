//! The client against stand-ins for Albatross's daemons that behave, misbehave and die.

// Clippy knows tests by their attribute and does not see what helps them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod albatross_stand_in;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use albatross_deployer::albatross::wire::{
    Command, ConsoleCommand, Data, Dialect, Info, Message, Name, Payload, Policy, PolicyCommand, Success, Text,
    UnikernelCommand,
};
use albatross_deployer::albatross::{Client, ConsoleHistory, Created, Creation, Error, Running, Settings};
use albatross_deployer::domain::{
    Arguments, ImageDigest, MacAddress, NetworkDevice, RestartPolicy, Timestamp, UnikernelId,
};

use albatross_stand_in::{Act, StandIn, World, done, info, refused};

const DEADLINE: Duration = Duration::from_secs(1);

/// What a busy machine may take on top of a deadline.
const ROOM: Duration = Duration::from_secs(8);

fn client(stand_in: &StandIn) -> Client {
    client_at(stand_in, "")
}

fn client_at(stand_in: &StandIn, path: &str) -> Client {
    patient_client(stand_in, path, DEADLINE)
}

fn patient_client(stand_in: &StandIn, path: &str, deadline: Duration) -> Client {
    let directory = stand_in.directory().to_owned();
    Client::new(Settings { directory, path: path.into(), deadline }).unwrap()
}

fn id(text: &str) -> UnikernelId {
    text.parse().unwrap()
}

fn web() -> UnikernelId {
    id("web.0123456789")
}

/// Creates it, and asks whether it runs.
async fn create(
    client: &Client,
    id: &UnikernelId,
    creation: &Creation,
    image: File,
    length: u64,
) -> Result<Option<Running>, Error> {
    match client.create(id, creation, image, length).await? {
        Created::Running(running) => Ok(Some(running)),
        Created::Accepted => client.unikernel(id).await,
    }
}

fn creation() -> Creation {
    Creation {
        digest: ImageDigest([7; 32]),
        arguments: Arguments(vec!["--password=secret".into()]),
        memory: 32,
        cpu: 1,
        network: "br0".parse().unwrap(),
        device: NetworkDevice("service".into()),
        block_devices: vec![],
        restart: RestartPolicy::Never,
    }
}

fn image(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    // The client reads from the start, wherever the file's position is.
    file.seek(std::io::SeekFrom::Start(3)).unwrap();
    file
}

fn is_info(message: &Message) -> bool {
    matches!(message.payload, Payload::Command(Command::Unikernel(UnikernelCommand::Info(_))))
}

fn is_create(message: &Message) -> bool {
    matches!(message.payload, Payload::Command(Command::Unikernel(UnikernelCommand::Create { .. })))
}

fn is_destroy(message: &Message) -> bool {
    matches!(message.payload, Payload::Command(Command::Unikernel(UnikernelCommand::Destroy)))
}

fn is_restart(message: &Message) -> bool {
    matches!(message.payload, Payload::Command(Command::Unikernel(UnikernelCommand::Restart(None))))
}

#[tokio::test]
async fn what_runs_is_told_in_the_words_of_the_service() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    stand_in.world().run(":web.0123456789", info(5));
    stand_in.world().run("foo:other", info(6));
    let client = client(&stand_in);
    assert_eq!(client.understood(), None);

    let running = client.inventory().await.unwrap();
    assert_eq!(running.iter().map(|running| running.name.as_str()).collect::<Vec<_>>(), ["web.0123456789"]);
    assert_eq!(running[0].id(), Some(web()));
    assert_eq!(running[0].digest, ImageDigest([7; 32]));
    assert_eq!(running[0].mac, Some(MacAddress([0, 0x80, 0x41, 1, 2, 3])));
    assert_eq!(running[0].bridges, ["br0".parse().unwrap()]);
    assert_eq!((running[0].memory, &running[0].cpuids, running[0].started), (32, &vec![1], Some(Timestamp(5_000))));
    assert!(!format!("{running:?}").contains("secret"), "{running:?}");

    assert_eq!(client.unikernel(&web()).await.unwrap().as_ref(), Some(&running[0]));
    assert_eq!(client.unikernel(&id("db.0123456789")).await.unwrap(), None);
    assert_eq!(client.understood().unwrap().to_string(), "wire 5, commands of 2.7");
}

#[tokio::test]
async fn on_a_path_names_come_relative_and_only_those_directly_there_count() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    for name in [":web.0123456789", "foo:web.0123456789", "foo:sub:deep", "foo:by-hand"] {
        stand_in.world().run(name, info(1));
    }
    let client = client_at(&stand_in, "foo");
    let names: Vec<_> = client.inventory().await.unwrap().into_iter().map(|running| running.name).collect();
    assert_eq!(names, ["by-hand", "web.0123456789"]);
    assert_eq!(client.inventory().await.unwrap()[0].id(), None, "by-hand is not of the service's making");

    client.destroy(&web()).await.unwrap();
    assert_eq!(stand_in.world().names(), [":web.0123456789", "foo:by-hand", "foo:sub:deep"]);
}

#[tokio::test]
async fn a_create_sends_the_whole_image_and_says_what_runs() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    let bytes: Vec<u8> = (0..700_001_u32).map(|index| (index % 253) as u8).collect();
    let running = create(&client(&stand_in), &web(), &creation(), image(&bytes), bytes.len() as u64).await.unwrap();
    assert_eq!(running.unwrap().name, "web.0123456789");
    let world = stand_in.world();
    assert_eq!(world.images, [bytes]);
    let config = &world.configs[0];
    assert!(!config.run.add_name && !config.compressed);
    assert_eq!(config.run.arguments.as_ref().unwrap().0, [Text::from("--password=secret")]);
    assert_eq!(config.run.bridges.first().unwrap().bridge, Some("br0".into()));
}

#[tokio::test]
async fn a_create_that_exits_at_once_has_succeeded_and_is_gone() {
    let stand_in = StandIn::start(
        |message, world| if is_create(message) { done("created unikernel") } else { world.act(message) },
    );
    assert_eq!(create(&client(&stand_in), &web(), &creation(), image(b"ELF"), 3).await.unwrap(), None);
}

#[tokio::test]
async fn albatross_says_why_not_in_its_own_words() {
    let words = "bridges br0 not allowed by policy";
    let stand_in =
        StandIn::start(move |message, world| if is_create(message) { refused(words) } else { world.act(message) });
    let error = create(&client(&stand_in), &web(), &creation(), image(b"ELF"), 3).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(_)), "{error:?}");
    assert_eq!(error.to_string(), words);
}

#[tokio::test]
async fn an_image_shorter_than_announced_creates_nothing_and_leaves_no_connection() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    let error = create(&client(&stand_in), &web(), &creation(), image(b"ELF"), 300_000).await.unwrap_err();
    assert!(matches!(&error, Error::Image(_)), "{error:?}");
    stand_in.until_closed().await;
    assert_eq!(stand_in.world().names(), [""; 0]);
}

#[tokio::test]
async fn a_create_without_an_answer_is_settled_by_what_runs() {
    for act in [Act::Close, Act::Hang, Act::Raw(vec![0, 0, 0, 9, 0x30]), Act::Raw(vec![0, 0, 0, 2, 0xff, 0xff])] {
        // It was done, and the answer was lost.
        let lost = act.clone();
        let stand_in = StandIn::start(move |message, world| {
            let usual = world.act(message);
            if is_create(message) { lost.clone() } else { usual }
        });
        let created = create(&client(&stand_in), &web(), &creation(), image(b"ELF"), 3).await;
        assert_eq!(created.unwrap().unwrap().name, "web.0123456789", "{act:?}");
        assert_eq!(stand_in.world().count(is_create), 1, "it is not sent again");

        // It was not done.
        let lost = act.clone();
        let stand_in =
            StandIn::start(move |message, world| if is_create(message) { lost.clone() } else { world.act(message) });
        let error = create(&client(&stand_in), &web(), &creation(), image(b"ELF"), 3).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. } | Error::Garbled { .. }), "{act:?}: {error:?}");
        assert_eq!(stand_in.world().count(is_create), 1, "it is not sent again");
    }
}

#[tokio::test]
async fn what_runs_under_the_name_with_another_image_is_not_taken_for_the_created() {
    let stand_in = StandIn::start(|message, world| if is_create(message) { Act::Close } else { world.act(message) });
    stand_in.world().run(":web.0123456789", Info { digest: [8; 32], ..info(1) });
    let error = create(&client(&stand_in), &web(), &creation(), image(b"ELF"), 3).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn older_daemons_are_found_out_and_spoken_to_in_their_words() {
    for dialect in Dialect::NEWEST_FIRST {
        let stand_in = StandIn::start(|message, world| world.act(message));
        stand_in.world().dialect = dialect;
        let client = client(&stand_in);
        create(&client, &web(), &creation(), image(b"ELF"), 3).await.unwrap().unwrap();
        assert_eq!(client.understood(), Some(dialect));
        assert_eq!(stand_in.world().count(is_create), 1, "{dialect}: no create that it does not know");
        let asked = stand_in.world().count(is_info);
        assert_eq!(client.inventory().await.unwrap().len(), 1);
        assert_eq!(stand_in.world().count(is_info), asked + 1, "{dialect}: what was found out is remembered");
    }
}

#[tokio::test]
async fn a_daemon_that_was_replaced_by_an_older_one_is_found_out_anew() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    let client = client(&stand_in);
    client.inventory().await.unwrap();
    stand_in.world().dialect = Dialect::V2_6;
    // The first to notice is a create, which the older daemon closes on.
    create(&client, &web(), &creation(), image(b"ELF"), 3).await.unwrap().unwrap();
    assert_eq!(client.understood(), Some(Dialect::V2_6));
    stand_in.world().dialect = Dialect::Before2_6;
    assert_eq!(client.inventory().await.unwrap().len(), 1);
    assert_eq!(client.understood(), Some(Dialect::Before2_6));
}

#[tokio::test]
async fn a_daemon_that_dies_under_a_question_is_not_taken_for_an_older_one() {
    let deaths = AtomicUsize::new(0);
    let stand_in =
        StandIn::start(
            move |message, world| {
                if deaths.fetch_add(1, Ordering::Relaxed) == 0 { Act::Close } else { world.act(message) }
            },
        );
    let client = client(&stand_in);
    client.inventory().await.unwrap();
    assert_eq!(client.understood(), Some(Dialect::V2_7));
}

#[tokio::test]
async fn a_daemon_that_closes_on_everything_is_unavailable() {
    let stand_in = StandIn::start(|_, _| Act::Close);
    let client = client(&stand_in);
    let error = client.inventory().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(client.understood(), None);
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    let answers: [(&str, Act); 6] = [
        ("hang", Act::Hang),
        ("half an answer", Act::Raw(vec![0, 0, 0, 20, 0x30, 0x12, 0x30])),
        ("garbage", Act::Raw([vec![0, 0, 0, 4], b"oops".to_vec()].concat())),
        ("an endless answer", Act::Raw(vec![0x7f, 0xff, 0xff, 0xff, 0x30])),
        ("another kind of answer", done("created unikernel")),
        ("the answer to another question", Act::AnswerTo(99, Payload::Success(Success::Info(Dialect::V2_7, vec![])))),
    ];
    for (what, act) in answers {
        let stand_in = StandIn::start(move |_, _| act.clone());
        let started = Instant::now();
        let error = client(&stand_in).inventory().await.unwrap_err();
        let expected = if what == "hang" { "Unavailable" } else { "Garbled" };
        assert!(format!("{error:?}").starts_with(expected), "{what}: {error:?}");
        assert!(started.elapsed() < DEADLINE + ROOM, "{what}");
    }
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    let client = client(&stand_in);
    client.inventory().await.unwrap();
    stand_in.stop().await;
    let started = Instant::now();
    let message = client.inventory().await.unwrap_err().to_string();
    assert!(message.contains("vmmd.sock") && message.contains("systemctl"), "{message}");
    assert!(started.elapsed() < DEADLINE);
    assert_eq!(client.understood(), None, "another version may come back");

    let nowhere = Settings { directory: "/nonexistent".into(), path: String::new(), deadline: DEADLINE };
    let error = Client::new(nowhere).unwrap().inventory().await.unwrap_err();
    assert!(error.to_string().contains("no such socket"), "{error}");
    let path = Settings { directory: "/nonexistent".into(), path: "a b".into(), deadline: DEADLINE };
    assert!(Client::new(path).is_err());
}

#[tokio::test]
async fn forty_at_once_all_get_their_answers() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    stand_in.world().run(":web.0123456789", info(1));
    // Of several processes: no turn-taking among them, so the listen queue overflows.
    let clients: Vec<_> = (0..40).map(|_| patient_client(&stand_in, "", DEADLINE * 10)).collect();
    let asked = clients.iter().map(|client| async { client.inventory().await.map(|running| running.len()) });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap(), 1);
    }
    // And of one.
    let client = patient_client(&stand_in, "", DEADLINE * 10);
    let asked = (0..40).map(|_| client.inventory());
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_full_listen_queue_turns_callers_away() {
    // What the crowd above has to get past: without it that test would prove nothing.
    let directory = tempfile::tempdir().unwrap();
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    let path = directory.path().join("full.sock");
    socket.bind(&path).unwrap();
    let _never_accepting = socket.listen(1).unwrap();
    let mut connected = Vec::new();
    let refused = loop {
        match tokio::net::UnixStream::connect(&path).await {
            Ok(stream) => connected.push(stream),
            Err(error) => break error,
        }
        assert!(connected.len() < 10, "the queue never fills");
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_daemon_that_accepts_nobody_is_given_up_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("util")).unwrap();
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(directory.path().join("util/vmmd.sock")).unwrap();
    let _never_accepting = socket.listen(1).unwrap();
    let settings = Settings { directory: directory.path().into(), path: String::new(), deadline: DEADLINE };
    let client = Client::new(settings).unwrap();
    let started = Instant::now();
    let asked = (0..12).map(|_| client.inventory());
    for answer in futures_util::future::join_all(asked).await {
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    }
    assert!(started.elapsed() < DEADLINE + ROOM);
}

#[tokio::test]
async fn destroyed_is_what_does_not_run_any_more() {
    // It runs, it is gone already, and it was only on the list of those that are started again.
    for act in [None, Some(refused("destroy: not found")), Some(done("destroyed: removed from restarting"))] {
        let known = act.is_none();
        let stand_in = StandIn::start(move |message, world| match &act {
            Some(act) if is_destroy(message) => act.clone(),
            _ => world.act(message),
        });
        if known {
            stand_in.world().run(":web.0123456789", info(1));
        }
        client(&stand_in).destroy(&web()).await.unwrap();
        assert_eq!(stand_in.world().names(), [""; 0]);
    }
}

#[tokio::test]
async fn a_destroy_that_hangs_is_settled_by_what_runs_and_blocks_nobody() {
    let stand_in = StandIn::start(|message, world| if is_destroy(message) { Act::Hang } else { world.act(message) });
    stand_in.world().run(":web.0123456789", info(1));
    let client = client(&stand_in);
    let others = async {
        tokio::time::sleep(DEADLINE / 10).await;
        let started = Instant::now();
        create(&client, &id("db.0123456789"), &creation(), image(b"ELF"), 3).await.unwrap().unwrap();
        assert_eq!(client.inventory().await.unwrap().len(), 2);
        assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
    };
    let stuck = futures_util::future::join_all((0..20).map(|_| {
        let client = client.clone();
        async move { client.destroy(&web()).await }
    }));
    let (stuck, ()) = futures_util::future::join(stuck, others).await;
    for result in stuck {
        assert!(matches!(&result, Err(Error::WillNotExit { .. })), "{result:?}");
    }

    // Of two destroys at once one is never answered, and has come true.
    let stand_in = StandIn::start(|message, world| {
        let usual = world.act(message);
        if is_destroy(message) { Act::Hang } else { usual }
    });
    stand_in.world().run(":web.0123456789", info(1));
    self::client(&stand_in).destroy(&web()).await.unwrap();
}

#[tokio::test]
async fn a_restart_is_believed_when_the_start_is_another() {
    let stand_in = StandIn::start(|message, world| world.act(message));
    stand_in.world().run(":web.0123456789", info(1));
    let client = client(&stand_in);
    let again = client.restart(&web()).await.unwrap().unwrap();
    assert_ne!(again.started, Some(Timestamp(1_000)));

    assert_eq!(client.restart(&id("db.0123456789")).await.unwrap(), None);
    assert_eq!(stand_in.world().count(is_restart), 1, "nothing is asked of what does not run");
}

#[tokio::test]
async fn a_restart_that_starts_nothing_is_told() {
    // A success that only took it off a list.
    let stand_in = StandIn::start(|message, world| {
        if is_restart(message) {
            world.stop(":web.0123456789");
            return done("destroyed: removed from restarting");
        }
        world.act(message)
    });
    stand_in.world().run(":web.0123456789", info(1));
    assert_eq!(client(&stand_in).restart(&web()).await.unwrap(), None);

    // One that does not exit.
    let stand_in = StandIn::start(|message, world| if is_restart(message) { Act::Hang } else { world.act(message) });
    stand_in.world().run(":web.0123456789", info(1));
    let error = client(&stand_in).restart(&web()).await.unwrap_err();
    assert!(matches!(error, Error::WillNotExit { .. }), "{error:?}");

    // A success of which nothing is to be seen.
    let stand_in =
        StandIn::start(|message, world| if is_restart(message) { done("created") } else { world.act(message) });
    stand_in.world().run(":web.0123456789", info(1));
    let error = client(&stand_in).restart(&web()).await.unwrap_err();
    assert!(matches!(error, Error::Garbled { .. }), "{error:?}");
}

fn policy(memory: i64) -> Policy {
    Policy { cpuids: vec![0, 1], unikernels: i64::MAX >> 1, memory, block: None, bridges: vec!["br0".into()] }
}

#[tokio::test]
async fn the_policy_of_the_nearest_path_governs() {
    let stand_in = StandIn::start(|message, _| {
        assert!(matches!(message.payload, Payload::Command(Command::Policy(PolicyCommand::Info))));
        let name = |text: &str| text.parse::<Name>().unwrap();
        let policies = vec![(name(":"), policy(1)), (name("foo:"), policy(2)), (name("foobar:"), policy(3))];
        Act::Answer(Payload::Success(Success::Policies(policies)))
    });
    for (path, memory, of) in [("", 1, ""), ("foo", 2, "foo"), ("foo:bar", 2, "foo"), ("bar", 1, "")] {
        let found = client_at(&stand_in, path).policy().await.unwrap();
        assert_eq!((found.memory, found.path.as_str()), (memory, of), "{path}");
        assert_eq!(found.unikernels, 4_611_686_018_427_387_903);
        assert_eq!(found.cpuids, [0, 1]);
    }
    let none = StandIn::start(|_, _| Act::Answer(Payload::Success(Success::Policies(vec![]))));
    let error = client(&none).policy().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
}

fn line(name: &Name, text: &[u8]) -> Message {
    let data = Data::Console { at: Timestamp(1_000), line: Text(text.to_vec()) };
    Message { sequence: 0, name: name.clone(), payload: Payload::Data(data) }
}

/// A console daemon that confirms what is `expected`, sends these lines and keeps the connection open.
fn console(expected: ConsoleCommand, lines: &'static [&'static [u8]]) -> StandIn {
    StandIn::start_console(move |message, _| {
        assert_eq!(message.payload, Payload::Command(Command::Console(expected.clone())));
        let acknowledged = Payload::Success(Success::Text("subscribed".into()));
        let history = lines.iter().map(|text| line(&message.name, text));
        Act::Stream(std::iter::once(Message { payload: acknowledged, ..message.clone() }).chain(history).collect())
    })
}

#[tokio::test]
async fn lines_of_a_console_come_as_they_were_written() {
    let stand_in = console(ConsoleCommand::SubscribeCount(1024), &[b"one", b"caf\xc3\xa9 \xff\xfe\0bin", b"three"]);
    let mut stream = client(&stand_in).console(&web(), ConsoleHistory::All, DEADLINE).await.unwrap();
    let mut lines = Vec::new();
    while lines.len() < 3 {
        lines.extend(stream.lines().await.unwrap());
    }
    let texts = lines.iter().map(|line| line.text.as_slice()).collect::<Vec<_>>();
    assert_eq!(texts, [&b"one"[..], b"caf\xc3\xa9 \xff\xfe\0bin", b"three"]);
    assert_eq!(lines[0].at, Timestamp(1_000));
    let more = tokio::time::timeout(DEADLINE, stream.lines()).await;
    assert!(more.is_err(), "it stays open: {more:?}");
    drop(stream);
    stand_in.until_closed().await;

    let since = console(ConsoleCommand::SubscribeSince(Timestamp(5_000)), &[]);
    client(&since).console(&web(), ConsoleHistory::Since(Timestamp(5_000)), DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_console_daemon_that_makes_no_sense_is_given_up() {
    let subscribe = async |act: fn() -> Act| {
        let stand_in = StandIn::start_console(move |_, _| act());
        client(&stand_in).console(&web(), ConsoleHistory::All, DEADLINE).await.unwrap_err()
    };
    let error = subscribe(|| Act::Hang).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let error = subscribe(|| Act::Raw(vec![0x40, 0, 0, 0])).await;
    assert!(matches!(error, Error::Garbled { .. }), "{error:?}");
    let error = subscribe(|| Act::Close).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let error = subscribe(|| Act::Answer(Payload::Failure("opening".into()))).await;
    assert!(matches!(&error, Error::Refused(text) if text == "opening"), "{error:?}");

    // What is no line ends a subscription that stood.
    let garbage = StandIn::start_console(|message, _| {
        let payloads = [Payload::Success(Success::Text("subscribed".into())), Payload::Failure("no line".into())];
        Act::Stream(payloads.map(|payload| Message { payload, ..message.clone() }).to_vec())
    });
    let mut stream = client(&garbage).console(&web(), ConsoleHistory::All, DEADLINE).await.unwrap();
    assert!(matches!(stream.lines().await, Err(Error::Garbled { .. })));
}

#[test]
fn a_world_knows_relative_names() {
    // The stand-in's own manners are those of the captured frames info_path and info_root_nested.
    let mut world = World::default();
    world.run("foo:bar", info(1));
    let asked: BTreeMap<_, _> = [("foo:", ":bar"), (":", "foo:bar"), ("foo:bar", "foo:bar")].into();
    for (name, expected) in asked {
        assert_eq!(world.infos(&name.parse().unwrap())[0].0.to_string(), expected);
    }
}
