//! The contract's states: of a unikernel from its phase and its service, of a stack from its chains.

use crate::domain::{Attempt, Phase, Service, Stack, StackState, Unikernel, UnikernelState};

/// See the diagram in `lib.rs`.
pub fn state(unikernel: &Unikernel, service: Option<&Service>) -> UnikernelState {
    match unikernel.phase {
        Phase::Creating => UnikernelState::Creating,
        Phase::Exited => UnikernelState::Exited,
        Phase::Starting => UnikernelState::Starting,
        Phase::Failed => UnikernelState::Failed,
        Phase::Running | Phase::Ready | Phase::Returned => published_state(unikernel, service),
    }
}

fn published_state(unikernel: &Unikernel, service: Option<&Service>) -> UnikernelState {
    let live = service.and_then(|service| service.publication.as_ref()).is_some_and(|p| p.unikernel == unikernel.id);
    let draining = service.is_some_and(|service| service.draining.iter().any(|(id, _)| *id == unikernel.id));
    if live {
        UnikernelState::Live
    } else if draining {
        UnikernelState::Draining
    } else if unikernel.last_live.is_some() {
        UnikernelState::Retired
    } else {
        match unikernel.phase {
            Phase::Ready => UnikernelState::Ready,
            _ => UnikernelState::Running,
        }
    }
}

/// What a stack is at, or how its last Apply ended where that changed nothing.
pub fn stack_state(stack: &Stack) -> StackState {
    match stack.attempt {
        _ if stack.removing => StackState::Staging,
        Attempt::Working => StackState::Staging,
        Attempt::Failed => StackState::Failed,
        Attempt::Done if stack.staged.is_some() => StackState::Staged,
        Attempt::Done => StackState::Live,
    }
}
