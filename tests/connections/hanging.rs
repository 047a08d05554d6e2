//! Clients whose first packet went to a unikernel that hangs.

use std::time::{Duration, Instant};

use crate::host::{Manager, Options, TestHost, eventually, options};
use crate::netns::{isolated, sh};
use crate::{CLIENT, ask, connect, connected, deploy, flows_of, publish};

/// What a busy machine may take for one request.
const ROOM: Duration = Duration::from_secs(5);

/// The unikernel hangs: it runs, and answers nothing. Its tap.
fn hangs(host: &TestHost, id: &str) -> String {
    let dump = host.albatross.dump();
    let of_it = |unikernel: &&serde_json::Value| unikernel["name"].as_str().unwrap().ends_with(id);
    let unikernel = dump["unikernels"].as_array().unwrap().iter().find(of_it).unwrap();
    let tap = unikernel["tap"].as_str().unwrap().to_owned();
    sh(&format!("ip link set {tap} down"));
    tap
}

/// How a service gets away from a unikernel that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Publish,
    UnpublishAndPublish,
    Rollback,
    /// `[publish] fall-back`, once its readiness rule does not hold.
    FallBack,
}

impl Away {
    async fn go(self, manager: &Manager, to: &str) {
        match self {
            Self::Publish => publish(manager, Options::from([("unikernel", to.into())])).await,
            Self::UnpublishAndPublish => {
                manager.call("Unpublish", &("website",)).await.unwrap();
                publish(manager, Options::from([("unikernel", to.into())])).await;
            }
            Self::Rollback => {
                manager.call("Rollback", &("website",)).await.unwrap();
            }
            Self::FallBack => eventually("fallen back", async || manager.told_of(to, "State").await == "live").await,
        }
    }
}

async fn clients_get_to_the_next(away: Away) {
    let Some(mut host) = TestHost::without_service() else { return };
    std::fs::write(host.config(), format!("[publish]\nfall-back = {}\n", away == Away::FallBack)).unwrap();
    host.start_service().await;
    let manager = host.manager().await;
    let (first, _) = deploy(&host, &manager, "1").await;
    publish(&manager, Options::new()).await;
    let mut options = options("http:80/");
    options.insert("restart", "never".into());
    if away == Away::FallBack {
        options.extend([("check", 200_u64.into()), ("check-failures", 2_u32.into())]);
    }
    let (second, address) = manager.deploy("website", &host.image("2", &[]), options).await.unwrap();
    publish(&manager, Options::new()).await;
    let mut answered = connected(&host.client, CLIENT);
    let tap = hangs(&host, &second);
    let begin = Instant::now();
    let waiting = (0..3).map(|_| {
        host.client.spawn(move || {
            let mut stream = connect(CLIENT).unwrap();
            (ask(&mut stream).unwrap(), begin.elapsed())
        })
    });
    let waiting = waiting.collect::<Vec<_>>();
    // Each check that fails takes its five seconds: no fall-back comes before they have gone.
    let unanswered = || flows_of(&address).iter().filter(|flow| flow.contains(" SYN_SENT ")).count();
    eventually("their first packets have gone", async || unanswered() >= 3).await;
    away.go(&manager, &first).await;
    // The pause before a packet is a second, and at most as long as all pauses before it and a second more.
    let next_packet = 2 * begin.elapsed() + Duration::from_secs(1);
    for waiting in waiting {
        let (answer, took) = tokio::task::spawn_blocking(|| waiting.join().unwrap()).await.unwrap();
        println!("answered by {answer} after {took:?}");
        assert_eq!(answer, "version=1");
        assert!(took < next_packet + ROOM, "not with its next packet: {took:?}");
    }
    if away != Away::FallBack {
        assert_eq!(manager.told_of(&second, "State").await, "draining", "it still runs");
        sh(&format!("ip link set {tap} up"));
        let stays = async || ask(&mut answered).is_ok_and(|it| it == "version=2");
        eventually("what was answered stays with it", stays).await;
    }
}

macro_rules! ways {
    ($($test:ident: $away:ident;)*) => {
        $(#[test]
        fn $test() {
            isolated(concat!("hanging::", stringify!($test)), |_| clients_get_to_the_next(Away::$away));
        })*
    };
}

ways! {
    clients_get_to_the_next_by_publish: Publish;
    clients_get_to_the_next_by_unpublish_and_publish: UnpublishAndPublish;
    clients_get_to_the_next_by_rollback: Rollback;
    clients_get_to_the_next_by_fall_back: FallBack;
}
