//! Who was live when, as far as a client can know: what a request may have been answered by.

use std::time::Instant;

/// A call that made `to` live, with all its repetitions.
#[derive(Debug, Clone)]
pub struct Switch {
    pub to: String,
    /// Before the first attempt.
    pub began: Instant,
    /// After the answer to the last.
    pub ended: Instant,
}

/// Switches in their order, each begun after the one before had ended.
#[derive(Debug)]
pub struct Timeline {
    first: String,
    pub switches: Vec<Switch>,
}

impl Timeline {
    pub fn new(first: &str) -> Self {
        Self { first: first.to_owned(), switches: Vec::new() }
    }

    pub fn live(&self) -> &str {
        self.switches.last().map_or(&self.first, |switch| &switch.to)
    }

    /// Whether `version` was live at any time from `begin` to `end`, or may have been: while a call makes another live,
    /// both may.
    pub fn may_answer(&self, version: &str, begin: Instant, end: Instant) -> bool {
        let since = self.switches.iter().map(|switch| (switch.to.as_str(), Some(switch.began)));
        let until = self.switches.iter().map(|switch| Some(switch.ended)).chain([None]);
        let mut spans = [(self.first.as_str(), None)].into_iter().chain(since).zip(until);
        spans.any(|((live, since), until)| {
            live == version && since.is_none_or(|since| since <= end) && until.is_none_or(|until| until >= begin)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_is_of_who_was_live() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut timeline = Timeline::new("a");
        for (to, began, ended) in [("b", 10, 12), ("a", 20, 22), ("b", 30, 32)] {
            timeline.switches.push(Switch { to: to.into(), began: at(began), ended: at(ended) });
        }
        for (version, begin, end, may) in [
            ("a", 0, 1, true),
            ("b", 0, 9, false),
            ("b", 0, 10, true),
            ("a", 12, 15, true),
            ("a", 13, 19, false),
            ("a", 13, 20, true),
            ("b", 22, 25, true),
            ("b", 23, 29, false),
            ("a", 33, 99, false),
            ("b", 33, 99, true),
            ("c", 0, 99, false),
        ] {
            assert_eq!(timeline.may_answer(version, at(begin), at(end)), may, "{version} from {begin} to {end}");
        }
        assert_eq!(timeline.live(), "b");
    }
}
