//! How long a connection from outside takes while one switch follows the other, against the same load without switches.
//!
//! TCP and UDP, while a TCP port and while a port of both is switched: for UDP the flows to the unikernel before are
//! deleted. Phases with and without switches follow each other, so that whatever else the machine does hits both.
//!
//! Set-ups are compared for their way through the kernel, where a switch happens, and not for who had to wait for a core:
//! clients and guests have one to themselves. Packets of clients are handled on the other, which the service has, as if the
//! interrupts of the host's network card went there: whatever keeps softirqs from that core is in the figures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::figures::{Samples, at_most, at_most_times, ms, note};
use super::host::{HOST, Manager, Options, TestHost, options};
use super::netns::isolated;

const PATIENCE: Duration = Duration::from_secs(5);
const UDP_PATIENCE: Duration = Duration::from_millis(200);

/// New connections a second, TCP and UDP each, and how many seconds each kind of phase has in the end.
const RATE: u32 = 500;
const PHASE: Duration = Duration::from_millis(1_000);
const PHASES: usize = 84;
/// After a phase, until what it left to do (a drain ends) is done. Not counted.
const BETWEEN: Duration = Duration::from_millis(300);
const SWITCH_EVERY: Duration = Duration::from_millis(50);

const NOT_COUNTED: u8 = 0;
const WITHOUT: u8 = 1;
const WITH_TCP: u8 = 2;
const WITH_BOTH: u8 = 3;
const OVER: u8 = 4;

const PHASE_NAMES: [&str; 3] =
    ["without switches", "while a TCP port is switched", "while a TCP and UDP port is switched"];

pub fn run() {
    isolated("switching", |_| measure());
}

async fn measure() {
    // Everything that is started from here on shares the other cores.
    let all = sched_getaffinity(None).unwrap();
    let own = (0..CpuSet::MAX_CPU).rev().find(|core| all.is_set(*core)).unwrap();
    let mut others = all;
    if all.count() > 1 {
        others.unset(own);
        sched_setaffinity(None, &others).unwrap();
    }
    let Some(host) = TestHost::start().await else { return };
    note_buckets();
    receive_on(&others);
    let _awake = KeptAwake::start(&others);
    let manager = host.manager().await;
    let [tcp, with_udp] = [Switched::new(&host, &manager, &TCP).await, Switched::new(&host, &manager, &WITH_UDP).await];
    let mut services = [tcp, with_udp];
    give_guests(own, &host);
    let clients = Clients::start(&host, own);
    for phase in 0..3 * PHASES {
        tokio::time::sleep(BETWEEN).await;
        match phase % 3 {
            0 => {
                clients.phase(WITHOUT);
                tokio::time::sleep(PHASE).await;
            }
            1 => {
                clients.phase(WITH_TCP);
                services[0].switch_for(PHASE, &manager).await;
            }
            _ => {
                clients.phase(WITH_BOTH);
                services[1].switch_for(PHASE, &manager).await;
            }
        }
        clients.phase(NOT_COUNTED);
    }
    report(clients.end(), &services);
}

/// Programs that want the cores when nobody else does. To wake an idle core of a virtual machine takes its host up to a
/// millisecond, and which kind of phase pays for that is chance.
struct KeptAwake(Vec<Child>);

impl KeptAwake {
    fn start(cores: &CpuSet) -> Self {
        let one = |core: usize| {
            let mut idle = Command::new("taskset");
            idle.args(["--cpu-list", &core.to_string(), "chrt", "--idle", "0", "sh", "-c", "while :; do :; done"]);
            idle.spawn().inspect_err(|error| note(&format!("core {core} may sleep: {error}"))).ok()
        };
        Self((0..CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).filter_map(one).collect())
    }
}

impl Drop for KeptAwake {
    fn drop(&mut self) {
        for idle in &mut self.0 {
            let _ = idle.kill();
            let _ = idle.wait();
        }
    }
}

/// Packets from outside are handled on these cores, by receive packet steering.
fn receive_on(cores: &CpuSet) {
    let mask =
        (0..CpuSet::MAX_CPU.min(32)).filter(|core| cores.is_set(*core)).fold(0_u32, |mask, core| mask | 1 << core);
    // The mount of /sys that is there shows the network of whoever made it.
    let script = "mount -t sysfs sysfs /sys && echo \"$1\" > /sys/class/net/outside/queues/rx-0/rps_cpus";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", script, "sh", &format!("{mask:x}")]);
    if !unshare.status().is_ok_and(|status| status.success()) {
        note("packets are handled on the core of who sends them: rps_cpus could not be set");
    }
}

