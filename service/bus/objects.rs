//! The objects of one kind: they appear, show their snapshots and vanish.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

use super::entrance::Entrance;

/// An object that shows a snapshot of what the owner of state has told.
pub trait Shown: Interface + Sized {
    type View: Send + Sync + 'static;

    /// Where the object of a view is.
    fn path(view: &Self::View) -> OwnedObjectPath;

    /// An object that shows whatever is in `view` when it is asked.
    fn showing(view: watch::Receiver<Arc<Self::View>>, entrance: &Entrance) -> Self;
}

/// The objects of one kind that are on the bus, by their paths.
pub struct Objects<O: Shown> {
    connection: Connection,
    entrance: Entrance,
    snapshots: HashMap<OwnedObjectPath, watch::Sender<Arc<O::View>>>,
}

impl<O: Shown> Objects<O> {
    pub fn new(connection: &Connection, entrance: &Entrance) -> Self {
        Self { connection: connection.clone(), entrance: entrance.clone(), snapshots: HashMap::new() }
    }

    /// What the object at `path` shows.
    pub fn view(&self, path: &OwnedObjectPath) -> Option<Arc<O::View>> {
        self.snapshots.get(path).map(|snapshot| snapshot.borrow().clone())
    }

    /// Puts there what is there after an event, or takes away what was there before it.
    pub async fn take_in(
        &mut self,
        before: Option<Arc<O::View>>,
        after: Option<Arc<O::View>>,
    ) -> zbus::Result<Option<Change>> {
        match (before, after) {
            (_, Some(view)) => self.put(view).await,
            (Some(gone), None) => self.remove(O::path(&gone)).await.map(|()| None),
            (None, None) => Ok(None),
        }
    }

    /// Shows `view`, with a new object where there is none: the ObjectManager tells of that one. Of another, what it
    /// shows is exchanged and nothing else, since whoever made a change of many objects waits for all of them; what is
    /// to be told is returned.
    pub async fn put(&mut self, view: Arc<O::View>) -> zbus::Result<Option<Change>> {
        let path = O::path(&view);
        if let Some(snapshot) = self.snapshots.get(&path) {
            let before = snapshot.send_replace(Arc::clone(&view));
            return Ok(Some(self.change(path, before, view)));
        }
        let (snapshot, shown) = watch::channel(view);
        self.snapshots.insert(path.clone(), snapshot);
        self.connection.object_server().at(path, O::showing(shown, &self.entrance)).await.map(|_| None)
    }

    /// Takes the object at `path` off the bus; the ObjectManager tells of it.
    pub async fn remove(&mut self, path: OwnedObjectPath) -> zbus::Result<()> {
        if self.snapshots.remove(&path).is_none() {
            return Ok(());
        }
        self.connection.object_server().remove::<O, _>(path).await.map(drop)
    }

    fn change(&self, path: OwnedObjectPath, before: Arc<O::View>, after: Arc<O::View>) -> Change {
        Change {
            emitter: SignalEmitter::from_parts(self.connection.clone(), path.into_inner()),
            interface: O::name(),
            before: Box::new(self.unchanging(before)),
            after: Box::new(self.unchanging(after)),
        }
    }

    /// An object that is not on the bus and shows one view for ever.
    fn unchanging(&self, view: Arc<O::View>) -> O {
        O::showing(watch::channel(view).1, &self.entrance)
    }
}

// What it shows can be large, and need not have a `Debug`.
impl<O: Shown> fmt::Debug for Objects<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.snapshots.keys()).finish()
    }
}

/// A change that an object shows already. Which properties it has changed is found out when it is told.
pub struct Change {
    emitter: SignalEmitter<'static>,
    interface: InterfaceName<'static>,
    /// As the object was, and as it is: their getters are the object's own, so that signal and property cannot differ.
    before: Box<dyn Interface>,
    after: Box<dyn Interface>,
}

impl Change {
    /// One signal for all properties that are different, and none where none is.
    pub async fn tell(self) -> zbus::Result<()> {
        let before = properties(&*self.before, &self.emitter).await?;
        let mut after = properties(&*self.after, &self.emitter).await?;
        let invalidated =
            before.keys().filter(|name| !after.contains_key(*name)).map(String::as_str).collect::<Vec<_>>();
        after.retain(|name, value| before.get(name) != Some(value));
        if after.is_empty() && invalidated.is_empty() {
            return Ok(());
        }
        let changed = after.iter().filter_map(|(name, value)| Some((name.as_str(), value.try_clone().ok()?.into())));
        Properties::properties_changed(&self.emitter, self.interface, changed.collect(), Cow::Owned(invalidated)).await
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("interface", &self.interface).field("emitter", &self.emitter).finish()
    }
}

/// What the object's getters answer.
async fn properties(
    object: &dyn Interface,
    emitter: &SignalEmitter<'static>,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let connection = emitter.connection();
    Ok(object.get_all(connection.object_server(), connection, None, emitter).await?)
}
