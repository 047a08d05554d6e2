use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::domain::{
    AddressChoice, Applied, Arguments, BuildKey, Caller, Chain, Configuration, Deadline, HttpRule, ImageDigest,
    LeaseTag, MacAddress, Manifest, Member, MemberPlan, NetworkDevice, Phase, PortMapping, PortProtocol, Provisional,
    Publication, Readiness, RestartPolicy, ServiceName, StackName, Timestamp, UnikernelId, UnikernelSpec,
};

mod disk;
mod faults;
mod model;

fn commit(ledger: &Ledger, changes: Vec<Change>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ledger.commit(changes))
}

/// Opens a ledger whose former handle was just dropped: its thread may need a moment to close the file.
fn reopen(path: &Path) -> Result<(Ledger, Contents), Error> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Ledger::open(path) {
            Err(Error::InUse { .. }) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            outcome => return outcome,
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tag(text: &str) -> LeaseTag {
    text.parse().unwrap()
}

fn lease(name: &str, address: &str, since: i64) -> Lease {
    Lease { tag: tag(name), address: ip(address), prefix: "10.0.0.0/24".parse().unwrap(), since: Timestamp(since) }
}

fn unikernel(service: &str, number: u8, argument: &str) -> Unikernel {
    let service: ServiceName = service.parse().unwrap();
    Unikernel {
        id: UnikernelId::new(&service, &[number; 32]),
        spec: UnikernelSpec {
            image: ImageDigest([number; 32]),
            arguments: Arguments(vec![argument.into()]),
            memory: 32,
            network: "br0".parse().unwrap(),
            cpu: None,
            block_devices: vec![],
            restart: RestartPolicy::OnFailure(vec![2]),
            address: AddressChoice { prefix: None, address: Some(ip("10.0.0.2")) },
        },
        readiness: Readiness::Http(HttpRule::new(80, "/")),
        timeout: Duration::from_millis(30_000),
        check: None,
        phase: Phase::Ready,
        brought_image: true,
        removing: false,
        address: ip("10.0.0.2"),
        mac: Some(MacAddress([2, 0, 0, 0, 0, number])),
        cpu: 1,
        created_at: Timestamp(5),
        deployed: Ordinal(7),
        started_at: None,
        restarts: 0,
        exit_reason: String::new(),
        last_live: None,
        provisional: Some(Provisional { stack: "mail".parse().unwrap(), ended: Some("it exited with 1".into()) }),
    }
}

fn service(name: &str, ports: u16) -> Service {
    let name: ServiceName = name.parse().unwrap();
    let mapping = |port| PortMapping { protocol: PortProtocol::Any, host: port, unikernel: port };
    let live = UnikernelId::new(&name, &[1; 32]);
    let publication = Arc::new(Publication {
        unikernel: live.clone(),
        target: ip("10.0.0.2"),
        ports: (1..=ports).map(mapping).collect(),
        addresses: [ip("::1"), ip("192.0.2.1")].into(),
        sources: vec!["192.0.2.0/24".parse().unwrap()],
        drain: 30_000,
        tolerates_until: None,
    });
    Service {
        publication: Some(Arc::clone(&publication)),
        name,
        staged: Some(publication),
        previous: None,
        draining: vec![(live, Deadline::new(Timestamp(9), Duration::from_millis(30_000)))],
        fell_back_from: None,
    }
}

fn stack(name: &str) -> Stack {
    let plan = MemberPlan {
        image: "/srv/web.hvt".parse().unwrap(),
        image_options: crate::domain::ImageOptions::default(),
        configuration: Configuration {
            network: None,
            memory: 32,
            cpu: None,
            arguments: Arguments(vec!["--relay={signer.address}".into()]),
            address: AddressChoice::default(),
            exclude: vec!["10.0.0.10-10.0.0.19".parse().unwrap(), "10.0.0.128/25".parse().unwrap()],
            block_devices: vec![],
            restart: RestartPolicy::Never,
            readiness: Readiness::Tcp { port: 25 },
            timeout: Duration::from_millis(30_000),
            check: None,
        },
        ports: vec![PortMapping { protocol: PortProtocol::Tcp, host: 25, unikernel: 25 }],
        staged: vec![],
        addresses: [ip("192.0.2.1")].into(),
        sources: vec!["192.0.2.0/24".parse().unwrap()],
        drain: Some(Duration::from_secs(1)),
        watch: Some(Duration::from_secs(600)),
    };
    let service: ServiceName = "website".parse().unwrap();
    let unikernel = unikernel("website", 1, "").id;
    let member = Member { plan: plan.clone(), image: ImageDigest([1; 32]), unikernel: unikernel.clone() };
    let chain = Some(Arc::new(Chain { members: [(service.clone(), member)].into() }));
    let name: StackName = name.parse().unwrap();
    Stack {
        live: chain.clone(),
        staged: chain.clone(),
        previous: chain,
        former: [unikernel].into(),
        applied: Some(Arc::new(Applied {
            manifest: Manifest { stack: name.clone(), members: [(service.clone(), plan)].into() },
            caller: Caller { uid: 0, gid: 0, groups: vec![1, 2] },
            activate: true,
            images: [(service, ImageDigest([1; 32]))].into(),
        })),
        last_check: Some(Timestamp(7)),
        last_result: "staged".into(),
        ..Stack::new(name)
    }
}

fn image(number: u8) -> ImageRecord {
    ImageRecord {
        digest: ImageDigest([number; 32]),
        size: 17,
        network_device: NetworkDevice("service".into()),
        block_devices: vec!["disk".into()],
        origin: None,
        signature: (number == 1).then(|| "untrusted comment: x\nRUSh\n".into()),
    }
}

fn flows(service: &str, port: u16) -> StaleFlows {
    let none = StaleFlows::none(service.parse().unwrap(), ip("10.0.0.2"));
    StaleFlows { ports: [port, 53].into(), half_open: port == 1, gone: port == 2, ..none }
}

fn last_words(number: u8, text: &[u8]) -> Change {
    let line = ConsoleLine { at: Timestamp(3), text: text.to_vec() };
    Change::PutLastWords { id: unikernel("web", number, "").id, lines: vec![line] }
}

fn build(number: u8, image: u8) -> Build {
    Build {
        key: BuildKey([number; 32]),
        image: ImageDigest([image; 32]),
        url: "https://example.org/website.git".parse().unwrap(),
        commit: "0123456789012345678901234567890123456789".parse().unwrap(),
        at: Ordinal(u64::from(number)),
        signature_sought: true,
    }
}

fn loopback_route(network: &str, bridge: u32) -> LoopbackRoute {
    LoopbackRoute { network: network.parse().unwrap(), bridge, boot: "b".into() }
}

fn every_kind() -> Vec<Change> {
    vec![
        Change::PutUnikernel(Box::new(unikernel("website", 1, "--password=secret"))),
        Change::PutService(Box::new(service("website", 2))),
        Change::PutLease(lease("a", "10.0.0.2", 1)),
        Change::PutLease(lease("b", "10.0.0.3", 1)),
        Change::PutLease(lease("c", "fd00::3", 1)),
        Change::ReleaseLease { tag: tag("b"), at: Ordinal(2) },
        Change::ReleaseLease { tag: tag("c"), at: Ordinal(3) },
        Change::PutImage(image(1)),
        Change::PutStaleFlows(flows("website", 443)),
        last_words(1, b"caf\xc3\xa9 \xff\xfe\0bin"),
        Change::PutStack(Box::new(stack("mail"))),
        Change::PutBuild(Box::new(build(1, 1))),
        Change::PutLoopbackRoute(loopback_route("br0", 3)),
    ]
}

#[test]
fn what_is_committed_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let (ledger, contents) = Ledger::open(&path).unwrap();
    assert_eq!(contents, Contents::default());
    commit(&ledger, every_kind()).unwrap();
    drop(ledger);

    let (ledger, contents) = reopen(&path).unwrap();
    let expected = Contents {
        unikernels: vec![unikernel("website", 1, "--password=secret")],
        services: vec![service("website", 2)],
        leases: vec![lease("a", "10.0.0.2", 1)],
        released: vec![(ip("10.0.0.3"), Ordinal(2)), (ip("fd00::3"), Ordinal(3))],
        images: vec![image(1)],
        stale_flows: vec![flows("website", 443)],
        last_words: vec![(
            unikernel("web", 1, "").id,
            vec![ConsoleLine { at: Timestamp(3), text: b"caf\xc3\xa9 \xff\xfe\0bin".to_vec() }],
        )],
        stacks: vec![stack("mail")],
        builds: vec![build(1, 1)],
        last_ordinal: Ordinal(7),
        loopback_routes: vec![loopback_route("br0", 3)],
    };
    assert_eq!(contents, expected);

    let emptied = vec![
        Change::RemoveUnikernel(expected.unikernels[0].id.clone()),
        Change::RemoveService("website".parse().unwrap()),
        Change::ReleaseLease { tag: tag("a"), at: Ordinal(4) },
        Change::ReleaseLease { tag: tag("nobody"), at: Ordinal(4) },
        Change::PutLease(lease("d", "10.0.0.3", 5)),
        Change::PutLease(lease("d", "10.0.0.4", 6)),
        Change::RemoveImage(ImageDigest([1; 32])),
        Change::RemoveStaleFlows(flows("website", 443)),
        Change::RemoveLastWords(unikernel("web", 1, "").id),
        Change::RemoveStack("mail".parse().unwrap()),
        Change::RemoveBuild(BuildKey([1; 32])),
        Change::RemoveLoopbackRoute("br0".parse().unwrap()),
    ];
    commit(&ledger, emptied).unwrap();
    drop(ledger);
    let (_ledger, contents) = reopen(&path).unwrap();
    let expected = Contents {
        leases: vec![lease("d", "10.0.0.4", 6)],
        released: vec![(ip("10.0.0.2"), Ordinal(4)), (ip("10.0.0.3"), Ordinal(0)), (ip("fd00::3"), Ordinal(3))],
        // Of a unikernel that is gone: what comes next is after it all the same.
        last_ordinal: Ordinal(7),
        ..Contents::default()
    };
    assert_eq!(contents, expected);
}

