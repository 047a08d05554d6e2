//! The object of a service.

use std::sync::Arc;

use tokio::sync::watch;
use zbus::{OwnedObjectPath, interface};

use super::entrance::Entrance;
use super::objects::Shown;
use super::path;
use crate::domain::ServiceView;

#[derive(Debug)]
pub struct ServiceObject {
    view: watch::Receiver<Arc<ServiceView>>,
}

impl ServiceObject {
    fn view(&self) -> Arc<ServiceView> {
        self.view.borrow().clone()
    }
}

impl Shown for ServiceObject {
    type View = ServiceView;

    fn path(view: &ServiceView) -> OwnedObjectPath {
        path::service(&view.name)
    }

    fn showing(view: watch::Receiver<Arc<ServiceView>>, _: &Entrance) -> Self {
        Self { view }
    }
}

#[interface(name = "org.albatross.Deployer1.Service")]
impl ServiceObject {
    /// The name under which its unikernels are published.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.view().name.to_string()
    }

    /// The unikernel that the ports go to now; / when the service is not published.
    #[zbus(property)]
    fn live(&self) -> OwnedObjectPath {
        path::unikernel_or_none(self.view().live())
    }

    /// The unikernel that was live before, where Rollback goes; / when there is none.
    #[zbus(property)]
    fn previous(&self) -> OwnedObjectPath {
        path::unikernel_or_none(self.view().previous.as_ref())
    }

    /// What is published: (tcp, udp or any; host port; port of the unikernel).
    #[zbus(property)]
    fn ports(&self) -> Vec<(String, u16, u16)> {
        let view = self.view();
        let ports = view.publication.iter().flat_map(|publication| &publication.ports);
        ports.map(|mapping| (mapping.protocol.to_string(), mapping.host, mapping.unikernel)).collect()
    }
}
