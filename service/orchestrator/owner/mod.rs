//! The one task that owns the ledger and the view of the world.
//!
//! A call brings a decision: a pure function from what is known to changes. The owner runs it, writes the changes down,
//! makes the kernel follow, applies them to the view, and tells what happened; one after the other, so that every
//! decision sees all that was decided before it.

mod handle;
mod notes;
mod reconfigure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::handle::{Decide, ListenerCheck, MAILBOX, Message, Observe};
use super::claims::Claims;
use super::error::Error;
use super::fault;
use super::settings::{CurrentConfig, Limits};
use super::stale_flows::FollowUp;
use crate::config::Config;
use crate::consoles::Consoles;
use crate::domain::{Change, Event, ManagerView, NetworkName, Phase, Service, ServiceName, Timestamp};
use crate::host_network::Listeners;
use crate::host_network::nftables::Table;
use crate::ledger::Ledger;
use crate::planning::admission;
use crate::planning::checks::{self, Asked};
use crate::planning::facts::Facts;
use crate::planning::gone;
use crate::planning::host_ports::{self, PortPolicy};
use crate::planning::networks;
use crate::planning::publishing;
use crate::planning::reconcile;
use crate::planning::ruleset::{self, Elements, Ruleset};
use crate::planning::stacks::moves;
use crate::planning::stacks::placing::Defaults;
use crate::planning::stacks::watching;
use crate::planning::world::World;

pub use self::handle::{OwnerHandle, Seen, Trouble};

/// What a decision sees.
#[derive(Debug)]
pub struct State {
    pub world: World,
    pub facts: Facts,
}

impl State {
    /// All that the kernel is to hold.
    pub fn ruleset(&self, settings: ruleset::Settings) -> Ruleset {
        self.ruleset_of(&networks::in_use(&self.world, &self.facts), settings)
    }

    /// The same with rules for these networks.
    fn ruleset_of(&self, in_use: &BTreeSet<NetworkName>, settings: ruleset::Settings) -> Ruleset {
        let publications = self.world.publications().map(|(_, publication)| publication.as_ref());
        let used = self.facts.networks.iter().filter(|network| in_use.contains(&network.name)).cloned();
        let mut ruleset = ruleset::ruleset(publications, &used.collect::<Vec<_>>(), settings);
        ruleset.elements.merge(Elements::of_gone(self.facts.gone.iter().copied()));
        ruleset
    }
}

/// What of the configuration the owner acts by.
#[derive(Debug, Clone)]
pub struct Settings {
    pub ruleset: ruleset::Settings,
    /// Go back to the unikernel before when the live one ends.
    pub fall_back: bool,
    pub defaults: Defaults,
    pub ports: PortPolicy,
}

impl Settings {
    fn of(config: &Config) -> Self {
        let limits = Limits::of(config);
        Self {
            ruleset: limits.ruleset,
            fall_back: config.publish.fall_back,
            defaults: limits.defaults(),
            ports: limits.ports,
        }
    }
}

/// What the owner writes to, asks, and shares with others.
#[derive(Debug)]
pub struct Reach {
    pub ledger: Ledger,
    pub table: Table,
    pub listeners: Arc<Listeners>,
    pub config: Arc<CurrentConfig>,
    pub claims: Arc<Claims>,
    pub consoles: Arc<Consoles>,
    pub follow_up: Arc<FollowUp>,
    pub events: mpsc::Sender<Event>,
}

/// The owner, before it runs.
pub struct Owner {
    state: State,
    ledger: Ledger,
    table: Table,
    listeners: Arc<Listeners>,
    settings: Settings,
    config: Arc<CurrentConfig>,
    claims: Arc<Claims>,
    consoles: Arc<Consoles>,
    follow_up: Arc<FollowUp>,
    events: mpsc::Sender<Event>,
    albatross_version: String,
    /// As told last.
    manager: ManagerView,
    troubles: BTreeMap<Trouble, String>,
    /// What takes back from the ledger what the kernel refused, where the ledger did not take that at once.
    owed: Vec<Change>,
    mailbox: mpsc::Receiver<Message>,
    changed: watch::Sender<()>,
    /// Those that the table has rules for.
    networks: watch::Sender<BTreeSet<NetworkName>>,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner")
    }
}

