//! Activate and RollbackStack: one decision, and one batch for all ports of all members.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::info;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::super::workflow::{Flow, Step, nothing};
use super::apply::Apply;
use crate::domain::{Caller, Chain, StackName, Timestamp};
use crate::planning::stacks::moves::{self, Goal, Move};
use crate::planning::stacks::placed::Placed;

/// The way of a move.
pub const MOVE: &[Step<MoveStack>] = &[
    Step { name: "moving", perform: MoveStack::decide, undo: MoveStack::take_back, cancellable: false },
    Step { name: "deleting-flows", perform: MoveStack::delete_flows, undo: nothing, cancellable: false },
];

/// Which chain is to become live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The staged one.
    Forth,
    /// The one before.
    Back,
}

impl fmt::Display for Way {
    /// The chain, as the stack's properties name it before the move.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forth => "staged",
            Self::Back => "previous",
        })
    }
}

#[derive(Debug)]
pub struct MoveStack {
    context: Arc<Context>,
    name: StackName,
    way: Way,
    caller: Caller,
    placed: Option<Placed>,
}

impl MoveStack {
    pub fn new(context: Arc<Context>, name: StackName, way: Way, caller: Caller) -> Self {
        Self { context, name, way, caller, placed: None }
    }

    fn decide<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            match self.try_at_once().await? {
                None => Ok(Flow::Next),
                // Puts it where it is to be as soon as all of it is ready.
                Some(chain) => {
                    let goal = match self.way {
                        Way::Forth => Goal::Activate,
                        Way::Back => Goal::RollBack,
                    };
                    Apply::again(Arc::clone(&self.context), &self.name, &chain, goal).run(job).await?;
                    Ok(Flow::Done)
                }
            }
        }
        .boxed()
    }

    /// The chain, where some of it has to be made again first.
    async fn try_at_once(&mut self) -> Result<Option<Arc<Chain>>, Error> {
        let (name, way, caller) = (self.name.clone(), self.way, self.caller.clone());
        let (defaults, policy) = (self.context.limits().defaults(), self.context.limits().ports.clone());
        let (raise, placed) = self
            .context
            .owner
            .decide(move |state| {
                let (world, now) = (&state.world, Timestamp::now());
                let chain = moves::known(world, &name).map(|stack| match way {
                    Way::Forth => stack.staged.as_ref(),
                    Way::Back => stack.previous.as_ref(),
                });
                chain?.map_or(Ok(()), |chain| policy.permit_chain(&caller, chain))?;
                let decided = match way {
                    Way::Forth => moves::activate(world, &name, defaults, now)?,
                    Way::Back => moves::roll_back(world, &name, defaults, now)?,
                };
                Ok(match decided {
                    Move::Raise(chain) => (Vec::new(), (Some(chain), None)),
                    Move::Now(changes) => {
                        let placed = Placed::by(&changes, world);
                        (changes, (None, placed))
                    }
                })
            })
            .await?;
        if placed.is_some() {
            let (stack, way) = (&self.name, self.way);
            info!(%stack, %way, "stack {stack}: its {way} chain is live now");
        }
        self.placed = placed;
        Ok(raise)
    }

    fn take_back(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move { super::take_back(&self.context, self.placed.take()).await }.boxed()
    }

    fn delete_flows<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            super::after_a_move(&self.context, &self.name).await;
            Ok(Flow::Next)
        }
        .boxed()
    }
}
