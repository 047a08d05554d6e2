//! Ends the time for which connections go on whose sources may not connect any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use crate::domain::Timestamp;
use crate::planning::publishing;

/// Until the end is written down once more, where that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Resets those connections when their time is over. Never ends.
pub async fn run(context: Arc<Context>) {
    loop {
        let next = context.owner.look(|state| publishing::next_end_of_tolerance(&state.world)).await.ok().flatten();
        let changed = context.follow_up.tolerance.notified();
        match next {
            None => changed.await,
            Some(deadline) => {
                if timeout(deadline.left(Timestamp::now()), changed).await.is_err()
                    && let Err(error) = end(&context).await
                {
                    debug!(%error, "connections of sources that may not connect any more go on for now");
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}

async fn end(context: &Context) -> Result<(), Error> {
    let ended = context.owner.decide(|state| {
        let changes = publishing::end_tolerance(&state.world, Timestamp::now());
        let count = changes.len();
        Ok((changes, count))
    });
    match ended.await? {
        0 => {}
        services => {
            info!(services, "connections from sources that may not connect any more are reset, of {services} services")
        }
    }
    Ok(())
}
