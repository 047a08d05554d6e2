//! The service on a real bus: what clients see of what the owner of state tells.

// A test stops at the first thing that is not as it should be, and says what it skips.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod private_bus;

use std::collections::HashMap;
use std::num::NonZero;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use albatross_deployer::bus;
use albatross_deployer::domain::{
    Event, JobNumber, JobResult, StackState, StackView, Timestamp, UnikernelState, UnikernelView,
};
use albatross_deployer::orchestrator::InitialViews;
use futures_util::StreamExt;
use private_bus::{OPEN, PrivateBus, STRICT, views};
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant};

const NAME: &str = "org.albatross.Deployer1";
const ROOT: &str = "/org/albatross/Deployer1";
const UNIKERNEL: &str = "/org/albatross/Deployer1/unikernel/website_2e0123456789";
const STACK: &str = "/org/albatross/Deployer1/stack/mail";
const ID: &str = "website.0123456789";

async fn signals(client: &Connection) -> MessageStream {
    let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace(ROOT).build().unwrap();
    MessageStream::for_match_rule(rule, client, NonZero::new(4096)).await.unwrap()
}

/// Member and path of the next signal.
async fn next(signals: &mut MessageStream) -> (String, String, zbus::Message) {
    let message = tokio::time::timeout(Duration::from_secs(20), signals.next()).await.expect("no signal came");
    let message = message.unwrap().unwrap();
    let header = message.header();
    (header.member().unwrap().to_string(), header.path().unwrap().to_string(), message.clone())
}

async fn property(client: &Connection, path: &str, interface: &str, name: &str) -> zbus::Result<OwnedVariant> {
    let properties = Some("org.freedesktop.DBus.Properties");
    let arguments = (format!("{NAME}.{interface}"), name);
    client.call_method(Some(NAME), path, properties, "Get", &arguments).await?.body().deserialize()
}

fn appears(view: &Arc<UnikernelView>) -> Event {
    Event::Unikernel { before: None, after: Some(view.clone()) }
}

#[tokio::test]
async fn objects_appear_change_and_vanish_in_order() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, events) = bus.serve(InitialViews::default()).await;
    let client = bus.client().await;
    let mut signals = signals(&client).await;
    let creating = views::unikernel(ID, UnikernelState::Creating);
    let exited = Arc::new(UnikernelView {
        state: UnikernelState::Exited,
        exit_reason: "exit 1".into(),
        restarts: 2,
        ..(*creating).clone()
    });
    for event in [
        appears(&creating),
        Event::Unikernel { before: Some(creating.clone()), after: Some(exited.clone()) },
        // The same again changes nothing and says nothing.
        Event::Unikernel { before: Some(exited.clone()), after: Some(exited.clone()) },
        Event::Unikernel { before: Some(exited.clone()), after: None },
    ] {
        events.send(event).await.unwrap();
    }

    assert_eq!(next(&mut signals).await.0, "InterfacesAdded");
    let (member, path, message) = next(&mut signals).await;
    assert_eq!((member.as_str(), path.as_str()), ("UnikernelStateChanged", ROOT));
    type StateChanged = (zbus::OwnedObjectPath, String, String, String, HashMap<String, OwnedVariant>);
    let (object, id, old, new, details): StateChanged = message.body().deserialize().unwrap();
    assert_eq!((object.as_str(), id.as_str(), old.as_str(), new.as_str()), (UNIKERNEL, ID, "", "creating"));
    assert_eq!(details.len(), 1);

    let (member, path, message) = next(&mut signals).await;
    assert_eq!((member.as_str(), path.as_str()), ("PropertiesChanged", UNIKERNEL));
    let (_, changed, gone): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        message.body().deserialize().unwrap();
    let mut names = changed.keys().map(String::as_str).collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!((names, gone), (vec!["ExitReason", "Restarts", "State"], vec![]));
    let (member, _, message) = next(&mut signals).await;
    let (_, _, old, new, details): StateChanged = message.body().deserialize().unwrap();
    assert_eq!((member.as_str(), old.as_str(), new.as_str()), ("UnikernelStateChanged", "creating", "exited"));
    assert_eq!(details["exit-reason"], OwnedVariant::try_from(zbus::Variant::from("exit 1")).unwrap());

    let (member, path, _) = next(&mut signals).await;
    assert_eq!((member.as_str(), path.as_str()), ("InterfacesRemoved", ROOT));
    assert!(property(&client, UNIKERNEL, "Unikernel", "State").await.is_err());
}

