//! Puts on the bus what the owner of state tells: objects that appear and vanish, properties, signals.
//!
//! One task and one queue, so that clients see things in the order in which they happened. It never asks the owner of
//! state for anything: the owner may be waiting for room in the queue.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use zbus::fdo::Properties;
use zbus::object_server::{Interface, InterfaceRef, SignalEmitter};
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

use super::entrance::{Barrier, Entrance};
use super::job::JobObject;
use super::manager::Manager;
use super::path;
use super::service::ServiceObject;
use super::unikernel::{UnikernelObject, details};
use crate::domain::{Event, JobNumber, JobResult, JobView, ManagerView, ServiceView, UnikernelView};

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
}

impl Publisher {
    pub fn new(connection: Connection, entrance: Entrance, manager: watch::Sender<Arc<ManagerView>>) -> Self {
        let (unikernels, services, jobs) = Default::default();
        Self { connection, entrance, manager, unikernels, services, jobs }
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
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut barriers: mpsc::Receiver<Barrier>) {
        loop {
            tokio::select! {
                // In this order: a barrier is reached only when no event that was told before it is left.
                biased;
                event = events.recv() => match event {
                    Some(event) => {
                        if matches!(event, Event::Job(_)) {
                            // What the job works for goes first: it soon waits for the disk, and that is the time to tell.
                            tokio::task::yield_now().await;
                        }
                        self.publish(event).await;
                    }
                    None => return,
                },
                Some(barrier) = barriers.recv() => {
                    // Whoever asked may have gone away.
                    let _ = barrier.send(());
                }
            }
        }
    }

    /// Puts one event on the bus. What fails is logged: the next events are not lost for it.
    pub async fn publish(&mut self, event: Event) {
        let published = match event.clone() {
            Event::Unikernel { before, after } => self.unikernel(before, after).await,
            Event::Service { before, after } => self.service(before, after).await,
            Event::Switched { service, from, to } => {
                let (from, to) = (from.map(String::from), to.map(String::from));
                let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
                Manager::service_switched(&self.emitter(), service.as_str(), &from, &to).await
            }
            Event::Job(view) => self.job(view).await,
            Event::JobRemoved { number, result } => self.job_removed(number, result).await,
            Event::Manager(view) => show::<Manager, _>(&self.connection, path::ROOT, &self.manager, view).await,
        };
        if let Err(error) = published {
            tracing::error!(%error, ?event, "an event could not be told on the bus");
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
        put(&self.connection, &mut self.unikernels, &path, view.clone(), make).await?;
        let old = before.map(|before| before.state);
        if old == Some(view.state) {
            return Ok(());
        }
        let (id, new) = (view.id.as_str(), view.state.to_string());
        let old = old.map(|state| state.to_string()).unwrap_or_default();
        Manager::unikernel_state_changed(&self.emitter(), path.as_ref(), id, &old, &new, details(&view)).await
    }

    async fn service(&mut self, before: Option<Arc<ServiceView>>, after: Option<Arc<ServiceView>>) -> zbus::Result<()> {
        match (before, after) {
            (_, Some(view)) => {
                let path = path::service(&view.name);
                put(&self.connection, &mut self.services, &path, view, ServiceObject::new).await
            }
            (Some(gone), None) => {
                remove::<ServiceObject, _>(&self.connection, &mut self.services, path::service(&gone.name)).await
            }
            (None, None) => Ok(()),
        }
    }

    async fn job(&mut self, view: JobView) -> zbus::Result<()> {
        let (path, entrance) = (path::job(view.number), &self.entrance);
        let make = |snapshot| JobObject::new(snapshot, entrance.clone());
        put(&self.connection, &mut self.jobs, &path, Arc::new(view), make).await
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

/// Shows `view` at `path`, with a new object where there is none. The ObjectManager tells of a new one.
async fn put<I: Interface, V>(
    connection: &Connection,
    snapshots: &mut Snapshots<V>,
    path: &OwnedObjectPath,
    view: Arc<V>,
    make: impl FnOnce(watch::Receiver<Arc<V>>) -> I,
) -> zbus::Result<()> {
    if let Some(snapshot) = snapshots.get(path) {
        return show::<I, V>(connection, path.as_str(), snapshot, view).await;
    }
    let (snapshot, shown) = watch::channel(view);
    snapshots.insert(path.clone(), snapshot);
    connection.object_server().at(path.as_ref(), make(shown)).await.map(drop)
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

/// Gives an object its new snapshot and tells the properties that are different now, in one signal.
async fn show<I: Interface, V>(
    connection: &Connection,
    path: &str,
    snapshot: &watch::Sender<Arc<V>>,
    view: Arc<V>,
) -> zbus::Result<()> {
    let object = connection.object_server().interface::<_, I>(path).await?;
    let before = properties(connection, &object).await?;
    snapshot.send_replace(view);
    let after = properties(connection, &object).await?;
    let (changed, invalidated) = difference(&before, &after);
    if changed.is_empty() && invalidated.is_empty() {
        return Ok(());
    }
    Properties::properties_changed(object.signal_emitter(), I::name(), changed, Cow::Owned(invalidated)).await
}

/// What the object's own getters answer, so that signal and property cannot differ.
async fn properties<I: Interface>(
    connection: &Connection,
    object: &InterfaceRef<I>,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let server = connection.object_server();
    Ok(object.get().await.get_all(server, connection, None, object.signal_emitter()).await?)
}

type Shown = HashMap<String, OwnedVariant>;

/// Properties with another value, and those that nobody can say without being asked any more.
fn difference<'a>(before: &'a Shown, after: &'a Shown) -> (HashMap<&'a str, Variant<'a>>, Vec<&'a str>) {
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    let changed = changed.filter_map(|(name, value)| Some((name.as_str(), value.try_clone().ok()?.into())));
    let invalidated = before.keys().filter(|name| !after.contains_key(*name)).map(String::as_str);
    (changed.collect(), invalidated.collect())
}
