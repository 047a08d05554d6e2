//! What every workflow needs to reach: the owner of state, and the hands that touch the outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};

use super::bridges::Bridges;
use super::claims::Claims;
use super::connections::Connections;
use super::error::Error;
use super::imports::Sources;
use super::jobs::Jobs;
use super::owner::OwnerHandle;
use super::settings::{CurrentConfig, Limits};
use super::slots::Slots;
use super::stale_flows::FollowUp;
use super::watch::Taps;
use crate::consoles::Consoles;
use crate::domain::{ConsoleLine, Unikernel, UnikernelId};
use crate::host_network::{Flows, Host, Listeners};
use crate::planning::{reconcile, redaction};
use crate::{albatross, images};

#[derive(Debug)]
pub struct Context {
    pub owner: OwnerHandle,
    pub jobs: Arc<Jobs>,
    pub claims: Arc<Claims>,
    pub albatross: albatross::Client,
    pub consoles: Arc<Consoles>,
    pub store: images::Store,
    pub host: Host,
    pub bridges: Bridges,
    pub flows: Flows,
    pub connections: Connections,
    pub listeners: Arc<Listeners>,
    pub taps: Taps,
    pub config: Arc<CurrentConfig>,
    /// What imports of images share.
    pub sources: Sources,
    /// Deployments that work at the same time.
    pub deploy_slots: Slots,
    /// Those that run again and are asked for their readiness at the same time: after a restart of Albatross all do.
    pub return_slots: Semaphore,
    /// Checks of live unikernels at the same time.
    pub check_slots: Semaphore,
    /// Told when something may have begun to drain.
    pub drains: Notify,
    /// What is still to be done after changes of what is published.
    pub follow_up: Arc<FollowUp>,
    /// Told when something may have become free, for who collects without being asked.
    pub collects: Notify,
    /// Told when another manifest may be the last that was applied to a stack.
    pub stacks: Notify,
    /// Told when something may have returned.
    pub returns: Notify,
    /// Notified when one that was started again is late, so that it may have to be checked.
    pub late_returns: Notify,
    /// Marked when it is time to look at what nobody tells of.
    pub beat: watch::Sender<()>,
    /// Told when the host's bridges or addresses may have changed.
    pub host_changed: Notify,
    /// Told when Albatross is to be looked at.
    pub look: Notify,
    /// Told when that has a moment's time.
    pub look_soon: Notify,
    /// Told when Albatross has been looked at: what is half-done can be finished.
    pub looked: Notify,
    /// Held while an image enters the store or leaves it, so that the file and its record go together.
    pub store_gate: tokio::sync::Mutex<()>,
}

/// What a unikernel says last comes before a pause as long as this; Solo5's line of its exit comes just after its death.
const SILENCE: Duration = Duration::from_millis(25);

impl Context {
    /// As the configuration that holds now has them.
    pub fn limits(&self) -> Limits {
        Limits::of(&self.config.get())
    }

    /// The error of a unikernel that is not ready, with what it said last.
    pub async fn not_ready(&self, unikernel: &Unikernel, reason: String) -> Error {
        let lines = self.last_lines(&unikernel.id, SILENCE).await;
        // Guests like to print their command line.
        let lines = lines.iter().map(ConsoleLine::lossy).collect();
        let console = redaction::without_arguments(lines, &unikernel.spec.arguments);
        Error::NotReady { id: unikernel.id.clone(), reason, console }
    }

    /// What `id` has said until now, for the record of its end.
    pub async fn last_words(&self, id: &UnikernelId) -> BTreeMap<UnikernelId, Vec<ConsoleLine>> {
        BTreeMap::from([(id.clone(), self.last_lines(id, Duration::ZERO).await)])
    }

    /// What `id` said last, once it has said nothing for `silence` or a moment is over.
    pub async fn last_lines(&self, id: &UnikernelId, silence: Duration) -> Vec<ConsoleLine> {
        self.consoles.read_last(id, reconcile::LAST_WORDS, silence).await
    }
}