#[tokio::test]
async fn services_jobs_and_the_manager_tell_what_changes() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let initial = InitialViews { services: vec![views::service("website", None)], ..InitialViews::default() };
    let (service, events) = bus.serve(initial.clone()).await;
    let client = bus.client().await;
    let mut signals = signals(&client).await;
    let manager = albatross_deployer::domain::ManagerView { leases: 3, ..(*initial.manager).clone() };
    for event in [
        Event::Service { before: None, after: Some(views::service("website", Some(ID))) },
        Event::Switched { service: "website".parse().unwrap(), from: None, to: Some(ID.parse().unwrap()) },
        Event::Job(views::job(1, "create")),
        Event::Job(views::job(1, "start")),
        Event::JobRemoved { number: JobNumber(1), result: JobResult::Done },
        Event::Manager(Arc::new(manager)),
    ] {
        // Steps that follow each other at once are told as the last of them.
        if matches!(&event, Event::Job(job) if job.step == "start") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        events.send(event).await.unwrap();
    }
    let mut seen = vec![];
    while seen.len() < 7 {
        let (member, path, _) = next(&mut signals).await;
        seen.push((member, path.strip_prefix(ROOT).unwrap().to_owned()));
    }
    let expected = [
        ("PropertiesChanged", "/service/website"),
        ("ServiceSwitched", ""),
        ("InterfacesAdded", ""),
        ("PropertiesChanged", "/job/_1"),
        ("InterfacesRemoved", ""),
        ("JobRemoved", ""),
        ("PropertiesChanged", ""),
    ];
    assert_eq!(seen, expected.map(|(member, path)| (member.to_owned(), path.to_owned())));
    let live = property(&client, &format!("{ROOT}/service/website"), "Service", "Live").await.unwrap();
    assert_eq!(live.downcast_ref::<zbus::ObjectPath<'_>>().unwrap().as_str(), UNIKERNEL);

    // Once the owner of state has ended, stopping gives the name back.
    drop(events);
    service.stop().await;
    assert!(property(&client, ROOT, "Manager", "Version").await.is_err());
}

/// What PropertiesChanged tells, as text; and where.
fn properties_changed(message: &zbus::Message) -> (String, Vec<String>) {
    let (interface, changed, gone): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        message.body().deserialize().unwrap();
    assert_eq!(gone, Vec::<String>::new());
    let mut changed = changed.iter().map(|(name, value)| format!("{name} {}", **value)).collect::<Vec<_>>();
    changed.sort_unstable();
    (interface, changed)
}

