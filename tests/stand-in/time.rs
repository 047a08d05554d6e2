//! GeneralizedTime as Albatross writes it: with three digits of a second's fraction, or none where it is zero.

use crate::der::{self, Malformed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch.
pub type Millis = i64;

pub fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}

pub fn encode(time: Millis) -> Vec<u8> {
    let (days, milliseconds) = (time.div_euclid(86_400_000), time.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let seconds = milliseconds / 1000;
    let clock = format!("{:02}{:02}{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if milliseconds % 1000 == 0 { String::new() } else { format!(".{:03}", milliseconds % 1000) };
    der::value(der::TIME, format!("{year:04}{month:02}{day:02}{clock}{fraction}Z").as_bytes())
}

pub fn decode(reader: &mut der::Reader<'_>) -> der::Result<Millis> {
    let bad = Malformed("not a time");
    let text = std::str::from_utf8(reader.value(der::TIME)?.rest()).map_err(|_| bad.clone())?;
    let text = text.strip_suffix('Z').ok_or(bad.clone())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.len() != 14 || !whole.is_ascii() {
        return Err(bad);
    }
    let number = |text: &str| text.parse::<i64>().map_err(|_| Malformed("not a time"));
    let part = |from: usize, to: usize| number(&whole[from..to]);
    let fraction = number(&format!("{fraction:0<3}")[..3])?;
    let seconds = part(8, 10)? * 3600 + part(10, 12)? * 60 + part(12, 14)?;
    Ok((days(part(0, 4)?, part(4, 6)?, part(6, 8)?) * 86_400 + seconds) * 1000 + fraction)
}

/// Days since the epoch of a date of the Gregorian calendar; years begin in March here, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}
