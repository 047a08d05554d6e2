//! The console daemon: keeps the last lines of every unikernel and sends them to who subscribed.

use crate::command::ConsoleCommand;
use crate::name::Name;
use crate::time::{self, Millis};
use crate::wire::{Data, Payload, Wire};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Mutex, Notify};

const RING: usize = 1024;
const MAX_SUBSCRIBERS: usize = 5;
const LONGEST_LINE: usize = 512;

/// Where the lines go.
#[derive(Debug)]
pub struct Subscriber {
    writer: Mutex<OwnedWriteHalf>,
    dropped: Notify,
}

impl Subscriber {
    /// Resolves when the daemon closes its connection.
    pub async fn dropped(&self) {
        self.dropped.notified().await;
    }
}

#[derive(Debug, Default)]
struct Console {
    subscribers: Vec<Rc<Subscriber>>,
    active: bool,
    ring: Option<VecDeque<(Millis, Vec<u8>)>>,
}

/// All consoles; they outlive their unikernels and the daemon's own restarts.
#[derive(Debug, Default)]
pub struct Consoles(RefCell<HashMap<Name, Console>>, Cell<u64>);

impl Consoles {
    /// A unikernel starts: whoever waits for it gets its lines. `limit` is how many unikernels its path may have.
    pub fn add(&self, name: &Name, limit: usize) {
        let mut consoles = self.0.borrow_mut();
        let console = consoles.entry(name.clone()).or_default();
        console.active = true;
        console.ring.get_or_insert_default();
        drop_one_inactive(&mut consoles, name, limit);
    }

    /// The daemon has died and begins again: every connection closes and all history is lost. Nobody reads any more what those
    /// print that run now.
    pub fn restart(&self) {
        self.1.set(self.1.get() + 1);
        let consoles = std::mem::take(&mut *self.0.borrow_mut());
        consoles
            .values()
            .flat_map(|console| &console.subscribers)
            .for_each(|subscriber| subscriber.dropped.notify_one());
    }

    /// Reads what a unikernel prints until it ends. Does not read on before every subscriber took the lines: a slow one stops the
    /// unikernel, as it does with the real daemon.
    pub async fn follow(&self, name: &Name, mut pipe: Receiver) {
        let mut lines = Lines::default();
        let mut buffer = [0; LONGEST_LINE];
        let generation = self.1.get();
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            for line in lines.add(&buffer[..read]) {
                if self.1.get() == generation {
                    self.deliver(name, line).await;
                }
            }
            tokio::task::yield_now().await;
        }
        if self.1.get() == generation
            && let Some(console) = self.0.borrow_mut().get_mut(name)
        {
            console.active = false;
        }
    }

    async fn deliver(&self, name: &Name, line: Vec<u8>) {
        let now = time::now();
        let subscribers = match self.0.borrow_mut().get_mut(name) {
            Some(console) => {
                let ring = console.ring.get_or_insert_default();
                if ring.len() == RING {
                    ring.pop_front();
                }
                ring.push_back((now, line.clone()));
                console.subscribers.clone()
            }
            None => return,
        };
        let frame = data(name, now, line);
        for subscriber in subscribers {
            if subscriber.writer.lock().await.write_all(&frame).await.is_err() {
                self.unsubscribe(name, &subscriber);
            }
        }
    }

    /// Its connection ended.
    pub fn unsubscribe(&self, name: &Name, subscriber: &Rc<Subscriber>) {
        if let Some(console) = self.0.borrow_mut().get_mut(name) {
            console.subscribers.retain(|other| !Rc::ptr_eq(other, subscriber));
        }
    }

    /// Names of those whose unikernel has ended, in the order the real daemon lists them.
    pub fn inactive(&self) -> Vec<Name> {
        let consoles = self.0.borrow();
        let ended = consoles.iter().filter(|(_, console)| !console.active && console.ring.is_some());
        let mut names: Vec<Name> = ended.map(|(name, _)| name.clone()).collect();
        names.sort_by(|left, right| {
            let paths = Name::of_path(&left.path).listing_order(&Name::of_path(&right.path));
            paths.then_with(|| right.label.cmp(&left.label))
        });
        names
    }

    /// Answers a subscription and sends the history; live lines come after.
    pub async fn subscribe(&self, request: &Wire, from: &ConsoleCommand, writer: OwnedWriteHalf) -> Rc<Subscriber> {
        let subscriber = Rc::new(Subscriber { writer: Mutex::new(writer), dropped: Notify::new() });
        let mut writer = subscriber.writer.lock().await;
        let (history, limit) = {
            let mut consoles = self.0.borrow_mut();
            let limit = if request.name.path.is_empty() { usize::MAX } else { 1 };
            let console = consoles.entry(request.name.clone()).or_default();
            if console.subscribers.len() > MAX_SUBSCRIBERS
                && let Some(oldest) = console.subscribers.pop()
            {
                oldest.dropped.notify_one();
            }
            console.subscribers.insert(0, Rc::clone(&subscriber));
            (console.ring.as_ref().map(|ring| history(ring, from)), limit)
        };
        drop_one_inactive(&mut self.0.borrow_mut(), &request.name, limit);
        let words = if history.is_some() { "subscribed" } else { "waiting for VM" };
        let mut frames = request.reply(Payload::success(words)).frame();
        for (time, line) in history.into_iter().flatten() {
            frames.extend(data(&request.name, time, line));
        }
        if writer.write_all(&frames).await.is_err() {
            self.unsubscribe(&request.name, &subscriber);
        }
        drop(writer);
        subscriber
    }
}