#[tokio::test]
async fn a_stack_shows_its_chains_and_tells_only_what_changes() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let initial = InitialViews { stacks: vec![views::stack("web.1", StackState::Failed)], ..InitialViews::default() };
    let (_service, events) = bus.serve(initial).await;
    let client = bus.client().await;
    // There from the start.
    let state = property(&client, &format!("{ROOT}/stack/web_2e1"), "Stack", "State").await.unwrap();
    assert_eq!(state, OwnedVariant::try_from(zbus::Variant::from("failed")).unwrap());

    let mut signals = signals(&client).await;
    let staging = views::stack("mail", StackState::Staging);
    let chain = views::chain([("entry", "entry.0123456789"), ("forward", "")]);
    let staged = Arc::new(StackView { state: StackState::Staged, staged: chain.clone(), ..(*staging).clone() });
    let live = StackView { state: StackState::Live, live: chain, staged: views::chain([]), ..(*staged).clone() };
    let live = Arc::new(live);
    let result = "forward has changed".to_owned();
    let checked = Arc::new(StackView { last_check: Some(Timestamp(7)), last_result: result, ..(*live).clone() });
    let steps = [Some(staging), Some(staged), Some(live.clone()), Some(live), Some(checked), None];
    events.send(Event::Stack { before: None, after: steps[0].clone() }).await.unwrap();
    for step in steps.windows(2) {
        events.send(Event::Stack { before: step[0].clone(), after: step[1].clone() }).await.unwrap();
    }

    let (member, path, message) = next(&mut signals).await;
    type Interfaces = HashMap<String, HashMap<String, OwnedVariant>>;
    let (added, interfaces): (zbus::OwnedObjectPath, Interfaces) = message.body().deserialize().unwrap();
    assert_eq!((member.as_str(), path.as_str(), added.as_str()), ("InterfacesAdded", ROOT, STACK));
    assert_eq!(interfaces[&format!("{NAME}.Stack")].len(), 7);
    let entry = format!("{ROOT}/unikernel/entry_2e0123456789");
    // As a variant prints itself: types are where they are not plain.
    let members = |name: &str| format!(r#"{name} {{"entry": objectpath "{entry}", "forward": "/"}}"#);
    for expected in [
        vec![members("Staged"), r#"State "staged""#.to_owned()],
        vec![members("Live"), "Staged @a{so} {}".to_owned(), r#"State "live""#.to_owned()],
        // The same again says nothing.
        vec!["LastCheck int64 7".to_owned(), r#"LastResult "forward has changed""#.to_owned()],
    ] {
        let (member, path, message) = next(&mut signals).await;
        assert_eq!((member.as_str(), path.as_str()), ("PropertiesChanged", STACK));
        assert_eq!(properties_changed(&message), (format!("{NAME}.Stack"), expected));
    }
    assert_eq!(next(&mut signals).await.0, "InterfacesRemoved");
    assert!(property(&client, STACK, "Stack", "State").await.is_err());
}

#[tokio::test]
async fn each_of_many_changes_is_told_as_it_was() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let first = views::stack("mail", StackState::Staging);
    let (_service, events) = bus.serve(InitialViews { stacks: vec![first.clone()], ..InitialViews::default() }).await;
    let client = bus.client().await;
    let mut signals = signals(&client).await;
    let checked = |number| Arc::new(StackView { last_check: Some(Timestamp(number)), ..(*first).clone() });
    // Answers are waited for meanwhile, so that many are in the object before any is told.
    for number in 1..=200 {
        if number % 20 == 1 {
            let call =
                zbus::Message::method_call(ROOT, "Restart").destination(NAME).interface(format!("{NAME}.Manager"));
            client.send(&call.build(&(ID)).unwrap()).await.unwrap();
        }
        events.send(Event::Stack { before: Some(checked(number - 1)), after: Some(checked(number)) }).await.unwrap();
    }
    for number in 1..=200 {
        let (_, _, message) = next(&mut signals).await;
        assert_eq!(properties_changed(&message).1, [format!("LastCheck int64 {number}")]);
    }
}

#[tokio::test]
async fn an_answer_comes_after_the_objects_that_were_told_before_it() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, events) = bus.serve(InitialViews::default()).await;
    let client = bus.client().await;
    // One connection gets everything in the order in which it was sent.
    let mut messages = MessageStream::from(&client);
    let _subscribed = signals(&client).await;
    let call = zbus::Message::method_call(ROOT, "Restart").destination(NAME).interface(format!("{NAME}.Manager"));
    let call = call.build(&(ID)).unwrap();
    client.send(&call).await.unwrap();
    // The call is on its way; the owner of state tells 300 things before it answers.
    for number in 0..300 {
        let id = format!("website.{number:010x}");
        events.try_send(appears(&views::unikernel(&id, UnikernelState::Creating))).unwrap();
    }
    let mut appeared = 0;
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), messages.next()).await.unwrap().unwrap().unwrap();
        let header = message.header();
        match header.message_type() {
            Type::Signal if header.member().is_some_and(|member| member == "InterfacesAdded") => appeared += 1,
            Type::Error if header.reply_serial() == Some(call.primary_header().serial_num()) => break,
            _ => {}
        }
    }
    assert_eq!(appeared, 300);
}

#[tokio::test]
async fn connections_are_not_counted_for_a_signal() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, events) = bus.serve(InitialViews::default()).await;
    let client = bus.client().await;
    let mut signals = signals(&client).await;
    let ready = views::unikernel(ID, UnikernelState::Ready);
    let live = views::unikernel(ID, UnikernelState::Live);
    events.send(appears(&ready)).await.unwrap();
    events.send(Event::Unikernel { before: Some(ready), after: Some(live) }).await.unwrap();
    for _ in 0..2 {
        next(&mut signals).await;
    }
    let (_, _, message) = next(&mut signals).await;
    let (_, changed, gone): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        message.body().deserialize().unwrap();
    assert_eq!((changed.len(), gone), (1, vec!["ActiveConnections".to_owned()]));
    // The owner of state is gone in this test: who asks is told of it.
    let error = property(&client, UNIKERNEL, "Unikernel", "ActiveConnections").await.unwrap_err();
    assert!(error.to_string().contains("Deployer1.Error."), "{error}");
    let objects = Some("org.freedesktop.DBus.ObjectManager");
    let reply = client.call_method(Some(NAME), ROOT, objects, "GetManagedObjects", &()).await.unwrap();
    let objects: zbus::fdo::ManagedObjects = reply.body().deserialize().unwrap();
    let unikernel = objects.iter().find(|(path, _)| path.as_str() == UNIKERNEL).unwrap().1;
    assert_eq!(unikernel.values().next().unwrap().len(), 15);
}

