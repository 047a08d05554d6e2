//! The last lines of one console, numbered for ever: who has seen the one before a number knows how many it has lost.

use std::collections::VecDeque;

use crate::domain::{ConsoleLine, Timestamp};

/// Lines that are kept: as many as Albatross's console daemon keeps.
pub const LINES: usize = 1024;

/// Bytes that are kept of a line. Those of Albatross are 512 and ` [truncated]` at most.
const LONGEST: usize = 1024;

#[derive(Debug, Default)]
pub struct Ring {
    lines: VecDeque<ConsoleLine>,
    /// The number of the line that comes next.
    next: u64,
}

impl Ring {
    pub fn push(&mut self, mut line: ConsoleLine) {
        line.text.truncate(LONGEST);
        line.text.shrink_to_fit();
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.next += 1;
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The number of the oldest line that is kept.
    pub fn first(&self) -> u64 {
        self.next - self.lines.len() as u64
    }

    /// The number from which on there are `count` lines, or as many as there are.
    pub fn back(&self, count: usize) -> u64 {
        self.next - self.lines.len().min(count) as u64
    }

    /// The number of the first of the last lines that are all of this time or later.
    pub fn since(&self, at: Timestamp) -> u64 {
        self.next - self.lines.iter().rev().take_while(|line| line.at >= at).count() as u64
    }

    /// How many lines from `number` on are gone already, and those that are there.
    pub fn from(&self, number: u64) -> (u64, impl Iterator<Item = &ConsoleLine>) {
        let lost = self.first().saturating_sub(number);
        let skip = usize::try_from(number.saturating_sub(self.first())).unwrap_or(LINES);
        (lost, self.lines.iter().skip(skip))
    }

    pub fn last(&self) -> Option<&ConsoleLine> {
        self.lines.back()
    }

    /// What a subscription since the time of the last line brings once more.
    pub fn known(&self) -> Known {
        let Some(last) = self.last() else { return Known::default() };
        let same_time = self.lines.iter().rev().take_while(|line| line.at == last.at).count();
        Known(self.lines.range(self.lines.len() - same_time..).cloned().collect())
    }
}

/// Lines that are there already and may come again: those of the last millisecond, in their order.
#[derive(Debug, Default)]
pub struct Known(VecDeque<ConsoleLine>);

impl Known {
    /// Whether `line`, the next that comes, is not one of them.
    pub fn is_new(&mut self, line: &ConsoleLine) -> bool {
        match self.0.iter().position(|known| known == line) {
            // Those before it are gone from the daemon's own history.
            Some(position) => {
                self.0.drain(..=position);
                false
            }
            None => {
                if self.0.front().is_some_and(|known| known.at != line.at) {
                    self.0.clear();
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, text: &str) -> ConsoleLine {
        ConsoleLine { at: Timestamp(at), text: text.into() }
    }

    fn ring(lines: &[(i64, &str)]) -> Ring {
        let mut ring = Ring::default();
        lines.iter().for_each(|(at, text)| ring.push(line(*at, text)));
        ring
    }

    fn texts<'a>(lines: impl Iterator<Item = &'a ConsoleLine>) -> Vec<String> {
        lines.map(ConsoleLine::lossy).collect()
    }

    #[test]
    fn a_reader_knows_what_it_has_lost() {
        let mut ring = Ring::default();
        assert_eq!((ring.next(), ring.first(), ring.back(5), ring.from(0).0), (0, 0, 0, 0));
        for number in 0..LINES as u64 + 12 {
            ring.push(line(1, &number.to_string()));
        }
        let (lost, mut rest) = ring.from(0);
        assert_eq!((lost, rest.next().unwrap().lossy()), (12, "12".into()));
        assert_eq!(ring.from(12).0, 0);
        assert_eq!(texts(ring.from(ring.next() - 1).1), ["1035"]);
        assert_eq!(texts(ring.from(ring.next()).1), [""; 0]);
        assert_eq!(texts(ring.from(u64::MAX).1), [""; 0]);
        assert_eq!(ring.from(0).1.count(), LINES);
    }

    #[test]
    fn cursors_by_count_and_by_time() {
        let ring = ring(&[(1, "a"), (2, "b"), (2, "c"), (5, "d")]);
        assert_eq!((ring.back(0), ring.back(3), ring.back(9)), (4, 1, 0));
        assert_eq!((ring.since(Timestamp(2)), ring.since(Timestamp(3)), ring.since(Timestamp(6))), (1, 3, 4));
        assert_eq!(ring.since(Timestamp(i64::MIN)), 0);
    }

    #[test]
    fn a_line_has_a_bound() {
        let ring = ring(&[(1, &"x".repeat(100_000))]);
        assert_eq!(ring.last().unwrap().text.len(), LONGEST);
    }

    #[test]
    fn what_comes_again_is_known_and_what_is_new_is_not() {
        let new = |ring: &Ring, comes: &[(i64, &str)]| {
            let mut known = ring.known();
            let new = comes.iter().map(|(at, text)| line(*at, text)).filter(|line| known.is_new(line));
            new.map(|line| line.lossy()).collect::<Vec<_>>()
        };
        let had = ring(&[(1, "a"), (2, "x"), (2, "x"), (2, "y")]);
        assert_eq!(new(&had, &[(2, "x"), (2, "x"), (2, "y"), (2, "y"), (3, "x")]), ["y", "x"]);
        // The daemon itself has the older ones no more.
        assert_eq!(new(&had, &[(2, "y"), (2, "x"), (3, "z")]), ["x", "z"]);
        // It was started again, and knows nothing of them.
        assert_eq!(new(&had, &[(7, "x"), (7, "y")]), ["x", "y"]);
        assert_eq!(new(&Ring::default(), &[(1, "a"), (1, "a")]), ["a", "a"]);
    }
}
