//! What the service does while nothing happens: wake-ups and processor time over a minute with 100 unikernels.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::figures::{at_most_times, ms, note};
use super::host::{Options, TestHost, options};
use super::netns::isolated;

const UNIKERNELS: u16 = 100;
/// What was waited for after the last of the calls is over in this time, and so are threads that were for them.
const SETTLE: Duration = Duration::from_secs(35);
const MINUTE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(100);
/// Wake-ups that lie closer together are one burst.
const APART: Duration = Duration::from_secs(1);
/// One every 30 s.
const BURSTS: usize = 2;

pub fn run() {
    isolated("idle", |_| measure());
}

async fn measure() {
    let Some(host) = TestHost::start().await else { return };
    let manager = host.manager().await;
    let image = host.image("1", &[]);
    for number in 0..UNIKERNELS {
        let mut wanted = options("running");
        wanted.insert("timeout", 20_u64.into());
        let service = format!("service-{number}");
        manager.deploy(&service, &image, wanted).await.unwrap();
        manager.publish(&service, &[("any", 10_000 + number, 80)], Options::new()).await.unwrap();
    }
    tokio::time::sleep(SETTLE).await;
    let begun = Instant::now();
    let first = Threads::read(&host);
    let (mut last, mut bursts) = (first.clone(), Vec::<(Duration, u64)>::new());
    let mut quiet_since = Duration::ZERO;
    while begun.elapsed() < MINUTE {
        tokio::time::sleep(STEP).await;
        let now = Threads::read(&host);
        let (woken, at) = (now.since(&last).wake_ups, begun.elapsed());
        if woken > 0 {
            match bursts.last_mut() {
                Some((_, count)) if at - quiet_since < APART => *count += woken,
                _ => bursts.push((at, woken)),
            }
            quiet_since = at;
        }
        last = now;
    }
    let spent = last.since(&first);
    note(&format!(
        "{UNIKERNELS} unikernels, over {:.0} s: {} wake-ups a minute, {} of processor time",
        begun.elapsed().as_secs_f64(),
        spent.wake_ups,
        ms(spent.on_cpu)
    ));
    for (thread, count) in &spent.by_thread {
        note(&format!("  {count} of {thread}"));
    }
    let when = bursts.iter().take(20).map(|(at, count)| format!("{count} at {:.1} s", at.as_secs_f64()));
    note(&format!("  bursts: {}", when.collect::<Vec<_>>().join(", ")));
    at_most_times("bursts of wake-ups in a minute", bursts.len(), BURSTS);
}

/// Context switches, voluntary or not, and time on a processor of each thread.
#[derive(Clone)]
struct Threads(BTreeMap<u32, (String, u64, Duration)>);

struct Spent {
    wake_ups: u64,
    on_cpu: Duration,
    by_thread: BTreeMap<String, u64>,
}

impl Threads {
    fn read(host: &TestHost) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", host.service_pid())).unwrap();
        let read = |task: std::io::Result<std::fs::DirEntry>| {
            let task = task.ok()?;
            // One that ends meanwhile has nothing to read.
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            let switches = status.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
            let switches = switches.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum();
            let name = status.lines().next()?.split_whitespace().nth(1)?.to_owned();
            let on_cpu = Duration::from_nanos(times.split_whitespace().next()?.parse().ok()?);
            Some((task.file_name().to_str()?.parse().ok()?, (name, switches, on_cpu)))
        };
        Self(tasks.filter_map(read).collect())
    }

    fn since(&self, before: &Self) -> Spent {
        let mut spent = Spent { wake_ups: 0, on_cpu: Duration::ZERO, by_thread: BTreeMap::new() };
        for (id, (name, switches, on_cpu)) in &self.0 {
            let (switches_before, on_cpu_before) = before.0.get(id).map_or((0, Duration::ZERO), |(_, s, c)| (*s, *c));
            let woken = switches - switches_before;
            spent.wake_ups += woken;
            spent.on_cpu += *on_cpu - on_cpu_before;
            *spent.by_thread.entry(name.clone()).or_default() += woken;
        }
        spent
    }
}
