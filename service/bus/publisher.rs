//! Puts on the bus what the owner of state tells: objects that appear and vanish, properties, signals.
//!
//! One task and one queue, so that clients see things in the order in which they happened. It never asks the owner of
//! state for anything: the owner may be waiting for room in the queue.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use zbus::fdo::Properties;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, ObjectPath, OwnedObjectPath};

use super::entrance::{Barrier, Entrance};
use super::job::JobObject;
use super::manager::Manager;
use super::objects::{Change, Objects};
use super::path;
use super::service::ServiceObject;
use super::stack::StackObject;
use super::unikernel::{ACTIVE_CONNECTIONS, UnikernelObject, details};
use crate::domain::{Event, JobNumber, JobResult, JobView, UnikernelState, UnikernelView};
use crate::orchestrator::InitialViews;

#[derive(Debug)]
pub struct Publisher {
    connection: Connection,
    manager: Objects<Manager>,
    unikernels: Objects<UnikernelObject>,
    services: Objects<ServiceObject>,
    stacks: Objects<StackObject>,
    jobs: Objects<JobObject>,
    untold: Vec<Untold>,
}

/// What is in the objects already, and still to be told.
#[derive(Debug)]
enum Untold {
    Properties(Change),
    State {
        old: String,
        view: Arc<UnikernelView>,
    },
    Connections {
        path: OwnedObjectPath,
        count: u32,
    },
    /// A switch, or anything of a job: no answer of a call depends on these.
    Event(Event),
}

/// Tasks that come in between from an event to the answer of the call that caused it: the owner, the workflow, the call
/// on the bus. That many turns are left to them before signals go out.
const HOPS: usize = 6;

/// Events that are taken in before any of them is told: a stack of hundreds of members that moves.
const AT_ONCE: usize = 4096;

impl Publisher {
    pub fn new(connection: &Connection, entrance: &Entrance) -> Self {
        Self {
            connection: connection.clone(),
            manager: Objects::new(connection, entrance),
            unikernels: Objects::new(connection, entrance),
            services: Objects::new(connection, entrance),
            stacks: Objects::new(connection, entrance),
            jobs: Objects::new(connection, entrance),
            untold: Vec::new(),
        }
    }

    /// Puts there what exists already, without a signal for any of it.
    pub async fn start(&mut self, initial: InitialViews) -> zbus::Result<()> {
        self.manager.put(initial.manager).await?;
        for view in initial.unikernels {
            self.unikernels.put(view).await?;
        }
        for view in initial.services {
            self.services.put(view).await?;
        }
        for view in initial.stacks {
            self.stacks.put(view).await?;
        }
        Ok(())
    }

