//! Asks live unikernels whether their readiness rule still holds, where their deployment wants that. What is asked, and
//! what follows from the answers, is decided by `planning::checks`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::context::Context;
use super::error::Error;
use super::readiness;
use crate::domain::UnikernelId;
use crate::planning::checks::{self, Asked};

/// Changes come together: what is to be asked is decided once for those within this time.
const SETTLE: Duration = Duration::from_millis(50);

/// Keeps one task for each unikernel that is to be asked; where there is none, nothing wakes up. Ends with the owner.
pub async fn run(context: Arc<Context>) {
    let mut changes = context.owner.changes();
    let mut tasks = Tasks::default();
    loop {
        changes.mark_unchanged();
        let fall_back = context.config.get().publish.fall_back;
        let asked = context.owner.look(move |state| checks::asked(&state.world, &state.facts, fall_back));
        let Ok(asked) = asked.await else { return };
        tasks.keep(&context, asked);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = context.late_returns.notified() => {}
        }
        sleep(SETTLE).await;
    }
}

/// The tasks that ask. Dropped, they end.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    by_id: BTreeMap<UnikernelId, (Asked, AbortHandle)>,
}

impl Tasks {
    /// Ends those that are not in `asked` any more, and begins those that are new.
    fn keep(&mut self, context: &Arc<Context>, asked: Vec<Asked>) {
        while self.set.try_join_next().is_some() {}
        let mut asked = asked.into_iter().map(|asked| (asked.start.0.clone(), asked)).collect::<BTreeMap<_, _>>();
        self.by_id.retain(|id, (before, task)| {
            let stays = asked.get(id) == Some(before) && !task.is_finished();
            if stays {
                asked.remove(id);
            } else {
                task.abort();
            }
            stays
        });
        for (id, asked) in asked {
            let task = self.set.spawn(ask(Arc::clone(context), asked.clone()));
            self.by_id.insert(id, (asked, task));
        }
    }
}

async fn ask(context: Arc<Context>, asked: Asked) {
    sleep(asked.delay).await;
    while ask_once(&context, &asked).await.is_ok() {
        sleep(asked.interval).await;
    }
}

/// Asks, unless a call works on the unikernel: that finds out by itself.
async fn ask_once(context: &Context, asked: &Asked) -> Result<(), Error> {
    let place = context.check_slots.acquire().await;
    if context.claims.is_busy(&asked.start.0) {
        return Ok(());
    }
    let outcome = readiness::check(asked.address, &asked.readiness).await;
    drop(place);
    context.owner.checked(asked.clone(), outcome).await
}
