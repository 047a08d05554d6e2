//! Apply: every member of a manifest deployed, each as soon as those that it names are ready, and then all of them put
//! where they are to be in one decision.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{info, warn};

use super::super::claims::StackClaim;
use super::super::context::Context;
use super::super::drains;
use super::super::error::{Error, ErrorKind};
use super::super::imports::{Imported, import};
use super::super::jobs::Job;
use super::super::owner::State;
use super::super::request::{ApplyRequest, ImageSource};
use super::super::workflow::{self, Flow, Step, nothing};
use super::making::Making;
use crate::domain::{
    Applied, Attempt, Caller, Chain, ImageDigest, ImageOptions, ImageReference, Manifest, ServiceName, StackName,
    Timestamp,
};
use crate::planning::stacks::moves::Goal;
use crate::planning::stacks::placed::Placed;
use crate::planning::stacks::staging::{self, Begun, Ended};
use crate::planning::stacks::watching;
use crate::planning::{self, host_ports};

/// The way of a chain from its plan to its place, and back.
pub const APPLY: &[Step<Apply>] = &[
    Step { name: "admitting", perform: Apply::admit, undo: nothing, cancellable: true },
    Step { name: "importing-images", perform: Apply::import, undo: Apply::drop_images, cancellable: true },
    Step { name: "taking-turn", perform: Apply::take_turn, undo: nothing, cancellable: true },
    Step { name: "beginning", perform: Apply::begin, undo: nothing, cancellable: false },
    // Cancelled, it undoes by itself what is half-made.
    Step { name: "staging", perform: Apply::stage, undo: Apply::unmake, cancellable: false },
    Step { name: "placing", perform: Apply::place, undo: Apply::take_back, cancellable: false },
    Step { name: "deleting-flows", perform: Apply::delete_flows, undo: nothing, cancellable: false },
];

/// Why a chain is made.
#[derive(Debug)]
enum Cause {
    /// Somebody, or the watch, applies a manifest.
    Manifest { caller: Caller, activate: bool, watched: Option<Arc<Applied>> },
    /// One that has been made before is to go live, and not all of it is there any more.
    Move { images: BTreeMap<ServiceName, ImageDigest>, goal: Goal },
}

/// An image, and what of it is meant.
type Wanted = (ImageReference, ImageOptions);

/// How often something may come between a chain's being ready and its being put where it is to be.
const OBSTACLES: usize = 3;

#[derive(Debug)]
pub struct Apply {
    context: Arc<Context>,
    manifest: Manifest,
    cause: Cause,
    /// Nothing speaks against it: if it fails all the same, the stack says why.
    is_admitted: bool,
    claim: Option<StackClaim>,
    images: BTreeMap<Wanted, Imported>,
    /// Which of them each member is made of.
    references: BTreeMap<ServiceName, Wanted>,
    /// What the stack remembers of this, once the images of a manifest are known.
    applied: Option<Arc<Applied>>,
    /// What had come of the Apply before this one.
    before: Option<Attempt>,
    /// What has led to this, where nobody has called.
    because: String,
    making: Option<Making>,
    placed: Option<Placed>,
}

impl Apply {
    pub fn new(context: Arc<Context>, request: ApplyRequest) -> Self {
        let cause = Cause::Manifest { caller: request.caller, activate: request.activate, watched: request.watched };
        Self::of(context, request.manifest, cause)
    }

    /// Makes what is gone of `chain`.
    pub fn again(context: Arc<Context>, name: &StackName, chain: &Chain, goal: Goal) -> Self {
        let (manifest, images) = staging::again(name, chain);
        Self::of(context, manifest, Cause::Move { images, goal })
    }

    fn of(context: Arc<Context>, manifest: Manifest, cause: Cause) -> Self {
        let (is_admitted, claim, images, references, applied, before, because, making, placed) = Default::default();
        Self {
            context,
            manifest,
            cause,
            is_admitted,
            claim,
            images,
            references,
            applied,
            before,
            because,
            making,
            placed,
        }
    }