/// Over UDP the guest answers, and not its kernel: it must not wait for the service and the bus.
fn give_guests(core: usize, host: &TestHost) {
    let dump = host.albatross.dump();
    for unikernel in dump["unikernels"].as_array().unwrap() {
        let guest = unikernel["pid"].as_u64().unwrap().to_string();
        let mut taskset = Command::new("taskset");
        taskset.args(["--all-tasks", "--cpu-list", "--pid", &core.to_string(), &guest]).stdout(Stdio::null());
        if !taskset.status().is_ok_and(|status| status.success()) {
            note("the guests share their core with other programs: taskset was refused");
        }
        go_first(&["--all-tasks", "--pid", "50", &guest], "the guests");
    }
}

/// Before whatever else wants the core of these.
fn go_first(which: &[&str], who: &str) {
    if !Command::new("chrt").arg("--fifo").args(which).status().is_ok_and(|status| status.success()) {
        note(&format!("{who} wait for other programs: chrt was refused"));
    }
}

/// What a walk of conntrack costs depends on it, and nothing else of the host does.
fn note_buckets() {
    let buckets = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets").unwrap_or_default();
    let buckets = buckets.trim();
    let less = if buckets == "262144" { "" } else { ": NOT the 262,144 of a host with more than 4 GiB" };
    note(&format!("conntrack has {buckets} buckets{less}"));
}

fn report(measured: Measured, services: &[Switched; 2]) {
    let Measured { tcp, udp, lost, unanswered } = measured;
    for service in services {
        let (samples, longest) = (&service.switches, ms(service.switches.longest()));
        note(&format!("Publish of {}: {}, longest {longest}", service.port.name, samples.summary()));
    }
    for (protocol, samples) in [("TCP", &tcp), ("UDP", &udp)] {
        for (what, samples) in PHASE_NAMES.iter().zip(samples) {
            let [median, most, nearly_all] = [0.5, 0.99, 0.999].map(|part| ms(samples.quantile(part)));
            note(&format!(
                "  {protocol} {what}: {} connections, {median} median, {most} at 99 %, {nearly_all} at 99.9 %, {} longest",
                samples.count(),
                ms(samples.longest())
            ));
        }
    }
    note(&format!("UDP datagrams without an answer, whose way back went with the flow that was deleted: {unanswered}"));
    at_most_times("connections lost", lost, 0);
    for (protocol, [calm, of_tcp, of_both]) in [("TCP", &tcp), ("UDP", &udp)] {
        let calm = calm.quantile(0.999);
        for (what, samples) in [("a TCP port", of_tcp), ("a UDP port", of_both)] {
            let what = format!("{protocol} set-up while {what} is switched, 99.9 %");
            at_most(&what, samples.quantile(0.999), 1.1, "calm", calm);
        }
    }
    let [of_tcp, of_both] = services.each_ref().map(|service| service.switches.median());
    at_most("Publish with a UDP port", of_both, 1.3, "one without", of_tcp);
}

/// A service with two versions, and the port that goes from one to the other.
struct Switched {
    port: &'static Port,
    pair: Vec<String>,
    switches: Samples,
}

struct Port {
    name: &'static str,
    service: &'static str,
    protocol: &'static str,
    number: u16,
}

const TCP: Port = Port { name: "a TCP port", service: "website", protocol: "tcp", number: 8080 };
const WITH_UDP: Port = Port { name: "a TCP and UDP port", service: "resolver", protocol: "any", number: 5353 };

impl Switched {
    async fn new(host: &TestHost, manager: &Manager, port: &'static Port) -> Self {
        let mut pair = Vec::new();
        for version in ["1", "2"] {
            let image = host.image(&format!("{}-{version}", port.service), &[]);
            pair.push(manager.deploy(port.service, &image, options("http:80/")).await.unwrap().0);
        }
        let mut switched = Self { port, pair, switches: Samples::default() };
        switched.switch(manager).await;
        switched.switches = Samples::default();
        switched
    }

    async fn switch(&mut self, manager: &Manager) {
        // Each phase has an even number, or the last of it was too late: then one Publish changes nothing.
        let unikernel = self.pair[(self.switches.count() + 1) % 2].clone();
        let wanted = Options::from([("unikernel", unikernel.into())]);
        let ports = [(self.port.protocol, self.port.number, 80)];
        self.switches.time(manager.publish(self.port.service, &ports, wanted)).await.unwrap();
    }

