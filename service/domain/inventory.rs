//! What Albatross runs and allows, as it reports it.

use std::collections::BTreeSet;

use super::{ImageDigest, MacAddress, Timestamp, UnikernelId};

/// A unikernel that Albatross runs under one of our names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: UnikernelId,
    pub digest: ImageDigest,
    /// Albatross 2.6 and earlier do not always say.
    pub started: Option<Timestamp>,
    pub mac: Option<MacAddress>,
    pub cpus: Vec<u32>,
}

/// Everything that Albatross runs on the configured path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Those whose names are ids, and so may be ours.
    pub unikernels: Vec<Running>,
    /// Cores of all others: somebody else's, and never touched.
    pub foreign_cpus: Vec<u32>,
}

impl Inventory {
    /// Whether Albatross runs the unikernel.
    pub fn runs(&self, id: &UnikernelId) -> bool {
        self.unikernels.iter().any(|running| running.id == *id)
    }
}

/// What Albatross's policy allows on the configured path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    pub cpus: BTreeSet<u32>,
}