    /// Goes through the table; where that fails, the stack says why.
    pub async fn run(mut self, job: &Job) -> Result<(), Error> {
        let outcome = workflow::run(APPLY, &mut self, job).await;
        if let Err(error) = &outcome
            && self.is_admitted
        {
            if self.claim.is_none() {
                // Where another call works on the stack, what comes of that one counts.
                self.claim = self.context.claims.claim_stack(&self.manifest.stack);
                if self.remember_before().await.is_err() {
                    return outcome;
                }
            }
            if self.claim.is_some() {
                self.give_up(error).await;
            }
        }
        outcome
    }

    fn goal(&self) -> Goal {
        match &self.cause {
            Cause::Manifest { activate: false, .. } => Goal::Stage,
            Cause::Manifest { activate: true, .. } => Goal::Activate,
            Cause::Move { goal, .. } => *goal,
        }
    }

    fn what_is_applied(&self) -> Option<Arc<Applied>> {
        let Cause::Manifest { caller, activate, .. } = &self.cause else { return None };
        let images = self.manifest.members.keys().map(|name| Some((name.clone(), self.image_of(name)?.record.digest)));
        let images = images.collect::<Option<_>>()?;
        let (manifest, caller, activate) = (self.manifest.clone(), caller.clone(), *activate);
        Some(Arc::new(Applied { manifest, caller, activate, images }))
    }