/// A line goes out under the sequence 0: nobody asked for it.
fn data(name: &Name, time: Millis, line: Vec<u8>) -> Vec<u8> {
    Wire { sequence: [0; 8], name: name.clone(), payload: Payload::Data(Data::Console(time, line)) }.frame()
}

fn history(ring: &VecDeque<(Millis, Vec<u8>)>, from: &ConsoleCommand) -> Vec<(Millis, Vec<u8>)> {
    let skip = match from {
        ConsoleCommand::Count(count) => ring.len().saturating_sub(usize::try_from(*count).unwrap_or(usize::MAX)),
        ConsoleCommand::Since(since) => ring.len() - ring.iter().rev().take_while(|(time, _)| time >= since).count(),
        ConsoleCommand::Add(_) | ConsoleCommand::ListInactive => ring.len(),
    };
    ring.iter().skip(skip).cloned().collect()
}

/// A path keeps one console more than it may have unikernels.
fn drop_one_inactive(consoles: &mut HashMap<Name, Console>, name: &Name, limit: usize) {
    let mut of_path: Vec<_> = consoles.iter().filter(|(other, _)| other.path == name.path).collect();
    if of_path.len() <= limit {
        return;
    }
    of_path.sort_by(|(left, _), (right, _)| left.label.cmp(&right.label));
    let inactive = of_path.into_iter().find(|(_, console)| !console.active).map(|(name, _)| name.clone());
    if let Some(name) = inactive {
        consoles.remove(&name);
    }
}

/// Cuts what is read into lines as the real daemon does: no empty ones, and none over 512 bytes.
#[derive(Debug, Default)]
struct Lines {
    slack: Vec<u8>,
    dropping: bool,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = [&std::mem::take(&mut self.slack)[..], bytes].concat();
        if self.dropping {
            match bytes.iter().position(|byte| *byte == b'\n') {
                None => return Vec::new(),
                Some(end) => bytes.drain(..end),
            };
            self.dropping = false;
        }
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let last = lines.pop().unwrap_or_default();
        if lines.is_empty() && last.len() >= LONGEST_LINE {
            self.dropping = true;
            lines.push([&last[..LONGEST_LINE], b" [truncated]"].concat());
        } else {
            self.slack = last;
        }
        lines.retain(|line| !line.is_empty());
        lines
    }
}
