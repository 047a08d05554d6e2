//! What it costs that begin and end of every connection are counted: the processor's time of the service, and how long
//! the set-up of a connection takes, with the service and without it (its table stays in the kernel).

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::figures::{Samples, at_most, ms, note, within};
use super::host::{HOST, Options, TestHost, options};
use super::netns::isolated;

const PORT: u16 = 8080;
const ROUNDS: usize = 8;
const CONNECTIONS: u32 = 1_500;
const PAUSE: Duration = Duration::from_micros(500);
/// What the figures are said for.
const RATE: u32 = 20_000;

pub fn run() {
    isolated("counting", |_| measure());
}

async fn measure() {
    let Some(mut host) = TestHost::start().await else { return };
    let manager = host.manager().await;
    manager.deploy("website", &host.image("1", &[]), options("http:80/")).await.unwrap();
    manager.publish("website", &[("tcp", PORT, 80)], Options::new()).await.unwrap();
    forget_soon();
    let (mut with, mut without) = (Samples::default(), Samples::default());
    let (mut own, mut all) = (Duration::ZERO, [Duration::ZERO; 2]);
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = on_cpu(&host);
        all[0] += connect(&host, &mut with).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        own += on_cpu(&host) - before;
        host.kill_service();
        all[1] += connect(&host, &mut without).await;
        host.start_service().await;
    }
    let connections = CONNECTIONS * u32::try_from(ROUNDS).unwrap();
    let share = |time: Duration| 100.0 * time.as_secs_f64() / f64::from(connections) * f64::from(RATE);
    note(&format!(
        "service: {:.1} us a connection, {:.0} % of a core at {RATE}/s",
        micros(own / connections),
        share(own)
    ));
    let [with_it, without_it] = all.map(|time| micros(time / connections));
    note(&format!(
        "client's thread, most of it the kernel's: {with_it:.1} us a connection, without it {without_it:.1} us"
    ));
    for (what, samples) in [("with the service", &with), ("without", &without)] {
        let quantiles = [0.5, 0.99, 0.999].map(|part| ms(samples.quantile(part)));
        note(&format!("  {what}: {} at 50, 99 and 99.9 % of {}", quantiles.join(", "), samples.count()));
    }
    at_most(
        "set-up of a connection that is counted, median",
        with.median(),
        1.2,
        "of one that is not",
        without.median(),
    );
    within("the service's time for a connection", own / connections, Duration::from_micros(10));
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// So that connections are forgotten as fast as they come.
fn forget_soon() {
    super::netns::sh("echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait");
}

/// Opens and closes connections one after the other. The processor's time that the client's thread took, in which the
/// kernel carries the packets.
async fn connect(host: &TestHost, samples: &mut Samples) -> Duration {
    let target: SocketAddr = format!("{HOST}:{PORT}").parse().unwrap();
    let load = host.client.spawn(move || {
        let begin = thread_time();
        let times = (0..CONNECTIONS).map(|_| {
            // Faster than the guest takes them, the kernel would drop some.
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            drop(TcpStream::connect(target).unwrap());
            began.elapsed()
        });
        let times = times.collect::<Vec<_>>();
        (times, thread_time() - begin)
    });
    let (times, spent) = tokio::task::spawn_blocking(|| load.join().unwrap()).await.unwrap();
    times.into_iter().for_each(|time| samples.push(time));
    spent
}

fn thread_time() -> Duration {
    on_cpu_of("/proc/thread-self/schedstat")
}

fn on_cpu(host: &TestHost) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", host.service_pid())).unwrap();
    tasks.map(|task| on_cpu_of(&format!("{}/schedstat", task.unwrap().path().display()))).sum()
}

/// The first number is the time on a processor, in nanoseconds. A thread may end meanwhile.
fn on_cpu_of(file: &str) -> Duration {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or(0))
}