    fn admit<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            self.admit_manifest().await?;
            self.remember_before().await?;
            self.is_admitted = true;
            Ok(Flow::Next)
        }
        .boxed()
    }

    /// Refuses what can never go live, and ports that `caller` may not have.
    async fn admit_manifest(&self) -> Result<(), Error> {
        let Cause::Manifest { caller, .. } = &self.cause else { return Ok(()) };
        let addresses = self.manifest.members.values().flat_map(|plan| &plan.addresses).copied().collect();
        super::super::host_ports::learn(&self.context, addresses).await?;
        let (manifest, caller, policy) = (self.manifest.clone(), caller.clone(), self.context.limits().ports.clone());
        let added = self.context.owner.look(move |state| {
            staging::admit(&state.world, &manifest)?;
            policy.admit_manifest(&state.facts, &caller, &manifest)?;
            Ok::<_, planning::Error>(host_ports::added_by_manifest(&state.world, &manifest))
        });
        super::super::host_ports::check(&self.context, &added.await??).await
    }

    /// Of two calls for one stack the second waits, and then finds what the first has made.
    fn take_turn<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let (claims, name) = (&self.context.claims, &self.manifest.stack);
            self.claim = Some(match &self.cause {
                Cause::Manifest { .. } => claims.claim_stack_in_turn(name).await,
                Cause::Move { .. } => claims.claim_stack(name).ok_or_else(|| super::in_use(name))?,
            });
            if self.remember_before().await? {
                return Ok(Flow::Next);
            }
            self.drop_images().await?;
            Ok(Flow::Done)
        }
        .boxed()
    }

    /// Remembers how the stack was before. Where a watch is the cause: whether what is watched still is what counts.
    async fn remember_before(&mut self) -> Result<bool, Error> {
        let watched = match &self.cause {
            Cause::Manifest { watched, .. } => watched.clone(),
            Cause::Move { .. } => None,
        };
        let name = self.manifest.stack.clone();
        let look = move |state: &State| {
            let still = watched.is_none_or(|watched| watching::still_applied(&state.world, &watched));
            (state.world.stack(&name).map(|stack| stack.attempt), still)
        };
        let (before, still) = self.context.owner.look(look).await?;
        self.before = before;
        Ok(still)
    }

    /// Each image once, however many members are made of it.
    fn import<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            for name in self.manifest.members.keys() {
                let reference = self.wanted(name).await?;
                self.references.insert(name.clone(), reference.clone());
                if !self.images.contains_key(&reference) {
                    let imported = import(&self.context, self.source(reference.clone()), job).await;
                    let imported = imported.map_err(|error| error.of_member(name, &self.manifest.stack));
                    if let (Err(error), Cause::Manifest { watched: Some(_), .. }) = (&imported, &self.cause) {
                        // Nobody has asked for another chain yet: the stack is as good as it was.
                        self.is_admitted = false;
                        self.say(error.public()).await?;
                    }
                    let imported = imported?;
                    self.images.insert(reference, imported);
                }
            }
            self.applied = self.what_is_applied();
            if self.has_moved() {
                return Ok(Flow::Next);
            }
            self.drop_images().await?;
            Ok(Flow::Done)
        }
        .boxed()
    }

    async fn say(&self, what: String) -> Result<(), Error> {
        let stack = self.manifest.stack.clone();
        self.context.owner.decide(move |state| Ok((watching::said(&state.world, &stack, what), ()))).await
    }

    /// Of what is watched, whether any image is another than it was. What moved it is told with what comes of it.
    fn has_moved(&mut self) -> bool {
        let Cause::Manifest { watched: Some(before), .. } = &self.cause else { return true };
        let Some(applied) = &self.applied else { return true };
        let moved = watching::moved(applied, before);
        self.because = moved.iter().map(|member| format!("the image of {member} has changed: ")).collect();
        !moved.is_empty()
    }

    /// A chain that is made once more is made of what its images were then; and so are, where a watch is the cause, the
    /// members that are not watched.
    async fn wanted(&self, member: &ServiceName) -> Result<Wanted, Error> {
        let plan = self.manifest.members.get(member).ok_or(Error::Defect)?;
        let digest = match &self.cause {
            Cause::Move { images, .. } => {
                let stored = |digest: &ImageDigest| (ImageReference::Stored(*digest), ImageOptions::default());
                return images.get(member).map(stored).ok_or(Error::Defect);
            }
            Cause::Manifest { watched: Some(watched), .. } if plan.watch.is_none() => {
                watched.images.get(member).copied()
            }
            Cause::Manifest { .. } => None,
        };
        let asked = (plan.image.clone(), plan.image_options.clone());
        let Some(digest) = digest else { return Ok(asked) };
        // Where nothing has come of it then, it is not there any more.
        let stored = self.context.owner.look(move |state| state.world.image(digest).is_some()).await?;
        Ok(if stored { (ImageReference::Stored(digest), ImageOptions::default()) } else { asked })
    }

    fn image_of(&self, member: &ServiceName) -> Option<&Imported> {
        self.images.get(self.references.get(member)?)
    }

    fn source(&self, (image, options): Wanted) -> ImageSource {
        match (image, &self.cause) {
            (image, Cause::Manifest { caller, .. }) => {
                ImageSource::Named { image, options: Box::new(options), caller: caller.clone() }
            }
            (ImageReference::Stored(digest), _) => ImageSource::Stored(digest),
            // Every member of a chain has its digest.
            (_, Cause::Move { .. }) => ImageSource::Stored(ImageDigest([0; 32])),
        }
    }

    fn drop_images(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            for (_, imported) in std::mem::take(&mut self.images) {
                if let Err(error) = imported.drop_unused(&self.context).await {
                    let stack = &self.manifest.stack;
                    warn!(%error, %stack, "stack {stack}: an image that nothing uses stays in the store: {error}");
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn begin<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let (name, applied, goal) = (self.manifest.stack.clone(), self.applied.clone(), self.goal());
            let defaults = self.context.limits().defaults();
            let begun = self.context.owner.decide(move |state| match applied {
                Some(applied) => {
                    let now = Timestamp::now();
                    Ok(staging::begin(&state.world, &state.facts, &applied, goal, defaults, now)?)
                }
                None => Ok((staging::begin_again(&state.world, &name)?, Begun::Staging)),
            });
            match begun.await? {
                Begun::Nothing => {
                    let stack = &self.manifest.stack;
                    info!(%stack, "stack {stack} is applied: nothing had changed");
                    self.context.stacks.notify_one();
                    self.drop_images().await?;
                    Ok(Flow::Done)
                }
                Begun::Staging => Ok(Flow::Next),
            }
        }
        .boxed()
    }

    fn stage<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let members = self.manifest.members.iter();
            let parts = members.map(|(name, plan)| {
                let imported = self.image_of(name).ok_or(Error::Defect)?;
                Ok((name.clone(), (plan.clone(), imported.record.clone())))
            });
            let parts = parts.collect::<Result<_, Error>>()?;
            let making = Making::new(Arc::clone(&self.context), self.manifest.stack.clone(), parts);
            self.making.insert(making).make(job).await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn unmake(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            match self.making.take() {
                Some(making) => making.unmake().await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    /// What has ended, or runs again, between its being ready and this, is waited for once more.
    fn place<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            for _ in 0..OBSTACLES {
                match self.try_to_place().await {
                    Err(Error::Refused(planning::Error::NotReady(why))) => {
                        let stack = &self.manifest.stack;
                        info!(%stack, why, "stack {stack}: its members are waited for once more: {why}");
                        self.making.as_mut().ok_or(Error::Defect)?.make(job).await?;
                    }
                    outcome => return outcome.map(|()| Flow::Next),
                }
            }
            self.try_to_place().await.map(|()| Flow::Next)
        }
        .boxed()
    }

    async fn try_to_place(&mut self) -> Result<(), Error> {
        let (name, goal, applied) = (self.manifest.stack.clone(), self.goal(), self.applied.clone());
        let chain = self.making.as_ref().ok_or(Error::Defect)?.chain();
        let (defaults, because) = (self.context.limits().defaults(), self.because.clone());
        let placing = self.context.owner.decide(move |state| {
            let (world, now) = (&state.world, Timestamp::now());
            let done = staging::Done { chain, goal, applied: applied.as_ref(), because };
            let (changes, result) = staging::finish(world, &state.facts, &name, done, defaults, now)?;
            let placed = Placed::by(&changes, world);
            Ok((changes, (placed, result)))
        });
        let (placed, result) = placing.await?;
        self.placed = placed;
        let stack = &self.manifest.stack;
        info!(%stack, result, "stack {stack} is applied: {result}");
        Ok(())
    }

    fn take_back(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            // What is made for nothing ends next.
            let ends = self.placed.as_ref().and(self.making.as_ref());
            let ends = ends.into_iter().flat_map(Making::started).cloned().collect::<Vec<_>>();
            super::take_back(&self.context, self.placed.take()).await?;
            drains::let_finish(&self.context, ends).await;
            Ok(())
        }
        .boxed()
    }

    fn delete_flows<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            super::after_a_move(&self.context, &self.manifest.stack).await;
            Ok(Flow::Next)
        }
        .boxed()
    }

    async fn give_up(&mut self, error: &Error) {
        let (name, before, applied) = (self.manifest.stack.clone(), self.before, self.applied.take());
        let is_a_move = matches!(self.cause, Cause::Move { .. });
        let ended = if is_a_move || error.kind() == ErrorKind::Cancelled {
            Ended::AsBefore { before }
        } else {
            let why = format!("{}{}", self.because, error.public());
            Ended::Failed { why, applied: applied.filter(|_| !error.is_passing()) }
        };
        let given_up = self.context.owner.decide(move |state| Ok((staging::give_up(&state.world, &name, ended), ())));
        if let Err(error) = given_up.await {
            let stack = &self.manifest.stack;
            warn!(%error, %stack, "stack {stack}: its failed apply could not be recorded yet: {error}");
        }
    }
}
