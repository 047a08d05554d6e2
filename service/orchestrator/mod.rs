//! The owner of state, the workflows that go through it, and the watchers that tell it what happens.
//!
//! ```text
//!   bus ── request ──► Orchestrator ── job ──► workflow: a table of steps and their undo
//!                                                 │ decisions (pure, planning/)      │ Albatross, images, probes
//!                                                 ▼                                  ▼
//!   watchers ── observations ──────────────►   owner: ledger, then kernel, then view ── events ──► bus
//! ```

mod automatic;
mod bridges;
mod call;
mod checks;
mod claims;
mod collect;
mod connections;
mod console;
mod context;
mod deploy;
mod drains;
mod error;
mod fault;
mod host_ports;
mod imports;
mod jobs;
mod leases;
mod owner;
mod publish;
mod readiness;
mod recover;
mod reload;
mod remove;
mod request;
mod restart;
mod returns;
mod settings;
mod slots;
mod stacks;
mod stale_flows;
mod start;
mod tolerance;
mod watch;
mod workflow;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{sleep, timeout};
use tracing::{error, info};

use self::call::Call;
use self::collect::{Collect, Drains};
use self::context::Context;
use self::deploy::deploy;
use self::jobs::Job;
use self::publish::{SWITCH, Switch, To};
use self::remove::{REMOVE, Remove};
use self::restart::{RESTART, Restart, Way};
use self::stacks::{Apply, MOVE, MoveStack, REMOVE_STACK, RemoveStack};
use crate::consoles::History;
use crate::domain::{
    Caller, ConsoleLine, Exclusion, JobKind, JobNumber, JobResult, JobView, Lease, LeaseTag, Publication, ServiceName,
    StackName, UnikernelId, UnikernelState,
};
use crate::host_network::{self, nftables};
use crate::planning;
use crate::planning::collecting::{Keep, Removal};
use crate::planning::publishing::Wanted;
use crate::planning::stacks::dot;

pub use error::{Error, ErrorKind};
pub use reload::Error as ReloadError;
pub use request::{ApplyRequest, CollectRequest, DeployRequest, ImageSource, PublishRequest};
pub use start::{Assembled, InitialViews, Parts, Runner, StartError, assemble};

/// What the bus calls. Cheap to clone; every call works in a task of its own, so that a caller that goes away does not
/// leave half of one.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    context: Arc<Context>,
}

/// A unikernel that is ready.
#[derive(Debug, Clone)]
pub struct Deployed {
    pub id: UnikernelId,
    pub address: IpAddr,
}

impl Orchestrator {
    /// Returns when the unikernel is ready: it runs, and its readiness rule holds.
    pub async fn deploy(&self, request: DeployRequest) -> Result<Deployed, Error> {
        let subject = request.service.to_string();
        let deployed = self
            .work(JobKind::Deploy, subject, move |context, job| async move { deploy(context, request, &job).await });
        let outcome = deployed.await?;
        Ok(Deployed { id: outcome.id, address: outcome.address })
    }

    pub async fn publish(&self, request: PublishRequest) -> Result<(), Error> {
        let wanted = Wanted {
            ports: request.ports,
            unikernel: request.unikernel,
            addresses: request.addresses,
            sources: request.sources,
            drain: request.drain.unwrap_or(self.context.limits().drain),
        };
        self.switch(JobKind::Publish, request.service, To::Publication(wanted, request.caller)).await.map(drop)
    }

    pub async fn unpublish(&self, service: ServiceName) -> Result<(), Error> {
        self.switch(JobKind::Unpublish, service, To::Nothing).await.map(drop)
    }

    /// Returns what is live now.
    pub async fn rollback(&self, service: ServiceName) -> Result<UnikernelId, Error> {
        self.switch(JobKind::Rollback, service, To::Previous).await?.live()
    }

    async fn switch(&self, kind: JobKind, service: ServiceName, to: To) -> Result<Switch, Error> {
        self.work(kind, service.to_string(), move |context, job| async move {
            let mut switch = Switch::new(context, service, to);
            workflow::run(SWITCH, &mut switch, &job).await?;
            Ok(switch)
        })
        .await
    }

    /// Returns what was removed or, in a dry run, what would be.
    pub async fn collect(&self, request: CollectRequest) -> Result<Vec<Removal>, Error> {
        let previous = request.keep_previous.unwrap_or(self.context.limits().keep_previous);
        let keep = Keep { services: request.keep, previous };
        let drains = if request.force { Drains::Go } else { Drains::Wait };
        let collect = Collect { keep, drains };
        if request.dry_run {
            Call::of_job(JobKind::Collect, &"").logged(collect.removals(&self.context).await)
        } else {
            self.collect_so(collect).await
        }
    }

