//! How others reach the owner, and what it takes from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::super::error::Error;
use super::super::{host_ports, reload};
use super::State;
use crate::config::Config;
use crate::domain::{
    Change, ConsoleLine, Inventory, NetworkName, Policy, StackName, Timestamp, Unikernel, UnikernelId,
};
use crate::planning::checks::Asked;
use crate::planning::facts::Facts;

/// Why something does not work now; one note a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Albatross,
    AlbatrossConsole,
    Kernel,
    Forwarding,
    OtherTables,
    OtherTranslations,
    Listeners,
    WithoutEffect,
    Ledger,
    HostNetwork,
    Loopback,
    BridgeMac,
    Bridges,
    LegacyTables,
    Conntrack,
    Connections,
    Loops,
    Strangers,
    FellBack,
    Stacks,
    Configuration,
    Ended,
    Unanswering,
}

/// What a look at Albatross brought.
#[derive(Debug)]
pub struct Seen {
    pub inventory: Inventory,
    pub policy: Option<Policy>,
    /// The consoles' last lines of those that are gone.
    pub last_words: BTreeMap<UnikernelId, String>,
    /// What they said last, to be written down with their end.
    pub consoles: BTreeMap<UnikernelId, Vec<ConsoleLine>>,
}

pub(super) type Decide = Box<dyn FnOnce(&State) -> Result<Vec<Change>, Error> + Send>;
pub(super) type Look = Box<dyn FnOnce(&State) + Send>;
pub(super) type Observe = Box<dyn FnOnce(&mut Facts) + Send>;

/// Whether ports that are put into the kernel must be those of no process of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenerCheck {
    Required,
    /// They were published until a moment ago, and are again.
    Skipped,
}

pub(super) enum Message {
    Decide {
        decide: Decide,
        listeners: ListenerCheck,
        done: oneshot::Sender<Result<(), Error>>,
    },
    Look(Look),
    Show {
        unikernel: Box<Unikernel>,
        done: oneshot::Sender<()>,
    },
    /// The watched images of a stack were looked at. Not worth the disk's time: it is written with the next change.
    Looked {
        stack: StackName,
        at: Timestamp,
    },
    Observe(Observe),
    Seen(Seen),
    /// What a check of a live unikernel, or of one that would take over, has shown.
    Checked {
        asked: Box<Asked>,
        outcome: Result<(), String>,
    },
    Trouble {
        subject: Trouble,
        note: Option<String>,
    },
    AlbatrossVersion(String),
    /// Another configuration is to hold.
    Reconfigure {
        config: Arc<Config>,
        done: oneshot::Sender<Result<(), reload::Error>>,
    },
    /// The table may not be what it should be. Answers whether it is now.
    RepairTable(oneshot::Sender<bool>),
    /// Albatross has been asked what it runs.
    RefuseGone,
}

/// Messages that may wait for the owner: callers beyond that wait to send.
pub(super) const MAILBOX: usize = 256;

/// How others reach the owner.
#[derive(Clone, Debug)]
pub struct OwnerHandle {
    pub(super) mailbox: mpsc::Sender<Message>,
    /// Marked at every change of the world.
    pub(super) changed: watch::Receiver<()>,
    pub(super) networks: watch::Receiver<BTreeSet<NetworkName>>,
}

