//! Keeps what is known of Albatross true.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::super::context::Context;
use super::super::error::Error;
use super::super::owner::{Seen, Trouble};
use super::super::{publish, recover};
use super::pace::Pace;
use super::{BEAT, SETTLE};
use crate::albatross;
use crate::domain::{ConsoleLine, Inventory, Policy, Running, UnikernelId};
use crate::planning::{reconcile, redaction};

/// Pauses between two looks at what does not answer: from the first to the second.
const PAUSES_WHILE_AWAY: (Duration, Duration) = (Duration::from_secs(1), BEAT);

/// From what is no death to the look at it: a call that creates a unikernel has Albatross to itself meanwhile, for the
/// daemon does one thing at a time.
const SOON: Duration = Duration::from_millis(250);

/// The last words of one that died are printed before its device vanishes: what is on its way to us comes before a pause
/// as long as this.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// Keeps what is known of Albatross true. Never ends.
pub async fn follow(context: Arc<Context>) {
    let (mut beat, mut pace) = (context.beat.subscribe(), Pace::new(Instant::now()));
    let mut pause_while_away = PAUSES_WHILE_AWAY.0;
    loop {
        let answers = look_at_albatross(&context).await;
        let away = async {
            if answers {
                pending::<()>().await;
            }
            sleep(pause_while_away).await;
        };
        tokio::select! {
            () = context.look.notified() => sleep(SETTLE).await,
            // What happened to the unikernel while a call worked on it was left to that call.
            () = async { context.claims.ended().await; sleep(SOON).await } => {}
            () = async { context.look_soon.notified().await; sleep(SOON).await } => {}
            _ = beat.changed() => {}
            () = away => {}
        }
        pause_while_away = if answers { PAUSES_WHILE_AWAY.0 } else { (pause_while_away * 2).min(PAUSES_WHILE_AWAY.1) };
        sleep(pace.next(Instant::now())).await;
    }
}

async fn look_at_albatross(context: &Arc<Context>) -> bool {
    context.claims.begin_look();
    let mut inventory = match context.albatross.inventory().await {
        Ok(running) => inventory(running),
        Err(error) => {
            let note = format!("{error}. What is published stays, and nothing can be deployed until it answers");
            context.owner.trouble(Trouble::Albatross, Some(note)).await;
            // When it is back, it has connected to the console daemon anew.
            context.owner.trouble(Trouble::AlbatrossConsole, None).await;
            return false;
        }
    };
    context.owner.trouble(Trouble::Albatross, None).await;
    context.consoles.try_again();
    if let Some(dialect) = context.albatross.understood() {
        context.owner.albatross_version(dialect.to_string()).await;
    }
    recover::end_late_ones(context, &mut inventory).await;
    if let Err(error) = take_in(context, inventory).await {
        debug!(%error, "not taken in");
    }
    context.looked.notify_one();
    if let Err(error) = publish::delete_stale_flows(context).await {
        debug!(%error, "stale flows stay for now");
    }
    true
}

/// What Albatross said, sorted into what may be ours and what is somebody else's.
fn inventory(running: Vec<albatross::Running>) -> Inventory {
    let mut inventory = Inventory::default();
    for one in running {
        match one.id() {
            Some(id) => inventory.unikernels.push(Running {
                id,
                digest: one.digest,
                started: one.started,
                mac: one.mac,
                cpus: one.cpuids,
            }),
            None => inventory.foreign_cpus.extend(one.cpuids),
        }
    }
    inventory
}

async fn take_in(context: &Context, inventory: Inventory) -> Result<(), Error> {
    let (policy, words) = tokio::join!(policy(context), words(context, &inventory));
    let (last_words, consoles) = words?;
    context.owner.seen(Seen { inventory, policy, last_words, consoles }).await?;
    // What it asks the owner comes after what was just told.
    context.returns.notify_one();
    context.drains.notify_one();
    context.collects.notify_one();
    Ok(())
}

async fn policy(context: &Context) -> Option<Policy> {
    match context.albatross.policy().await {
        Ok(policy) => Some(Policy { cpus: policy.cpuids.into_iter().collect() }),
        Err(error) => {
            debug!(%error, "no policy");
            None
        }
    }
}

/// What those said last that are gone: in one line why they ended, and as it was.
async fn words(context: &Context, inventory: &Inventory) -> Result<(Reasons, Consoles), Error> {
    let (seen, touched) = (inventory.clone(), context.claims.touched());
    let gone = context.owner.look(move |state| {
        let mut facts = state.facts.clone();
        facts.inventory = seen;
        facts.busy.extend(touched);
        reconcile::vanished(&state.world, &facts)
    });
    let consoles = last_lines(context, gone.await?).await;
    Ok((last_words(context, &consoles).await?, consoles))
}

type Reasons = BTreeMap<UnikernelId, String>;
type Consoles = BTreeMap<UnikernelId, Vec<ConsoleLine>>;

/// What those said last that are gone; all at the same time, for they may have died together.
async fn last_lines(context: &Context, gone: Vec<UnikernelId>) -> Consoles {
    let lines = gone.into_iter().map(|id| async move {
        let lines = context.last_lines(&id, LAST_WORDS).await;
        (id, lines)
    });
    join_all(lines).await.into_iter().collect()
}

/// Why they ended, by the last line of their consoles: with Solo5 it names the exit code.
async fn last_words(context: &Context, consoles: &Consoles) -> Result<Reasons, Error> {
    let said = consoles.iter().map(|(id, lines)| (id.clone(), lines.iter().map(ConsoleLine::lossy).collect()));
    let said = said.collect::<Vec<(UnikernelId, Vec<String>)>>();
    if said.is_empty() {
        return Ok(BTreeMap::new());
    }
    let words = context.owner.look(move |state| {
        let words = said.into_iter().filter_map(|(id, lines)| {
            let arguments = state.world.unikernel(&id).map(|unikernel| &unikernel.spec.arguments)?;
            let last = redaction::without_arguments(lines, arguments).pop()?;
            Some((id, format!("exited; its console said last: {last}")))
        });
        words.collect()
    });
    words.await
}
