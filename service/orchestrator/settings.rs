//! The configuration that holds now, and what the workflows and the owner take from it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::config::Config;
use crate::planning::host_ports::PortPolicy;
use crate::planning::ruleset;
use crate::planning::stacks::placing::Defaults;

/// The configuration that holds now. A reload replaces it as a whole; whoever needs keys that belong together takes them from
/// one [`CurrentConfig::get`].
#[derive(Debug)]
pub struct CurrentConfig(RwLock<Arc<Config>>);

impl CurrentConfig {
    pub fn new(config: Config) -> Self {
        Self(RwLock::new(Arc::new(config)))
    }

    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Only the owner of state does, between two decisions.
    pub(super) fn replace(&self, config: Arc<Config>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// Numbers of the configuration that workflows use.
#[derive(Debug, Clone)]
pub struct Limits {
    pub drain: Duration,
    pub keep_previous: u32,
    pub ruleset: ruleset::Settings,
    pub ports: PortPolicy,
}

impl Limits {
    pub fn of(config: &Config) -> Self {
        Self {
            drain: config.publish.drain,
            keep_previous: config.collect.keep_previous,
            ruleset: ruleset::Settings { loopback: config.publish.loopback },
            ports: PortPolicy {
                allowed: config.publish.ports.clone(),
                take_over: config.publish.take_over.clone(),
                loopback: config.publish.loopback,
            },
        }
    }

    /// What the publications of a stack are made with where its manifest is silent.
    pub fn defaults(&self) -> Defaults {
        Defaults { drain: self.drain }
    }
}