    async fn collect_so(&self, collect: Collect) -> Result<Vec<Removal>, Error> {
        self.work(JobKind::Collect, String::new(), move |context, job| async move { collect.run(&context, &job).await })
            .await
    }

    /// Starts it again; one that has ended is deployed again under its old lease.
    pub async fn restart(&self, id: UnikernelId) -> Result<(), Error> {
        let way = Call::of_job(JobKind::Restart, &id).logged(restart::way(&self.context, &id).await)?;
        self.work(JobKind::Restart, id.to_string(), move |context, job| async move {
            match way {
                Way::Deploy(request) => deploy(context, *request, &job).await.map(drop),
                Way::Restart(unikernel) => workflow::run(RESTART, &mut Restart::new(context, *unikernel), &job).await,
            }
        })
        .await
    }

    pub async fn destroy(&self, id: UnikernelId, force: bool) -> Result<(), Error> {
        self.work(JobKind::Destroy, id.to_string(), move |context, job| async move {
            workflow::run(REMOVE, &mut Remove::new(context, id, force), &job).await
        })
        .await
    }

    /// The same tag and a prefix that still fits get the same address.
    pub async fn allocate_address(
        &self,
        tag: LeaseTag,
        prefix: IpNet,
        exclude: Vec<Exclusion>,
    ) -> Result<IpAddr, Error> {
        let context = Arc::clone(&self.context);
        let call = Call::new("AllocateAddress", &tag);
        in_task(call, async move { leases::allocate(&context, tag, prefix, exclude).await }).await
    }

    /// Returns the address that is free now.
    pub async fn release_address(&self, tag: LeaseTag) -> Result<IpAddr, Error> {
        Call::new("ReleaseAddress", &tag).logged(leases::release(&self.context, tag).await)
    }

    /// Returns when the chain of the manifest is staged and, where that was asked for, live.
    pub async fn apply(&self, request: ApplyRequest) -> Result<StackName, Error> {
        let stack = request.manifest.stack.clone();
        let work = move |context, job: Arc<Job>| async move { Apply::new(context, request).run(&job).await };
        self.work(JobKind::Apply, stack.to_string(), work).await?;
        Ok(stack)
    }

    /// Makes the staged chain live.
    pub async fn activate(&self, stack: StackName, caller: Caller) -> Result<(), Error> {
        self.move_stack(JobKind::Activate, stack, stacks::Way::Forth, caller).await
    }

    /// Makes the chain live that was live before.
    pub async fn rollback_stack(&self, stack: StackName, caller: Caller) -> Result<(), Error> {
        self.move_stack(JobKind::RollbackStack, stack, stacks::Way::Back, caller).await
    }

    async fn move_stack(&self, kind: JobKind, stack: StackName, way: stacks::Way, caller: Caller) -> Result<(), Error> {
        self.work(kind, stack.to_string(), move |context, job| async move {
            workflow::run(MOVE, &mut MoveStack::new(context, stack, way, caller), &job).await
        })
        .await
    }

    /// Takes a stack off its ports, and away.
    pub async fn remove_stack(&self, stack: StackName) -> Result<(), Error> {
        self.work(JobKind::RemoveStack, stack.to_string(), move |context, job| async move {
            workflow::run(REMOVE_STACK, &mut RemoveStack::new(context, stack), &job).await
        })
        .await
    }

    /// A stack's chains as Graphviz DOT.
    pub async fn export_graph(&self, name: StackName) -> Result<String, Error> {
        let call = Call::new("ExportGraph", &name);
        let graph = self.context.owner.look(move |state| {
            let stack = state.world.stack(&name).ok_or(planning::Error::NoSuchStack(name))?;
            Ok(dot::graph(&state.world, stack))
        });
        call.logged(graph.await.flatten())
    }

