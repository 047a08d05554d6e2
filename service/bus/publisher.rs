//! Puts on the bus what the owner of state tells: objects that appear and vanish, properties, signals.
//!
//! One task and one queue, so that clients see things in the order in which they happened. It never asks the owner of
//! state for anything: the owner may be waiting for room in the queue.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, InterfaceRef, SignalEmitter};
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant};

use super::entrance::{Barrier, Entrance};
use super::job::JobObject;
use super::manager::Manager;
use super::path;
use super::service::ServiceObject;
use super::unikernel::{ACTIVE_CONNECTIONS, UnikernelObject, details};
use crate::domain::{
    Event, JobNumber, JobResult, JobView, ManagerView, ServiceView, UnikernelId, UnikernelState, UnikernelView,
};

/// The snapshots that objects of one kind show, by their paths.
type Snapshots<V> = HashMap<OwnedObjectPath, watch::Sender<Arc<V>>>;

#[derive(Debug)]
pub struct Publisher {
    connection: Connection,
    entrance: Entrance,
    manager: watch::Sender<Arc<ManagerView>>,
    unikernels: Snapshots<UnikernelView>,
    services: Snapshots<ServiceView>,
    jobs: Snapshots<JobView>,
    untold: Vec<Untold>,
}

/// What is in the objects already, and still to be told.
#[derive(Debug)]
enum Untold {
    Properties {
        emitter: SignalEmitter<'static>,
        interface: InterfaceName<'static>,
        changed: HashMap<String, OwnedVariant>,
        invalidated: Vec<String>,
    },
    State {
        old: String,
        view: Arc<UnikernelView>,
    },
    /// A switch, or anything of a job: no answer of a call depends on these.
    Event(Event),
}

/// Tasks that come in between from an event to the answer of the call that caused it: the owner, the workflow, the call
/// on the bus. That many turns are left to them before signals go out.
const HOPS: usize = 6;

impl Publisher {
    pub fn new(connection: Connection, entrance: Entrance, manager: watch::Sender<Arc<ManagerView>>) -> Self {
        let (unikernels, services, jobs, untold) = Default::default();
        Self { connection, entrance, manager, unikernels, services, jobs, untold }
    }

    /// Puts there what exists already, without a signal for any of it.
    pub async fn start(
        &mut self,
        unikernels: Vec<Arc<UnikernelView>>,
        services: Vec<Arc<ServiceView>>,
    ) -> zbus::Result<()> {
        for view in unikernels {
            let (path, entrance) = (path::unikernel(&view.id), self.entrance.clone());
            let make = |snapshot| UnikernelObject::new(snapshot, entrance);
            put(&self.connection, &mut self.unikernels, &path, view, make).await?;
        }
        for view in services {
            let path = path::service(&view.name);
            put(&self.connection, &mut self.services, &path, view, ServiceObject::new).await?;
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
            for _ in 0..HOPS {
                tokio::task::yield_now().await;
                while let Ok(barrier) = barriers.try_recv() {
                    self.reach(barrier, &mut events).await;
                }
            }
            self.tell().await;
        }
    }

    /// Lets whoever waits go on, once everything that was told before is in the objects. What comes later does not hold
    /// it up.
    async fn reach(&mut self, barrier: Barrier, events: &mut mpsc::Receiver<Event>) {
        for _ in 0..events.len() {
            if let Ok(event) = events.try_recv() {
                self.take_in(event).await;
            }
        }
        // Whoever asked may have gone away.
        let _ = barrier.send(());
    }

    /// Puts one event into the objects, and keeps what is to be told of it. What fails is logged: the next events are
    /// not lost for it.
    async fn take_in(&mut self, event: Event) {
        let taken_in = match event.clone() {
            Event::Unikernel { before, after } => self.unikernel(before, after).await,
            Event::Service { before, after } => self.service(before, after).await,
            Event::Connections { id, count } => {
                self.connections(&id, count);
                Ok(())
            }
            // STACKS
            Event::Stack { .. } => Ok(()),
            Event::Switched { .. } | Event::Job(_) | Event::JobRemoved { .. } => {
                self.keep(event.clone());
                Ok(())
            }
            Event::Manager(view) => {
                let changed = show::<Manager, _>(&self.connection, path::ROOT, &self.manager, view).await;
                changed.map(|changed| self.untold.extend(changed))
            }
        };
        if let Err(error) = taken_in {
            tracing::error!(%error, ?event, "an event could not be put on the bus");
        }
    }

    /// Keeps what is to be told; of a job's steps only the last, where they follow each other faster than they are told.
    fn keep(&mut self, event: Event) {
        if let (Event::Job(view), Some(Untold::Event(Event::Job(last)))) = (&event, self.untold.last_mut())
            && view.number == last.number
        {
            *last = view.clone();
        } else {
            self.untold.push(Untold::Event(event));
        }
    }

    /// Sends the signals that are due, in the order in which things happened.
    async fn tell(&mut self) {
        for untold in std::mem::take(&mut self.untold) {
            if let Err(error) = self.tell_one(untold).await {
                tracing::error!(%error, "a signal could not be sent");
            }
        }
    }

