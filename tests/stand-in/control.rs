//! Misbehaviour on demand, and what the daemon knows, over `control.sock`: one command a line, one line in answer (`ok`, data, or
//! `error: …`).
//!
//! | command | what it does |
//! | --- | --- |
//! | `delay MS [COMMAND]` | every command (or those of a kind) waits so long before it is done; 0 ends it |
//! | `refuse COMMAND\|any N TEXT` | the next N are answered with the failure TEXT and not done |
//! | `close-before [N]` | the next N connections close with the command read and not done |
//! | `close-without-answer [N]` | … with the command done and not answered |
//! | `close-mid-frame [N]`, `garbage [N]` | … with half of the answer; with bytes that are no message in its place |
//! | `hang-destroy on\|off` | destroys neither end anything nor answer |
//! | `console-down on\|off` | creates fail as they do when the console daemon has died |
//! | `console-restart [MS]` | the console daemon dies and is back after so long: connections and history are lost, what runs now is not heard any more, and creates fail until `restart-self` or `console-down off` |
//! | `kill NAME` | SIGKILL to the unikernel |
//! | `lose NAME` | as `kill`, but it is gone from the list without a restart |
//! | `hide NAME`, `show NAME` | left out of the answers to info |
//! | `foreign NAME [BRIDGE]` | starts a unikernel that nobody asked for |
//! | `restart-self [MS]` | ends as at a SIGTERM and begins again after so long |
//! | `count` | how many unikernels were created, restarts included |
//! | `dump` | all of it, as one line of JSON |
//!
//! COMMAND is one of create, force-create, destroy, restart, info, get, policy, block.

use crate::config::{Arguments, Bridge, Config, FailBehaviour, Typ};
use crate::daemon::Daemon;
use crate::name::Name;
use crate::solo5_image::{self, Target};
use crate::{elf, resources};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// What goes wrong from now on, and counts of what came.
#[derive(Debug, Default)]
pub struct Misbehaviour {
    pub hidden: HashSet<Name>,
    pub hang_destroy: bool,
    pub console_down: bool,
    pub connections: u64,
    pub undecodable: u64,
    pub misuses: u64,
    commands: BTreeMap<String, u64>,
    delays: HashMap<String, Duration>,
    refusals: Vec<(String, u64, String)>,
    close_before: u64,
    spoiled: [u64; 3],
    restart: Rc<Notify>,
    restart_pause: Duration,
    console_restart: Rc<Notify>,
    console_pause: Duration,
}

/// What goes wrong with one command.
pub struct Fault {
    pub close_before: bool,
    pub delay: Duration,
    pub refuse: Option<String>,
}

/// What is sent in answer.
pub struct Answer {
    pub bytes: Vec<u8>,
    pub close: bool,
}

const SPOILED: [&str; 3] = ["close-without-answer", "close-mid-frame", "garbage"];

fn take_one(count: &mut u64) -> bool {
    let any = *count > 0;
    *count = count.saturating_sub(1);
    any
}

impl Misbehaviour {
    pub fn on_command(&mut self, kind: &str) -> Fault {
        *self.commands.entry(kind.to_owned()).or_default() += 1;
        let delay = self.delays.get(kind).or_else(|| self.delays.get("any")).copied().unwrap_or_default();
        let refusal = self.refusals.iter_mut().find(|(of, _, _)| of == kind || of == "any");
        let refuse = refusal.map(|(_, left, text)| {
            *left -= 1;
            text.clone()
        });
        self.refusals.retain(|(_, left, _)| *left > 0);
        Fault { close_before: take_one(&mut self.close_before), delay, refuse }
    }

    pub fn on_answer(&mut self, frame: Vec<u8>) -> Answer {
        let [nothing, half, garbage] = &mut self.spoiled;
        let bytes = if take_one(nothing) {
            Vec::new()
        } else if take_one(half) {
            frame[..frame.len() / 2].to_vec()
        } else if take_one(garbage) {
            b"\0\0\0\x08garbage!".to_vec()
        } else {
            return Answer { bytes: frame, close: false };
        };
        Answer { bytes, close: true }
    }
}

