//! What those said last that have ended.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::super::context::Context;
use super::super::error::Error;
use crate::domain::{ConsoleLine, UnikernelId};
use crate::planning::{reconcile, redaction};

/// The last words of one that died are printed before its device vanishes: what is on its way to us comes before a pause
/// as long as this.
const PAUSE: Duration = Duration::from_millis(3);

/// No longer than this: one that was started again prints on and on.
const WITHIN: Duration = Duration::from_millis(8);

/// How Solo5's own lines begin.
const TENDER: &str = "Solo5: ";

const ASK: &str = "ReadConsole shows what it said last";

/// Why each ended, in one line.
pub type Reasons = BTreeMap<UnikernelId, String>;
/// The lines as they were.
pub type Consoles = BTreeMap<UnikernelId, Vec<ConsoleLine>>;

/// All at the same time, for they may have died together.
pub async fn of(context: &Context, gone: Vec<UnikernelId>) -> Result<(Reasons, Consoles), Error> {
    let lines = gone.into_iter().map(|id| async move {
        let lines = context.consoles.just_said(&id, reconcile::LAST_WORDS, PAUSE, WITHIN).await;
        (id, lines)
    });
    let consoles = join_all(lines).await.into_iter().collect();
    Ok((reasons(context, &consoles).await?, consoles))
}

/// By the last line of each console, where it is the tender's own, which names the exit code. What guests say is not for
/// everybody, and the reason of an exit is.
async fn reasons(context: &Context, consoles: &Consoles) -> Result<Reasons, Error> {
    let said = consoles.iter().map(|(id, lines)| (id.clone(), lines.iter().map(ConsoleLine::lossy).collect()));
    let said = said.collect::<Vec<(UnikernelId, Vec<String>)>>();
    if said.is_empty() {
        return Ok(BTreeMap::new());
    }
    let words = context.owner.look(move |state| {
        let words = said.into_iter().filter_map(|(id, lines)| {
            let arguments = state.world.unikernel(&id).map(|unikernel| &unikernel.spec.arguments)?;
            let last = redaction::without_arguments(lines, arguments).pop()?;
            let known = last.starts_with(TENDER);
            let what = if known { format!("its console said last: {last}") } else { ASK.into() };
            Some((id, format!("exited; {what}")))
        });
        words.collect()
    });
    words.await
}
