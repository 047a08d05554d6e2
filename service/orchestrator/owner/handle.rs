//! How others reach the owner, and what it takes from them.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot, watch};

use super::super::error::Error;
use super::State;
use crate::domain::{Change, ConsoleLine, Inventory, Policy, StackName, Timestamp, Unikernel, UnikernelId};
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
    Ledger,
    HostNetwork,
    Loopback,
    Loops,
    Strangers,
    FellBack,
    Stacks,
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

pub(super) enum Message {
    Decide {
        decide: Decide,
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
    /// The table may not be what it should be. Answers whether it is now.
    RepairTable(oneshot::Sender<bool>),
}

/// Messages that may wait for the owner: callers beyond that wait to send.
pub(super) const MAILBOX: usize = 256;

/// How others reach the owner.
#[derive(Clone, Debug)]
pub struct OwnerHandle {
    pub(super) mailbox: mpsc::Sender<Message>,
    /// Marked at every change of the world.
    pub(super) changed: watch::Receiver<()>,
}

impl OwnerHandle {
    /// Runs `decide`, and when its changes are written and the kernel has followed, returns what it said besides.
    pub async fn decide<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (value_sender, value) = oneshot::channel();
        let decide = Box::new(move |state: &State| {
            let (changes, value) = decide(state)?;
            let _ = value_sender.send(value);
            Ok(changes)
        });
        let (done, outcome) = oneshot::channel();
        self.send(Message::Decide { decide, done }).await?;
        outcome.await.map_err(|_| Error::Stopping)??;
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

    pub async fn albatross_version(&self, version: String) {
        let _ = self.send(Message::AlbatrossVersion(version)).await;
    }

    /// Makes the kernel's table what it should be. Whether it is.
    pub async fn repair_table(&self) -> Result<bool, Error> {
        let (sender, repaired) = oneshot::channel();
        self.send(Message::RepairTable(sender)).await?;
        repaired.await.map_err(|_| Error::Stopping)
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        self.mailbox.send(message).await.map_err(|_| Error::Stopping)
    }
}
