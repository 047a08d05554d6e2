//! The lines of Degraded that follow from what the owner knows.

use super::{Owner, Trouble};
use crate::planning::degraded;
use crate::planning::facts::Facts;
use crate::planning::world::World;

type Note = fn(&World, &Facts) -> Option<String>;

const NOTES: [(Trouble, Note); 6] = [
    (Trouble::Loops, degraded::loops),
    (Trouble::Strangers, degraded::strangers),
    (Trouble::FellBack, degraded::fell_back),
    (Trouble::Stacks, degraded::broken_stacks),
    (Trouble::Ended, degraded::ended),
    (Trouble::Unanswering, degraded::unanswering),
];

impl Owner {
    /// Writes all of them anew, once Albatross was asked or a check has changed something.
    pub(super) fn note_all(&mut self) {
        for (subject, note) in NOTES {
            let note = note(&self.state.world, &self.state.facts);
            self.note(subject, note);
        }
    }

    /// Writes those anew that are there: a change can mend something at once, and a change must not cost more where there
    /// is nothing to mend. What it breaks shows when Albatross has been asked.
    pub(super) fn refresh_notes(&mut self) {
        for (subject, note) in NOTES {
            if self.troubles.contains_key(&subject) {
                let note = note(&self.state.world, &self.state.facts);
                self.note(subject, note);
            }
        }
    }
}
