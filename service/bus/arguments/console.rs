//! OpenConsole and ReadConsole.

use super::options::Known;
use super::{InvalidArgument, Options, RawOptions};
use crate::consoles::{History, LINES};
use crate::domain::Timestamp;

const KNOWN: &[Known] = &[("lines", "u"), ("since", "x")];

/// How much of what was printed before comes first; all that is kept, unless the caller says.
pub fn history(values: RawOptions) -> Result<History, InvalidArgument> {
    let mut options = Options::check("OpenConsole", values, KNOWN)?;
    match (options.take("lines")?, options.take("since")?) {
        (None, None) => Ok(History::All),
        (Some(lines), None) => Ok(History::Lines(at_most_all(lines))),
        (None, Some(since)) => Ok(History::Since(Timestamp(since))),
        (Some(_), Some(_)) => Err(InvalidArgument::new("options lines and since of OpenConsole do not go together")),
    }
}

/// `lines` of ReadConsole: 0 is all, and no more than all can be had.
pub fn console_lines(lines: u32) -> usize {
    if lines == 0 { LINES } else { at_most_all(lines) }
}

fn at_most_all(lines: u32) -> usize {
    usize::try_from(lines).map_or(LINES, |lines| lines.min(LINES))
}

#[cfg(test)]
mod tests {
    use super::super::tests::sent;
    use super::*;

    #[test]
    fn lines_or_since_or_all() {
        assert_eq!(history(sent([])), Ok(History::All));
        assert_eq!(history(sent([("lines", 0u32.into())])), Ok(History::Lines(0)));
        assert_eq!(history(sent([("lines", u32::MAX.into())])), Ok(History::Lines(LINES)));
        assert_eq!(history(sent([("since", (-5i64).into())])), Ok(History::Since(Timestamp(-5))));
        let both = history(sent([("lines", 1u32.into()), ("since", 1i64.into())])).unwrap_err().to_string();
        assert!(both.contains("lines and since"), "{both}");
        let wrong = history(sent([("lines", 1i64.into())])).unwrap_err().to_string();
        assert!(wrong.contains("type x") && wrong.contains("must be u"), "{wrong}");
        assert!(history(sent([("follow", true.into())])).is_err());
        assert_eq!((console_lines(0), console_lines(7), console_lines(5000)), (LINES, 7, LINES));
    }
}
