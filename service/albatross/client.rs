//! The commands of the service to Albatross.
//!
//! Nothing is assumed of a command that got no answer: what runs is asked, and that decides.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{Timestamp, UnikernelId};

use super::Error;
use super::asking::{Daemon, Reply, Request};
use super::console::{ConsoleHistory, ConsoleStream};
use super::deadline::Deadline;
use super::endpoint::{Endpoint, Silence};
use super::values::{Creation, Policy, Running};
use super::wire::{Command, Dialect, InvalidAlbatrossName, Name, Path, PolicyCommand, Success, UnikernelCommand};

/// Bytes of an image for which a create gets a second more: the daemon reads it, writes it to a file and parses it.
const IMAGE_BYTES_A_SECOND: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that holds `util/`.
    pub directory: PathBuf,
    /// The path under which unikernels are named: `""` is the root, else `foo` or `foo:bar`.
    pub path: String,
    /// How long Albatross may take to answer one question. A command that is settled by another takes up to twice
    /// that, a restart three times.
    pub deadline: Duration,
}

/// Speaks to Albatross. Clones share what was found out about it, and the limits on connections at once.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    daemon: Daemon,
    consoles: Arc<Endpoint>,
    path: Path,
    deadline: Deadline,
}

/// What is known of a unikernel that was created. It may have ended since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// Albatross says that its process has been started.
    Accepted,
    /// Albatross did not answer; it runs, as was found by asking.
    Running(Running),
}

