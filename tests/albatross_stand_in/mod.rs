//! A stand-in for Albatross's daemons: it keeps a list of what runs and does with each message what a test says.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use albatross_deployer::albatross::wire::{
    Argv, BridgeInfo, Command, Config, Dialect, FailBehaviour, Image, Info, Message, Name, Payload, Success, Typ,
    UnikernelCommand,
};
use albatross_deployer::domain::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// What is done with a message.
#[derive(Debug, Clone)]
pub enum Act {
    Answer(Payload),
    /// With this sequence number.
    AnswerTo(u64, Payload),
    Close,
    Hang,
    /// These bytes, and then the end.
    Raw(Vec<u8>),
    /// These, and then silence.
    Stream(Vec<Message>),
}

pub fn done(text: &str) -> Act {
    Act::Answer(Payload::Success(Success::Text(text.into())))
}

pub fn refused(text: &str) -> Act {
    Act::Answer(Payload::Failure(text.into()))
}

/// Of a unikernel that was started so many milliseconds after the epoch.
pub fn info(started: i64) -> Info {
    let bridge =
        BridgeInfo { unikernel_device: "service".into(), host_device: "br0".into(), mac: [0, 0x80, 0x41, 1, 2, 3] };
    Info {
        typ: Typ::Solo5,
        startup: None,
        fail_behaviour: FailBehaviour::Quit,
        cpuids: BTreeSet::from([1]),
        memory: 32,
        digest: [7; 32],
        blocks: BTreeSet::new(),
        bridges: BTreeSet::from([bridge]),
        arguments: Some(Argv(vec!["--password=secret".into()])),
        started: Some(Timestamp(started * 1_000)),
        cpus: Some(1),
        linux_boot_partition: None,
    }
}

#[derive(Debug)]
pub struct World {
    /// The newest that is understood.
    pub dialect: Dialect,
    /// By full name.
    running: Vec<(Name, Info)>,
    pub seen: Vec<Message>,
    pub configs: Vec<Config>,
    pub images: Vec<Vec<u8>>,
    open: usize,
}

impl Default for World {
    fn default() -> Self {
        Self { dialect: Dialect::V2_7, running: vec![], seen: vec![], configs: vec![], images: vec![], open: 0 }
    }
}

impl World {
    pub fn run(&mut self, name: &str, info: Info) {
        self.running.push((name.parse().unwrap(), info));
        self.running.sort_by_key(|(name, _)| name.to_string());
    }

    pub fn stop(&mut self, name: &str) {
        self.running.retain(|(running, _)| running.to_string() != name);
    }

    pub fn names(&self) -> Vec<String> {
        self.running.iter().map(|(name, _)| name.to_string()).collect()
    }

    pub fn count(&self, which: fn(&Message) -> bool) -> usize {
        self.seen.iter().filter(|message| which(message)).count()
    }

    /// What a daemon without faults does.
    pub fn act(&mut self, message: &Message) -> Act {
        let Payload::Command(Command::Unikernel(command)) = &message.payload else { return refused("unknown command") };
        let name = message.name.to_string();
        let there = self.names().contains(&name);
        match command {
            UnikernelCommand::Info(dialect) if *dialect <= self.dialect => {
                Act::Answer(Payload::Success(Success::Info(*dialect, self.infos(&message.name))))
            }
            UnikernelCommand::Create { dialect, force: false, config } if *dialect <= self.dialect => {
                if there {
                    return refused("Unikernel with same name is already running");
                }
                if let Image::Bytes(image) = &config.image {
                    self.images.push(image.clone());
                }
                self.configs.push(*config.clone());
                self.run(&name, info(1));
                done("created unikernel")
            }
            UnikernelCommand::Destroy if there => {
                self.stop(&name);
                done("destroyed unikernel")
            }
            UnikernelCommand::Restart(None) if there => {
                self.stop(&name);
                self.run(&name, info(2));
                done("created unikernel")
            }
            UnikernelCommand::Destroy | UnikernelCommand::Restart(None) => refused("destroy: not found"),
            // Words that are newer than this daemon.
            _ => Act::Close,
        }
    }

    /// Relative to a path, in full on the root and on an exact name.
    pub fn infos(&self, asked: &Name) -> Vec<(Name, Info)> {
        let whole = asked.to_string();
        let matching = self.running.iter().filter_map(|(name, info)| {
            let text = name.to_string();
            let found = match (&asked.label, asked.path.is_root()) {
                (Some(_), _) => (text == whole).then_some(text)?,
                (None, true) => text,
                (None, false) => {
                    let rest = text.strip_prefix(&whole)?;
                    if rest.contains(':') { rest.to_owned() } else { format!(":{rest}") }
                }
            };
            Some((found.parse().unwrap(), info.clone()))
        });
        matching.collect()
    }
}

pub struct StandIn {
    directory: TempDir,
    world: Arc<Mutex<World>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl StandIn {
    /// A daemon of unikernels.
    pub fn start(act: impl Fn(&Message, &mut World) -> Act + Send + Sync + 'static) -> Self {
        Self::on("vmmd.sock", act)
    }

    pub fn start_console(act: impl Fn(&Message, &mut World) -> Act + Send + Sync + 'static) -> Self {
        Self::on("console.sock", act)
    }

    fn on(socket: &str, act: impl Fn(&Message, &mut World) -> Act + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("util")).unwrap();
        let listener = UnixSocket::new_stream().unwrap();
        listener.bind(directory.path().join("util").join(socket)).unwrap();
        // As Albatross has it.
        let listener = listener.listen(1).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let accepting = tokio::spawn(accept(listener, world.clone(), Arc::new(act)));
        Self { directory, world, accepting }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The socket stays in its folder, with nobody behind it.
    pub async fn stop(&self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until every client has closed its connection.
    pub async fn until_closed(&self) {
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.world().open == 0 {
                return;
            }
        }
        panic!("a connection stays open");
    }
}

type Manners = Arc<dyn Fn(&Message, &mut World) -> Act + Send + Sync>;

async fn accept(listener: UnixListener, world: Arc<Mutex<World>>, act: Manners) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        world.lock().unwrap().open += 1;
        let (world, act) = (world.clone(), act.clone());
        tokio::spawn(async move {
            let _ = serve(stream, &world, &act).await;
            world.lock().unwrap().open -= 1;
        });
    }
}

async fn serve(mut stream: UnixStream, world: &Mutex<World>, act: &Manners) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    let message = Message::decode(&bytes).unwrap();
    let act = {
        let mut world = world.lock().unwrap();
        world.seen.push(message.clone());
        act(&message, &mut world)
    };
    match act {
        Act::Close => {}
        Act::Hang => until_client_closes(&mut stream).await,
        Act::Raw(bytes) => stream.write_all(&bytes).await?,
        Act::Answer(payload) => write(&mut stream, &Message { payload, ..message }).await?,
        Act::AnswerTo(sequence, payload) => write(&mut stream, &Message { sequence, payload, ..message }).await?,
        Act::Stream(messages) => {
            for message in messages {
                write(&mut stream, &message).await?;
            }
            until_client_closes(&mut stream).await;
        }
    }
    Ok(())
}

async fn write(stream: &mut UnixStream, message: &Message) -> std::io::Result<()> {
    stream.write_all(&message.encode().unwrap().head).await
}

async fn until_client_closes(stream: &mut UnixStream) {
    let _ = stream.read_u8().await;
}
