//! Keeps our table in the kernel what it should be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::super::context::Context;
use super::super::error::Error;
use super::super::owner::Trouble;
use super::{BEAT, TRY_AGAIN};
use crate::host_network::nftables::{ForeignChange, ForeignChanges, Table};
use crate::planning::translations;

/// Puts our table back when somebody else touched it, and says which other table drops our traffic. Never ends.
pub async fn follow(context: Arc<Context>, reader: Table, mut changes: ForeignChanges) {
    loop {
        // Somebody else's transaction may be in the way: what was refused a moment ago is taken now.
        let mut pause = TRY_AGAIN;
        while !context.owner.repair_table().await.unwrap_or(true) {
            sleep(pause).await;
            pause = (pause * 2).min(BEAT);
        }
        match next_change(&context, &reader, &mut changes).await {
            Ok(change) => {
                let process = change.program();
                info!(%process, "{process} changed table inet albatross_deployer: it is put back where it differs");
            }
            Err(error) => {
                warn!(%error, "changes of nftables tables may be noticed late: {error}");
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Waits for a change of our table, and meanwhile looks what other tables do to our traffic.
async fn next_change(
    context: &Context,
    reader: &Table,
    changes: &mut ForeignChanges,
) -> Result<ForeignChange, crate::host_network::Error> {
    let mut beat = context.beat.subscribe();
    loop {
        note_other_tables(context, reader).await;
        note_other_translations(context, reader).await;
        let read = Instant::now();
        let change = tokio::select! {
            change = changes.next_of_any_table() => change?,
            _ = beat.changed() => continue,
        };
        if let Some(change) = change {
            return Ok(change);
        }
        // What others change again and again is read once in a while.
        tokio::select! {
            change = changes.next() => return change,
            () = sleep_until(read + OTHERS) => {}
        }
    }
}

/// Between two readings of tables of others that change.
const OTHERS: Duration = Duration::from_secs(1);

/// Says which published ports a table of somebody else translates as well.
async fn note_other_translations(context: &Context, reader: &Table) {
    match translations(context, reader).await {
        Ok(note) => context.owner.trouble(Trouble::OtherTranslations, note).await,
        Err(error) => debug!(%error, "rules of other tables cannot be read"),
    }
}

async fn translations(context: &Context, reader: &Table) -> Result<Option<String>, Error> {
    if context.owner.look(|state| state.world.publications().next().is_none()).await? {
        return Ok(None);
    }
    let others = reader.other_translations().await?;
    context.owner.look(move |state| translations::note(&state.world, &state.facts, &others)).await
}

async fn note_other_tables(context: &Context, reader: &Table) {
    let note = match reader.interfering_tables().await {
        Ok(tables) if tables.is_empty() => None,
        Ok(tables) => Some(format!(
            "other tables drop what is forwarded by default: {}. Allow there what is published (ct status dnat accept)",
            tables.join("; ")
        )),
        Err(error) => {
            debug!(%error, "other tables cannot be read");
            None
        }
    };
    context.owner.trouble(Trouble::OtherTables, note).await;
}
