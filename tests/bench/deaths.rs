//! From the death of a live unikernel's process to the signal on the bus.

use std::collections::HashMap;
use std::num::NonZero;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use zbus::{MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

use super::figures::{Samples, ms, note, within};
use super::host::{MANAGER, Manager, Options, PATIENCE, ROOT, TestHost, options};
use super::netns::isolated;

const DEATHS: usize = 250;
const LIMIT: Duration = Duration::from_millis(20);
/// After it was started again: what that made the service look at is done.
const SETTLE: Duration = Duration::from_millis(300);
const NO_PAUSE: Duration = Duration::from_millis(5);

pub fn run() {
    isolated("deaths", |_| measure());
}

async fn measure() {
    let Some(host) = TestHost::start().await else { return };
    let manager = host.manager().await;
    let mut wanted = options("http:80/");
    wanted.insert("restart", "never".into());
    let (id, _) = manager.deploy("website", &host.image("1", &[]), wanted).await.unwrap();
    manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
    let mut signals = state_changes(&manager).await;
    let mut times = Samples::default();
    for death in 0..DEATHS {
        // Also one that dies as soon as it is there, while the service still looks at its start.
        tokio::time::sleep(if death % 5 == 0 { NO_PAUSE } else { SETTLE }).await;
        let process = process_of(&host, &id);
        let died = Instant::now();
        kill_process(process, Signal::KILL).unwrap();
        times.push(until_exited(&mut signals, &id).await - died);
        manager.call("Restart", &(id.as_str(),)).await.unwrap();
    }
    note(&format!(
        "death of a live unikernel to UnikernelStateChanged: {}, longest {}",
        times.summary(),
        ms(times.longest())
    ));
    within("death to signal, 99 %", times.quantile(0.99), LIMIT);
}

async fn state_changes(manager: &Manager) -> MessageStream {
    let rule = MatchRule::builder().path(ROOT).interface(MANAGER);
    let rule = rule.member("UnikernelStateChanged").build().unwrap();
    MessageStream::for_match_rule(rule, &manager.0, NonZero::new(4096)).await.unwrap()
}

async fn until_exited(signals: &mut MessageStream, id: &str) -> Instant {
    loop {
        let message = tokio::time::timeout(PATIENCE, signals.next()).await.expect("a signal").unwrap().unwrap();
        let at = Instant::now();
        type Changed = (OwnedObjectPath, String, String, String, HashMap<String, OwnedVariant>);
        let (_, of, _, new, _): Changed = message.body().deserialize().unwrap();
        if of == id && ["exited", "failed"].contains(&new.as_str()) {
            return at;
        }
    }
}

fn process_of(host: &TestHost, id: &str) -> Pid {
    let dump = host.albatross.dump();
    let all = dump["unikernels"].as_array().unwrap();
    let one = all.iter().find(|one| one["name"].as_str().unwrap().trim_start_matches(':') == id).unwrap();
    Pid::from_raw(i32::try_from(one["pid"].as_u64().unwrap()).unwrap()).unwrap()
}
