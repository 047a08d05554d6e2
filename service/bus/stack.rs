//! The object of a stack.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use zbus::{OwnedObjectPath, interface};

use super::entrance::Entrance;
use super::objects::Shown;
use super::path;
use crate::domain::{ChainView, StackView};

#[derive(Debug)]
pub struct StackObject {
    view: watch::Receiver<Arc<StackView>>,
}

impl StackObject {
    fn view(&self) -> Arc<StackView> {
        self.view.borrow().clone()
    }
}

impl Shown for StackObject {
    type View = StackView;

    fn path(view: &StackView) -> OwnedObjectPath {
        path::stack(&view.name)
    }

    fn showing(view: watch::Receiver<Arc<StackView>>, _: &Entrance) -> Self {
        Self { view }
    }
}

/// The members of a chain with their unikernels' objects; / for one that is gone.
fn members(chain: &ChainView) -> BTreeMap<String, OwnedObjectPath> {
    chain.iter().map(|(name, unikernel)| (name.to_string(), path::unikernel_or_none(unikernel.as_ref()))).collect()
}

#[interface(name = "org.albatross.Deployer1.Stack")]
impl StackObject {
    /// The name that its manifest gives it. The Manager's methods take it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.view().name.to_string()
    }

    /// staging (Apply works), staged (a new chain is ready and waits for Activate), live, or failed (the last Apply failed,
    /// see LastResult; what was live still is).
    #[zbus(property)]
    fn state(&self) -> String {
        self.view().state.to_string()
    }

    /// The chain that the ports go to now: its members, each a service, with their unikernels; / for a member whose
    /// unikernel is gone. Empty when nothing is live.
    #[zbus(property)]
    fn live(&self) -> BTreeMap<String, OwnedObjectPath> {
        members(&self.view().live)
    }

    /// The chain that is ready and becomes live with Activate, as in Live. Empty when there is none.
    #[zbus(property)]
    fn staged(&self) -> BTreeMap<String, OwnedObjectPath> {
        members(&self.view().staged)
    }

    /// The chain that was live before, where RollbackStack goes, as in Live: a member with / is deployed again first.
    /// Empty when there is none.
    #[zbus(property)]
    fn previous(&self) -> BTreeMap<String, OwnedObjectPath> {
        members(&self.view().previous)
    }

    /// When the images that its manifest watches were looked at last, in microseconds since the epoch; 0 when they never
    /// were.
    #[zbus(property)]
    fn last_check(&self) -> i64 {
        self.view().last_check.map_or(0, |checked| checked.0)
    }

    /// What came of the last Apply, also of one that a watched image has started: what changed, or why it failed.
    #[zbus(property)]
    fn last_result(&self) -> String {
        self.view().last_result.clone()
    }
}
