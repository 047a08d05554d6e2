//! A host on which version 1 of a website is live, and what can be done there.

use crate::account::{self, Account};
use crate::host::{Manager, Options, TestHost, options};

pub const FAULT: &str = "ALBATROSS_DEPLOYER_FAULT";

/// UDP as well, so that a switch has flows to delete.
const PORTS: [(&str, u16, u16); 1] = [("any", 8080, 80)];
const OTHER_PORTS: [(&str, u16, u16); 1] = [("any", 9090, 80)];

pub struct Scene {
    pub host: TestHost,
    pub manager: Manager,
}

/// What is done while something fails. Each is prepared, done, and then prepared again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Deploy,
    Publish,
    Rollback,
    /// To one that has ended.
    RollbackToGone,
    Unpublish,
    Destroy,
    DestroyLive,
    Restart,
    /// Of one that has ended.
    Revive,
    Collect,
}

/// Milliseconds that a drain may take. No request of the tests takes as long: whatever is done next to what was live before,
/// it has answered.
const DRAIN: u64 = 5_000;

impl Scene {
    /// With `website` version 1 live on 8080.
    pub async fn new() -> Option<Self> {
        Some(Self::on(TestHost::start().await?).await)
    }

    /// The same on a host that is there already.
    pub async fn on(host: TestHost) -> Self {
        let manager = host.manager().await;
        let scene = Self { host, manager };
        scene.deploy("website", "1").await.unwrap();
        scene.publish("website", &PORTS, None).await.unwrap();
        scene
    }

    /// Starts the service anew; `fault` goes with it.
    pub async fn restart_service(&mut self, fault: Option<String>) {
        self.host.kill_service();
        self.host.environment.retain(|(key, _)| key != FAULT);
        self.host.environment.extend(fault.map(|fault| (FAULT.to_owned(), fault)));
        self.host.start_service().await;
    }

    pub async fn deploy(&self, service: &str, version: &str) -> zbus::Result<String> {
        let image = self.host.image(version, &[]);
        Ok(self.manager.deploy(service, &image, options("http:80/")).await?.0)
    }

    pub async fn publish(&self, service: &str, ports: &[(&str, u16, u16)], id: Option<&str>) -> zbus::Result<()> {
        let mut options = Options::from([("drain", DRAIN.into())]);
        options.extend(id.map(|id| ("unikernel", id.into())));
        self.manager.publish(service, ports, options).await
    }

    /// The second version's id, once it was deployed.
    async fn second(&self) -> String {
        let first = self.live("website").await;
        let running = self.host.running();
        let mut others = running.iter().filter(|id| id.starts_with("website.") && **id != first);
        others.next_back().cloned().expect("version 2 was prepared")
    }

    pub async fn live(&self, service: &str) -> String {
        let body = self.manager.call("ListPublications", &()).await.unwrap();
        let all: Vec<(String, String, String, String, u16, String, u16)> = body.deserialize().unwrap();
        all.into_iter().find(|one| one.0 == service).map(|one| one.1).unwrap_or_default()
    }

    /// Makes the deed possible again: from the scene as it is new, or from after the deed.
    pub async fn prepare(&self, deed: Deed) {
        match deed {
            Deed::Deploy => {
                let first = self.live("website").await;
                for id in self.host.running().into_iter().filter(|id| *id != first) {
                    self.destroy(&id, false).await.unwrap();
                }
                self.manager.collect(Options::new()).await.unwrap();
            }
            Deed::Publish | Deed::Rollback | Deed::Collect => {
                let first = self.first().await;
                let second = self.deploy("website", "2").await.unwrap();
                self.publish("website", &PORTS, Some(&second)).await.unwrap();
                self.publish("website", &PORTS, Some(&first)).await.unwrap();
            }
            Deed::Unpublish | Deed::DestroyLive => {
                self.deploy("other", "3").await.unwrap();
                self.publish("other", &OTHER_PORTS, None).await.unwrap();
            }
            Deed::Destroy | Deed::Restart => drop(self.deploy("website", "2").await.unwrap()),
            Deed::Revive | Deed::RollbackToGone => {
                let second = self.deploy("website", "2").await.unwrap();
                if deed == Deed::RollbackToGone {
                    let first = self.first().await;
                    self.publish("website", &PORTS, Some(&second)).await.unwrap();
                    self.publish("website", &PORTS, Some(&first)).await.unwrap();
                    self.until("version 2 has drained", |_| true).await;
                }
                self.host.albatross.control(&format!("lose {second}"));
                self.until(&format!("{second} has exited"), |account| {
                    account.unikernels.get(&second).is_some_and(|state| state == "exited")
                })
                .await;
            }
        }
    }

    async fn first(&self) -> String {
        self.deploy("website", "1").await.unwrap()
    }

    pub async fn perform(&self, deed: Deed, known: &Known) -> zbus::Result<()> {
        let call = |member: &'static str, name: &str| {
            let name = name.to_owned();
            async move { self.manager.call(member, &(name,)).await.map(drop) }
        };
        match deed {
            Deed::Deploy => self.deploy("website", "2").await.map(drop),
            Deed::Publish => self.publish("website", &PORTS, Some(&known.second)).await,
            Deed::Rollback | Deed::RollbackToGone => call("Rollback", "website").await,
            Deed::Unpublish => call("Unpublish", "other").await,
            Deed::Destroy => self.destroy(&known.second, false).await,
            Deed::DestroyLive => self.destroy(&known.other, true).await,
            Deed::Restart | Deed::Revive => call("Restart", &known.second).await,
            Deed::Collect => self.manager.collect(Options::from([("keep-previous", 0u32.into())])).await.map(drop),
        }
    }

    async fn destroy(&self, id: &str, force: bool) -> zbus::Result<()> {
        self.manager.call("Destroy", &(id, Options::from([("force", force.into())]))).await.map(drop)
    }

    /// Ids, after the deed was prepared.
    pub async fn known(&self, deed: Deed) -> Known {
        let second = match deed {
            Deed::Publish | Deed::Rollback | Deed::Destroy | Deed::Restart | Deed::Collect => self.second().await,
            Deed::Revive | Deed::RollbackToGone => {
                let account = self.settled().await;
                account.unikernels.into_iter().find(|(_, state)| state == "exited").unwrap().0
            }
            _ => String::new(),
        };
        Known { second, other: self.live("other").await }
    }

    /// The account, once everything fits together and nothing is on its way.
    pub async fn settled(&self) -> Account {
        self.until("settled", |_| true).await
    }

    pub async fn until(&self, what: &str, holds: impl FnMut(&Account) -> bool) -> Account {
        account::until(&self.host, &self.manager, what, holds).await
    }
}

/// Ids of what a deed is done to.
#[derive(Debug, Clone)]
pub struct Known {
    pub second: String,
    pub other: String,
}
