//! Ends the time for which connections go on whose sources may not connect any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use crate::domain::{Change, Deadline, Timestamp};
use crate::planning::publishing;

/// Until the end is written down once more, where that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Resets those connections when their time is over. Never ends.
pub async fn run(context: Arc<Context>) {
    // When each is over: a clock that is set back meanwhile gives none of them more time.
    let mut ends = BTreeMap::<Deadline, Instant>::new();
    loop {
        let deadlines = context.owner.look(|state| publishing::tolerances(&state.world)).await.unwrap_or_default();
        ends.retain(|deadline, _| deadlines.contains(deadline));
        for deadline in deadlines {
            ends.entry(deadline).or_insert_with(|| Instant::now() + deadline.left(Timestamp::now()));
        }
        let changed = context.follow_up.tolerance.notified();
        let Some(next) = ends.values().min().copied() else {
            changed.await;
            continue;
        };
        tokio::select! {
            () = changed => {}
            () = sleep_until(next) => {
                let over = ends.iter().filter(|(_, at)| **at <= Instant::now()).map(|(deadline, _)| *deadline);
                if let Err(error) = end(&context, over.collect()).await {
                    debug!(%error, "connections of sources that may not connect any more go on for now");
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}

async fn end(context: &Context, over: BTreeSet<Deadline>) -> Result<(), Error> {
    let ended = context.owner.decide(move |state| {
        let changes = publishing::end_tolerance(&state.world, &over);
        let services = Change::services_put(&changes).map(|service| service.name.clone()).collect::<Vec<_>>();
        Ok((changes, services))
    });
    for service in ended.await? {
        info!(%service, "service {service}: connections from sources that may not connect any more are reset");
    }
    Ok(())
}
