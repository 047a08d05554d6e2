//! The last lines, numbered for ever: who has seen the one before a number knows how many it has lost.

use std::collections::VecDeque;

use crate::domain::{ConsoleLine, Timestamp};

/// What is kept at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub lines: usize,
    /// Bytes of a line: what is more is cut off.
    pub line: usize,
    /// Bytes of all lines.
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Ring {
    bounds: Bounds,
    lines: VecDeque<ConsoleLine>,
    /// Bytes of [`Self::lines`].
    bytes: usize,
    /// The number of the line that comes next.
    next: u64,
}

impl Ring {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, lines: VecDeque::new(), bytes: 0, next: 0 }
    }

    pub fn push(&mut self, mut line: ConsoleLine) {
        line.text.truncate(self.bounds.line);
        line.text.shrink_to_fit();
        self.bytes += line.text.len();
        self.lines.push_back(line);
        self.next += 1;
        while self.lines.len() > self.bounds.lines || self.bytes > self.bounds.bytes {
            self.bytes -= self.lines.pop_front().map_or(0, |oldest| oldest.text.len());
        }
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

    /// As [`Self::since`], but no further back than their times are in order: where they are not, the clock was set back.
    pub fn in_order_since(&self, at: Timestamp) -> u64 {
        let mut newer = Timestamp(i64::MAX);
        let in_order = |line: &&ConsoleLine| line.at >= at && line.at <= std::mem::replace(&mut newer, line.at);
        self.next - self.lines.iter().rev().take_while(in_order).count() as u64
    }

    /// How many lines from `number` on are gone already, and those that are there.
    pub fn from(&self, number: u64) -> (u64, impl Iterator<Item = &ConsoleLine>) {
        let lost = self.first().saturating_sub(number);
        let skip = usize::try_from(number.saturating_sub(self.first())).unwrap_or(usize::MAX);
        (lost, self.lines.iter().skip(skip))
    }

    pub fn last(&self) -> Option<&ConsoleLine> {
        self.lines.back()
    }

    /// Those that are all of the time of the last one, the oldest first.
    pub fn last_moment(&self) -> impl Iterator<Item = &ConsoleLine> {
        let at = self.last().map(|last| last.at);
        let count = self.lines.iter().rev().take_while(|line| Some(line.at) == at).count();
        self.lines.range(self.lines.len() - count..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: usize = 1024;
    const BOUNDS: Bounds = Bounds { lines: LINES, line: 1000, bytes: 1_000_000 };

    fn line(at: i64, text: &str) -> ConsoleLine {
        ConsoleLine { at: Timestamp(at), text: text.into() }
    }

    fn ring(lines: &[(i64, &str)]) -> Ring {
        let mut ring = Ring::new(BOUNDS);
        lines.iter().for_each(|(at, text)| ring.push(line(*at, text)));
        ring
    }

    fn texts<'a>(lines: impl Iterator<Item = &'a ConsoleLine>) -> Vec<String> {
        lines.map(ConsoleLine::lossy).collect()
    }

    #[test]
    fn a_reader_knows_what_it_has_lost() {
        let mut ring = Ring::new(BOUNDS);
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
        let set_back = self::ring(&[(8, "a"), (9, "b"), (5, "c"), (5, "d"), (6, "e")]);
        let at = [1, 5, 6, 7].map(Timestamp);
        assert_eq!(at.map(|at| set_back.since(at)), [0, 0, 4, 5]);
        assert_eq!(at.map(|at| set_back.in_order_since(at)), [2, 2, 4, 5]);
    }

    #[test]
    fn a_line_has_a_bound() {
        let ring = ring(&[(1, &"x".repeat(100_000))]);
        assert_eq!(ring.last().unwrap().text.len(), 1000);
    }

    #[test]
    fn all_lines_together_have_a_bound() {
        let mut ring = Ring::new(Bounds { lines: 100, line: 50, bytes: 120 });
        for number in 0..10 {
            ring.push(line(1, &number.to_string().repeat(50)));
        }
        assert_eq!((ring.first(), ring.next(), ring.bytes), (8, 10, 100));
        (0..50).for_each(|_| ring.push(line(1, "")));
        assert_eq!((ring.first(), ring.bytes), (8, 100), "what is empty costs no bytes");
        (0..100).for_each(|_| ring.push(line(1, "")));
        assert_eq!((ring.first(), ring.bytes), (60, 0));
    }

    #[test]
    fn the_last_moment() {
        assert_eq!(texts(ring(&[]).last_moment()), [""; 0]);
        assert_eq!(texts(ring(&[(1, "a"), (2, "b"), (2, "c")]).last_moment()), ["b", "c"]);
    }
}
