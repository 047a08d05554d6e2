//! The table `inet albatross_deployer` in the kernel. What it holds is [`crate::planning::ruleset`]'s to say.

mod batch;
mod elements;
mod expressions;
mod json;
mod observed;
mod sets;
mod userdata;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::Mutex;

use super::Error;
use super::netlink::Channel;
use crate::planning::ruleset::{ElementsChange, Ruleset, RulesetChange, repair};
use batch::Batch;

pub use json::export;
pub use watch::{ForeignChange, ForeignChanges};

/// How often somebody may get between looking at the table and changing it.
const INSTALL_ATTEMPTS: usize = 5;

/// NF_ACCEPT, as the policy of a chain.
const ACCEPT: u32 = 1;

/// Our table. Each of its changes is one batch: packets see the table before it or after it, and nothing in between.
#[derive(Debug)]
pub struct Table {
    channel: Mutex<Channel>,
    /// What [`ForeignChanges`] knows our batches by.
    port: Arc<AtomicU32>,
}

impl Table {
    /// Opens the sockets; changes nothing. Within tokio's runtime, as is everything that opens a socket here.
    pub fn open() -> Result<(Self, ForeignChanges), Error> {
        let channel = Channel::open(NETLINK_NETFILTER)?;
        let port = Arc::new(AtomicU32::new(channel.port()));
        let changes = ForeignChanges::open(port.clone())?;
        Ok((Self { channel: Mutex::new(channel), port }, changes))
    }

    /// At a start and for a repair: looks at what the kernel has and makes it the wanted table. Whether that took a
    /// change.
    pub async fn install(&self, wanted: &Ruleset) -> Result<bool, Error> {
        let mut channel = self.channel.lock().await;
        let mut attempts = 1..=INSTALL_ATTEMPTS;
        loop {
            let last = attempts.next() == Some(INSTALL_ATTEMPTS);
            let found = observed::table(&mut channel).await?;
            let batch = match repair(found.as_ref().map(|(skeleton, elements)| (skeleton, elements)), wanted) {
                RulesetChange::Nothing => return Ok(false),
                RulesetChange::Elements(change) => Batch::change(&change),
                RulesetChange::Chains { there, wanted, elements } => Batch::replace_chains(there, wanted, &elements),
                RulesetChange::Rebuild(ruleset) => Batch::rebuild(ruleset),
            };
            match self.send(batch, &mut channel).await {
                // Somebody has changed the table between the look and the batch.
                Err(Error::Refused { errno, .. }) if !last && errno.is_of_another_table() => {}
                result => return result.map(|()| true),
            }
        }
    }

    /// A switch: the kernel is told, not asked. [`Error::needs_install`] says when the table was not what `change`
    /// was made for; then nothing has changed.
    pub async fn apply(&self, change: &ElementsChange) -> Result<(), Error> {
        self.send(Batch::change(change), &mut *self.channel.lock().await).await
    }

    /// Deletes the table, if it is there.
    pub async fn remove(&self) -> Result<(), Error> {
        self.send(Batch::remove_table(), &mut *self.channel.lock().await).await
    }

    /// Base chains of other tables with a policy that drops, on the ways to a unikernel: an accept of ours cannot
    /// outrank them. Each as `inet filter, chain forward`.
    pub async fn interfering_tables(&self) -> Result<Vec<String>, Error> {
        observed::interfering_tables(&mut *self.channel.lock().await).await
    }

    async fn send(&self, batch: Batch, channel: &mut Channel) -> Result<(), Error> {
        // An exchange that was given up leaves the channel with a new socket, and that has a new port.
        channel.renew()?;
        self.port.store(channel.port(), Ordering::Relaxed);
        batch.send(channel).await
    }
}
