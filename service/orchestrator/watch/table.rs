//! Keeps our table in the kernel what it should be.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::super::context::Context;
use super::super::owner::Trouble;
use super::{BEAT, TRY_AGAIN};
use crate::host_network::nftables::{ForeignChange, ForeignChanges, Table};
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
                info!(
                    process = change.process,
                    "somebody else changed the table: looking whether it is as it should be"
                );
            }
            Err(error) => {
                warn!(%error, "nftables notifications");
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
        tokio::select! {
            change = changes.next() => return change,
            _ = beat.changed() => {}
        }
    }
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
