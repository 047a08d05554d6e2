//! What albatrossd does with a command: one at a time, to the end, while nothing else goes on.

use crate::command::Command;
use crate::config::{Arguments, Config, FailBehaviour, Typ};
use crate::console::Consoles;
use crate::control::Misbehaviour;
use crate::elf;
use crate::name::Name;
use crate::network::Netlink;
use crate::options::Options;
use crate::resources::{self, Resources};
use crate::unikernel::{Launch, Started};
use crate::wire::{Payload, Wire};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::rc::Rc;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

/// What comes of a command.
pub enum Next {
    /// Answer, and read another command.
    Loop(Payload),
    /// Answer, and close.
    End(Payload),
    /// Answer when the unikernel has exited.
    AfterExit(oneshot::Receiver<ExitStatus>, After),
}

/// What follows an exit that somebody waits for.
pub enum After {
    Destroyed,
    Create(Box<(Name, Config)>),
}

/// Everything that changes.
#[derive(Debug, Default)]
pub struct State {
    pub resources: Resources,
    /// Who is told of the exit of a unikernel; one a name, and a new one takes the place of the one before.
    pub waiters: HashMap<Name, oneshot::Sender<ExitStatus>>,
    /// Names whose exit was told. They stay too long: that is why a second destroy succeeds.
    pub restarting: HashSet<Name>,
    pub in_shutdown: bool,
    pub restarts: BTreeMap<String, u64>,
    pub creates: u64,
}

pub struct Daemon {
    pub options: Options,
    pub state: RefCell<State>,
    pub consoles: Consoles,
    pub misbehaviour: RefCell<Misbehaviour>,
    host: Netlink,
}

/// It is not done, and why.
pub fn failure(text: String) -> Next {
    Next::End(Payload::Failure(text))
}

/// It is done.
pub fn success(text: &str) -> Next {
    Next::End(Payload::success(text))
}

impl Daemon {
    pub fn new(options: Options) -> std::io::Result<Rc<Self>> {
        let host = Netlink::open()?;
        let (state, consoles, misbehaviour) = Default::default();
        Ok(Rc::new(Self { options, state, consoles, misbehaviour, host }))
    }

    /// Makes the root policy, reads the list and starts what is on it.
    pub fn start(self: &Rc<Self>) -> std::io::Result<()> {
        let root = self.options.root_policy(self.host.links()?)?;
        let state = std::fs::read(self.state_file()).unwrap_or_default();
        let (unikernels, policies) = resources::decode_state(&state).unwrap_or_default();
        let mut fresh = State {
            resources: Resources { blocks: self.block_devices()?, ..Resources::default() },
            ..State::default()
        };
        let mut before = self.state.borrow_mut();
        (fresh.creates, fresh.restarts) = (before.creates, std::mem::take(&mut before.restarts));
        fresh.resources.policies = policies.into_iter().map(|(name, policy)| (name.path, policy)).collect();
        fresh.resources.policies.insert(Vec::new(), root);
        *before = fresh;
        drop(before);
        let mut unikernels = unikernels;
        unikernels.sort_by_key(|(_, config)| config.arguments.startup.unwrap_or(50));
        for (name, config) in unikernels {
            if let Err(error) = self.create(&name, config, true) {
                crate::log(&format!("{name} does not come back: {error}"));
            }
        }
        Ok(())
    }

    pub fn runs(&self, name: &Name) -> bool {
        self.state.borrow().resources.unikernels.contains_key(name)
    }

    /// Tells every unikernel to end; the list stays. The receivers tell when they have.
    pub fn end_all(&self) -> Vec<oneshot::Receiver<ExitStatus>> {
        let mut state = self.state.borrow_mut();
        state.in_shutdown = true;
        let names: Vec<Name> = state.resources.unikernels.keys().cloned().collect();
        let exits = names.iter().map(|name| state.register(name)).collect();
        state.resources.unikernels.values().for_each(|unikernel| unikernel.terminate());
        exits
    }

    pub fn handle(self: &Rc<Self>, request: &Wire) -> Next {
        let name = &request.name;
        match &request.payload {
            Payload::Command(Command::Unikernel(command)) => self.unikernel_command(name, command),
            Payload::Command(Command::Policy(command)) => self.policy_command(name, command),
            Payload::Command(Command::Block(command)) => self.block_command(name, command),
            _ => failure("unknown command".into()),
        }
    }

    /// Starts a unikernel, and watches it.
    pub fn create(self: &Rc<Self>, name: &Name, config: Config, dump: bool) -> Result<(), String> {
        let started = self.launch(name, &config)?;
        let limit = self.unikernels_allowed(name);
        self.consoles.add(name, limit);
        let (unikernel, child, console) = started;
        self.state.borrow_mut().resources.insert(name.clone(), unikernel);
        self.state.borrow_mut().creates += 1;
        if dump {
            self.dump_state();
        }
        let (daemon, watched) = (Rc::clone(self), name.clone());
        tokio::task::spawn_local(async move {
            if let Ok(pipe) = Receiver::from_owned_fd(console.into()) {
                daemon.consoles.follow(&watched, pipe).await;
            }
        });
        self.watch_restart(name, &config);
        let (daemon, watched) = (Rc::clone(self), name.clone());
        tokio::task::spawn_local(async move {
            let status = exit_of(child).await;
            daemon.exited(&watched, status);
        });
        Ok(())
    }

