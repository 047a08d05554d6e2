//! UnikernelStateChanged and ServiceSwitched, as a client of the bus sees them.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus::message::Type;
use zbus::{MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

use super::host::{MANAGER, PATIENCE};

/// After this long without a signal there is none on its way: they go out together with the answer of the call.
const QUIET: Duration = Duration::from_millis(500);

pub struct States(MessageStream);

/// One change of state.
#[derive(Debug)]
pub struct Told {
    pub id: String,
    pub old: String,
    pub new: String,
    pub details: HashMap<String, OwnedVariant>,
}

impl Told {
    pub fn change(&self) -> String {
        format!("{}>{}", self.old, self.new)
    }

    pub fn exit_reason(&self) -> String {
        self.details.get("exit-reason").map(|reason| String::try_from(reason.clone()).unwrap()).unwrap_or_default()
    }
}

impl States {
    pub async fn watch(connection: &zbus::Connection) -> Self {
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(MANAGER).member("UnikernelStateChanged");
        Self(MessageStream::for_match_rule(rule.build().unwrap(), connection, None).await.unwrap())
    }

    pub async fn next(&mut self) -> Told {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        read(&next.expect("no change of state was told").unwrap().unwrap())
    }

    /// Skips what is told until `id` has come to `state`.
    pub async fn until(&mut self, id: &str, state: &str) -> Told {
        let end = Instant::now() + PATIENCE;
        loop {
            let told = self.next().await;
            if told.id == id && told.new == state {
                return told;
            }
            assert!(Instant::now() < end, "{id} does not become {state}");
        }
    }

    /// The id of the next that is being created. What was told before is skipped: signals follow the answers of calls.
    pub async fn created(&mut self) -> String {
        loop {
            let told = self.next().await;
            if told.new == "creating" {
                return told.id;
            }
        }
    }

    /// What was told until now, as `old>new`.
    pub async fn so_far(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(QUIET, self.0.next()).await {
            told.push(read(&message.unwrap()).change());
        }
        told
    }
}

fn read(message: &zbus::Message) -> Told {
    type Arguments = (OwnedObjectPath, String, String, String, HashMap<String, OwnedVariant>);
    let (_, id, old, new, details): Arguments = message.body().deserialize().unwrap();
    Told { id, old, new, details }
}
