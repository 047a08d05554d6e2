//! What calls are working with, so that no two work on one unikernel and no image is collected from under a call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{BuildKey, ImageDigest, StackName, UnikernelId};

#[derive(Debug, Default)]
pub struct Claims {
    inner: Mutex<Inner>,
    released: Notify,
    /// As `released`, and remembered for one who does not wait at this moment.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    unikernels: BTreeSet<UnikernelId>,
    /// Those that a call has worked on at any time since the last look began.
    touched: BTreeSet<UnikernelId>,
    stacks: BTreeSet<StackName>,
    builds: BTreeSet<BuildKey>,
    images: BTreeMap<ImageDigest, usize>,
    held: BTreeMap<UnikernelId, usize>,
    late: BTreeSet<UnikernelId>,
}

/// How many are looked for at most that Albatross may create late; a daemon that is silent so often is not expected back
/// with all of them.
const LATE: usize = 1024;

/// A unikernel that one call works on, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    id: UnikernelId,
}

/// A stack that one call works on, until this is dropped.
#[derive(Debug)]
pub struct StackClaim {
    claims: Arc<Claims>,
    name: StackName,
}

/// A build that one call does, until this is dropped.
#[derive(Debug)]
pub struct BuildClaim {
    claims: Arc<Claims>,
    key: BuildKey,
}

/// An image that stays in the store until this is dropped.
#[derive(Debug)]
pub struct Pin {
    claims: Arc<Claims>,
    digest: ImageDigest,
}

/// A unikernel that stays as it is until this is dropped: a stack is about to be made of it.
#[derive(Debug)]
pub struct Hold {
    claims: Arc<Claims>,
    id: UnikernelId,
}

impl Claims {
    /// `None` while another call has it.
    pub fn claim(self: &Arc<Self>, id: &UnikernelId) -> Option<Claim> {
        let mut inner = self.lock();
        let free = inner.unikernels.insert(id.clone());
        if free {
            inner.touched.insert(id.clone());
        }
        drop(inner);
        free.then(|| Claim { claims: Arc::clone(self), id: id.clone() })
    }

    /// Waits until a call has let go of a unikernel, or returns at once when one has since the last time.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Waits for the call that has it. The caller sets the limit: a job's cancellation, or a time.
    pub async fn claim_in_turn(self: &Arc<Self>, id: &UnikernelId) -> Claim {
        self.in_turn(|| self.claim(id)).await
    }

    /// `None` while another call has it.
    pub fn claim_stack(self: &Arc<Self>, name: &StackName) -> Option<StackClaim> {
        let free = self.lock().stacks.insert(name.clone());
        free.then(|| StackClaim { claims: Arc::clone(self), name: name.clone() })
    }

    /// As [`Claims::claim_in_turn`].
    pub async fn claim_stack_in_turn(self: &Arc<Self>, name: &StackName) -> StackClaim {
        self.in_turn(|| self.claim_stack(name)).await
    }

    /// As [`Claims::claim_in_turn`]: who waits finds it done.
    pub async fn claim_build_in_turn(self: &Arc<Self>, key: BuildKey) -> BuildClaim {
        let claim = || {
            let free = self.lock().builds.insert(key);
            free.then(|| BuildClaim { claims: Arc::clone(self), key })
        };
        self.in_turn(claim).await
    }

    async fn in_turn<C>(&self, claim: impl Fn() -> Option<C>) -> C {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Before the look, or a release between the look and the wait would be missed.
            released.as_mut().enable();
            if let Some(claim) = claim() {
                return claim;
            }
            released.await;
        }
    }

    pub fn pin(self: &Arc<Self>, digest: ImageDigest) -> Pin {
        *self.lock().images.entry(digest).or_default() += 1;
        Pin { claims: Arc::clone(self), digest }
    }

    pub fn hold(self: &Arc<Self>, id: &UnikernelId) -> Hold {
        *self.lock().held.entry(id.clone()).or_default() += 1;
        Hold { claims: Arc::clone(self), id: id.clone() }
    }

    /// Albatross was asked to create it and was silent: it can do so after the call has been undone.
    pub fn may_come_late(&self, id: &UnikernelId) {
        let mut inner = self.lock();
        if inner.late.len() < LATE {
            inner.late.insert(id.clone());
        }
    }

    /// Those that may come late.
    pub fn late(&self) -> BTreeSet<UnikernelId> {
        self.lock().late.clone()
    }

    /// It has come, and is gone or wanted again.
    pub fn not_late(&self, id: &UnikernelId) {
        self.lock().late.remove(id);
    }

    pub fn busy(&self) -> BTreeSet<UnikernelId> {
        self.lock().unikernels.clone()
    }

    /// Whether a call works on it.
    pub fn is_busy(&self, id: &UnikernelId) -> bool {
        self.lock().unikernels.contains(id)
    }

    /// A look at Albatross begins. What is seen of a unikernel that a call works on meanwhile can be older than what the
    /// call has written: see [`Claims::touched`].
    pub fn begin_look(&self) {
        let mut inner = self.lock();
        inner.touched = inner.unikernels.clone();
    }

    /// What a look that has begun sees of `id` is not to be believed. `false`: a call works on it, and knows better.
    pub fn touch(&self, id: &UnikernelId) -> bool {
        let mut inner = self.lock();
        let free = !inner.unikernels.contains(id);
        if free {
            inner.touched.insert(id.clone());
        }
        free
    }

    /// What calls work on, or have worked on since the look began.
    pub fn touched(&self) -> BTreeSet<UnikernelId> {
        self.lock().touched.clone()
    }

    pub fn held(&self) -> BTreeSet<UnikernelId> {
        self.lock().held.keys().cloned().collect()
    }

    pub fn busy_stacks(&self) -> BTreeSet<StackName> {
        self.lock().stacks.clone()
    }

    pub fn pinned(&self) -> BTreeMap<ImageDigest, usize> {
        self.lock().images.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().unikernels.remove(&self.id);
        self.claims.released.notify_waiters();
        self.claims.ended.notify_one();
    }
}

impl Drop for StackClaim {
    fn drop(&mut self) {
        self.claims.lock().stacks.remove(&self.name);
        self.claims.released.notify_waiters();
    }
}

impl Drop for BuildClaim {
    fn drop(&mut self) {
        self.claims.lock().builds.remove(&self.key);
        self.claims.released.notify_waiters();
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let_go(&mut self.claims.lock().images, &self.digest);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let_go(&mut self.claims.lock().held, &self.id);
    }
}

/// One less that holds `key`.
fn let_go<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_knows_of_every_unikernel_that_a_call_worked_on_meanwhile() {
        let claims = Arc::new(Claims::default());
        let id = |service: &str| UnikernelId::new(&service.parse().unwrap(), &[0; 32]);
        drop(claims.claim(&id("before")));
        let held = claims.claim(&id("held"));
        claims.begin_look();
        drop(held);
        drop(claims.claim(&id("meanwhile")));
        assert_eq!(claims.touched(), [id("held"), id("meanwhile")].into());
        assert!(claims.busy().is_empty());
    }
}
