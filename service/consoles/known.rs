//! What a new subscription brings that is there already.

use std::collections::VecDeque;

use crate::domain::ConsoleLine;
use crate::tail::Ring;

/// Lines that are there already and may come again: those of the last millisecond, in their order.
#[derive(Debug, Default)]
pub struct Known(VecDeque<ConsoleLine>);

impl Known {
    /// What a subscription since the time of the last line brings once more.
    pub fn of(ring: &Ring) -> Self {
        Self(ring.last_moment().cloned().collect())
    }

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
    use super::super::BOUNDS;
    use super::*;
    use crate::domain::Timestamp;

    fn line(at: i64, text: &str) -> ConsoleLine {
        ConsoleLine { at: Timestamp(at), text: text.into() }
    }

    fn ring(lines: &[(i64, &str)]) -> Ring {
        let mut ring = Ring::new(BOUNDS);
        lines.iter().for_each(|(at, text)| ring.push(line(*at, text)));
        ring
    }

    #[test]
    fn what_comes_again_is_known_and_what_is_new_is_not() {
        let new = |ring: &Ring, comes: &[(i64, &str)]| {
            let mut known = Known::of(ring);
            let new = comes.iter().map(|(at, text)| line(*at, text)).filter(|line| known.is_new(line));
            new.map(|line| line.lossy()).collect::<Vec<_>>()
        };
        let had = ring(&[(1, "a"), (2, "x"), (2, "x"), (2, "y")]);
        assert_eq!(new(&had, &[(2, "x"), (2, "x"), (2, "y"), (2, "y"), (3, "x")]), ["y", "x"]);
        // The daemon itself has the older ones no more.
        assert_eq!(new(&had, &[(2, "y"), (2, "x"), (3, "z")]), ["x", "z"]);
        // It was started again, and knows nothing of them.
        assert_eq!(new(&had, &[(7, "x"), (7, "y")]), ["x", "y"]);
        assert_eq!(new(&ring(&[]), &[(1, "a"), (1, "a")]), ["a", "a"]);
    }
}