impl Owner {
    pub fn new(state: State, reach: Reach) -> (Self, OwnerHandle) {
        let Reach { ledger, table, listeners, config, claims, consoles, follow_up, events } = reach;
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (change, changed) = watch::channel(());
        let (networks, in_use) = watch::channel(networks::in_use(&state.world, &state.facts));
        let manager = ManagerView::default();
        let troubles = BTreeMap::new();
        let albatross_version = String::new();
        let owner = Self {
            state,
            ledger,
            table,
            listeners,
            settings: Settings::of(&config.get()),
            config,
            claims,
            consoles,
            follow_up,
            events,
            albatross_version,
            manager,
            troubles,
            owed: Vec::new(),
            mailbox,
            changed: change,
            networks,
        };
        (owner, OwnerHandle { mailbox: sender, changed, networks: in_use })
    }

    /// Serves until every handle is gone. The kernel keeps what it has until the host's networks are known, or somebody
    /// asks for a repair: the table without them would be another one.
    pub async fn run(mut self) {
        self.state.world.unikernels().for_each(|unikernel| self.consoles.follow(&unikernel.id));
        self.tell_manager().await;
        while let Some(message) = self.mailbox.recv().await {
            self.handle(message).await;
            self.tell_manager().await;
        }
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Decide { decide, listeners, done } => {
                let outcome = self.decide(decide, listeners).await;
                let _ = done.send(outcome);
            }
            Message::Look(look) => {
                self.refresh_claims();
                look(&self.state);
            }
            Message::Show { unikernel, done } => {
                let shown = admission::in_order(&self.state.world, *unikernel);
                self.apply(vec![Change::PutUnikernel(Box::new(shown))]).await;
                let _ = done.send(());
            }
            Message::Looked { stack, at } => self.apply(watching::looked(&self.state.world, &stack, at)).await,
            Message::Observe(observe) => self.observe(observe).await,
            Message::Seen(seen) => self.take_in(seen).await,
            Message::Checked { asked, outcome } => self.checked(&asked, outcome).await,
            Message::Trouble { subject, note } => self.note(subject, note),
            Message::AlbatrossVersion(version) => self.albatross_version = version,
            Message::Reconfigure { config, done } => {
                let _ = done.send(self.reconfigure(config).await);
            }
            Message::RepairTable(done) => {
                let _ = done.send(self.install_table().await);
            }
            Message::RefuseGone => self.refuse_gone().await,
        }
    }

    async fn decide(&mut self, decide: Decide, listeners: ListenerCheck) -> Result<(), Error> {
        self.refresh_claims();
        let changes = decide(&self.state)?;
        if listeners == ListenerCheck::Required {
            self.check_listeners(&changes).await?;
        }
        self.write(changes).await
    }

    /// Refuses changes that put a port into the kernel on which a process of the host listens. Nobody is asked where no
    /// port is new.
    async fn check_listeners(&self, changes: &[Change]) -> Result<(), Error> {
        let added = host_ports::added(&self.state.world, changes);
        if added.is_empty() {
            return Ok(());
        }
        let listeners = self.listeners.on(&added).await?;
        Ok(self.settings.ports.check_listeners(&added, &listeners)?)
    }

    /// Intent before act: the ledger first, then the kernel, then the view and those who watch it.
    async fn write(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let (mut before, after) = self.elements_around(&changes);
        let returning = gone::returning(&self.state.world, &self.state.facts, &changes);
        before.merge(Elements::of_gone(returning.iter().copied()));
        let written = self.ledger.commit(self.owed.iter().chain(&changes).cloned().collect()).await;
        self.note(Trouble::Ledger, written.as_ref().err().map(|error| error.to_string()));
        written?;
        self.owed.clear();
        let gained = networks::gained(&self.state.facts, &self.networks.borrow(), &changes);
        let followed = match fault::at(fault::WRITTEN) {
            Ok(()) => self.kernel_gains(gained, &before, &after).await,
            Err(error) => Err(error),
        };
        if let Err(error) = followed.and_then(|()| fault::at(fault::IN_KERNEL)) {
            self.take_back(self.state.world.inverse(&changes), &before, &after).await;
            return Err(error);
        }
        self.state.facts.gone.retain(|address| !returning.contains(address));
        // Only now that no packet makes another such flow: what was deleted before does not count.
        self.follow_up.of(&changes);
        let services = changes.iter().any(|change| matches!(change, Change::PutService(_) | Change::RemoveService(_)));
        let may_change = networks::may_change(&changes);
        self.apply(changes).await;
        if may_change && self.networks_changed() {
            self.install_table().await;
        }
        self.refresh_notes();
        if services {
            self.note_ports();
        }
        Ok(())
    }

    async fn apply(&mut self, changes: Vec<Change>) {
        self.consoles.apply(&changes);
        for change in &changes {
            if let Change::PutUnikernel(unikernel) = change
                && unikernel.phase == Phase::Creating
            {
                self.state.facts.starts.begin_anew(&unikernel.id);
            }
        }
        for event in self.state.world.apply(changes) {
            self.tell(event).await;
        }
        self.changed.send_replace(());
    }

    async fn take_back(&mut self, back: Vec<Change>, before: &Elements, after: &Elements) {
        if let Err(error) = self.ledger.commit(back.clone()).await {
            error!(%error, "a change that the kernel refused stays in the ledger until the next change: {error}");
            self.owed = back;
        }
        // Where the batch itself was refused this finds nothing to do, or fails the same way.
        let networks_changed = self.networks_changed();
        if self.kernel_follows(after, before).await.is_err() || networks_changed {
            self.install_table().await;
        }
    }

    /// Rules for networks that come into use go before everything else.
    async fn kernel_gains(
        &mut self,
        gained: BTreeSet<NetworkName>,
        before: &Elements,
        after: &Elements,
    ) -> Result<(), Error> {
        if !gained.is_empty() {
            self.networks.send_modify(|networks| networks.extend(gained));
            self.table.install(&self.ruleset()).await?;
        }
        self.kernel_follows(before, after).await
    }

    /// Whether other networks are in use than the table has rules for; it is to be installed then.
    fn networks_changed(&self) -> bool {
        let in_use = networks::in_use(&self.state.world, &self.state.facts);
        self.networks.send_if_modified(|networks| std::mem::replace(networks, in_use) != *networks)
    }

    fn ruleset(&self) -> Ruleset {
        self.state.ruleset_of(&self.networks.borrow(), self.settings.ruleset)
    }

    async fn kernel_follows(&mut self, before: &Elements, after: &Elements) -> Result<(), Error> {
        let change = ruleset::difference(before, after);
        if change.is_empty() {
            return Ok(());
        }
        match self.table.apply(&change).await {
            Ok(()) => Ok(()),
            // Somebody flushed the table at this moment. Put all of it back, and then the change on top.
            Err(error) if error.needs_install() => {
                self.table.install(&self.ruleset()).await?;
                Ok(self.table.apply(&change).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the kernel refuse who is redirected to a unikernel that has ended, and nobody else.
    async fn refuse_gone(&mut self) {
        self.refresh_claims();
        let gone = gone::addresses(&self.state.world, &self.state.facts);
        let [before, after] = [&self.state.facts.gone, &gone].map(|all| Elements::of_gone(all.iter().copied()));
        match self.kernel_follows(&before, &after).await {
            Ok(()) => self.state.facts.gone = gone,
            Err(error) => warn!(%error, "connections to unikernels that have ended are not refused yet: {error}"),
        }
    }

    /// What the services that `changes` touch put into the table, before and after.
    fn elements_around(&self, changes: &[Change]) -> (Elements, Elements) {
        let mut after: BTreeMap<&ServiceName, Option<&Service>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::PutService(service) => after.insert(&service.name, Some(service)),
                Change::RemoveService(name) => after.insert(name, None),
                _ => None,
            };
        }
        let before = after.keys().filter_map(|name| self.state.world.service(name));
        (elements_of(before), elements_of(after.values().copied().flatten()))
    }

    /// Whether the table is in the kernel as it should be.
    async fn install_table(&mut self) -> bool {
        let outcome = self.table.install(&self.ruleset()).await;
        if matches!(outcome, Ok(true)) {
            info!("table inet albatross_deployer is put into the kernel");
            self.follow_up.table_was_missing();
        }
        let note = outcome.err().map(|error| format!("publications are not in the kernel: {error}"));
        let installed = note.is_none();
        self.note(Trouble::Kernel, note);
        installed
    }

    async fn observe(&mut self, observe: Observe) {
        let networks = self.state.facts.networks.clone();
        observe(&mut self.state.facts);
        if self.networks_changed() || networks != self.state.facts.networks {
            self.install_table().await;
        }
        self.note_ports();
        self.note_host();
    }

    async fn take_in(&mut self, seen: Seen) {
        let facts = &mut self.state.facts;
        facts.inventory = seen.inventory;
        facts.policy = seen.policy.or(facts.policy.take());
        facts.busy = self.claims.touched();
        facts.checks.forget(&self.state.world);
        reconcile::note_starts(&self.state.world, facts, Instant::now());
        let mut changes = reconcile::observe(&self.state.world, facts, &seen.last_words);
        changes.extend(reconcile::last_words(&changes, seen.consoles));
        if let Err(error) = self.write(changes).await {
            warn!(%error, "the state of unikernels as Albatross reports it could not be recorded: {error}");
        }
        if self.settings.fall_back {
            self.fall_back().await;
        }
        self.note_all();
    }

    async fn checked(&mut self, asked: &Asked, outcome: Result<(), String>) {
        self.refresh_claims();
        let news = checks::note(&self.state.world, &mut self.state.facts, asked, outcome);
        let failing = self.state.facts.checks.any_failing();
        if failing && self.settings.fall_back {
            self.fall_back().await;
        }
        if failing || news.is_some() {
            self.note_all();
        }
        if news.is_some() {
            // What is to be asked is other than before.
            self.changed.send_replace(());
        }
    }

    async fn fall_back(&mut self) {
        let changes = publishing::fall_back(&self.state.world, &self.state.facts, Timestamp::now());
        let mut services = Vec::new();
        for put in Change::services_put(&changes) {
            if let (service, Some(id), Some(live)) = (&put.name, &put.fell_back_from, &put.publication) {
                let to = &live.unikernel;
                info!(%service, %id, %to, "service {service}: {id} has ended or does not answer: going back to {to}");
                services.push(service.clone());
            }
        }
        if let Err(error) = self.write(changes).await {
            for service in services {
                error!(%error, %service, "service {service}: going back to the unikernel before failed: {error}");
            }
        }
        let defaults = self.settings.defaults;
        for (stack, changes) in moves::fall_back(&self.state.world, &self.state.facts, defaults, Timestamp::now()) {
            info!(%stack, "stack {stack}: a live member has ended or does not answer: going back to the chain before");
            let moved = match self.check_listeners(&changes).await {
                Ok(()) => self.write(changes).await,
                refused => refused,
            };
            if let Err(error) = moved {
                error!(%error, %stack, "stack {stack}: going back to the chain before failed: {error}");
            }
        }
    }

    fn refresh_claims(&mut self) {
        self.state.facts.busy = self.claims.busy();
        self.state.facts.held = self.claims.held();
        self.state.facts.busy_stacks = self.claims.busy_stacks();
        self.state.facts.pinned = self.claims.pinned();
    }

    fn note(&mut self, subject: Trouble, note: Option<String>) {
        match note {
            Some(note) => {
                if self.troubles.get(&subject) != Some(&note) {
                    warn!(?subject, note, "degraded: {note}");
                }
                self.troubles.insert(subject, note);
            }
            None => {
                if let Some(note) = self.troubles.remove(&subject) {
                    info!(?subject, note, "works again, no longer degraded: {note}");
                }
            }
        }
    }

    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    async fn tell_manager(&mut self) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let view = ManagerView {
            albatross_version: self.albatross_version.clone(),
            degraded: self.troubles.values().cloned().collect(),
            services: count(self.state.world.service_count()),
            unikernels: count(self.state.world.unikernel_count()),
            leases: count(self.state.world.pool().len()),
        };
        if view != self.manager {
            self.manager = view.clone();
            self.tell(Event::Manager(Arc::new(view))).await;
        }
    }
}

fn elements_of<'a>(services: impl Iterator<Item = &'a Service>) -> Elements {
    let mut all = Elements::default();
    let publications = services.flat_map(Service::publications);
    publications.map(|publication| ruleset::elements(publication)).for_each(|elements| all.merge(elements));
    all
}