#[tokio::test]
async fn mistakes_have_the_contracts_error_names() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, _events) = bus.serve(InitialViews::default()).await;
    let client = bus.client().await;
    let manager = format!("{NAME}.Manager");
    let options = HashMap::from([("memory", zbus::Variant::from(5u32))]);
    let call = client.call_method(Some(NAME), ROOT, Some(&*manager), "Deploy", &("website", "/x", options)).await;
    let zbus::Error::MethodError(name, message, _) = call.unwrap_err() else { panic!("not an error of ours") };
    assert_eq!(name.as_str(), "org.albatross.Deployer1.Error.InvalidArgument");
    assert!(message.unwrap().contains("memory"));
    let call = client.call_method(Some(NAME), ROOT, Some(&*manager), "Restart", &("website")).await;
    assert!(call.unwrap_err().to_string().contains("InvalidArgument"));
    let options = HashMap::from([("active", zbus::Variant::from(true))]);
    let call = client.call_method(Some(NAME), ROOT, Some(&*manager), "Apply", &("", options)).await;
    let error = call.unwrap_err().to_string();
    assert!(error.contains("InvalidArgument") && error.contains("its options are activate"), "{error}");
    let call = client.call_method(Some(NAME), ROOT, Some(&*manager), "Activate", &("Mail")).await;
    let error = call.unwrap_err().to_string();
    assert!(error.contains("InvalidArgument") && error.contains("stack name"), "{error}");
    let call = client.call_method(Some(NAME), ROOT, Some(&*manager), "Install", &("", options_of_none())).await;
    assert!(call.unwrap_err().to_string().contains("UnknownMethod"));
}

fn options_of_none() -> HashMap<String, zbus::Variant<'static>> {
    HashMap::new()
}

#[tokio::test]
async fn a_second_instance_is_told_of_the_first() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, _events) = bus.serve(InitialViews::default()).await;
    let (_told, events) = tokio::sync::mpsc::channel(1);
    let second = bus::serve(&bus.bus_address(), private_bus::unattended(), InitialViews::default(), events).await;
    assert!(matches!(second.unwrap_err(), bus::Error::NameTaken { .. }));
}

/// What `nobody`, in no group of interest, gets for a call: its whole output.
async fn as_nobody(bus: &PrivateBus, method: &str, argument: Option<&str>) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "dbus-send", "--print-reply"]);
    command.args([format!("--bus={}", bus.address), format!("--dest={NAME}"), ROOT.to_owned()]);
    command.arg(format!("{NAME}.Manager.{method}")).args(argument);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn who_is_nobody_changes_nothing() {
    if uzers::get_effective_uid() != 0 {
        println!("SKIPPED: only root can call as somebody else");
        return;
    }
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, _events) = bus.serve(InitialViews::default()).await;
    let refused = as_nobody(&bus, "Unpublish", Some("string:website")).await;
    assert!(refused.contains("org.albatross.Deployer1.Error.NotAuthorized"), "{refused}");
    assert!(refused.contains("usermod -aG albatross"), "{refused}");
    // Reading goes through to the owner of state, which is gone in this test.
    let read = as_nobody(&bus, "ListLeases", None).await;
    assert!(read.contains("Deployer1.Error.Internal"), "{read}");
    let read = as_nobody(&bus, "ExportGraph", Some("string:mail")).await;
    assert!(read.contains("Deployer1.Error.Internal"), "{read}");

    // Under the shipped policy the bus itself refuses, and lets reading through as well.
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/dbus-policy/org.albatross.Deployer1.conf");
    let Some(bus) = PrivateBus::start(STRICT, Some(policy.as_ref())) else { return };
    let (_service, _events) = bus.serve(InitialViews::default()).await;
    let refused = as_nobody(&bus, "Unpublish", Some("string:website")).await;
    assert!(refused.contains("org.freedesktop.DBus.Error.AccessDenied"), "{refused}");
    let read = as_nobody(&bus, "ListLeases", None).await;
    assert!(read.contains("Deployer1.Error.Internal"), "{read}");
    let read = as_nobody(&bus, "ExportGraph", Some("string:mail")).await;
    assert!(read.contains("Deployer1.Error.Internal"), "{read}");
    let refused = as_nobody(&bus, "Activate", Some("string:mail")).await;
    assert!(refused.contains("org.freedesktop.DBus.Error.AccessDenied"), "{refused}");
}

#[tokio::test]
async fn an_image_can_be_handed_over() {
    let Some(bus) = PrivateBus::start(OPEN, None) else { return };
    let (_service, _events) = bus.serve(InitialViews::default()).await;
    let client = bus.client().await;
    let file = std::fs::File::open("/dev/null").unwrap();
    let arguments = ("website", zbus::Fd::from(&file), options_of_none());
    let manager = format!("{NAME}.Manager");
    let call = client.call_method(Some(NAME), ROOT, Some(&*manager), "DeployImage", &arguments).await;
    // It gets as far as the look at what kind of file it is.
    let error = call.unwrap_err().to_string();
    assert!(error.contains("Deployer1.Error.ImageUnavailable") && error.contains("is a device"), "{error}");
}
