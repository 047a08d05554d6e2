//! The object of a job.

use std::sync::Arc;

use tokio::sync::watch;
use zbus::message::Header;
use zbus::{Connection, OwnedObjectPath, interface};

use super::entrance::Entrance;
use super::error::Failure;
use super::objects::Shown;
use super::path;
use crate::domain::JobView;

#[derive(Debug)]
pub struct JobObject {
    view: watch::Receiver<Arc<JobView>>,
    entrance: Entrance,
}

impl JobObject {
    fn view(&self) -> Arc<JobView> {
        self.view.borrow().clone()
    }
}

impl Shown for JobObject {
    type View = JobView;

    fn path(view: &JobView) -> OwnedObjectPath {
        path::job(view.number)
    }

    fn showing(view: watch::Receiver<Arc<JobView>>, entrance: &Entrance) -> Self {
        Self { view, entrance: entrance.clone() }
    }
}

#[interface(name = "org.albatross.Deployer1.Job")]
impl JobObject {
    /// Ends the call that this job works for: it undoes what it has done and fails with Cancelled. A step that cannot
    /// be undone any more is finished first.
    ///
    /// Errors: NoSuchJob when it has ended meanwhile, NotAuthorized.
    async fn cancel(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        self.entrance.admit(connection, &header).await?;
        let cancelled = self.entrance.orchestrator.cancel(self.view().number).await;
        self.entrance.after_events(cancelled).await
    }

    /// What it does as a pipe: lines so far, then lines as they come, each with a newline, to the end of the job. A line
    /// that begins with two equals signs is a step, or at last how the job ended; all others are said by what builds or
    /// fetches an image, in a stack with the member in front. The job never waits for a reader: who reads too slowly loses
    /// lines, and finds a line that says where and how many. The last 4096 lines are kept, at most 1 MiB.
    ///
    /// Errors: NoSuchJob when it has ended meanwhile, NotAuthorized, InUse (32 logs are open).
    #[zbus(out_args("log"))]
    async fn open_log(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<zbus::OwnedFd, Failure> {
        self.entrance.admit(connection, &header).await?;
        Ok(self.entrance.orchestrator.open_log(self.view().number).await?.into())
    }

    /// Which call it works for: deploy, publish, unpublish, rollback, collect, restart, destroy, apply, activate,
    /// rollback-stack or remove-stack.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> String {
        self.view().kind.to_string()
    }

    /// The service, unikernel, stack or tag that it is about.
    #[zbus(property(emits_changed_signal = "const"))]
    fn subject(&self) -> String {
        self.view().subject.clone()
    }

    /// What it is doing now; in a stack with the member in front, such as "forward: creating".
    #[zbus(property)]
    fn step(&self) -> String {
        self.view().step.to_string()
    }

    /// How far it has come, 0 to 1; -1 where there is no measure.
    #[zbus(property)]
    fn progress(&self) -> f64 {
        self.view().progress.unwrap_or(-1.0)
    }

    /// How many bytes the step has worked on so far; 0 where none are counted.
    #[zbus(property)]
    fn bytes(&self) -> u64 {
        self.view().bytes
    }
}
