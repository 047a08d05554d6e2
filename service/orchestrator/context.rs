//! What every workflow needs to reach: the owner of state, and the hands that touch the outside.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};

use super::claims::Claims;
use super::error::Error;
use super::jobs::Jobs;
use super::owner::OwnerHandle;
use crate::domain::{Unikernel, UnikernelId};
use crate::host_network::{Flows, Host};
use crate::planning::{redaction, ruleset};
use crate::{albatross, images};

/// Numbers of the configuration that workflows use.
#[derive(Debug, Clone)]
pub struct Limits {
    pub drain: Duration,
    pub keep_previous: u32,
    pub ruleset: ruleset::Settings,
}

#[derive(Debug)]
pub struct Context {
    pub owner: OwnerHandle,
    pub jobs: Arc<Jobs>,
    pub claims: Arc<Claims>,
    pub albatross: albatross::Client,
    pub store: images::Store,
    pub host: Host,
    pub flows: Flows,
    pub limits: Limits,
    /// Deployments that work at the same time.
    pub deploy_slots: Arc<Semaphore>,
    /// Told when something may have begun to drain.
    pub drains: Notify,
    /// Told when something may have become free, for who collects without being asked.
    pub collects: Notify,
    /// Told when something may have returned.
    pub returns: Notify,
    /// Marked when it is time to look at what nobody tells of.
    pub beat: watch::Sender<()>,
    /// Told when Albatross is to be looked at.
    pub look: Notify,
    /// Told when that has a moment's time.
    pub look_soon: Notify,
    /// Told when Albatross has been looked at: what is half-done can be finished.
    pub looked: Notify,
    /// Held while an image enters the store or leaves it, so that the file and its record go together.
    pub store_gate: tokio::sync::Mutex<()>,
}

/// Console lines that an error shows: those of Solo5's banner, when Albatross has started it again, and those before.
const LAST_LINES: u32 = 24;
/// How long the console daemon may take to give them: an error must not wait for a second one.
const CONSOLE_WAIT: Duration = Duration::from_millis(500);

impl Context {
    /// The error of a unikernel that is not ready, with what it said last.
    pub async fn not_ready(&self, unikernel: &Unikernel, reason: String) -> Error {
        // Guests like to print their command line.
        let console = redaction::without_arguments(self.last_lines(&unikernel.id).await, &unikernel.spec.arguments);
        Error::NotReady { id: unikernel.id.clone(), reason, console }
    }

    /// What `id` said last, for a person; nothing where the console daemon does not answer.
    pub async fn last_lines(&self, id: &UnikernelId) -> Vec<String> {
        match self.albatross.console_tail(id, LAST_LINES, CONSOLE_WAIT).await {
            Ok(lines) => {
                lines.iter().map(|line| String::from_utf8_lossy(&line.line).replace('\0', "\u{fffd}")).collect()
            }
            Err(error) => {
                tracing::debug!(%id, %error, "no console");
                Vec::new()
            }
        }
    }
}
