//! Differences: what a switch sends to the kernel, and what a start or a repair sends.

use super::{Element, Elements, Ruleset, Skeleton};

/// Elements to delete and to add, in one batch: deletes first, so that a port can get another target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ElementsChange {
    /// In the order of [`Element`], as are `adds`.
    pub deletes: Vec<Element>,
    pub adds: Vec<Element>,
}

impl ElementsChange {
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.adds.is_empty()
    }
}

/// The change from `before` to `after`: both of the whole table, or both of the publications that change. Its size is
/// that of the change, and its cost that of its arguments.
pub fn difference(before: &Elements, after: &Elements) -> ElementsChange {
    ElementsChange {
        deletes: before.iter().filter(|element| !after.contains(element)).collect(),
        adds: after.iter().filter(|element| !before.contains(element)).collect(),
    }
}

/// What makes the kernel's table the wanted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesetChange<'a> {
    /// It is the wanted one already.
    Nothing,
    /// The static part is as wanted.
    Elements(ElementsChange),
    /// Delete the table, if there is one, and make this one, in the same batch.
    Rebuild(&'a Ruleset),
}

/// For a start and for a repair: `found` is what the kernel has, `None` when it has no such table or one with things in
/// it that the service never puts there.
pub fn repair<'a>(found: Option<(&Skeleton, &Elements)>, wanted: &'a Ruleset) -> RulesetChange<'a> {
    match found {
        Some((skeleton, elements)) if *skeleton == wanted.skeleton() => {
            let change = difference(elements, &wanted.elements);
            if change.is_empty() { RulesetChange::Nothing } else { RulesetChange::Elements(change) }
        }
        _ => RulesetChange::Rebuild(wanted),
    }
}
