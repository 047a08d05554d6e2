//! What the methods of every object go through: who may, and when the answer goes out.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use zbus::Connection;
use zbus::message::Header;

use super::authorization::Gate;
use super::error::Failure;
use crate::domain::Caller;
use crate::orchestrator::{self, Orchestrator};

/// Asks the publisher to say when everything that the owner of state has told so far is in the objects.
pub type Barrier = oneshot::Sender<()>;

/// Callers that wait for the publisher at once; more of them wait their turn.
const WAITING: usize = 64;

#[derive(Debug, Clone)]
pub struct Entrance {
    pub orchestrator: Orchestrator,
    gate: Arc<Gate>,
    barriers: mpsc::Sender<Barrier>,
}

impl Entrance {
    /// The other end of the barriers is the publisher's.
    pub fn new(orchestrator: Orchestrator) -> (Self, mpsc::Receiver<Barrier>) {
        let (barriers, asked) = mpsc::channel(WAITING);
        (Self { orchestrator, gate: Arc::default(), barriers }, asked)
    }

    pub async fn admit(&self, connection: &Connection, header: &Header<'_>) -> Result<Caller, Failure> {
        self.gate.admit(connection, header, self.orchestrator.access_group()).await
    }

    /// What a call that changed something answers, once the objects are as the change made them. The signals follow.
    ///
    /// Without the wait a client could get the path of a unikernel before the object is there, or read as live what
    /// it has just replaced: answers and events take different ways here.
    pub async fn after_events<T>(&self, result: Result<T, orchestrator::Error>) -> Result<T, Failure> {
        self.events_taken_in().await;
        result.map_err(Failure::from)
    }

    /// Returns when the objects show everything that has happened so far.
    pub async fn events_taken_in(&self) {
        let (barrier, reached) = oneshot::channel();
        if self.barriers.send(barrier).await.is_ok() {
            // An error is a publisher that has ended: there is nothing left to wait for.
            let _ = reached.await;
        }
    }
}