impl OwnerHandle {
    /// Runs `decide`, and when its changes are written and the kernel has followed, returns what it said besides.
    pub async fn decide<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.decide_with(ListenerCheck::Required, decide).await
    }

    /// [`Self::decide`], to take back what was decided before: it does not fail for a process that listens meanwhile.
    pub async fn take_back<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.decide_with(ListenerCheck::Skipped, decide).await
    }

    async fn decide_with<T: Send + 'static>(
        &self,
        listeners: ListenerCheck,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (value_sender, value) = oneshot::channel();
        let decide = Box::new(move |state: &State| {
            let (changes, value) = decide(state)?;
            let _ = value_sender.send(value);
            Ok(changes)
        });
        let (done, outcome) = oneshot::channel();
        self.send(Message::Decide { decide, listeners, done }).await?;
        if let Err(error) = outcome.await.map_err(|_| Error::Stopping)? {
            // Not the owner's work: it takes a while.
            return Err(host_ports::named(error).await);
        }
        value.await.map_err(|_| Error::Stopping)
    }

    /// Looks at what is known, after all that was asked for before.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(&State) -> T + Send + 'static) -> Result<T, Error> {
        let (sender, value) = oneshot::channel();
        self.send(Message::Look(Box::new(move |state| {
            let _ = sender.send(look(state));
        })))
        .await?;
        value.await.map_err(|_| Error::Stopping)
    }

    /// Waits until `found` finds something: looks now, and again after each change. The caller sets the limit.
    pub async fn until<T: Send + 'static>(
        &self,
        found: impl Fn(&State) -> Option<T> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(value) = self.look(found.clone()).await? {
                return Ok(value);
            }
            changed.changed().await.map_err(|_| Error::Stopping)?;
        }
    }

    /// Shows how far a deployment has come. It is on its way in the ledger and stays that until the next decision.
    pub async fn show(&self, unikernel: Unikernel) -> Result<(), Error> {
        let (done, shown) = oneshot::channel();
        self.send(Message::Show { unikernel: Box::new(unikernel), done }).await?;
        shown.await.map_err(|_| Error::Stopping)
    }

    /// Shows when the watched images of a stack were looked at last.
    pub async fn looked(&self, stack: StackName, at: Timestamp) -> Result<(), Error> {
        self.send(Message::Looked { stack, at }).await
    }

    /// Takes in what was observed of the host.
    pub async fn observe(&self, observe: impl FnOnce(&mut Facts) + Send + 'static) -> Result<(), Error> {
        self.send(Message::Observe(Box::new(observe))).await
    }

    /// Takes in what Albatross runs, in a look that [`Claims::begin_look`] has begun.
    pub async fn seen(&self, seen: Seen) -> Result<(), Error> {
        self.send(Message::Seen(seen)).await
    }

    /// Takes in what a check has shown.
    pub async fn checked(&self, asked: Asked, outcome: Result<(), String>) -> Result<(), Error> {
        self.send(Message::Checked { asked: Box::new(asked), outcome }).await
    }

    /// Marked at every change of what is known.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    /// Says what does not work and what to do about it, or that it works again.
    pub async fn trouble(&self, subject: Trouble, note: Option<String>) {
        let _ = self.send(Message::Trouble { subject, note }).await;
    }

    /// The networks that have rules; marked when others have.
    pub fn networks_in_use(&self) -> watch::Receiver<BTreeSet<NetworkName>> {
        self.networks.clone()
    }

    pub async fn albatross_version(&self, version: String) {
        let _ = self.send(Message::AlbatrossVersion(version)).await;
    }

    /// Makes the kernel's table what it should be. Whether it is.
    pub async fn repair_table(&self) -> Result<bool, Error> {
        let (sender, repaired) = oneshot::channel();
        self.send(Message::RepairTable(sender)).await?;
        repaired.await.map_err(|_| Error::Stopping)
    }

    /// Makes the kernel refuse who is redirected to a unikernel that Albatross does not run.
    pub async fn refuse_gone(&self) -> Result<(), Error> {
        self.send(Message::RefuseGone).await
    }

    /// Makes `config` hold from the next decision on.
    ///
    /// # Errors
    /// It was refused, by what there is or by the kernel, and the one before holds.
    pub async fn reconfigure(&self, config: Arc<Config>) -> Result<(), reload::Error> {
        let (done, outcome) = oneshot::channel();
        self.send(Message::Reconfigure { config, done }).await.map_err(|_| reload::Error::Stopping)?;
        outcome.await.map_err(|_| reload::Error::Stopping)?
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        self.mailbox.send(message).await.map_err(|_| Error::Stopping)
    }
}
