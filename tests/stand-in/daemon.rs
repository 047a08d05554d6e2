//! What albatrossd does with a command: one at a time, to the end, while nothing else goes on.

use crate::config::{Arguments, Config, Dialect, FailBehaviour, Policy, Typ};
use crate::console::Consoles;
use crate::control::Misbehaviour;
use crate::elf;
use crate::name::Name;
use crate::network::Netlink;
use crate::resources::{self, Resources};
use crate::unikernel::{Launch, Started};
use crate::wire::{BlockCommand, Command, Payload, PolicyCommand, Success, UnikernelCommand, Wire};
use crate::{Options, policy};
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

fn failure(text: String) -> Next {
    Next::End(Payload::Failure(text))
}

fn success(text: &str) -> Next {
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

    fn unikernel_command(self: &Rc<Self>, name: &Name, command: &UnikernelCommand) -> Next {
        match command {
            UnikernelCommand::Info(dialect) => self.info(name, *dialect),
            UnikernelCommand::Get(level) => self.get(name, *level),
            UnikernelCommand::Create { force: false, config, .. } => match self.create(name, config.clone(), true) {
                Ok(()) => success("created unikernel"),
                Err(error) => failure(error),
            },
            UnikernelCommand::Create { force: true, config, .. } => self.force_create(name, config),
            UnikernelCommand::Restart(arguments) => {
                self.restart(name, arguments.as_ref().map(|(_, arguments)| arguments))
            }
            UnikernelCommand::Destroy => self.destroy(name),
        }
    }

    fn info(&self, name: &Name, dialect: Dialect) -> Next {
        let (state, misbehaviour) = (self.state.borrow(), self.misbehaviour.borrow());
        let shown = state.resources.unikernels.iter().filter(|(name, _)| !misbehaviour.hidden.contains(*name));
        let infos = shown.map(|(name, unikernel)| (name, state.resources.info(name, unikernel)));
        Next::End(Payload::Success(Success::Infos(dialect, Resources::listed(infos, name))))
    }

    fn get(&self, name: &Name, level: i64) -> Next {
        let state = self.state.borrow();
        let Some(unikernel) = state.resources.unikernels.get(name) else {
            return failure("get: no unikernel found".into());
        };
        let (mut compressed, mut image) = (unikernel.config.compressed, unikernel.config.image.clone());
        if compressed != (level > 0) {
            image = match level {
                0 => uncompress(&image).unwrap_or_default(),
                level => miniz_oxide::deflate::compress_to_vec_zlib(&image, level.clamp(0, 9) as u8),
            };
            compressed = level > 0;
        }
        Next::End(Payload::Success(Success::Image { compressed, image }))
    }

    fn destroy(&self, name: &Name) -> Next {
        let mut state = self.state.borrow_mut();
        let Some(unikernel) = state.resources.unikernels.get(name) else {
            let next = state.stop_create(name);
            drop(state);
            if matches!(next, Next::End(Payload::Success(_))) {
                self.dump_state();
            }
            return next;
        };
        if !self.misbehaviour.borrow().hang_destroy {
            unikernel.terminate();
        }
        Next::AfterExit(state.register(name), After::Destroyed)
    }

    fn force_create(self: &Rc<Self>, name: &Name, config: &Config) -> Next {
        let mut state = self.state.borrow_mut();
        if let Err(error) = state.resources.check(name, &config.arguments, true) {
            return failure(error);
        }
        if let Some(unikernel) = state.resources.unikernels.get(name) {
            unikernel.terminate();
            return Next::AfterExit(state.register(name), After::Create(Box::new((name.clone(), config.clone()))));
        }
        let _ = state.stop_create(name);
        drop(state);
        match self.create(name, config.clone(), true) {
            Ok(()) => success("created unikernel"),
            Err(error) => failure(error),
        }
    }

    fn restart(&self, name: &Name, arguments: Option<&Arguments>) -> Next {
        let mut state = self.state.borrow_mut();
        let Some(unikernel) = state.resources.unikernels.get(name) else { return state.stop_create(name) };
        let mut config = unikernel.config.clone();
        if let Err(error) = state.resources.check(name, &config.arguments, true) {
            return failure(error);
        }
        if let Some(arguments) = arguments {
            // 2.7.2 forgets the memory, the number of cores and the boot partition.
            let Arguments { memory, cpus, boot_partition, .. } = config.arguments;
            config.arguments = Arguments { memory, cpus, boot_partition, ..arguments.clone() };
        }
        if let Err(error) = uncompressed(&config).and_then(|image| check_devices(&image, &config.arguments)) {
            return failure(error);
        }
        unikernel.terminate();
        Next::AfterExit(state.register(name), After::Create(Box::new((name.clone(), config))))
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

    fn policy_command(&self, name: &Name, command: &PolicyCommand) -> Next {
        let mut state = self.state.borrow_mut();
        let next = match command {
            PolicyCommand::Info => {
                let names: Vec<(Name, Policy)> = state
                    .resources
                    .policies
                    .iter()
                    .map(|(path, policy)| (Name::of_path(path), policy.clone()))
                    .collect();
                let entries = names.iter().map(|(name, policy)| (name, policy.clone()));
                let listed = Resources::listed(entries, &Name::of_path(&name.path));
                return Next::End(Payload::Success(Success::Policies(listed)));
            }
            PolicyCommand::Add(policy) if state.resources.policies.get(&name.path) == Some(policy) => {
                return Next::Loop(Payload::success("no modification of policy"));
            }
            PolicyCommand::Add(policy) => {
                if let Err(error) = policy::fits(&state.resources, &name.path, policy) {
                    return failure(error);
                }
                state.resources.policies.insert(name.path.clone(), policy.clone());
                Next::Loop(Payload::success("added policy"))
            }
            PolicyCommand::Remove => match state.resources.policies.remove(&name.path) {
                None => return failure("unknown policy".into()),
                Some(_) => success("removed policy"),
            },
        };
        drop(state);
        self.dump_state();
        next
    }

    fn block_command(&self, name: &Name, command: &BlockCommand) -> Next {
        let mut state = self.state.borrow_mut();
        let file = self.block_directory().join(name.to_string());
        match command {
            BlockCommand::Info => {
                let listed = Resources::listed(state.resources.blocks.iter(), name);
                let blocks = listed.into_iter().map(|(name, (size, active))| (name, *size, *active)).collect();
                Next::End(Payload::Success(Success::Blocks(blocks)))
            }
            BlockCommand::Add(_) if state.resources.blocks.contains_key(name) => {
                failure("block device with same name already exists".into())
            }
            BlockCommand::Add(size) => {
                let made = policy::allows_block(&state.resources, name, *size).and_then(|()| {
                    let file = std::fs::File::create(&file).and_then(|file| file.set_len((*size as u64) << 20));
                    file.map_err(|error| error.to_string())
                });
                if let Err(error) = made {
                    return failure(error);
                }
                state.resources.blocks.insert(name.clone(), (*size, false));
                success("added block device")
            }
            BlockCommand::Remove => match state.resources.blocks.get(name) {
                None => failure("remove block: not found".into()),
                Some((_, true)) => failure("remove block: is in use".into()),
                Some((_, false)) => {
                    let _ = std::fs::remove_file(&file);
                    state.resources.blocks.remove(name);
                    success("removed block")
                }
            },
            BlockCommand::Other(..) => failure("contents of block devices are not supported by the stand-in".into()),
        }
    }

    fn block_directory(&self) -> PathBuf {
        self.options.directory.join("block")
    }

    fn block_devices(&self) -> std::io::Result<HashMap<Name, (i64, bool)>> {
        let mut devices = HashMap::new();
        for entry in std::fs::read_dir(self.block_directory())? {
            let entry = entry?;
            if let Ok(name) = Name::parse(&entry.file_name().to_string_lossy()) {
                devices.insert(name, ((entry.metadata()?.len() >> 20) as i64, false));
            }
        }
        Ok(devices)
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
    fn stop_create(&mut self, name: &Name) -> Next {
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

fn uncompressed(config: &Config) -> Result<Vec<u8>, String> {
    if !config.compressed {
        return Ok(config.image.clone());
    }
    uncompress(&config.image).map_err(|error| format!("failed to uncompress: {error}"))
}

fn uncompress(image: &[u8]) -> Result<Vec<u8>, String> {
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(image, 1 << 30).map_err(|error| error.to_string())
}

fn check_devices(image: &[u8], arguments: &Arguments) -> Result<(), String> {
    let bridges: Vec<&str> = arguments.bridges.iter().map(|bridge| bridge.netif.as_str()).collect();
    let blocks: Vec<&str> = arguments.blocks.iter().map(|block| block.name.as_str()).collect();
    elf::devices_match(&elf::devices(image)?, &bridges, &blocks)
}
