//! Albatross's times: `YYYYMMDDhhmmss[.mmm]Z`.

use crate::domain::Timestamp;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Malformed, Unsayable};

const DAY: i64 = 86_400;

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years are counted from March, so that the leap day is the
/// last of its year and a month's start is a linear function.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The way back: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + days.div_euclid(146_097) * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

fn parse(bytes: &[u8]) -> Option<Timestamp> {
    let milliseconds = match bytes.get(14..)? {
        b"Z" => 0,
        // Not strict DER when it ends in a zero, and Albatross writes it.
        [b'.', fraction @ .., b'Z'] if fraction.len() == 3 => digits(fraction)?,
        _ => return None,
    };
    let field = |from: usize, length: usize| digits(&bytes[from..from + length]);
    let (year, month, day) = (field(0, 4)?, field(4, 2)?, field(6, 2)?);
    let (hour, minute, second) = (field(8, 2)?, field(10, 2)?, field(12, 2)?);
    let days = days_from_civil(year, month, day);
    // A day that the month does not have would silently be one of the next.
    if civil_from_days(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days * DAY + hour * 3_600 + minute * 60 + second;
    Some(Timestamp(seconds * 1_000_000 + milliseconds * 1_000))
}

fn write(time: Timestamp) -> Option<String> {
    let milliseconds = time.0.div_euclid(1_000);
    let (seconds, fraction) = (milliseconds.div_euclid(1_000), milliseconds.rem_euclid(1_000));
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    let text = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}{fraction}Z");
    (0..=9_999).contains(&year).then_some(text)
}

pub(super) fn encode(time: Timestamp, encoder: &mut Encoder) -> Result<(), Unsayable> {
    encoder.time(write(time).ok_or(Unsayable::Time)?.as_bytes())
}

pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Timestamp, Malformed> {
    parse(decoder.time()?).ok_or_else(|| Malformed::new("a time cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, microseconds) in [
            ("19700101000000Z", 0),
            ("20261122145448.132Z", 1_795_359_288_132_000),
            ("20200101000000Z", 1_577_836_800_000_000),
            ("20000229235959.001Z", 951_868_799_001_000),
            ("19691231235959.999Z", -1_000),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(Timestamp(microseconds)), "{text}");
            assert_eq!(write(Timestamp(microseconds)).as_deref(), Some(text));
        }
        assert_eq!(parse(b"20200101000000.000Z"), parse(b"20200101000000Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2020",
            "20200230000000Z",
            "20201301000000Z",
            "20200101240000Z",
            "20200101000000",
            "2020010100000\u{e4}",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(write(Timestamp(i64::MAX)), None);
    }
}