/// Resolves when `restart-self` was asked for, to the pause before it begins again.
pub async fn restart_wanted(daemon: &Daemon) -> Duration {
    let wanted = Rc::clone(&daemon.misbehaviour.borrow().restart);
    wanted.notified().await;
    daemon.misbehaviour.borrow().restart_pause
}

/// Resolves when `console-restart` was asked for, to how long it is away.
pub async fn console_restart_wanted(daemon: &Daemon) -> Duration {
    let wanted = Rc::clone(&daemon.misbehaviour.borrow().console_restart);
    wanted.notified().await;
    daemon.misbehaviour.borrow().console_pause
}

pub async fn serve(daemon: Rc<Daemon>, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = obey(&daemon, &line).unwrap_or_else(|error| format!("error: {error}"));
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

fn obey(daemon: &Rc<Daemon>, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (command, words) = words.split_first().ok_or("no command")?;
    match *command {
        "count" => return Ok(daemon.state.borrow().creates.to_string()),
        "dump" => return Ok(dump(daemon).to_string()),
        "kill" => with_unikernel(daemon, words, |unikernel| unikernel.kill())?,
        "lose" => lose(daemon, words)?,
        "foreign" => foreign(daemon, words)?,
        _ => daemon.misbehaviour.borrow_mut().set(command, words)?,
    }
    Ok("ok".into())
}

fn number<T: std::str::FromStr>(word: Option<&&str>, default: Option<T>) -> Result<T, String> {
    match (word, default) {
        (Some(word), _) => word.parse().map_err(|_| format!("{word} is not a number")),
        (None, default) => default.ok_or_else(|| "a number is missing".into()),
    }
}

fn name(words: &[&str]) -> Result<Name, String> {
    let word = words.first().ok_or("a name is missing")?;
    Name::parse(word).map_err(|error| format!("{word}: {}", error.0))
}

fn switch(words: &[&str]) -> Result<bool, String> {
    match words {
        ["on"] => Ok(true),
        ["off"] => Ok(false),
        _ => Err("on or off".into()),
    }
}

impl Misbehaviour {
    fn set(&mut self, command: &str, words: &[&str]) -> Result<(), String> {
        match command {
            "delay" => {
                let kind = words.get(1).copied().unwrap_or("any").to_owned();
                self.delays.insert(kind, Duration::from_millis(number(words.first(), None)?));
            }
            "refuse" => match words {
                [kind, count, text @ ..] => {
                    self.refusals.push(((*kind).to_owned(), number(Some(count), None)?, text.join(" ")));
                }
                _ => return Err("refuse COMMAND|any N TEXT".into()),
            },
            "close-before" => self.close_before = number(words.first(), Some(1))?,
            "hang-destroy" => self.hang_destroy = switch(words)?,
            "console-down" => self.console_down = switch(words)?,
            "console-restart" => {
                self.console_pause = Duration::from_millis(number(words.first(), Some(0))?);
                self.console_down = true;
                self.console_restart.notify_one();
            }
            "hide" => drop(self.hidden.insert(name(words)?)),
            "show" => drop(self.hidden.remove(&name(words)?)),
            "restart-self" => {
                self.restart_pause = Duration::from_millis(number(words.first(), Some(0))?);
                self.console_down = false;
                self.restart.notify_one();
            }
            _ => match SPOILED.iter().position(|spoiled| *spoiled == command) {
                Some(position) => self.spoiled[position] = number(words.first(), Some(1))?,
                None => return Err(format!("no command {command}")),
            },
        }
        Ok(())
    }
}

fn with_unikernel(
    daemon: &Daemon,
    words: &[&str],
    act: impl FnOnce(&crate::unikernel::Unikernel),
) -> Result<(), String> {
    let name = name(words)?;
    let state = daemon.state.borrow();
    state.resources.unikernels.get(&name).map(act).ok_or_else(|| format!("no unikernel {name}"))
}

fn lose(daemon: &Daemon, words: &[&str]) -> Result<(), String> {
    with_unikernel(daemon, words, |unikernel| unikernel.kill())?;
    daemon.state.borrow_mut().waiters.remove(&name(words)?);
    Ok(())
}

fn foreign(daemon: &Rc<Daemon>, words: &[&str]) -> Result<(), String> {
    let bridges: Vec<Bridge> = words
        .get(1)
        .map(|bridge| Bridge { netif: "service".into(), bridge: Some((*bridge).to_owned()), mac: None })
        .into_iter()
        .collect();
    let devices: &[&str] = if bridges.is_empty() { &[] } else { &["service"] };
    let arguments = Arguments {
        fail_behaviour: FailBehaviour::Quit,
        startup: None,
        add_name: false,
        cpuids: BTreeSet::from([0]),
        memory: 16,
        blocks: Vec::new(),
        bridges,
        arguments: None,
        cpus: None,
        boot_partition: None,
    };
    let image = solo5_image::image(Target::Spt, "foreign", devices, &[], 0);
    daemon.create(&name(words)?, Config { typ: Typ::Solo5, compressed: false, image, arguments }, true)
}

fn hex(bytes: &[u8], separator: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(separator)
}

fn dump(daemon: &Daemon) -> Value {
    let (state, misbehaviour) = (daemon.state.borrow(), daemon.misbehaviour.borrow());
    let mut unikernels: Vec<_> = state.resources.unikernels.iter().collect();
    unikernels.sort_by_key(|(name, _)| name.to_string());
    let unikernels = unikernels.into_iter().map(|(name, unikernel)| {
        let arguments = &unikernel.config.arguments;
        let taps = unikernel.taps.iter().map(|tap| {
            json!({ "name": tap.name, "bridge": tap.bridge, "mac": hex(&tap.mac, ":"), "host_mac": hex(&tap.host_mac, ":") })
        });
        json!({
            "name": name.to_string(),
            "digest": hex(&unikernel.digest, ""),
            "target": uncompressed_target(&unikernel.config),
            "arguments": arguments.arguments,
            "add_name": arguments.add_name,
            "memory": arguments.memory,
            "cpuids": arguments.cpuids,
            "pid": unikernel.pid.as_raw_nonzero().get(),
            "tap": unikernel.taps.first().map(|tap| tap.name.clone()),
            "mac": unikernel.taps.first().map(|tap| hex(&tap.mac, ":")),
            "taps": taps.collect::<Vec<_>>(),
            "started": unikernel.started,
            "restarts": state.restarts.get(&name.to_string()).copied().unwrap_or(0),
        })
    });
    let names = |names: Vec<&Name>| names.into_iter().map(Name::to_string).collect::<BTreeSet<_>>();
    let on_disk = std::fs::read(daemon.state_file()).ok().and_then(|state| resources::decode_state(&state).ok());
    let on_disk = on_disk.unwrap_or_default().0;
    json!({
        "unikernels": unikernels.collect::<Vec<_>>(),
        "creates": state.creates,
        "restarts": state.restarts,
        "waiters": names(state.waiters.keys().collect()),
        "restarting": names(state.restarting.iter().collect()),
        "on_disk": names(on_disk.iter().map(|(name, _)| name).collect()),
        "blocks": state.resources.blocks.keys().map(Name::to_string).collect::<BTreeSet<_>>(),
        "connections": misbehaviour.connections,
        "commands": misbehaviour.commands,
        "undecodable": misbehaviour.undecodable,
        "misuses": misbehaviour.misuses,
    })
}

fn uncompressed_target(config: &Config) -> Option<&'static str> {
    elf::target(&config.image).ok().map(elf::Target::word)
}