    /// Ends when the owner of state has.
    ///
    /// Two steps: first the objects are as they should be, and whoever waits for that may answer; then the signals go
    /// out. A signal costs the bus and every listener time that no caller should wait for.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut barriers: mpsc::Receiver<Barrier>) {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take_in(event).await,
                    None => return,
                },
                Some(barrier) = barriers.recv() => self.reach(barrier, &mut events).await,
            }
            self.settle(&mut events, &mut barriers).await;
            self.tell().await;
        }
    }

    /// Takes in what follows at once, until the calls that wait for it had their turn to answer.
    async fn settle(&mut self, events: &mut mpsc::Receiver<Event>, barriers: &mut mpsc::Receiver<Barrier>) {
        let (mut hops, mut taken) = (0, 0);
        while hops < HOPS && taken < AT_ONCE {
            tokio::task::yield_now().await;
            hops += 1;
            while let Ok(event) = events.try_recv() {
                self.take_in_order(event).await;
                (hops, taken) = (0, taken + 1);
            }
            while let Ok(barrier) = barriers.try_recv() {
                self.reach(barrier, events).await;
            }
        }
    }

    /// Lets whoever waits go on, once everything that was told before is in the objects. What comes later does not hold
    /// it up.
    async fn reach(&mut self, barrier: Barrier, events: &mut mpsc::Receiver<Event>) {
        for _ in 0..events.len() {
            if let Ok(event) = events.try_recv() {
                self.take_in_order(event).await;
            }
        }
        // Whoever asked may have gone away.
        let _ = barrier.send(());
    }

    /// An object that appears or vanishes is told of at once: what was before that goes first.
    async fn take_in_order(&mut self, event: Event) {
        let moves = match &event {
            Event::Unikernel { before, after } => before.is_none() || after.is_none(),
            Event::Service { before, after } => before.is_none() || after.is_none(),
            Event::Stack { before, after } => before.is_none() || after.is_none(),
            _ => false,
        };
        if moves {
            self.tell().await;
        }
        self.take_in(event).await;
    }

    /// Puts one event into the objects, and keeps what is to be told of it. What fails is logged: the next events are
    /// not lost for it.
    async fn take_in(&mut self, event: Event) {
        let changed = match event.clone() {
            Event::Unikernel { before, after } => self.unikernels.take_in(before, after).await,
            Event::Service { before, after } => self.services.take_in(before, after).await,
            Event::Stack { before, after } => self.stacks.take_in(before, after).await,
            Event::Manager(view) => self.manager.put(view).await,
            Event::Connections { .. } | Event::Switched { .. } | Event::Job(_) | Event::JobRemoved { .. } => Ok(None),
        };
        match changed {
            Ok(changed) => {
                self.untold.extend(changed.map(Untold::Properties));
                self.keep(event);
            }
            Err(error) => {
                let about = about(&event);
                tracing::error!(%error, %about, "the object of {about} does not show the last change: {error}");
            }
        }
    }

    /// Keeps what is to be told besides properties; of a job's steps only the last, where they follow each other faster
    /// than they are told.
    fn keep(&mut self, event: Event) {
        match (event, self.untold.last_mut()) {
            (Event::Unikernel { before, after: Some(view) }, _) => {
                let old = before.map(|before| before.state);
                if old != Some(view.state) {
                    let old = old.map(|state| state.to_string()).unwrap_or_default();
                    self.untold.push(Untold::State { old, view });
                }
            }
            (Event::Connections { id, count }, _) => {
                // Of all others the property tells when it is asked for.
                let path = path::unikernel(&id);
                if self.unikernels.view(&path).is_some_and(|view| view.state == UnikernelState::Draining) {
                    self.untold.push(Untold::Connections { path, count });
                }
            }
            (Event::Job(view), Some(Untold::Event(Event::Job(last)))) if view.number == last.number => *last = view,
            (event @ (Event::Switched { .. } | Event::Job(_) | Event::JobRemoved { .. }), _) => {
                self.untold.push(Untold::Event(event));
            }
            _ => {}
        }
    }

    /// Sends the signals that are due, in the order in which things happened.
    async fn tell(&mut self) {
        for untold in std::mem::take(&mut self.untold) {
            if let Err(error) = self.tell_one(untold).await {
                tracing::error!(%error, "a signal could not be sent on the bus: {error}");
            }
        }
    }

    async fn tell_one(&mut self, untold: Untold) -> zbus::Result<()> {
        match untold {
            Untold::Properties(change) => change.tell().await,
            Untold::State { old, view } => {
                let (id, new) = (view.id.as_str(), view.state.to_string());
                let path = path::unikernel(&view.id);
                Manager::unikernel_state_changed(&self.emitter(), path.as_ref(), id, &old, &new, details(&view)).await
            }
            Untold::Connections { path, count } => {
                let emitter = SignalEmitter::from_parts(self.connection.clone(), path.into_inner());
                let changed = HashMap::from([(ACTIVE_CONNECTIONS, count.into())]);
                Properties::properties_changed(&emitter, UnikernelObject::name(), changed, Cow::default()).await
            }
            Untold::Event(Event::Switched { service, from, to }) => {
                let (from, to) = (from.map(String::from), to.map(String::from));
                let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
                Manager::service_switched(&self.emitter(), service.as_str(), &from, &to).await
            }
            Untold::Event(Event::Job(view)) => self.job(view).await,
            Untold::Event(Event::JobRemoved { number, result }) => self.job_removed(number, result).await,
            Untold::Event(_) => Ok(()),
        }
    }

    async fn job(&mut self, view: JobView) -> zbus::Result<()> {
        match self.jobs.put(Arc::new(view)).await? {
            Some(change) => change.tell().await,
            None => Ok(()),
        }
    }

    async fn job_removed(&mut self, number: JobNumber, result: JobResult) -> zbus::Result<()> {
        let path = path::job(number);
        let removed = self.jobs.remove(path.clone()).await;
        Manager::job_removed(&self.emitter(), path.as_ref(), &result.to_string()).await?;
        removed
    }

    fn emitter(&self) -> SignalEmitter<'static> {
        SignalEmitter::from_parts(self.connection.clone(), ObjectPath::from_static_str_unchecked(path::ROOT))
    }
}

/// What an event is about, for a line of the log.
fn about(event: &Event) -> String {
    let name = match event {
        Event::Unikernel { before, after } => after.as_ref().or(before.as_ref()).map(|view| view.id.to_string()),
        Event::Service { before, after } => {
            after.as_ref().or(before.as_ref()).map(|view| format!("service {}", view.name))
        }
        Event::Stack { before, after } => after.as_ref().or(before.as_ref()).map(|view| format!("stack {}", view.name)),
        _ => None,
    };
    name.unwrap_or_else(|| "the manager".into())
}
