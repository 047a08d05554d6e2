//! Activation under load: a client outside talks through all members in an open loop, and another asks each member's own
//! port in turn, while the stack goes from one chain to the other and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::host::HOST;
use crate::manifest::{FIRST, LIVE, SECOND, Versions, manifest, members};
use crate::netns::isolated;
use crate::open_loop::{Asked, Load};
use crate::scene::Scene;
use crate::timeline::{Switch, Timeline};

/// Half of them Activate, half RollbackStack.
const MOVES: usize = 100;
/// Requests a second, each through three members.
const RATE: f64 = 200.0;
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two moves; chance adds up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(40)];
const QUIET: Duration = Duration::from_millis(300);
/// Of who asks in turn, so that the others get to a core.
const BREATH: Duration = Duration::from_millis(1);
/// The members' own ports: those of the entry, the signer and the forward.
const PORTS: [u16; 3] = [LIVE, 8081, 8082];

fn text(scene: &Scene, versions: Versions) -> String {
    let mut all = members(&scene.host, versions);
    all[1] = all[1].clone().more("ports = [\"8081:80\"]");
    all[2] = all[2].clone().more("ports = [\"8082:80\"]");
    manifest("mail", &all)
}

/// What the open loop makes of a chain's answer.
fn words(versions: Versions) -> String {
    versions.map(|version| format!("version={version}")).join(" ")
}

/// One request after the other, each to the next member's port: which chain answered, or why nobody did.
type InTurn = Vec<Result<char, String>>;

struct Clients {
    stop: Arc<AtomicBool>,
    through: JoinHandle<Vec<Asked>>,
    in_turn: JoinHandle<InTurn>,
}

impl Clients {
    fn start(scene: &Scene) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, also_told) = (Arc::clone(&stop), Arc::clone(&stop));
        let through = scene.host.client.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut seen = Vec::new();
            let load = Load { target: address(LIVE), path: "/chain", rate: RATE, patience: PATIENCE };
            runtime.block_on(load.run(|| told.load(Ordering::Relaxed), |asked| seen.push(asked)));
            seen
        });
        let in_turn = scene.host.client.spawn(move || {
            let mut seen = Vec::new();
            for port in PORTS.into_iter().cycle() {
                if also_told.load(Ordering::Relaxed) {
                    break;
                }
                seen.push(generation(port));
                std::thread::sleep(BREATH);
            }
            seen
        });
        Self { stop, through, in_turn }
    }

    fn stop(self) -> (Vec<Asked>, InTurn) {
        self.stop.store(true, Ordering::Relaxed);
        (self.through.join().unwrap(), self.in_turn.join().unwrap())
    }
}

fn address(port: u16) -> SocketAddr {
    format!("{HOST}:{port}").parse().unwrap()
}

/// The last character of the version.
fn generation(port: u16) -> Result<char, String> {
    use std::io::{Read, Write};
    let text = |error: std::io::Error| format!("port {port}: {error}");
    let mut stream = std::net::TcpStream::connect_timeout(&address(port), PATIENCE).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: mail\r\nConnection: close\r\n\r\n").map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let word = answer.split_once("\r\n\r\n").and_then(|(_, body)| body.split_whitespace().next()?.chars().last());
    word.ok_or_else(|| format!("port {port} answered {answer:?}"))
}

#[test]
fn no_answer_is_of_two_chains() {
    isolated("load::no_answer_is_of_two_chains", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let [first, second] = [text(&scene, FIRST), text(&scene, SECOND)];
        scene.apply(&second).await.unwrap();
        scene.activate().await.unwrap();
        scene.apply(&first).await.unwrap();
        scene.activate().await.unwrap();
        scene.answers(LIVE, FIRST).await;
        let created = scene.created();
        let (mut timeline, mut chance) = (Timeline::new(&words(FIRST)), Chance::new());
        let clients = Clients::start(&scene);
        tokio::time::sleep(QUIET).await;
        for round in 0..MOVES {
            let forward = round % 2 == 0;
            if forward {
                scene.apply(&second).await.unwrap();
            }
            let began = Instant::now();
            if forward {
                scene.activate().await.unwrap()
            } else {
                scene.roll_back().await.unwrap()
            }
            let to = words(if forward { SECOND } else { FIRST });
            timeline.switches.push(Switch { to, began, ended: Instant::now() });
            tokio::time::sleep(PAUSE[0] + chance.up_to(PAUSE[1])).await;
        }
        tokio::time::sleep(QUIET).await;
        let (through, in_turn) = clients.stop();
        assert_eq!(scene.created(), created, "both chains ran all the while");
        judge(&timeline, &through, &in_turn);
    });
}

fn judge(timeline: &Timeline, through: &[Asked], in_turn: &InTurn) {
    let known = [words(FIRST), words(SECOND)];
    let answered = || through.iter().filter_map(|asked| Some((asked, asked.answer.as_ref().ok()?)));
    let failed = through.iter().filter_map(|asked| asked.answer.as_ref().err()).collect::<Vec<_>>();
    let mixed = answered().filter(|(_, answer)| !known.contains(answer)).collect::<Vec<_>>();
    let late = answered().filter(|(asked, answer)| !timeline.may_answer(answer, asked.began, asked.ended));
    let late = late.collect::<Vec<_>>();
    let in_turn_failed = in_turn.iter().filter_map(|asked| asked.as_ref().err()).collect::<Vec<_>>();
    let mut generations = in_turn.iter().flatten().collect::<Vec<_>>();
    let asked_in_turn = generations.len();
    generations.dedup();
    let mut took = timeline.switches.iter().map(|switch| switch.ended - switch.began).collect::<Vec<_>>();
    took.sort_unstable();
    println!(
        "{} requests through three members and {asked_in_turn} to one after the other, {MOVES} moves (median {:?}, \
         slowest {:?}): {} mixed, {} by a chain that was not live, {} failed; seen in turn: {} changes",
        through.len(),
        took[MOVES / 2],
        took[MOVES - 1],
        mixed.len(),
        late.len(),
        failed.len() + in_turn_failed.len(),
        generations.len() - 1,
    );
    assert!(failed.is_empty() && in_turn_failed.is_empty(), "{failed:?} {in_turn_failed:?}");
    assert!(mixed.is_empty(), "{mixed:?}");
    assert!(late.is_empty(), "{late:?}");
    // Who has seen a member of the new chain sees none of the old one after it: every move is seen once.
    assert_eq!(generations.len() - 1, MOVES, "somebody saw half of a move");
    assert!(through.len() > 1_000, "{}", through.len());
}
