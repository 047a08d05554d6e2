//! Keeps what is known of Albatross true.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::super::context::Context;
use super::super::error::Error;
use super::super::owner::{Seen, Trouble};
use super::super::{recover, stale_flows};
use super::pace::Pace;
use super::{BEAT, SETTLE, deaths, words};
use crate::albatross;
use crate::domain::{Inventory, Policy};
use crate::planning::reconcile;

/// Pauses between two looks at what does not answer: from the first to the second.
const PAUSES_WHILE_AWAY: (Duration, Duration) = (Duration::from_secs(1), BEAT);

/// From what is no death to the look at it: a call that creates a unikernel has Albatross to itself meanwhile, for the
/// daemon does one thing at a time.
const SOON: Duration = Duration::from_millis(250);

/// Keeps what is known of Albatross true. Never ends.
pub async fn follow(context: Arc<Context>) {
    let (mut beat, mut pace) = (context.beat.subscribe(), Pace::new(Instant::now()));
    let mut pause_while_away = PAUSES_WHILE_AWAY.0;
    loop {
        // What a switch has left needs no Albatross.
        delete_stale_flows(&context).await;
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
    delete_stale_flows(context).await;
    // After that, so that nobody is refused who is about to be redirected to another.
    if let Err(error) = context.owner.refuse_gone().await {
        debug!(%error, "not refused");
    }
    true
}

async fn delete_stale_flows(context: &Context) {
    if let Err(error) = stale_flows::delete(context).await {
        debug!(%error, "stale flows stay for now");
    }
}

/// What Albatross said, sorted into what may be ours and what is somebody else's.
fn inventory(running: Vec<albatross::Running>) -> Inventory {
    let mut inventory = Inventory::default();
    for one in running {
        match one.seen() {
            Some(seen) => inventory.unikernels.push(seen),
            None => inventory.foreign_cpus.extend(one.cpuids),
        }
    }
    inventory
}

async fn take_in(context: &Context, inventory: Inventory) -> Result<(), Error> {
    let (policy, words) = tokio::join!(policy(context), last_words(context, &inventory));
    let (last_words, consoles) = words?;
    context.owner.seen(Seen { inventory, policy, last_words, consoles }).await?;
    // What they ask the owner comes after what was just told.
    deaths::learn(context).await;
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

/// What those said last that are gone.
async fn last_words(context: &Context, inventory: &Inventory) -> Result<(words::Reasons, words::Consoles), Error> {
    let (seen, touched) = (inventory.clone(), context.claims.touched());
    let gone = context.owner.look(move |state| {
        let mut facts = state.facts.clone();
        facts.inventory = seen;
        facts.busy.extend(touched);
        reconcile::vanished(&state.world, facts, Instant::now().into_std())
    });
    words::of(context, gone.await?).await
}