    async fn switch_for(&mut self, time: Duration, manager: &Manager) {
        let (mut next, end) = (Instant::now(), Instant::now() + time);
        while next < end {
            tokio::time::sleep_until(next.into()).await;
            self.switch(manager).await;
            next = (next + SWITCH_EVERY).max(Instant::now());
        }
    }
}

/// Set-ups in each kind of phase.
type ByPhase = [Samples; 3];

/// What the clients have seen.
struct Measured {
    tcp: ByPhase,
    udp: ByPhase,
    /// TCP connections without an answer.
    lost: usize,
    /// UDP datagrams without one.
    unanswered: usize,
}

/// One thread opens TCP connections and does nothing else, so that none waits for the answer to another; one asks over
/// UDP.
struct Clients {
    phase: Arc<AtomicU8>,
    opener: JoinHandle<ByPhase>,
    udp: JoinHandle<(ByPhase, usize)>,
    asker: JoinHandle<()>,
    lost: Arc<AtomicUsize>,
}

impl Clients {
    fn start(host: &TestHost, core: usize) -> Self {
        let (phase, lost) = (Arc::new(AtomicU8::new(NOT_COUNTED)), Arc::new(AtomicUsize::new(0)));
        let (sender, opened) = channel();
        let asker = std::thread::spawn({
            let lost = Arc::clone(&lost);
            move || ask_each(&opened, &lost)
        });
        let opener = host.client.spawn({
            let (phase, lost) = (Arc::clone(&phase), Arc::clone(&lost));
            move || open_each(core, &phase, &lost, &sender)
        });
        let udp = host.client.spawn({
            let phase = Arc::clone(&phase);
            move || ask_udp_each(core, &phase)
        });
        Self { phase, opener, udp, asker, lost }
    }

    fn phase(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn end(self) -> Measured {
        self.phase(OVER);
        let tcp = self.opener.join().unwrap();
        let (udp, unanswered) = self.udp.join().unwrap();
        self.asker.join().unwrap();
        Measured { tcp, udp, lost: self.lost.load(Ordering::Relaxed), unanswered }
    }
}

/// Does `each` at the rate until it is over; it returns how long a set-up took, where there was one.
fn at_rate(core: usize, phase: &AtomicU8, mut each: impl FnMut(usize) -> Option<Duration>) -> ByPhase {
    take(core);
    let mut samples = ByPhase::default();
    let mut next = Instant::now();
    for number in 0.. {
        let phase = phase.load(Ordering::Relaxed);
        if phase == OVER {
            break;
        }
        if let Some(took) = each(number).filter(|_| phase != NOT_COUNTED) {
            samples[usize::from(phase - WITHOUT)].push(took);
        }
        next += Duration::from_secs(1) / RATE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    samples
}

fn open_each(core: usize, phase: &AtomicU8, lost: &AtomicUsize, opened: &Sender<TcpStream>) -> ByPhase {
    let targets = [&TCP, &WITH_UDP].map(target);
    at_rate(core, phase, |number| {
        let began = Instant::now();
        match TcpStream::connect_timeout(&targets[number % 2], PATIENCE) {
            Ok(stream) => {
                let took = began.elapsed();
                opened.send(stream).unwrap();
                Some(took)
            }
            Err(_) => {
                lost.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    })
}

/// Each from a port of its own, so that it is a new connection for the kernel.
fn ask_udp_each(core: usize, phase: &AtomicU8) -> (ByPhase, usize) {
    let (target, mut unanswered) = (target(&WITH_UDP), 0);
    let samples = at_rate(core, phase, |_| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(UDP_PATIENCE)).unwrap();
        let began = Instant::now();
        let asked = socket.send_to(b"?", target).and_then(|_| socket.recv(&mut [0; 64]));
        unanswered += usize::from(asked.is_err());
        asked.is_ok().then(|| began.elapsed())
    });
    (samples, unanswered)
}

fn target(port: &Port) -> SocketAddr {
    format!("{HOST}:{}", port.number).parse().unwrap()
}

/// This thread runs on that core, before whatever else does: programs of this machine are not in the way of one on another.
fn take(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).unwrap();
    go_first(&["--pid", "50", &gettid().as_raw_nonzero().to_string()], "the clients");
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
