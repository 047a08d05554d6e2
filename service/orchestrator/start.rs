//! Puts the parts together and lets them run.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tracing::warn;

use super::bridges::Bridges;
use super::claims::Claims;
use super::connections::{self, Connections};
use super::context::Context;
use super::imports::Sources;
use super::jobs::Jobs;
use super::owner::{Owner, Reach, State};
use super::settings::CurrentConfig;
use super::slots::Slots;
use super::stale_flows::FollowUp;
use super::watch::Taps;
use super::{
    Orchestrator, automatic, checks, drains, imports, recover, returns, stacks, stale_flows, tolerance,
    watch as watching,
};
use crate::config::Config;
use crate::consoles::Consoles;
use crate::domain::{Change, Event, ManagerView, ServiceView, StackView, UnikernelView};
use crate::host_network::nftables::{ForeignChanges, Ownership, Table};
use crate::host_network::{self, Flows, Host, LinkEvents, Listeners};
use crate::ledger::{Contents, Ledger};
use crate::planning::facts::Facts;
use crate::planning::world::World;
use crate::{albatross, images};

/// Events that may wait for the bus. The owner waits when it is full: a bus that does not take them takes no calls either.
const EVENTS: usize = 1024;

/// Unikernels that run again and are probed at a time.
const RETURNS: usize = 16;

/// Checks of live unikernels at a time; one that hangs takes [`super::readiness::ONE_PROBE`].
const CHECKS: usize = 64;

/// Everything that is opened before anything runs.
#[derive(Debug)]
pub struct Parts {
    pub config: Config,
    pub state_directory: PathBuf,
    pub ledger: Ledger,
    pub contents: Contents,
    pub store: images::Store,
    pub albatross: albatross::Client,
}

