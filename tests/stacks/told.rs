//! What the bus tells of a stack's object, and of everything else while nothing should happen.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

use crate::host::{Manager, PATIENCE, ROOT};
use crate::scene::path;

/// After this long without a signal what nobody waits for is not told either.
const QUIET: Duration = Duration::from_millis(300);

pub struct Told(MessageStream);

/// What was told of the mail stack.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OfStack {
    pub added: usize,
    pub removed: usize,
    /// Names of properties that have changed.
    pub changed: BTreeSet<String>,
    /// The states that it came to.
    pub states: Vec<String>,
}

impl Told {
    /// All signals of the service.
    pub async fn listen(manager: &Manager) -> Self {
        let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace(ROOT).build().unwrap();
        Self(MessageStream::for_match_rule(rule, &manager.0, NonZeroUsize::new(1024)).await.unwrap())
    }

    async fn so_far(&mut self) -> Vec<Message> {
        let mut told = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(QUIET, self.0.next()).await {
            told.push(message.unwrap());
        }
        told
    }

    /// Names of all signals since it was asked last, but of jobs and counts.
    pub async fn names(&mut self) -> Vec<String> {
        let all = self.so_far().await;
        let told = all.iter().filter(|message| !is_of_a_job(message));
        told.map(|message| {
            let header = message.header();
            let (member, path) = (header.member().unwrap(), header.path().unwrap());
            format!("{member} of {path}")
        })
        .collect()
    }

    /// What is told of the mail stack since it was asked last: at least what is `complete`, and what comes with it.
    pub async fn of_mail_until(&mut self, complete: impl Fn(&OfStack) -> bool) -> OfStack {
        let mut of_stack = OfStack::default();
        let end = Instant::now() + PATIENCE;
        loop {
            for message in self.so_far().await {
                of_stack.read(&message);
            }
            if complete(&of_stack) {
                return of_stack;
            }
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {of_stack:?}");
        }
    }
}

fn is_of_a_job(message: &Message) -> bool {
    let header = message.header();
    let body = message.body();
    let named: Option<OwnedObjectPath> = match header.member().map(|member| member.as_str()) {
        Some("JobRemoved") => return true,
        Some("InterfacesAdded") => {
            type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>);
            body.deserialize::<Added>().ok().map(|(path, _)| path)
        }
        Some("InterfacesRemoved") => body.deserialize::<(OwnedObjectPath, Vec<String>)>().ok().map(|(path, _)| path),
        _ => None,
    };
    let is_job = |path: &str| path.contains("/job/");
    named.is_some_and(|path| is_job(path.as_str())) || header.path().is_some_and(|path| is_job(path.as_str()))
}

impl OfStack {
    fn read(&mut self, message: &Message) {
        let header = message.header();
        let (body, mail) = (message.body(), path("mail"));
        match header.member().map(|member| member.as_str()) {
            Some("InterfacesAdded") => {
                type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>);
                let (path, _): Added = body.deserialize().unwrap();
                self.added += usize::from(path.as_str() == mail);
            }
            Some("InterfacesRemoved") => {
                let (path, _): (OwnedObjectPath, Vec<String>) = body.deserialize().unwrap();
                self.removed += usize::from(path.as_str() == mail);
            }
            Some("PropertiesChanged") if header.path().is_some_and(|path| path.as_str() == mail) => {
                type Changed = (String, HashMap<String, OwnedVariant>, Vec<String>);
                let (_, changed, _): Changed = body.deserialize().unwrap();
                for (name, value) in changed {
                    if name == "State" {
                        self.states.push(String::try_from(value).unwrap());
                    }
                    self.changed.insert(name);
                }
            }
            _ => {}
        }
    }
}