    async fn tell_one(&mut self, untold: Untold) -> zbus::Result<()> {
        match untold {
            Untold::Properties { emitter, interface, changed, invalidated } => {
                let changed =
                    changed.iter().filter_map(|(name, value)| Some((name.as_str(), value.try_clone().ok()?.into())));
                let invalidated = invalidated.iter().map(String::as_str).collect::<Vec<_>>();
                Properties::properties_changed(&emitter, interface, changed.collect(), Cow::Owned(invalidated)).await
            }
            Untold::State { old, view } => {
                let (id, new) = (view.id.as_str(), view.state.to_string());
                let path = path::unikernel(&view.id);
                Manager::unikernel_state_changed(&self.emitter(), path.as_ref(), id, &old, &new, details(&view)).await
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

    async fn unikernel(
        &mut self,
        before: Option<Arc<UnikernelView>>,
        after: Option<Arc<UnikernelView>>,
    ) -> zbus::Result<()> {
        let Some(view) = after else {
            let Some(gone) = before else { return Ok(()) };
            return remove::<UnikernelObject, _>(&self.connection, &mut self.unikernels, path::unikernel(&gone.id))
                .await;
        };
        let (path, entrance) = (path::unikernel(&view.id), &self.entrance);
        let make = |snapshot| UnikernelObject::new(snapshot, entrance.clone());
        let changed = put(&self.connection, &mut self.unikernels, &path, view.clone(), make).await?;
        self.untold.extend(changed);
        let old = before.map(|before| before.state);
        if old != Some(view.state) {
            let old = old.map(|state| state.to_string()).unwrap_or_default();
            self.untold.push(Untold::State { old, view });
        }
        Ok(())
    }

    async fn service(&mut self, before: Option<Arc<ServiceView>>, after: Option<Arc<ServiceView>>) -> zbus::Result<()> {
        match (before, after) {
            (_, Some(view)) => {
                let path = path::service(&view.name);
                let changed = put(&self.connection, &mut self.services, &path, view, ServiceObject::new).await?;
                self.untold.extend(changed);
                Ok(())
            }
            (Some(gone), None) => {
                remove::<ServiceObject, _>(&self.connection, &mut self.services, path::service(&gone.name)).await
            }
            (None, None) => Ok(()),
        }
    }

    /// Keeps the count of one that drains: of all others the property tells when it is asked for.
    fn connections(&mut self, id: &UnikernelId, count: u32) {
        let path = path::unikernel(id);
        let state = self.unikernels.get(&path).map(|snapshot| snapshot.borrow().state);
        if state == Some(UnikernelState::Draining) {
            let emitter = SignalEmitter::from_parts(self.connection.clone(), path.into_inner());
            let changed = HashMap::from([(ACTIVE_CONNECTIONS.to_owned(), count.into())]);
            let interface = UnikernelObject::name();
            self.untold.push(Untold::Properties { emitter, interface, changed, invalidated: Vec::new() });
        }
    }

    async fn job(&mut self, view: JobView) -> zbus::Result<()> {
        let (path, entrance) = (path::job(view.number), &self.entrance);
        let make = |snapshot| JobObject::new(snapshot, entrance.clone());
        match put(&self.connection, &mut self.jobs, &path, Arc::new(view), make).await? {
            Some(changed) => Box::pin(self.tell_one(changed)).await,
            None => Ok(()),
        }
    }

    async fn job_removed(&mut self, number: JobNumber, result: JobResult) -> zbus::Result<()> {
        let path = path::job(number);
        let removed = remove::<JobObject, _>(&self.connection, &mut self.jobs, path.clone()).await;
        Manager::job_removed(&self.emitter(), path.as_ref(), &result.to_string()).await?;
        removed
    }

    fn emitter(&self) -> SignalEmitter<'static> {
        SignalEmitter::from_parts(self.connection.clone(), ObjectPath::from_static_str_unchecked(path::ROOT))
    }
}

/// Shows `view` at `path`, with a new object where there is none, and returns what is to be told of a change. The
/// ObjectManager tells of a new one.
async fn put<I: Interface, V>(
    connection: &Connection,
    snapshots: &mut Snapshots<V>,
    path: &OwnedObjectPath,
    view: Arc<V>,
    make: impl FnOnce(watch::Receiver<Arc<V>>) -> I,
) -> zbus::Result<Option<Untold>> {
    if let Some(snapshot) = snapshots.get(path) {
        return show::<I, V>(connection, path.as_str(), snapshot, view).await;
    }
    let (snapshot, shown) = watch::channel(view);
    snapshots.insert(path.clone(), snapshot);
    connection.object_server().at(path.as_ref(), make(shown)).await.map(|_| None)
}

/// Takes the object at `path` off the bus; the ObjectManager tells of it.
async fn remove<I: Interface, V>(
    connection: &Connection,
    snapshots: &mut Snapshots<V>,
    path: OwnedObjectPath,
) -> zbus::Result<()> {
    if snapshots.remove(&path).is_none() {
        return Ok(());
    }
    connection.object_server().remove::<I, _>(path.as_ref()).await.map(drop)
}

/// Gives an object its new snapshot, and returns the properties that are different now, for one signal.
async fn show<I: Interface, V>(
    connection: &Connection,
    path: &str,
    snapshot: &watch::Sender<Arc<V>>,
    view: Arc<V>,
) -> zbus::Result<Option<Untold>> {
    let object = connection.object_server().interface::<_, I>(path).await?;
    let before = properties(connection, &object).await?;
    snapshot.send_replace(view);
    let mut after = properties(connection, &object).await?;
    let invalidated = before.keys().filter(|name| !after.contains_key(*name)).cloned().collect::<Vec<_>>();
    after.retain(|name, value| before.get(name) != Some(value));
    if after.is_empty() && invalidated.is_empty() {
        return Ok(None);
    }
    let emitter = object.signal_emitter().to_owned();
    Ok(Some(Untold::Properties { emitter, interface: I::name(), changed: after, invalidated }))
}

/// What the object's own getters answer, so that signal and property cannot differ.
async fn properties<I: Interface>(
    connection: &Connection,
    object: &InterfaceRef<I>,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let server = connection.object_server();
    Ok(object.get().await.get_all(server, connection, None, object.signal_emitter()).await?)
}