/// The kernel did not give a socket.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's netlink does not answer: {0}")]
pub struct StartError(#[from] host_network::Error);

/// How everything looks before the first event.
#[derive(Debug, Clone, Default)]
pub struct InitialViews {
    pub manager: Arc<ManagerView>,
    pub unikernels: Vec<Arc<UnikernelView>>,
    pub services: Vec<Arc<ServiceView>>,
    pub stacks: Vec<Arc<StackView>>,
}

/// Everything in its place, and nothing running yet.
#[derive(Debug)]
pub struct Assembled {
    pub orchestrator: Orchestrator,
    pub initial: InitialViews,
    pub events: mpsc::Receiver<Event>,
    pub runner: Runner,
}

/// The owner and the watchers, before they run. Dropped, it leaves an orchestrator that answers every call with
/// [`super::Error::Stopping`].
#[derive(Debug)]
pub struct Runner {
    owner: Owner,
    context: Arc<Context>,
    reader: Table,
    foreign_changes: ForeignChanges,
    link_events: LinkEvents,
    events: mpsc::Sender<Event>,
}

/// Opens what the kernel gives and puts the parts together.
pub fn assemble(parts: Parts) -> Result<Assembled, StartError> {
    let Parts { config, state_directory, ledger, contents, store, albatross } = parts;
    let sources = Sources::new(&state_directory);
    if let Err(error) = imports::clear_workshop(&sources.workshop) {
        let folder = sources.workshop.display();
        warn!(%error, %folder, "files of earlier builds in {folder} cannot be removed: {error}");
    }
    let (events_sender, events) = mpsc::channel(EVENTS);
    let claims = Arc::new(Claims::default());
    let (table, foreign_changes) = Table::open()?;
    let (reader, _) = Table::open_as(Ownership::Shared)?;
    let state = State { world: world(contents), facts: facts(&config) };
    let initial = initial_views(&state);
    let jobs = Jobs::new(events_sender.clone(), config.limits.job_history);
    let listeners = Arc::new(Listeners::open()?);
    let deploy_slots = Slots::new(u32::try_from(config.limits.concurrent_deploys).unwrap_or(u32::MAX));
    let config = Arc::new(CurrentConfig::new(config));
    let consoles = Arc::new(Consoles::new(albatross.clone()));
    let follow_up = Arc::<FollowUp>::default();
    let reach = Reach {
        ledger,
        table,
        listeners: Arc::clone(&listeners),
        config: Arc::clone(&config),
        claims: Arc::clone(&claims),
        consoles: Arc::clone(&consoles),
        follow_up: Arc::clone(&follow_up),
        events: events_sender.clone(),
    };
    let (owner, owner_handle) = Owner::new(state, reach);
    let context = Arc::new(Context {
        owner: owner_handle,
        jobs,
        claims,
        albatross,
        consoles,
        store,
        host: Host::open()?,
        bridges: Bridges::default(),
        flows: Flows::open()?,
        connections: Connections::open()?,
        listeners,
        taps: Taps::default(),
        config,
        sources,
        deploy_slots,
        return_slots: Semaphore::new(RETURNS),
        check_slots: Semaphore::new(CHECKS),
        drains: Notify::new(),
        follow_up,
        collects: Notify::new(),
        stacks: Notify::new(),
        returns: Notify::new(),
        late_returns: Notify::new(),
        beat: watch::Sender::new(()),
        host_changed: Notify::new(),
        look: Notify::new(),
        look_soon: Notify::new(),
        looked: Notify::new(),
        store_gate: tokio::sync::Mutex::new(()),
    });
    let orchestrator = Orchestrator { context: Arc::clone(&context) };
    let link_events = LinkEvents::open()?;
    let runner = Runner { owner, context, reader, foreign_changes, link_events, events: events_sender };
    Ok(Assembled { orchestrator, initial, events, runner })
}

impl Runner {
    /// Looks at the host for the first time. What it finds is the first that the owner hears of, so that no call is
    /// decided without knowing the networks.
    pub async fn look(&self) {
        watching::look_at_host(&self.context).await;
    }

    /// Never ends. Neither Albatross nor the kernel's table need answer.
    pub async fn run(self) {
        let Self { owner, context, reader, foreign_changes, link_events, events } = self;
        tokio::spawn(owner.run());
        if let Err(error) = recover::match_images(&context).await {
            warn!(%error, "the image store could not be compared with the ledger: {error}");
        }
        if let Err(error) = watching::beat(context.beat.clone()) {
            warn!(%error, "periodic checks do not run, since their thread cannot start: {error}");
        }
        tokio::spawn(watching::follow_table(Arc::clone(&context), reader, foreign_changes));
        tokio::spawn(watching::follow_links(Arc::clone(&context), link_events));
        tokio::spawn(watching::follow_host(Arc::clone(&context)));
        tokio::spawn(recover::follow(Arc::clone(&context)));
        tokio::spawn(connections::read(Arc::clone(&context)));
        tokio::spawn(connections::follow_setting(Arc::clone(&context)));
        tokio::spawn(drains::run(Arc::clone(&context), events));
        tokio::spawn(stale_flows::run(Arc::clone(&context)));
        tokio::spawn(tolerance::run(Arc::clone(&context)));
        tokio::spawn(returns::run(Arc::clone(&context)));
        tokio::spawn(checks::run(Arc::clone(&context)));
        tokio::spawn(imports::tidy(Arc::clone(&context)));
        tokio::spawn(stacks::watching::run(Orchestrator { context: Arc::clone(&context) }));
        tokio::spawn(automatic::run(Orchestrator { context: Arc::clone(&context) }));
        watching::follow_albatross(context).await;
    }
}

fn world(contents: Contents) -> World {
    let mut world = World::new(contents.leases, contents.released);
    let unikernels = contents.unikernels.into_iter().map(|unikernel| Change::PutUnikernel(Box::new(unikernel)));
    let services = contents.services.into_iter().map(|service| Change::PutService(Box::new(service)));
    let images = contents.images.into_iter().map(Change::PutImage);
    let stale_flows = contents.stale_flows.into_iter().map(Change::PutStaleFlows);
    let builds = contents.builds.into_iter().map(|build| Change::PutBuild(Box::new(build)));
    let stacks = contents.stacks.into_iter().map(|stack| Change::PutStack(Box::new(stack)));
    let last_words = contents.last_words.into_iter().map(|(id, lines)| Change::PutLastWords { id, lines });
    world.apply(vec![Change::Count(contents.last_ordinal)]);
    let loopback_routes = contents.loopback_routes.into_iter().map(Change::PutLoopbackRoute);
    // One at a time: all at once would compare the views of everything with everything.
    let rest = stale_flows.chain(last_words).chain(builds).chain(stacks).chain(loopback_routes);
    for change in unikernels.chain(services).chain(images).chain(rest) {
        world.apply(vec![change]);
    }
    world
}

fn facts(config: &Config) -> Facts {
    Facts {
        networks: config.networks.clone(),
        networks_are_configured: !config.networks.is_empty(),
        default_network: config.default_network.clone(),
        ..Facts::default()
    }
}

fn initial_views(state: &State) -> InitialViews {
    let world = &state.world;
    let unikernels = world.unikernels().filter_map(|unikernel| world.unikernel_view(&unikernel.id)).map(Arc::new);
    let services = world.service_names().into_iter().filter_map(|name| world.service_view(name)).map(Arc::new);
    let stacks = world.stacks().filter_map(|stack| world.stack_view(&stack.name)).map(Arc::new);
    InitialViews {
        manager: Arc::new(ManagerView::default()),
        unikernels: unikernels.collect(),
        services: services.collect(),
        stacks: stacks.collect(),
    }
}
