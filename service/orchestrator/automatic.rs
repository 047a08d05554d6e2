//! `[collect] automatic`: collects what has drained, without being asked.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::Orchestrator;
use super::collect::{Collect, Drains};
use super::error::Error;
use crate::planning::collecting::Keep;

/// Between two attempts at what could not be collected.
const PAUSE: Duration = Duration::from_secs(30);

/// Collects whenever something may have become free, where the configuration wants that. Never ends.
pub async fn run(orchestrator: Orchestrator) {
    loop {
        orchestrator.context.collects.notified().await;
        if !orchestrator.context.config.get().collect.automatic {
            continue;
        }
        match collect(&orchestrator).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "the automatic collection has removed {removed} things, each named above"),
            Err(error) => {
                warn!(%error, "the automatic collection failed: {error}", error = error.line());
                // A failure leads to a look, and that to here.
                sleep(PAUSE).await;
            }
        }
    }
}

/// How many things were removed. No job is begun where there is nothing to do.
async fn collect(orchestrator: &Orchestrator) -> Result<usize, Error> {
    let keep = Keep { services: None, previous: orchestrator.context.limits().keep_previous };
    let collect = Collect { keep, drains: Drains::Stay };
    if collect.removals(&orchestrator.context).await?.is_empty() {
        return Ok(0);
    }
    Ok(orchestrator.collect_so(collect).await?.len())
}
