//! A website of several versions, of which one after the other is made live.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::chance::Chance;
use crate::host::{Manager, Options, PATIENCE, TestHost, options};
use crate::timeline::{Switch, Timeline};

const SERVICE: &str = "website";

/// From the beginning of a switch to that of the next; chance adds up to the second. One that takes longer is followed
/// after a breath.
const PACE: [Duration; 2] = [Duration::from_millis(70), Duration::from_millis(20)];
const BREATH: Duration = Duration::from_millis(10);

/// How the next version is made live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Publish,
    Rollback,
}

pub struct Scene {
    pub host: TestHost,
    pub manager: Manager,
    pub timeline: Timeline,
    pub chance: Chance,
    pub rollbacks: usize,
    /// Ids and addresses; those of version N at N - 1.
    unikernels: Vec<(String, String)>,
}

/// One attempt, and when it had its answer.
pub type Attempt = JoinHandle<(zbus::Result<()>, Instant)>;

impl Scene {
    /// Version 1 live, and the others ready.
    pub async fn new(versions: usize) -> Option<Self> {
        let host = TestHost::start().await?;
        let manager = host.manager().await;
        let timeline = Timeline::new(&word(1));
        let mut scene = Self { host, manager, timeline, chance: Chance::new(), rollbacks: 0, unikernels: Vec::new() };
        for version in 1..=versions {
            let unikernel = scene.deploy(version).await;
            scene.unikernels.push(unikernel);
        }
        scene.attempt(1, Call::Publish).await.unwrap().0.unwrap();
        Some(scene)
    }

    /// Ready by its web server's answer, or by its port.
    pub async fn deploy(&self, version: usize) -> (String, String) {
        let image = self.host.image(&version.to_string(), &[]);
        let ready = if version % 2 == 1 { "http:80/" } else { "tcp:80" };
        self.manager.deploy(SERVICE, &image, options(ready)).await.unwrap()
    }

    pub fn id(&self, version: usize) -> &str {
        &self.unikernels[version - 1].0
    }

    pub fn address(&self, version: usize) -> &str {
        &self.unikernels[version - 1].1
    }

    pub fn attempt(&self, version: usize, call: Call) -> Attempt {
        let (manager, id) = (self.manager.clone(), self.id(version).to_owned());
        tokio::spawn(async move {
            let outcome = match call {
                Call::Publish => {
                    let wanted = Options::from([("unikernel", id.into())]);
                    manager.publish(SERVICE, &[("any", crate::clients::PORT, 80)], wanted).await
                }
                Call::Rollback => manager.call("Rollback", &(SERVICE,)).await.map(drop),
            };
            (outcome, Instant::now())
        })
    }

    /// Every fourth switch between two versions goes back.
    pub fn call(&self, round: usize) -> Call {
        if round % 4 == 3 { Call::Rollback } else { Call::Publish }
    }

    /// The one of two that is not live.
    pub fn other(&self) -> usize {
        if self.timeline.live() == word(1) { 2 } else { 1 }
    }

    /// Makes `version` live; where `repeat`, a call that did not reach the service, or has no answer, is made again.
    pub async fn switch(&mut self, version: usize, call: Call, repeat: bool) {
        let began = Instant::now();
        let first = self.attempt(version, call);
        self.finish(version, call, began, first, repeat).await;
    }

    /// What is to be done once the first attempt is under way.
    pub async fn finish(&mut self, version: usize, call: Call, began: Instant, first: Attempt, repeat: bool) {
        let mut attempt = first;
        let ended = loop {
            let (outcome, ended) = attempt.await.unwrap();
            match outcome {
                Ok(()) => break ended,
                Err(error) if repeat && is_of_the_bus(&error) && began.elapsed() < PATIENCE => {}
                Err(error) => panic!("version {version} is not made live by {call:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            // It may have been done: to go back once more would undo it.
            attempt = self.attempt(version, Call::Publish);
        };
        self.rollbacks += usize::from(call == Call::Rollback);
        self.timeline.switches.push(Switch { to: word(version), began, ended });
    }

    /// Until the next switch is due.
    pub async fn pace(&mut self) {
        let [least, more] = PACE;
        let pause = least + self.chance.up_to(more);
        let last = self.timeline.switches.last().unwrap();
        let due = (last.began + pause).max(Instant::now() + BREATH);
        tokio::time::sleep_until(due.into()).await;
    }
}

/// The first word that this version answers.
pub fn word(version: usize) -> String {
    format!("version={version}")
}

/// The service was not there, or went before it had answered.
fn is_of_the_bus(error: &zbus::Error) -> bool {
    error.to_string().starts_with("org.freedesktop.DBus.Error.")
}