    /// By tag.
    pub async fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.context.owner.look(|state| state.world.pool().leases().cloned().collect()).await
    }

    /// By service.
    pub async fn publications(&self) -> Result<Vec<(ServiceName, Arc<Publication>)>, Error> {
        let copied = |(name, publication): (&ServiceName, &Arc<Publication>)| (name.clone(), Arc::clone(publication));
        self.context.owner.look(move |state| state.world.publications().map(copied).collect()).await
    }

    /// The table as nftables' own JSON.
    pub async fn export_ruleset(&self) -> Result<String, Error> {
        let settings = self.context.limits().ruleset;
        let ruleset = self.context.owner.look(move |state| state.ruleset(settings)).await?;
        Ok(nftables::export(&ruleset))
    }

    /// A pipe with the history of a console and its lines as they come, until its reader closes it or the unikernel is
    /// gone for good.
    pub async fn open_console(&self, id: UnikernelId, history: History) -> Result<OwnedFd, Error> {
        Call::new("OpenConsole", &id).logged(console::open(&self.context, id, history).await)
    }

    /// The last lines of a console, at most `count`, oldest first; also of a unikernel that has ended.
    pub async fn read_console(&self, id: UnikernelId, count: usize) -> Result<Vec<ConsoleLine>, Error> {
        Call::new("ReadConsole", &id).logged(console::read(&self.context, id, count).await)
    }

    pub async fn cancel(&self, number: JobNumber) -> Result<(), Error> {
        Call::new("Cancel", &number).logged(self.context.jobs.cancel(number))
    }

    /// A pipe with what a job has logged and logs, to the end of the job.
    pub async fn open_log(&self, number: JobNumber) -> Result<OwnedFd, Error> {
        Call::new("OpenLog", &number).logged(self.context.jobs.open_log(number))
    }

    /// Those that work, then the last that have ended.
    pub async fn jobs(&self) -> Result<Vec<(JobView, Option<JobResult>)>, Error> {
        Ok(self.context.jobs.list())
    }

    /// Connections through published ports to a unikernel, as the kernel has notified of them until now.
    pub async fn active_connections(&self, id: UnikernelId) -> Result<u32, Error> {
        let view = self.context.owner.look(move |state| state.world.unikernel_view(&id).ok_or(id)).await?;
        let view = view.map_err(planning::Error::NoSuchUnikernel)?;
        match view.state {
            UnikernelState::Live | UnikernelState::Draining => {
                let (counts, _) = self.context.connections.counts([view.address]).await;
                let open = counts.get(&view.address).and_then(|count| count.open);
                Ok(open.ok_or(host_network::Error::Uncounted { target: view.address })?)
            }
            _ => Ok(0),
        }
    }

    /// The group of the host whose members may call what changes something.
    pub fn access_group(&self) -> String {
        self.context.config.get().access.group.clone()
    }

    /// Cancels what works and waits until it is undone, for at most `limit`. What is left is undone at the next start.
    pub async fn stop(&self, limit: Duration) {
        self.context.jobs.cancel_all();
        let idle = async {
            while !(self.context.jobs.is_idle() && self.context.sources.tidier.is_done()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(limit, idle).await.is_err() {
            info!("calls that are not undone yet are undone at the next start");
        }
    }

    /// Does `work` in a task with a job that shows it.
    async fn work<T, F>(
        &self,
        kind: JobKind,
        subject: String,
        work: impl FnOnce(Arc<Context>, Arc<Job>) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let context = Arc::clone(&self.context);
        in_task(Call::of_job(kind, &subject), async move {
            let job = Arc::new(context.jobs.begin(kind, subject).await);
            let looking = Arc::clone(&context);
            let outcome = work(context, Arc::clone(&job)).await;
            if outcome.is_err() {
                // It may have failed because something is other than it was believed to be, or have left something.
                looking.look.notify_one();
            }
            job.end(outcome.as_ref().err()).await;
            outcome
        })
        .await
    }
}

/// The work of `call`, which goes on where nobody waits for it any more.
async fn in_task<T: Send + 'static>(
    call: Call,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let named = call.clone();
    tokio::spawn(async move { call.logged(work.await) }).await.unwrap_or_else(|defect| {
        error!(call = %named, %defect, "{call} was ended by a defect of this service: {defect}", call = named);
        Err(Error::Defect)
    })
}

/// Everything that `ALBATROSS_DEPLOYER_FAULT` can name, by workflow; see `fault.rs`.
#[cfg(feature = "fault-injection")]
pub fn fault_points() -> std::collections::BTreeMap<&'static str, Vec<&'static str>> {
    std::collections::BTreeMap::from([
        ("deploy", workflow::names(deploy::DEPLOY)),
        ("switch", workflow::names(SWITCH)),
        ("remove", workflow::names(REMOVE)),
        ("restart", workflow::names(RESTART)),
        ("apply", workflow::names(stacks::APPLY)),
        ("move", workflow::names(MOVE)),
        ("remove-stack", workflow::names(REMOVE_STACK)),
        ("collect", vec![fault::UNRECORDED]),
        ("owner", vec![fault::WRITTEN, fault::IN_KERNEL]),
    ])
}
