//! albatross-deployer: deploys unikernels on Albatross and publishes them, as a D-Bus system service.
//!
//! # The map
//!
//! What the host should look like is written down in one place, the **ledger**. What the kernel and Albatross look like
//! is observed. A pure **plan** is the difference, and running it makes them the same. A call, a restart, a dead
//! unikernel and a foreign `nft flush ruleset` all go the same way, from left to right:
//!
//! ```text
//!                  domain/  the words of the field as types, used by everybody
//!
//!   clients                 who asks                 who decides            who does
//!  ─────────► bus/ ──────► orchestrator/ ──────────► planning/              albatross/     ──► albatrossd
//!   D-Bus     arguments    workflows: tables of      admission              consoles/      ──► console daemon
//!             access       steps and their undo      address_pool           images/        ──► image store
//!             objects      owner: the one task that  publishing, removal    host_network/  ──► kernel (netlink)
//!             errors       holds the state           collecting, reconcile  ledger/        ──► state.redb
//!                ▲                │                  stacks, ruleset
//!                └── events ◄─────┘
//! ```
//!
//! | room | what it is for | what it must not do |
//! | --- | --- | --- |
//! | [`domain`] | names, addresses, publications, phases, changes, events | any I/O |
//! | [`planning`] | every decision: from what is known to [`domain::Change`]s | import tokio, zbus, redb, netlink |
//! | [`orchestrator`] | order: who works on what, which step follows, what undoes it | decide |
//! | [`bus`] | D-Bus: arguments in, objects and signals out, who may | know how anything is done |
//! | [`albatross`] | Albatross's wire format and its oddities | know of leases or ports |
//! | [`consoles`] | what unikernels print: kept, and read without ever being waited for | know of leases or ports |
//! | [`tail`] | lines as they come: the last ones kept, and readers that nobody waits for | know whose lines they are |
//! | [`images`] | opening as the caller, fetching and building in workers, checking, storing | know of services |
//! | [`host_network`] | nftables, conntrack, links, addresses, neighbours, sockets that listen | choose an address or a port |
//! | [`ledger`] | changes to disk, all or none | interpret them |
//! | [`config`], [`privilege`] | the configuration file; the capabilities that are kept | |
//!
//! The configuration that holds is in one place, [`orchestrator`]'s `CurrentConfig`: a reload replaces it between two decisions
//! of the owner, once [`planning::reload`] has found nothing in the way, and readers take it anew for each thing they do.
//!
//! # A Deploy, from door to door
//!
//! `bus::manager` parses and admits the caller → `orchestrator::deploy` goes through its table: *queued, importing,
//! claiming, reserving, clearing, probing, creating, starting, waiting, finishing*. The image is copied, hashed and checked;
//! `planning::admission` decides on id, lease and core, and the owner writes them down before Albatross hears of it;
//! Albatross creates, and is asked whether it really did; the readiness rule is waited for. A step that fails is undone
//! with all above it, and a crash leaves the intent in the ledger, from which the next start does the same.
//!
//! # A Publish
//!
//! One decision (`planning::publishing`), one durable transaction, one nfnetlink batch with the elements that differ,
//! events. Where the unikernel is not ready yet it is waited for, and where a rollback's has ended it is deployed again; then
//! it is decided anew. TCP connections stay with the unikernel before until they have drained, which the kernel's notifications
//! show. What conntrack would send elsewhere for as long as its client goes on is deleted (`planning::stale_flows`, within
//! one request that selects in the kernel): UDP flows to the unikernel before, flows that began before the port was published,
//! and TCP flows that the one before has not answered, after a quarter of a second; where it has ended, all flows to it, at
//! once.
//!
//! Who is redirected to a unikernel that has ended gets a reset from the table (`planning::gone`), and so do, once a drain's
//! time is over, connections of sources that may not connect any more.
//!
//! # An Apply
//!
//! `bus::arguments::manifest` reads it → `planning::stacks::staging` refuses what can never go live → `orchestrator::stacks`
//! imports every image once and deploys the members in the order of `planning::stacks::graph`, each by the ordinary Deploy
//! with the others' addresses filled in: the same specification is the same unikernel, so what has not changed is there
//! already. Until all are ready each new one is *provisional* in the ledger: a failure or a crash takes it away again.
//!
//! ```text
//!             members become ready        Activate              Activate of the next one
//!  manifest ──────────────────────► staged ───────► live ─────────────────────────────────► previous ──► former ──► (collected)
//!                                                    ▲              RollbackStack               │
//!                                                    └──────────────────────────────────────────┘
//! ```
//!
//! Where members are published is a function of the chains (`planning::stacks::placing`): whatever moves is one list of
//! changes, so one transaction and one batch.
//!
//! # States of a unikernel
//!
//! ```text
//!   Deploy
//!  ───────► creating ──► starting ──► running ──► ready ──Publish──► live ──another is published──► draining
//!              │             │           │        │ ▲               │ ▲                              │ no connection
//!              ▼ undone      ▼           ▼        │ │               │ └────── Rollback ───────┐      │ is left, or
//!           (gone)        (gone)      (gone)      │ └─ its rule     │                         │      ▼ time is up
//!                                                 │    holds again  │                         └── retired ──► (collected)
//!                                                 ▼                 ▼                               │
//!            failed ◄── ends again and again ── exited ◄──────────────────────── ends ──────────────┘
//!                                                 │
//!                                                 └─ Restart, Rollback or Deploy: creating;
//!                                                    started by Albatross: running, or live and retired as before
//! ```
//!
//! The ledger keeps how far it has come ([`domain::Phase`]); whether it is live, draining or retired follows from its
//! service ([`planning::states`]).

pub mod albatross;
pub mod bus;
pub mod config;
pub mod consoles;
pub mod domain;
pub mod host_network;
pub mod images;
pub mod ledger;
pub mod orchestrator;
pub mod planning;
pub mod privilege;
pub mod tail;
