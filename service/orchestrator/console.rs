//! Reading of consoles: what is in memory, and what the ledger has of one that has ended where memory has nothing.

use std::os::fd::OwnedFd;

use super::context::Context;
use super::error::Error;
use crate::consoles::History;
use crate::domain::{ConsoleLine, UnikernelId};
use crate::planning;

pub async fn open(context: &Context, id: UnikernelId, history: History) -> Result<OwnedFd, Error> {
    let stored = last_words(context, &id).await?;
    let pipe = context.consoles.open(&id, history, stored).await?;
    // Removed meanwhile.
    pipe.ok_or_else(|| planning::Error::NoSuchUnikernel(id).into())
}

pub async fn read(context: &Context, id: UnikernelId, count: usize) -> Result<Vec<ConsoleLine>, Error> {
    let mut stored = last_words(context, &id).await?;
    let lines = context.consoles.read(&id, count).await.ok_or(planning::Error::NoSuchUnikernel(id))?;
    if !lines.is_empty() {
        return Ok(lines);
    }
    stored.drain(..stored.len().saturating_sub(count));
    Ok(stored)
}

/// What the ledger has of a unikernel; nothing of one that has never ended.
async fn last_words(context: &Context, id: &UnikernelId) -> Result<Vec<ConsoleLine>, Error> {
    let wanted = id.clone();
    let found = context.owner.look(move |state| {
        let known = state.world.unikernel(&wanted).is_some();
        known.then(|| state.world.last_words(&wanted).cloned().unwrap_or_default())
    });
    found.await?.ok_or_else(|| planning::Error::NoSuchUnikernel(id.clone()).into())
}
