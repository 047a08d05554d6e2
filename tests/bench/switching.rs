//! How long a connection from outside takes while one switch follows the other, against the same load without switches.
//!
//! Phases with and without switches follow each other, so that whatever else the machine does hits both. The client has
//! a core to itself, as one on another machine has: what is compared is the way through the kernel, where a switch
//! happens, and not who had to wait for a core.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::figures::{Samples, at_most, at_most_times, ms, note};
use super::host::{HOST, Manager, Options, TestHost, options};
use super::netns::isolated;

const PORT: u16 = 8080;
const SERVICE: &str = "website";
const PATIENCE: Duration = Duration::from_secs(5);

/// New connections a second, and how many each kind of phase has in the end.
const RATE: u32 = 500;
const PHASE: Duration = Duration::from_millis(1_000);
const PHASES: usize = 42;
/// After a phase, until what it left to do (a drain ends) is done. Not counted.
const BETWEEN: Duration = Duration::from_millis(300);
const SWITCH_EVERY: Duration = Duration::from_millis(50);

const NOT_COUNTED: u8 = 0;
const WITHOUT: u8 = 1;
const WITH: u8 = 2;
const OVER: u8 = 3;

pub fn run() {
    isolated("switching", |_| measure());
}

async fn measure() {
    // Everything that is started from here on shares the other cores.
    let all = sched_getaffinity(None).unwrap();
    let own = (0..CpuSet::MAX_CPU).rev().find(|core| all.is_set(*core)).unwrap();
    if all.count() > 1 {
        let mut others = all;
        others.unset(own);
        sched_setaffinity(None, &others).unwrap();
    }
    let Some(host) = TestHost::start().await else { return };
    let manager = host.manager().await;
    let mut pair = Vec::new();
    for version in ["1", "2"] {
        pair.push(manager.deploy(SERVICE, &host.image(version, &[]), options("http:80/")).await.unwrap().0);
    }
    publish(&manager, &pair[0]).await;
    let clients = Clients::start(&host, own);
    let mut switches = Samples::default();
    for phase in 0..2 * PHASES {
        tokio::time::sleep(BETWEEN).await;
        if phase % 2 == 0 {
            clients.phase(WITHOUT);
            tokio::time::sleep(PHASE).await;
        } else {
            clients.phase(WITH);
            switch_for(PHASE, &manager, &pair, &mut switches).await;
        }
        clients.phase(NOT_COUNTED);
    }
    let (without, with, lost) = clients.end();
    note(&format!(
        "{RATE} connections a second; Publish meanwhile: {}, longest {}",
        switches.summary(),
        ms(switches.longest())
    ));
    for (what, samples) in [("without switches", &without), ("during switches", &with)] {
        let quantiles = [0.5, 0.99, 0.999].map(|part| ms(samples.quantile(part)));
        let [median, most, nearly_all] = quantiles;
        note(&format!(
            "  {what}: {} connections, {median} median, {most} at 99 %, {nearly_all} at 99.9 %, {} longest",
            samples.count(),
            ms(samples.longest())
        ));
    }
    at_most_times("connections lost", lost, 0);
    let (with, without) = (with.quantile(0.999), without.quantile(0.999));
    at_most("set-up of a connection during switches, 99.9 %", with, 1.2, "without", without);
}

async fn publish(manager: &Manager, id: &str) {
    let wanted = Options::from([("unikernel", id.into())]);
    manager.publish(SERVICE, &[("tcp", PORT, 80)], wanted).await.unwrap();
}

async fn switch_for(time: Duration, manager: &Manager, pair: &[String], switches: &mut Samples) {
    let (mut next, end) = (Instant::now(), Instant::now() + time);
    while next < end {
        tokio::time::sleep_until(next.into()).await;
        // Each phase has an even number, or the last of it was too late: then one Publish changes nothing.
        switches.time(publish(manager, &pair[(switches.count() + 1) % 2])).await;
        next = (next + SWITCH_EVERY).max(Instant::now());
    }
}

/// One thread opens connections and does nothing else, so that none waits for the answer to another.
struct Clients {
    phase: Arc<AtomicU8>,
    opener: JoinHandle<[Samples; 2]>,
    asker: JoinHandle<()>,
    lost: Arc<AtomicUsize>,
}

impl Clients {
    fn start(host: &TestHost, core: usize) -> Self {
        let target: SocketAddr = format!("{HOST}:{PORT}").parse().unwrap();
        let (phase, lost) = (Arc::new(AtomicU8::new(NOT_COUNTED)), Arc::new(AtomicUsize::new(0)));
        let (sender, opened) = channel();
        let asker = std::thread::spawn({
            let lost = Arc::clone(&lost);
            move || ask_each(&opened, &lost)
        });
        let opener = host.client.spawn({
            let (phase, lost) = (Arc::clone(&phase), Arc::clone(&lost));
            move || open_each(target, core, &phase, &lost, &sender)
        });
        Self { phase, opener, asker, lost }
    }

    fn phase(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Set-ups without and with switches, and how many connections had no answer.
    fn end(self) -> (Samples, Samples, usize) {
        self.phase(OVER);
        let [without, with] = self.opener.join().unwrap();
        self.asker.join().unwrap();
        (without, with, self.lost.load(Ordering::Relaxed))
    }
}

fn open_each(
    target: SocketAddr,
    core: usize,
    phase: &AtomicU8,
    lost: &AtomicUsize,
    opened: &Sender<TcpStream>,
) -> [Samples; 2] {
    take(core);
    let mut samples = <[Samples; 2]>::default();
    let mut next = Instant::now();
    loop {
        let phase = phase.load(Ordering::Relaxed);
        if phase == OVER {
            return samples;
        }
        let began = Instant::now();
        match TcpStream::connect_timeout(&target, PATIENCE) {
            Ok(stream) => {
                if phase != NOT_COUNTED {
                    samples[usize::from(phase - WITHOUT)].push(began.elapsed());
                }
                opened.send(stream).unwrap();
            }
            Err(_) => drop(lost.fetch_add(1, Ordering::Relaxed)),
        }
        next += Duration::from_secs(1) / RATE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// This thread runs on that core, before whatever else does: programs of this machine are not in the way of one on another.
fn take(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).unwrap();
    let thread = gettid().as_raw_nonzero().to_string();
    if !Command::new("chrt").args(["--fifo", "--pid", "50", &thread]).status().is_ok_and(|status| status.success()) {
        note("the client shares its core with other programs: chrt was refused");
    }
}

fn ask_each(opened: &Receiver<TcpStream>, lost: &AtomicUsize) {
    while let Ok(stream) = opened.recv() {
        if !answers(stream) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn answers(mut stream: TcpStream) -> bool {
    let mut answer = String::new();
    let asked = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: website\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.contains("version=")
}
