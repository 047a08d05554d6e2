//! The table `inet albatross_deployer` in the kernel. What it holds is [`crate::planning::ruleset`]'s to say.

mod batch;
mod elements;
mod expressions;
mod json;
mod observed;
mod others;
mod ownership;
mod sets;
mod userdata;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::Error;
use super::netlink::Channel;
use crate::planning::ruleset::{Elements, ElementsChange, Ruleset, RulesetChange, Skeleton, repair};
use crate::planning::translations::OtherNat;
use batch::Batch;
use ownership::Claim;

pub use json::export;
pub use ownership::Ownership;
pub use watch::{ForeignChange, ForeignChanges};

/// How often somebody may get between looking at the table and changing it.
const INSTALL_ATTEMPTS: usize = 5;

/// How long a socket that was given up is waited for: it closes when the kernel is done with its batch.
const RELEASE: Duration = Duration::from_secs(2);
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// NF_ACCEPT, as the policy of a chain.
const ACCEPT: u32 = 1;

/// Our table. Each of its changes is one batch: packets see the table before it or after it, and nothing in between.
#[derive(Debug)]
pub struct Table {
    held: Mutex<Held>,
    ownership: Ownership,
    /// What [`ForeignChanges`] knows our batches by.
    port: Arc<AtomicU32>,
}

#[derive(Debug)]
struct Held {
    channel: Channel,
    /// The port that the table was left to by the last installation. An exchange that was given up leaves the channel
    /// with a new socket, and that has another port.
    by: Option<u32>,
}

impl Table {
    /// Opens the sockets; changes nothing. Within tokio's runtime, as is everything that opens a socket here.
    pub fn open() -> Result<(Self, ForeignChanges), Error> {
        Self::open_as(Ownership::here())
    }

    /// The same, without asking what the kernel can do.
    pub fn open_as(ownership: Ownership) -> Result<(Self, ForeignChanges), Error> {
        let channel = Channel::open(NETLINK_NETFILTER)?;
        let port = Arc::new(AtomicU32::new(channel.port()));
        let changes = ForeignChanges::open(port.clone())?;
        Ok((Self { held: Mutex::new(Held { channel, by: None }), ownership, port }, changes))
    }

    /// At a start and for a repair: takes the table over, looks at what the kernel has and makes it the wanted table.
    /// Whether that took a change.
    pub async fn install(&self, wanted: &Ruleset) -> Result<bool, Error> {
        let mut held = self.held.lock().await;
        let (mut attempts_left, release) = (INSTALL_ATTEMPTS, Instant::now() + RELEASE);
        loop {
            match self.install_once(wanted, &mut held).await {
                // Somebody has changed the table between the look and the batch.
                Err(Error::Refused { errno, .. }) if attempts_left > 1 && errno.is_of_another_table() => {
                    attempts_left -= 1;
                }
                Err(Error::NotHeld) if Instant::now() < release => sleep(RELEASE_PAUSE).await,
                result => return result,
            }
        }
    }

    async fn install_once(&self, wanted: &Ruleset, held: &mut Held) -> Result<bool, Error> {
        let found = self.claim(held).await?;
        let batch = match repair(found.as_ref().map(|(skeleton, elements)| (skeleton, elements)), wanted) {
            RulesetChange::Nothing => Batch::default(),
            RulesetChange::Elements(change) => Batch::change(&change),
            RulesetChange::Chains { there, wanted, elements } => Batch::replace_chains(there, wanted, &elements),
            RulesetChange::Rebuild(ruleset) => Batch::rebuild(ruleset, self.ownership),
        };
        let changes = !batch.is_empty();
        self.send(batch, &mut held.channel).await?;
        held.by = Some(held.channel.port());
        Ok(changes)
    }

    /// What the table holds, once it is ours; `None` when it has to be made anew.
    async fn claim(&self, held: &mut Held) -> Result<Option<(Skeleton, Elements)>, Error> {
        let mut head = observed::head(&mut held.channel).await?;
        if self.claim_of(head.as_ref(), held) == Claim::Adopt {
            self.send(Batch::adopt(self.ownership), &mut held.channel).await?;
            // Until then others could change it.
            head = observed::head(&mut held.channel).await?;
        }
        match (self.claim_of(head.as_ref(), held), head) {
            // Of a socket of ours that was given up: a batch still waits in it for somebody else's.
            (Claim::Wait { port }, _) if held.by == Some(port) => Err(Error::NotHeld),
            (Claim::Wait { port }, _) => Err(Error::HeldByAnother { port }),
            (Claim::Keep, Some(head)) => observed::contents(&mut held.channel, head).await,
            _ => Ok(None),
        }
    }

    fn claim_of(&self, head: Option<&observed::Head>, held: &Held) -> Claim {
        head.map_or(Claim::Rebuild, |head| self.ownership.claim(head.flags, head.owner, held.channel.port()))
    }

    /// A switch: the kernel is told, not asked. [`Error::needs_install`] says when the table was not what `change`
    /// was made for; then nothing has changed.
    pub async fn apply(&self, change: &ElementsChange) -> Result<(), Error> {
        let mut held = self.held.lock().await;
        held.channel.renew()?;
        if self.ownership == Ownership::Owned && held.by != Some(held.channel.port()) {
            return Err(Error::NotHeld);
        }
        self.send(Batch::change(change), &mut held.channel).await
    }

    /// Deletes the table, if it is there.
    pub async fn remove(&self) -> Result<(), Error> {
        self.send(Batch::remove_table(), &mut self.held.lock().await.channel).await
    }

    /// Base chains of other tables with a policy that drops, on the ways to a unikernel: an accept of ours cannot
    /// outrank them. Each as `inet filter, chain forward`.
    pub async fn interfering_tables(&self) -> Result<Vec<String>, Error> {
        observed::interfering_tables(&mut self.held.lock().await.channel).await
    }

    /// What other tables do to the destinations of packets to this host.
    pub async fn other_translations(&self) -> Result<OtherNat, Error> {
        others::nat_rules(&mut self.held.lock().await.channel).await
    }

    async fn send(&self, batch: Batch, channel: &mut Channel) -> Result<(), Error> {
        channel.renew()?;
        self.port.store(channel.port(), Ordering::Relaxed);
        let refused = match batch.send(channel).await {
            Err(error) if error.is_forbidden() => error,
            result => return result,
        };
        // For want of the right to change anything, or of the right to change this table.
        match observed::head(channel).await.ok().flatten().and_then(|head| head.owner) {
            Some(port) if port != channel.port() => Err(Error::HeldByAnother { port }),
            _ => Err(refused),
        }
    }
}