    fn launch(&self, name: &Name, config: &Config) -> Result<Started, String> {
        let state = self.state.borrow();
        if state.resources.unikernels.contains_key(name) {
            return Err("Unikernel with same name is already running".into());
        }
        state.resources.check(name, &config.arguments, false)?;
        if config.typ == Typ::Bhyve {
            return Err("bhyve is not supported by the stand-in".into());
        }
        let image = uncompressed(config)?;
        let digest = Sha256::digest(&image).to_vec();
        let target = elf::target(&image)?;
        check_devices(&image, &config.arguments)?;
        let image_file = self.options.directory.join(format!("{name}.img"));
        std::fs::write(&image_file, &image).map_err(|error| format!("{}: {error}", image_file.display()))?;
        let console_works = !self.misbehaviour.borrow().console_down;
        Launch { name, config, target, digest, image_file, console_works }.run(&self.host)
    }

    fn unikernels_allowed(&self, name: &Name) -> usize {
        if name.path.is_empty() {
            return usize::MAX;
        }
        let state = self.state.borrow();
        let policy = state.resources.policies.get(&name.path);
        policy.map_or(0, |policy| usize::try_from(policy.unikernels).unwrap_or(0))
    }

    /// One that may be restarted has somebody who waits for its exit from the start.
    fn watch_restart(self: &Rc<Self>, name: &Name, config: &Config) {
        let restarts = matches!(config.arguments.fail_behaviour, FailBehaviour::Restart(_));
        let mut state = self.state.borrow_mut();
        if state.waiters.contains_key(name) || !(restarts || config.arguments.add_name) {
            return;
        }
        let exit = state.register(name);
        let (daemon, name, mut config) = (Rc::clone(self), name.clone(), config.clone());
        tokio::task::spawn_local(async move {
            let Ok(status) = exit.await else { return };
            let may = daemon.state.borrow_mut().restarting.remove(&name);
            let refused_name = config.arguments.add_name && status.code() == Some(64);
            let dump = refused_name;
            if refused_name {
                config.arguments.add_name = false;
            } else if !restarts_on(&config.arguments.fail_behaviour, status) {
                return daemon.dump_state();
            }
            if !may {
                return daemon.dump_state();
            }
            *daemon.state.borrow_mut().restarts.entry(name.to_string()).or_default() += 1;
            if let Err(error) = daemon.create(&name, config, dump) {
                crate::log(&format!("{name} is not restarted: {error}"));
            }
        });
    }

    fn exited(&self, name: &Name, status: ExitStatus) {
        let Some(unikernel) = self.state.borrow_mut().resources.remove(name) else { return };
        unikernel.clean_up(&self.host);
        let mut state = self.state.borrow_mut();
        match state.waiters.remove(name) {
            Some(waiter) => {
                state.restarting.insert(name.clone());
                // Nobody listens any more where the daemon itself ended meanwhile.
                let _ = waiter.send(status);
            }
            None if state.in_shutdown => {}
            None => {
                drop(state);
                self.dump_state();
            }
        }
    }

    pub fn state_file(&self) -> PathBuf {
        self.options.directory.join("state")
    }

    /// Writes the list, keeping the one before.
    pub fn dump_state(&self) {
        let state = self.state.borrow();
        if state.in_shutdown {
            return;
        }
        let file = self.state_file();
        let _ = std::fs::rename(&file, file.with_extension("bak"));
        if let Err(error) = std::fs::write(&file, resources::encode_state(&state.resources)) {
            crate::log(&format!("the list is not written: {error}"));
        }
    }
}

impl State {
    /// Somebody waits for an exit; who waited before never hears of it.
    pub fn register(&mut self, name: &Name) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.insert(name.clone(), sender);
        receiver
    }

    /// For one that does not run, but may be about to be restarted.
    pub fn stop_create(&mut self, name: &Name) -> Next {
        if self.waiters.remove(name).is_some() {
            success("destroyed: removed waiter")
        } else if self.restarting.remove(name) {
            success("destroyed: removed from restarting")
        } else {
            failure("destroy: not found".into())
        }
    }
}

/// Waits for the exit of a process, on a thread of its own.
async fn exit_of(mut child: Child) -> ExitStatus {
    match tokio::task::spawn_blocking(move || child.wait()).await {
        Ok(Ok(status)) => status,
        // As the real daemon makes of a wait that fails.
        _ => ExitStatus::from_raw(23 << 8),
    }
}

/// Solo5's own failure, those of the command line, and signals never restart.
fn restarts_on(behaviour: &FailBehaviour, status: ExitStatus) -> bool {
    match (behaviour, status.code()) {
        (FailBehaviour::Quit, _) | (_, None | Some(1 | 60..=64)) => false,
        (FailBehaviour::Restart(codes), Some(code)) => codes.is_empty() || codes.contains(&code.into()),
    }
}

/// The image itself.
pub fn uncompressed(config: &Config) -> Result<Vec<u8>, String> {
    if !config.compressed {
        return Ok(config.image.clone());
    }
    uncompress(&config.image).map_err(|error| format!("failed to uncompress: {error}"))
}

pub fn uncompress(image: &[u8]) -> Result<Vec<u8>, String> {
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(image, 1 << 30).map_err(|error| error.to_string())
}

/// The devices asked for are those of the image.
pub fn check_devices(image: &[u8], arguments: &Arguments) -> Result<(), String> {
    let bridges: Vec<&str> = arguments.bridges.iter().map(|bridge| bridge.netif.as_str()).collect();
    let blocks: Vec<&str> = arguments.blocks.iter().map(|block| block.name.as_str()).collect();
    elf::devices_match(&elf::devices(image)?, &bridges, &blocks)
}
