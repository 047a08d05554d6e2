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
    /// The sets are as wanted: delete the chains that are there, make these, and change some elements.
    Chains { there: Vec<String>, wanted: &'a Ruleset, elements: ElementsChange },
    /// Delete the table, if there is one, and make this one.
    Rebuild(&'a Ruleset),
}

/// For a start and for a repair: `found` is what the kernel has, `None` when it has no such table or one with things in
/// it that the service never puts there. Each change is one batch.
///
/// Sets stay where they can: the kernel shows a new set of intervals to packets only some time (below a millisecond)
/// after the rules of its batch, and till then nobody could connect to a port with sources.
pub fn repair<'a>(found: Option<(&Skeleton, &Elements)>, wanted: &'a Ruleset) -> RulesetChange<'a> {
    let Some((found, elements)) = found else { return RulesetChange::Rebuild(wanted) };
    let skeleton = wanted.skeleton();
    if found.table != skeleton.table || found.sets != skeleton.sets {
        return RulesetChange::Rebuild(wanted);
    }
    let elements = difference(elements, &wanted.elements);
    if found.chains != skeleton.chains {
        return RulesetChange::Chains { there: found.chains.keys().cloned().collect(), wanted, elements };
    }
    if elements.is_empty() { RulesetChange::Nothing } else { RulesetChange::Elements(elements) }
}