#[test]
fn only_the_owner_may_read_the_file_and_nothing_is_left_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    drop(Ledger::open(&path).unwrap());
    assert_eq!(mode(), 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(reopen(&path).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let (_ledger, _) = Ledger::open(&path).unwrap();
    let expected = format!(
        "the ledger {} is in use by another process: stop the other albatross-deployer, or give this one a \
         --state-directory of its own",
        path.display()
    );
    assert_eq!(Ledger::open(&path).unwrap_err().to_string(), expected);
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(Ledger::open(&path).unwrap());
    let database = loop {
        // The thread of the ledger above may still be closing it.
        match file::open(&path) {
            Ok(database) => break database,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    schema::set_version(&database, schema::VERSION + 1).unwrap();
    drop(database);
    let expected = format!(
        "the ledger {} has schema 5, this version knows schemas up to 4: install the newer albatross-deployer that wrote \
         it, or move the file away to begin with an empty ledger",
        path.display()
    );
    assert_eq!(reopen(&path).unwrap_err().to_string(), expected);
    let database = file::open(&path).unwrap();
    assert_eq!(schema::version(&database).unwrap(), schema::VERSION + 1);
}

#[test]
fn a_file_of_the_first_schema_is_read_and_gets_the_new_one_with_its_next_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = file::open(&path).unwrap();
    schema::make_first(&database).unwrap();
    drop(database);
    let (ledger, contents) = Ledger::open(&path).unwrap();
    assert_eq!(contents, Contents::default());
    drop(ledger);
    let (ledger, _) = reopen(&path).unwrap();
    commit(&ledger, vec![last_words(1, b"Solo5: solo5_exit(3) called")]).unwrap();
    drop(ledger);
    assert_eq!(reopen(&path).unwrap().1.last_words.len(), 1);
    let database = loop {
        match file::open(&path) {
            Ok(database) => break database,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert_eq!(schema::version(&database).unwrap(), schema::VERSION);
}

/// Schema 3 has times where there are numbers now.
#[test]
fn the_order_of_a_file_of_the_third_schema_is_that_of_its_times() {
    const THEN: i64 = 1_700_000_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = file::open(&path).unwrap();
    for (number, (created, last_live)) in [(1, (THEN + 5, None)), (2, (THEN, Some(THEN + 9)))] {
        let mut record = serde_json::to_value(unikernel("website", number, "")).unwrap();
        record.as_object_mut().unwrap().remove("deployed").unwrap();
        record["created_at"] = created.into();
        record["last_live"] = last_live.into();
        let key = unikernel("website", number, "").id;
        schema::set_raw(&database, "unikernels", key.as_str().as_bytes(), record.to_string().as_bytes()).unwrap();
    }
    let mut draining = serde_json::to_value(service("website", 1)).unwrap();
    draining["draining"][0][1] = (THEN + 3).into();
    schema::set_raw(&database, "services", b"website", draining.to_string().as_bytes()).unwrap();
    let released = (THEN + 12).to_string();
    schema::set_raw(&database, "released", &schema::address_key(ip("10.0.0.9")), released.as_bytes()).unwrap();
    schema::set_version(&database, 3).unwrap();
    drop(database);

    let (ledger, contents) = Ledger::open(&path).unwrap();
    let number = |time: i64| Ordinal(time.unsigned_abs());
    let order = contents.unikernels.iter().map(|unikernel| (unikernel.deployed, unikernel.last_live));
    assert_eq!(order.collect::<Vec<_>>(), [(number(THEN + 5), None), (number(THEN), Some(number(THEN + 9)))]);
    assert_eq!(contents.services[0].draining[0].1.left(Timestamp(THEN)), Duration::from_micros(3));
    assert_eq!(contents.last_ordinal, number(THEN + 12), "what comes next is after all of it");
    let next = Change::Count(contents.last_ordinal.next());
    commit(&ledger, vec![next]).unwrap();
    drop(ledger);
    let (_ledger, contents) = reopen(&path).unwrap();
    assert_eq!(contents.last_ordinal, number(THEN + 13));
    assert_eq!(contents.unikernels[0].deployed, number(THEN + 5), "also of a record that was not written since");
}

#[test]
fn an_image_of_before_signatures_is_read() {
    let older =
        format!(r#"{{"digest":"{}","size":17,"network_device":"service","block_devices":["disk"]}}"#, image(2).digest);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = file::open(&path).unwrap();
    schema::set_raw(&database, "images", &image(2).digest.0, older.as_bytes()).unwrap();
    drop(database);
    assert_eq!(Ledger::open(&path).unwrap().1.images, [image(2)]);
}

#[test]
fn a_folder_that_is_not_there() {
    let error = Ledger::open(Path::new("/nonexistent/state.redb")).unwrap_err().to_string();
    assert!(error.ends_with("create its folder, or give another --state-directory"), "{error}");
}

#[test]
fn a_file_that_is_no_ledger_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for foreign in [&b""[..], b"x", b"redb\x1a\x0a\xa9\x0d\x0a", &[0; 100_000], &[b'x'; 5000]] {
        fs::write(&path, foreign).unwrap();
        let error = reopen(&path).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }
    // One of redb's, but not ours.
    fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let error = reopen(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_value_that_cannot_be_read_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = file::open(&path).unwrap();
    schema::set_raw(&database, "unikernels", b"website.0101010101", br#"{"id":"--password=secret"}"#).unwrap();
    drop(database);
    let error = Ledger::open(&path).unwrap_err().to_string();
    assert!(error.contains("an entry of unikernels cannot be read: Data error at byte"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

/// Values as the first release writes them: a later one must be able to read them.
#[test]
fn values_keep_their_form() {
    fn holds<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: T, form: &str) {
        assert_eq!(serde_json::to_string(&value).unwrap(), form);
        assert_eq!(serde_json::from_str::<T>(form).unwrap(), value);
    }
    let digest = "01".repeat(32);
    holds(
        Unikernel { provisional: None, ..unikernel("website", 1, "--x=1") },
        &format!(
            r#"{{"id":"website.0101010101","spec":{{"image":"sha256:{digest}","arguments":["--x=1"],"memory":32,"network":"br0","cpu":null,"block_devices":[],"restart":{{"on-failure":[2]}},"address":{{"prefix":null,"address":"10.0.0.2"}}}},"readiness":{{"http":{{"port":80,"path":"/"}}}},"timeout":{{"secs":30,"nanos":0}},"phase":"ready","brought_image":true,"removing":false,"address":"10.0.0.2","mac":[2,0,0,0,0,1],"cpu":1,"created_at":5,"deployed":7,"started_at":null,"restarts":0,"exit_reason":"","last_live":null}}"#
        ),
    );
    holds(
        Service { staged: None, ..service("website", 1) },
        r#"{"name":"website","publication":{"unikernel":"website.0101010101","target":"10.0.0.2","ports":[{"protocol":"any","host":1,"unikernel":1}],"addresses":["192.0.2.1","::1"],"sources":["192.0.2.0/24"],"drain":30000},"previous":null,"draining":[["website.0101010101",{"at":30000009,"given":{"secs":30,"nanos":0}}]]}"#,
    );
    holds(lease("a", "10.0.0.2", 1), r#"{"tag":"a","address":"10.0.0.2","prefix":"10.0.0.0/24","since":1}"#);
    holds(
        ImageRecord { signature: None, ..image(1) },
        &format!(r#"{{"digest":"sha256:{digest}","size":17,"network_device":"service","block_devices":["disk"]}}"#),
    );
    holds(
        image(1),
        &format!(
            r#"{{"digest":"sha256:{digest}","size":17,"network_device":"service","block_devices":["disk"],"signature":"untrusted comment: x\nRUSh\n"}}"#
        ),
    );
    let plan = r#"{"image":"/srv/web.hvt","configuration":{"network":null,"memory":32,"cpu":null,"arguments":["--relay={signer.address}"],"address":{"prefix":null,"address":null},"exclude":["10.0.0.10-10.0.0.19","10.0.0.128-10.0.0.255"],"block_devices":[],"restart":"never","readiness":{"tcp":{"port":25}},"timeout":{"secs":30,"nanos":0}},"ports":[{"protocol":"tcp","host":25,"unikernel":25}],"staged":[],"addresses":["192.0.2.1"],"sources":["192.0.2.0/24"],"drain":{"secs":1,"nanos":0},"watch":{"secs":600,"nanos":0}}"#;
    let member = format!(r#"{{"plan":{plan},"image":"sha256:{digest}","unikernel":"website.0101010101"}}"#);
    let chain = format!(r#"{{"members":{{"website":{member}}}}}"#);
    let applied = format!(
        r#"{{"manifest":{{"stack":"mail","members":{{"website":{plan}}}}},"caller":{{"uid":0,"gid":0,"groups":[1,2]}},"activate":true,"images":{{"website":"sha256:{digest}"}}}}"#
    );
    holds(
        stack("mail"),
        &format!(
            r#"{{"name":"mail","live":{chain},"staged":{chain},"previous":{chain},"former":["website.0101010101"],"applied":{applied},"attempt":"working","last_check":7,"last_result":"staged","removing":false}}"#
        ),
    );
    holds(flows("website", 443), r#"{"service":"website","target":"10.0.0.2","ports":[53,443]}"#);
    holds(flows("website", 1), r#"{"service":"website","target":"10.0.0.2","ports":[1,53],"half_open":true}"#);
}

/// The contents as sets, for comparisons in which the order says nothing.
fn as_sets(contents: &Contents) -> BTreeMap<&'static str, Vec<String>> {
    fn sorted<T: serde::Serialize>(values: &[T]) -> Vec<String> {
        let mut lines: Vec<_> = values.iter().map(|value| serde_json::to_string(value).unwrap()).collect();
        lines.sort();
        lines
    }
    [
        ("unikernels", sorted(&contents.unikernels)),
        ("services", sorted(&contents.services)),
        ("leases", sorted(&contents.leases)),
        ("released", sorted(&contents.released)),
        ("images", sorted(&contents.images)),
        ("stale_flows", sorted(&contents.stale_flows)),
        ("last_words", sorted(&contents.last_words)),
        ("stacks", sorted(&contents.stacks)),
        ("loopback_routes", sorted(&contents.loopback_routes)),
    ]
    .into()
}
