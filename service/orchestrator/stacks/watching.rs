//! Looks at images that may move, as often as their members ask for, and applies the stack again when one has.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::fs::fstat;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::super::Orchestrator;
use super::super::context::Context;
use super::super::error::Error;
use super::super::request::ApplyRequest;
use crate::domain::{Applied, Caller, ImageReference, ServiceName, StackName, Timestamp};
use crate::images;
use crate::planning::stacks::watching::{self, Watched};

/// A watched image, by its stack and member.
type Key = (StackName, ServiceName);

/// When each is to be looked at next, and how it looked.
type Looks = BTreeMap<Key, (Instant, Option<Look>)>;

/// What was seen of an image: it is read again only when this is other than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// Device, inode, size, and when contents and the inode changed last (ns): no write leaves all of these as they were.
    File([i128; 5]),
    Unreadable(String),
    /// Only who fetches it knows.
    Unknown,
}

/// Never ends.
pub async fn run(orchestrator: Orchestrator) {
    let context = Arc::clone(&orchestrator.context);
    let mut looks = Looks::new();
    let mut checks = JoinSet::new();
    let mut checking = Vec::<StackName>::new();
    loop {
        let stacks = context.owner.look(|state| watching::watched(&state.world)).await.unwrap_or_default();
        let now = Instant::now();
        looks.retain(|(stack, member), _| {
            stacks.iter().any(|(name, _, watched)| name == stack && watched.iter().any(|one| one.member == *member))
        });
        for (stack, applied, watched) in stacks {
            if checking.contains(&stack) {
                continue;
            }
            let due = due(&mut looks, &stack, &watched, now);
            if !due.is_empty() {
                checking.push(stack.clone());
                checks.spawn(check(orchestrator.clone(), stack, applied, due));
            }
        }
        let next = looks.iter().filter(|((stack, _), _)| !checking.contains(stack)).map(|(_, (at, _))| *at).min();
        tokio::select! {
            () = context.stacks.notified() => {}
            () = until(next) => {}
            Some(checked) = checks.join_next() => {
                if let Ok((stack, seen)) = checked {
                    checking.retain(|name| *name != stack);
                    for (member, look) in seen {
                        if let Some((_, last)) = looks.get_mut(&(stack.clone(), member)) {
                            *last = Some(look);
                        }
                    }
                }
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Those whose time has come, with how they looked before; their next time is set.
fn due(looks: &mut Looks, stack: &StackName, watched: &[Watched], now: Instant) -> Vec<(Watched, Option<Look>)> {
    let mut due = Vec::new();
    for one in watched {
        // Somebody may have applied it while the service was not there to look.
        let (at, look) = looks.entry((stack.clone(), one.member.clone())).or_insert((now, None));
        if *at <= now {
            *at = now + one.every;
            due.push((one.clone(), look.clone()));
        }
    }
    due
}

/// Looks at the images that are due, and applies the stack again where one is not what it was.
async fn check(
    orchestrator: Orchestrator,
    stack: StackName,
    applied: Arc<Applied>,
    due: Vec<(Watched, Option<Look>)>,
) -> (StackName, Vec<(ServiceName, Look)>) {
    let context = &orchestrator.context;
    let mut seen = Vec::new();
    let (mut changed, mut said) = (false, None);
    for (watched, before) in due {
        let look = look(&watched.image, &applied.caller).await;
        let other = before.as_ref() != Some(&look);
        match &look {
            Look::Unreadable(why) if other => said = Some(format!("the image of {}: {why}", watched.member)),
            Look::File(_) if matches!(before, Some(Look::Unreadable(_))) => {
                said = Some(format!("the image of {} can be read again", watched.member));
                changed = true;
            }
            Look::File(_) => changed |= other,
            Look::Unknown => changed = true,
            Look::Unreadable(_) => {}
        }
        seen.push((watched.member, look));
    }
    if let Err(error) = looked(context, &stack, said).await {
        warn!(%error, %stack, "the check of the watched images of stack {stack} could not be recorded: {error}");
    }
    if changed && !apply(&orchestrator, &stack, applied).await {
        // Tried again at the next look, as if it had not been seen.
        seen.clear();
    }
    (stack, seen)
}

async fn looked(context: &Context, stack: &StackName, said: Option<String>) -> Result<(), Error> {
    context.owner.looked(stack.clone(), Timestamp::now()).await?;
    let Some(said) = said else { return Ok(()) };
    warn!(%stack, said, "stack {stack}, watched images: {said}");
    let stack = stack.clone();
    context.owner.decide(move |state| Ok((watching::said(&state.world, &stack, said), ()))).await
}

async fn look(image: &ImageReference, caller: &Caller) -> Look {
    // What else there is says only when it is fetched whether it is another: the Apply compares digests, and does nothing
    // where none has moved. What was fetched or built before is not again.
    let ImageReference::Path(path) = image else { return Look::Unknown };
    let opened = images::open_as(path.clone(), caller).await;
    let status = opened.map_err(|error| error.to_string()).and_then(|file| fstat(&file).map_err(|e| e.to_string()));
    match status {
        Ok(status) => {
            let changed = i128::from(status.st_mtime) * 1_000_000_000 + i128::from(status.st_mtime_nsec);
            let inode_changed = i128::from(status.st_ctime) * 1_000_000_000 + i128::from(status.st_ctime_nsec);
            let (device, inode) = (i128::from(status.st_dev), i128::from(status.st_ino));
            Look::File([device, inode, i128::from(status.st_size), changed, inode_changed])
        }
        Err(why) => Look::Unreadable(why),
    }
}

/// Whether this has come to an end, for better or worse.
async fn apply(orchestrator: &Orchestrator, stack: &StackName, applied: Arc<Applied>) -> bool {
    let (manifest, caller, activate) = (applied.manifest.clone(), applied.caller.clone(), applied.activate);
    let request = ApplyRequest { manifest, caller, activate, watched: Some(applied) };
    match orchestrator.apply(request).await {
        Ok(_) => {
            info!(%stack, "the watched images of stack {stack} were checked, and are applied");
            true
        }
        Err(error) => {
            let error_line = error.line();
            warn!(%stack, %error, "stack {stack} is not brought to its changed images: {error}", error = error_line);
            !error.is_passing()
        }
    }
}