impl Client {
    /// # Errors
    /// When the path is not one of Albatross's.
    pub fn new(settings: Settings) -> Result<Self, InvalidAlbatrossName> {
        let path = settings.path.parse()?;
        let deadline = Deadline::new(settings.deadline);
        let socket = |name: &str| Endpoint::new(settings.directory.join("util").join(name));
        let daemon = Daemon::new(socket("vmmd.sock"), deadline.clone());
        let consoles = Arc::new(socket("console.sock"));
        let inner = Inner { daemon, consoles, path, deadline };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How long Albatross may take to answer one question from now on.
    pub fn set_deadline(&self, deadline: Duration) {
        self.inner.deadline.set(deadline);
    }

    /// What the daemon was found to understand; `None` until something was asked of it, and while it is away.
    pub fn understood(&self) -> Option<Dialect> {
        self.inner.daemon.dialect()
    }

    /// All that run at the configured path, not those on paths below it.
    pub async fn inventory(&self) -> Result<Vec<Running>, Error> {
        let infos = self.inner.daemon.info(&Name::from(self.inner.path.clone())).await?;
        let at_path = infos.into_iter().filter(|(name, _)| name.path == self.inner.path);
        Ok(at_path.filter_map(|(name, info)| Some(Running::new(name.label?.to_string(), info))).collect())
    }

    pub async fn unikernel(&self, id: &UnikernelId) -> Result<Option<Running>, Error> {
        let name = self.name(id);
        let infos = self.inner.daemon.info(&name).await?;
        let found = infos.into_iter().find(|(found, _)| *found == name);
        Ok(found.map(|(_, info)| Running::new(id.to_string(), info)))
    }

    /// Creates a unikernel from the first `image_length` bytes of `image`.
    ///
    /// # Errors
    /// Those that are final say that it was not created. After any other error it may come yet.
    pub async fn create(
        &self,
        id: &UnikernelId,
        creation: &Creation,
        image: File,
        image_length: u64,
    ) -> Result<Created, Error> {
        let image = Arc::new(image);
        let dialect = self.inner.daemon.dialect_to_use(&self.name(id)).await.map_err(Error::not_sent)?;
        let sent = self.create_in(dialect, id, creation, &image, image_length).await.map_err(Error::not_sent)?;
        let silence = match sent {
            Reply::Done(_) => return Ok(Created::Accepted),
            Reply::Refused(text) => return Err(Error::Refused(text)),
            Reply::Unknown(silence) => silence,
        };
        if let Some(running) = self.unikernel(id).await?.filter(|running| running.digest == creation.digest) {
            return Ok(Created::Running(running));
        }
        // The question just asked was answered, so this dialect is understood now. If it is another one, the daemon
        // was replaced by one that closed on the create because it did not know it.
        match (silence, self.understood()) {
            (Silence::Closed, Some(now)) if now != dialect => {
                match self.create_in(now, id, creation, &image, image_length).await? {
                    Reply::Done(_) => Ok(Created::Accepted),
                    Reply::Refused(text) => Err(Error::Refused(text)),
                    Reply::Unknown(silence) => Err(self.inner.daemon.endpoint.silent(silence)),
                }
            }
            (silence, _) => Err(self.inner.daemon.endpoint.silent(silence)),
        }
    }

    async fn create_in(
        &self,
        dialect: Dialect,
        id: &UnikernelId,
        creation: &Creation,
        image: &Arc<File>,
        image_length: u64,
    ) -> Result<Reply, Error> {
        let config = Box::new(creation.config(image_length));
        let command = UnikernelCommand::Create { dialect, force: false, config };
        let more = Duration::from_secs(image_length / IMAGE_BYTES_A_SECOND);
        self.change(id, command, Some(image), self.inner.deadline.get() + more).await
    }

    /// Ends a unikernel and has Albatross forget it. One that is not there is destroyed already.
    ///
    /// # Errors
    /// `WillNotExit` when it still runs after it was told to exit.
    pub async fn destroy(&self, id: &UnikernelId) -> Result<(), Error> {
        let until = Instant::now() + self.inner.deadline.get();
        loop {
            let began = Timestamp::now();
            let reply = self.change(id, UnikernelCommand::Destroy, None, self.inner.deadline.get()).await?;
            // Even a success is not believed: "destroyed: removed from restarting" has been said of what ran again.
            let Some(running) = self.unikernel(id).await? else { return Ok(()) };
            // What ends by itself all the time can be started again between the two.
            let is_another = running.started.is_some_and(|started| started >= began.to_milliseconds());
            match reply {
                Reply::Done(_) | Reply::Refused(_) if is_another && Instant::now() < until => {}
                Reply::Refused(text) => return Err(Error::Refused(text)),
                Reply::Done(_) | Reply::Unknown(Silence::Late) => return Err(self.will_not_exit(id)),
                Reply::Unknown(silence) => return Err(self.inner.daemon.endpoint.silent(silence)),
            }
        }
    }

    /// Ends a unikernel and starts it again as it is. `None`: it does not run, before or after.
    ///
    /// # Errors
    /// `WillNotExit` when the one that was told to exit still runs.
    pub async fn restart(&self, id: &UnikernelId) -> Result<Option<Running>, Error> {
        // Of one that is gone a restart starts nothing, and takes it off the list of those that are started again.
        let Some(before) = self.unikernel(id).await? else { return Ok(None) };
        let reply = self.change(id, UnikernelCommand::Restart(None), None, self.inner.deadline.get()).await?;
        let after = self.unikernel(id).await?;
        let started_again = after.as_ref().is_none_or(|after| after.started != before.started);
        match reply {
            // Also when it ended and could not be started again: the words say why.
            Reply::Refused(text) => Err(Error::Refused(text)),
            _ if started_again => Ok(after),
            // A daemon that tells no time of start is believed.
            Reply::Done(_) if before.started.is_none() => Ok(after),
            Reply::Done(_) => Err(self.inner.daemon.endpoint.garbled("it says restarted of what was not")),
            Reply::Unknown(Silence::Late) => Err(self.will_not_exit(id)),
            Reply::Unknown(silence) => Err(self.inner.daemon.endpoint.silent(silence)),
        }
    }

    /// The policy of the configured path: its own, else that of the nearest path above it.
    ///
    /// # Errors
    /// `Refused` when there is none up to the root.
    pub async fn policy(&self) -> Result<Policy, Error> {
        let root = Name::from(Path::default());
        let policies = match self.inner.daemon.question(&root, Command::Policy(PolicyCommand::Info)).await? {
            Reply::Done(Success::Policies(policies)) => policies,
            Reply::Done(_) => return Err(self.inner.daemon.endpoint.garbled("no policies where they were asked for")),
            Reply::Refused(text) => return Err(Error::Refused(text)),
            Reply::Unknown(silence) => return Err(self.inner.daemon.endpoint.silent(silence)),
        };
        let mut upwards = self.inner.path.upwards();
        let governing = upwards.find_map(|path| policies.iter().find(|(name, _)| *name == path.clone().into()));
        let governing = governing.map(|(name, policy)| Policy::new(&name.path, policy));
        governing.ok_or_else(|| {
            Error::Refused(format!("Albatross has no policy for the path {:?}: add one", self.inner.path.to_string()))
        })
    }

    /// Subscribes to a unikernel's console, also before it is created and after it has exited. The console daemon is
    /// given `wait` to confirm. Whoever holds this must read it: the unikernel would wait.
    pub async fn console(
        &self,
        id: &UnikernelId,
        history: ConsoleHistory,
        wait: Duration,
    ) -> Result<ConsoleStream, Error> {
        ConsoleStream::subscribe(&self.inner.consoles, &self.name(id), history, wait).await
    }

    fn name(&self, id: &UnikernelId) -> Name {
        self.inner.path.name(id.into())
    }

    async fn change(
        &self,
        id: &UnikernelId,
        command: UnikernelCommand,
        image: Option<&Arc<File>>,
        deadline: Duration,
    ) -> Result<Reply, Error> {
        let (name, command) = (&self.name(id), Command::Unikernel(command));
        self.inner.daemon.change(Request { name, command, image, deadline }).await
    }

    fn will_not_exit(&self, id: &UnikernelId) -> Error {
        Error::WillNotExit { name: id.to_string(), waited: self.inner.deadline.get() }
    }
}
