//! The lines of Degraded that follow from what the owner knows.

use super::{Owner, State, Trouble};
use crate::planning::facts::Facts;
use crate::planning::world::World;
use crate::planning::{degraded, host_health};

type Note = fn(&World, &Facts) -> Option<String>;

const NOTES: [(Trouble, Note); 6] = [
    (Trouble::Loops, degraded::loops),
    (Trouble::Strangers, degraded::strangers),
    (Trouble::FellBack, degraded::fell_back),
    (Trouble::Stacks, degraded::broken_stacks),
    (Trouble::Ended, degraded::ended),
    (Trouble::Unanswering, degraded::unanswering),
];

/// What of the host keeps unikernels from being reached.
const HOST_NOTES: [(Trouble, Note); 4] = [
    (Trouble::Bridges, host_health::bridges),
    (Trouble::Forwarding, host_health::forwarding),
    (Trouble::LegacyTables, host_health::legacy_tables),
    (Trouble::Conntrack, host_health::conntrack),
];

impl Owner {
    /// Writes those about the host anew, once that was looked at.
    pub(super) fn note_host(&mut self) {
        for (subject, note) in HOST_NOTES {
            let note = note(&self.state.world, &self.state.facts);
            self.note(subject, note);
        }
    }

    /// Writes those about published ports anew.
    pub(super) fn note_ports(&mut self) {
        let (State { world, facts }, ports) = (&self.state, &self.settings.ports);
        let overshadowed = ports.overshadowed_note(world, &facts.overshadowed);
        let without_effect = ports.without_effect_note(world, facts);
        self.note(Trouble::Listeners, overshadowed);
        self.note(Trouble::WithoutEffect, without_effect);
    }

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
