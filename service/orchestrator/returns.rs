//! Those that run again after they had ended: by Restart, by Albatross, or by its client. Their readiness rule is waited
//! for as it was when they were deployed; until it holds nothing is switched to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::context::Context;
use super::error::Error;
use super::readiness;
use crate::domain::{Phase, Timestamp, Unikernel, UnikernelId};
use crate::planning::{self, reconcile};

/// Between two waits for the rule of one that was not ready in time. It runs, so it is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// What a deployment may take besides its readiness rule: Albatross's deadlines, and its turn.
const REST_OF_DEPLOYMENT: Duration = Duration::from_secs(60);

/// One start of a unikernel.
type Start = (UnikernelId, Option<Timestamp>);

/// Keeps one wait for each that has returned. Never ends.
pub async fn run(context: Arc<Context>) {
    let mut waiting = BTreeMap::<Start, AbortHandle>::new();
    let mut waits = JoinSet::new();
    loop {
        let returned = context.owner.look(|state| reconcile::returned(&state.world, &state.facts)).await;
        let mut returned = by_start(returned.unwrap_or_default());
        waiting.retain(|start, wait| {
            let waited_for = returned.remove(start).is_some();
            if !waited_for {
                wait.abort();
            }
            waited_for
        });
        for (start, unikernel) in returned {
            waiting.insert(start, waits.spawn(bring_back(Arc::clone(&context), unikernel)));
        }
        tokio::select! {
            () = context.returns.notified() => {}
            Some(ended) = waits.join_next() => {
                if let Ok(start) = ended {
                    waiting.remove(&start);
                }
            }
        }
    }
}

fn by_start(unikernels: Vec<Unikernel>) -> BTreeMap<Start, Unikernel> {
    unikernels.into_iter().map(|unikernel| ((unikernel.id.clone(), unikernel.started_at), unikernel)).collect()
}

async fn bring_back(context: Arc<Context>, unikernel: Unikernel) -> Start {
    loop {
        let place = context.return_slots.acquire().await;
        let confirmed = confirm(&context, &unikernel).await;
        drop(place);
        match confirmed {
            Ok(()) => break,
            Err(error) => {
                debug!(%error, "runs again and is not ready");
                let start = (unikernel.id.clone(), unikernel.started_at);
                let _ = context.owner.observe(|facts| facts.checks.note_late(start)).await;
                context.late_returns.notify_one();
            }
        }
        sleep(PAUSE).await;
    }
    let id = &unikernel.id;
    info!(%id, "{id} is ready again");
    (unikernel.id, unikernel.started_at)
}

/// Waits for the rule of one that has returned, and writes down that it holds.
pub async fn confirm(context: &Context, unikernel: &Unikernel) -> Result<(), Error> {
    if let Some(started) = unikernel.started_at {
        context.consoles.begun(&unikernel.id, started);
    }
    if let Err(reason) = readiness::wait(context, unikernel).await {
        return Err(context.not_ready(unikernel, reason).await);
    }
    let (id, started) = (unikernel.id.clone(), unikernel.started_at);
    context.owner.decide(move |state| Ok((reconcile::ready_again(&state.world, &id, started), ()))).await
}

/// Waits until one that runs, or is on its way there, is ready: within its own rule.
pub async fn until_ready(context: &Context, unikernel: &Unikernel) -> Result<(), Error> {
    if unikernel.phase == Phase::Returned {
        return confirm(context, unikernel).await;
    }
    let id = unikernel.id.clone();
    // The call that deploys it has the rule, and says how that ends.
    let deployed = context.owner.until(move |state| match state.world.unikernel(&id) {
        Some(unikernel) if reconcile::is_half_made(unikernel) => {
            let abandoned = !state.facts.busy.contains(&unikernel.id);
            abandoned.then_some(Err("was left half-made and is undone when Albatross answers: deploy it again then"))
        }
        Some(unikernel) if !unikernel.has_ended() => Some(Ok(())),
        _ => Some(Err("did not become ready, so its deployment was undone: the error of Deploy says why")),
    });
    let limit = unikernel.timeout.saturating_add(REST_OF_DEPLOYMENT);
    let reason = match timeout(limit, deployed).await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(reason))) => reason,
        Ok(Err(error)) => return Err(error),
        Err(_) => "is still being deployed: ListJobs shows how far it is",
    };
    Err(planning::Error::NotReady(format!("{} {reason}", unikernel.id)).into())
}
