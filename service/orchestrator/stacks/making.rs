//! A chain on its way: its members deployed, each as soon as those that it names are ready.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::super::claims::Hold;
use super::super::context::Context;
use super::super::deploy::{Outcome, deploy};
use super::super::error::Error;
use super::super::jobs::Job;
use super::super::request::{DeployRequest, ImageSource};
use super::{Asking, unmake};
use crate::domain::{Chain, ImageRecord, Member, MemberPlan, ServiceName, StackName, UnikernelId};
use crate::planning::stacks::graph::{self, Order};

#[derive(Debug)]
pub struct Making {
    context: Arc<Context>,
    stack: StackName,
    /// What each is made of.
    parts: BTreeMap<ServiceName, (MemberPlan, ImageRecord)>,
    members: BTreeMap<ServiceName, Member>,
    addresses: BTreeMap<ServiceName, IpAddr>,
    /// What was not there before, or not running.
    started: Vec<UnikernelId>,
    /// Nobody takes away meanwhile what was there.
    holds: Vec<Hold>,
}

/// A member that is being deployed.
type Deployment = BoxFuture<'static, (ServiceName, Result<Outcome, Error>)>;

impl Making {
    /// The images are in the store and stay there meanwhile.
    pub fn new(
        context: Arc<Context>,
        stack: StackName,
        parts: BTreeMap<ServiceName, (MemberPlan, ImageRecord)>,
    ) -> Self {
        let (members, addresses, started, holds) = Default::default();
        Self { context, stack, parts, members, addresses, started, holds }
    }

    /// Returns when all members are ready. At the first that fails the others are cancelled, and undo themselves.
    pub async fn make(&mut self, job: &Job) -> Result<(), Error> {
        let (stop, stopped) = watch::channel(false);
        let (mut order, mut next) = Order::new(self.parts.iter().map(|(name, (plan, _))| (name, plan)));
        let mut working = FuturesUnordered::new();
        let mut failure = None;
        loop {
            for name in next.drain(..) {
                match self.deployment(&name, job.part(&name, stopped.clone())) {
                    Ok(deployment) => working.push(deployment),
                    Err(error) => failure = failure.or(Some((name, error))),
                }
            }
            if failure.is_some() {
                stop.send_replace(true);
            }
            let Some((name, outcome)) = working.next().await else { break };
            match outcome.and_then(|outcome| self.has_become(&name, outcome)) {
                Ok(()) if failure.is_none() => next = order.done(&name),
                Ok(()) => {}
                Err(error) => failure = failure.or(Some((name, error))),
            }
            job.parts_done(self.members.len(), self.parts.len()).await;
        }
        match failure {
            None => Ok(()),
            Some((name, error)) => Err(error.of_member(&name, &self.stack)),
        }
    }

    fn deployment(&self, name: &ServiceName, job: Job) -> Result<Deployment, Error> {
        let (plan, record) = self.parts.get(name).ok_or(Error::Defect)?;
        let request = DeployRequest {
            service: name.clone(),
            image: ImageSource::Imported(record.clone()),
            configuration: graph::configuration(plan, &self.addresses)?,
            stack: Some(self.stack.clone()),
            keeps: None,
        };
        let (context, name) = (Arc::clone(&self.context), name.clone());
        Ok(async move { (name, deploy(context, request, &job).await) }.boxed())
    }

    fn has_become(&mut self, name: &ServiceName, outcome: Outcome) -> Result<(), Error> {
        let (plan, record) = self.parts.get(name).ok_or(Error::Defect)?;
        let member = Member { plan: plan.clone(), image: record.digest, unikernel: outcome.id.clone() };
        self.holds.push(self.context.claims.hold(&outcome.id));
        self.members.insert(name.clone(), member);
        self.addresses.insert(name.clone(), outcome.address);
        if outcome.started {
            self.started.push(outcome.id);
        }
        Ok(())
    }

    /// The unikernels that were started for this chain alone.
    pub fn started(&self) -> impl Iterator<Item = &UnikernelId> {
        self.started.iter()
    }

    /// All members, once they are made.
    pub fn chain(&self) -> Chain {
        Chain { members: self.members.clone() }
    }

    /// Takes away what was started, those first that use the others.
    pub async fn unmake(self) -> Result<(), Error> {
        let (mut outcome, mut asking) = (Ok(()), Asking::AtOnce);
        for name in graph::dependents_first(self.parts.iter().map(|(name, (plan, _))| (name, plan))) {
            let member = self.members.get(&name).filter(|member| self.started.contains(&member.unikernel));
            if let Some(member) = member {
                let unmade = unmake(&self.context, &member.unikernel, &self.stack, asking).await;
                // Each would wait for the same deadline.
                asking = if unmade.is_err() { Asking::Later } else { asking };
                outcome = outcome.and(unmade);
            }
        }
        outcome
    }
}
