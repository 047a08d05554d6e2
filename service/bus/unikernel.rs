//! The object of a unikernel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zbus::message::Header;
use zbus::{OwnedObjectPath, Variant, interface};

use super::entrance::Entrance;
use super::error::Failure;
use super::objects::Shown;
use super::path;
use crate::domain::{UnikernelState, UnikernelView};
use crate::orchestrator::ErrorKind;

/// Until the kernel has counted connections. zbus holds the tree of objects while a property is read: nothing appears
/// or vanishes meanwhile.
const COUNT_DEADLINE: Duration = Duration::from_secs(1);

/// The property whose changes are told as they are counted.
pub const ACTIVE_CONNECTIONS: &str = "ActiveConnections";

#[derive(Debug)]
pub struct UnikernelObject {
    view: watch::Receiver<Arc<UnikernelView>>,
    entrance: Entrance,
}

impl UnikernelObject {
    fn view(&self) -> Arc<UnikernelView> {
        self.view.borrow().clone()
    }
}

impl Shown for UnikernelObject {
    type View = UnikernelView;

    fn path(view: &UnikernelView) -> OwnedObjectPath {
        path::unikernel(&view.id)
    }

    fn showing(view: watch::Receiver<Arc<UnikernelView>>, entrance: &Entrance) -> Self {
        Self { view, entrance: entrance.clone() }
    }
}

/// What UnikernelStateChanged tells besides the states.
pub fn details(view: &UnikernelView) -> HashMap<&'static str, Variant<'static>> {
    let mut details = HashMap::from([("restarts", Variant::from(view.restarts))]);
    if !view.exit_reason.is_empty() {
        details.insert("exit-reason", view.exit_reason.clone().into());
    }
    if let Some(started) = view.started_at {
        details.insert("started-at", started.0.into());
    }
    details
}

#[interface(name = "org.albatross.Deployer1.Unikernel")]
impl UnikernelObject {
    /// Its name: the service, a dot and the first 10 hex digits of the digest of its configuration. The Manager's
    /// methods take it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.view().id.to_string()
    }

    /// The service that it is an instance of.
    #[zbus(property(emits_changed_signal = "const"))]
    fn service(&self) -> String {
        self.view().id.service().to_string()
    }

    /// creating, starting, running (Albatross runs it), ready (its readiness rule holds), live (published), draining
    /// (was live, still has connections), retired (was live, has none), exited, or failed.
    #[zbus(property)]
    fn state(&self) -> String {
        self.view().state.to_string()
    }

    /// The address that it has on its network, held for it by a lease.
    #[zbus(property)]
    fn address(&self) -> String {
        self.view().address.to_string()
    }

    /// The bridge of the host that it is attached to.
    #[zbus(property)]
    fn network(&self) -> String {
        self.view().network.to_string()
    }

    /// The MAC address of its interface; empty until Albatross has told it.
    #[zbus(property)]
    fn mac(&self) -> String {
        self.view().mac.map(|mac| mac.to_string()).unwrap_or_default()
    }

    /// How much memory it has, in MiB.
    #[zbus(property)]
    fn memory(&self) -> u64 {
        self.view().memory
    }

    /// The core that it is pinned to.
    #[zbus(property)]
    fn cpu(&self) -> u32 {
        self.view().cpu
    }

    /// The image that it runs, as sha256:HEX. Deploy takes it as an image.
    #[zbus(property)]
    fn image_digest(&self) -> String {
        self.view().image.to_string()
    }

    /// Where its image came from first: the image of that Deploy, and the digest or commit that it meant then. Empty where
    /// the image was handed over.
    #[zbus(property)]
    fn image_origin(&self) -> String {
        self.view().image_origin.clone()
    }

    /// When it was deployed first, in microseconds since the epoch.
    #[zbus(property)]
    fn created_at(&self) -> i64 {
        self.view().created_at.0
    }

    /// The number of its last deployment, also of one that found it running already. Deployments of all services are
    /// counted, whatever the clock says: the unikernel of a service with the greatest number is its newest, which Publish
    /// takes without `unikernel`, once it is ready. A Restart or a Rollback is no deployment.
    #[zbus(property)]
    fn revision(&self) -> u64 {
        self.view().revision.0
    }

    /// When Albatross started it last, in microseconds since the epoch; 0 when it never did.
    #[zbus(property)]
    fn started_at(&self) -> i64 {
        self.view().started_at.map_or(0, |started| started.0)
    }

    /// How often Albatross has started it again after it ended.
    #[zbus(property)]
    fn restarts(&self) -> u32 {
        self.view().restarts
    }

    /// How many connections from outside go to it now; 0 for one that is neither live nor draining. While it drains,
    /// PropertiesChanged tells every change within 100 ms or so. Get and GetAll have it also while it is live;
    /// GetManagedObjects leaves it out while there can be any. The kernel notifies of connections as they begin and end;
    /// with net.netfilter.nf_conntrack_events=0 they are counted at most every quarter of a second.
    ///
    /// Fails with KernelRefused or Internal when the connections are not known at the moment.
    #[zbus(property)]
    async fn active_connections(&self, #[zbus(header)] header: Option<Header<'_>>) -> Result<u32, Failure> {
        let view = self.view();
        if !matches!(view.state, UnikernelState::Live | UnikernelState::Draining) {
            return Ok(0);
        }
        if header.is_none() {
            // Not a client's question: zbus collects properties for a signal. Who publishes must not wait for who is
            // waiting for what is published.
            return Err(Failure::new(ErrorKind::Internal, "counted only when asked for"));
        }
        let count = self.entrance.orchestrator.active_connections(view.id.clone());
        match tokio::time::timeout(COUNT_DEADLINE, count).await {
            Ok(count) => Ok(count?),
            Err(_) => Err(Failure::new(ErrorKind::Internal, "connections were not counted in time: try again")),
        }
    }

    /// Why it ended last; empty while it runs.
    #[zbus(property)]
    fn exit_reason(&self) -> String {
        self.view().exit_reason.clone()
    }
}
