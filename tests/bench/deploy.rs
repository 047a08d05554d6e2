//! A deployment of an image that is stored already, from the call to the signal that it runs, against the bare exchange
//! with Albatross on the same socket.

use std::fs::File;
use std::num::NonZero;
use std::time::{Duration, Instant};

use albatross_deployer::albatross::{Client, Creation, Settings};
use albatross_deployer::domain::{Arguments, ImageDigest, NetworkDevice, RestartPolicy, ServiceName, UnikernelId};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use zbus::{MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

use super::figures::{Samples, at_most, note};
use super::host::{MANAGER, Manager, Options, ROOT, TestHost, options};
use super::netns::isolated;

const ROUNDS: usize = 80;
/// The service looks at Albatross when a unikernel has gone, and the stand-in, as the real one, does one thing at a time.
const SETTLE: Duration = Duration::from_millis(30);

pub fn run() {
    isolated("deploy", |_| measure());
}

async fn measure() {
    let Some(host) = TestHost::start().await else { return };
    // A create of the real one takes 11 to 20 ms; the stand-in's own, about 4.
    assert_eq!(host.albatross.control("delay 9 create"), "ok");
    let manager = host.manager().await;
    let path = host.image("1", &[]);
    let digest = ImageDigest(Sha256::digest(std::fs::read(&path).unwrap()).into());
    deploy(&manager, "first", &path).await;
    let directory = host.albatross.directory().to_owned();
    let bare = Client::new(Settings { directory, path: String::new(), deadline: Duration::from_secs(10) }).unwrap();
    let mut signals = state_changes(&manager).await;
    let [mut deployed, mut created, mut answered] = <[Samples; 3]>::default();
    for round in 0..ROUNDS + 5 {
        if round == 5 {
            [deployed, created, answered] = Default::default(); // warm
        }
        let service = format!("deployed-{round}");
        let begun = Instant::now();
        let stored = digest.to_string();
        let call = deploy(&manager, &service, &stored);
        let running = until_running(&mut signals, &service);
        let (id, at) = tokio::join!(call, running);
        deployed.push(at - begun);
        answered.push(begun.elapsed());
        manager.call("Destroy", &(id, Options::new())).await.unwrap();
        tokio::time::sleep(SETTLE).await;
        let name: ServiceName = format!("bare-{round}").parse().unwrap();
        let id = UnikernelId::new(&name, &[0xab; 32]);
        let file = File::open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        let create = async {
            bare.create(&id, &creation(digest), file, length).await.unwrap();
            bare.unikernel(&id).await.unwrap()
        };
        assert!(created.time(create).await.is_some());
        bare.destroy(&id).await.unwrap();
        tokio::time::sleep(SETTLE).await;
    }
    note(&format!("Deploy of a stored image, call to running: {}", deployed.summary()));
    note(&format!("  bare create and info, same socket and image: {}", created.summary()));
    note(&format!("  Deploy, call to answer (waits 20 ms of these for its readiness): {}", answered.summary()));
    at_most("Deploy", deployed.median(), 1.3, "the bare exchange", created.median());
}

async fn deploy(manager: &Manager, service: &str, image: &str) -> String {
    let mut wanted = options("running");
    wanted.insert("timeout", 20_u64.into());
    manager.deploy(service, image, wanted).await.unwrap().0
}

async fn state_changes(manager: &Manager) -> MessageStream {
    let rule = MatchRule::builder().path(ROOT).interface(MANAGER);
    let rule = rule.member("UnikernelStateChanged").build().unwrap();
    MessageStream::for_match_rule(rule, &manager.0, NonZero::new(4096)).await.unwrap()
}

async fn until_running(signals: &mut MessageStream, service: &str) -> Instant {
    loop {
        let message = signals.next().await.unwrap().unwrap();
        let at = Instant::now();
        type Changed = (OwnedObjectPath, String, String, String, std::collections::HashMap<String, OwnedVariant>);
        let (_, id, _, new, _): Changed = message.body().deserialize().unwrap();
        if id.starts_with(&format!("{service}.")) && new == "running" {
            return at;
        }
    }
}

/// What the service asks of Albatross for such a deployment.
fn creation(digest: ImageDigest) -> Creation {
    Creation {
        digest,
        arguments: Arguments(vec!["--ipv4=10.0.0.200/24".into(), "--ipv4-gateway=10.0.0.1".into()]),
        memory: 32,
        cpu: 0,
        network: "br0".parse().unwrap(),
        device: NetworkDevice("service".into()),
        block_devices: Vec::new(),
        restart: RestartPolicy::OnFailure(Vec::new()),
    }
}
