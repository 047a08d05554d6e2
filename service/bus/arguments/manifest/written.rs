//! What only a manifest writes: ports in one text, and durations with their unit.

use std::time::Duration;

use super::super::{InvalidArgument, shortened};

/// How often an image can be looked at again.
const WATCH: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// `host:unikernel[/tcp|udp|any]` as `(protocol, host port, unikernel port)`. The protocol can be any word here.
pub(super) fn port(option: &str, text: &str) -> Result<(String, u16, u16), InvalidArgument> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let ports = ports.split_once(':').and_then(|(host, unikernel)| Some((number(host)?, number(unikernel)?)));
    let Some((host, unikernel)) = ports else {
        let text = shortened(text);
        return Err(InvalidArgument(format!(
            "{option}: {text:?} is not HOST:UNIKERNEL with ports of 1 to 65535, such as 2525:25, 53:53/udp or 53:53/any"
        )));
    };
    Ok((protocol.into(), host, unikernel))
}

/// A duration such as `10m`: a whole number of seconds, minutes or hours.
pub(super) fn watch(text: &str) -> Result<Duration, InvalidArgument> {
    let duration = [('s', 1), ('m', 60), ('h', 60 * 60)].into_iter().find_map(|(unit, seconds)| {
        let count: u32 = number(text.strip_suffix(unit)?)?;
        Some(Duration::from_secs(u64::from(count) * seconds))
    });
    let duration = duration.filter(|duration| WATCH.contains(duration));
    duration.ok_or_else(|| {
        let text = shortened(text);
        InvalidArgument(format!("watch {text:?} is not a duration from 1s to 24h, such as 30s, 10m or 1h"))
    })
}

/// Digits only: Rust's own parser would take a sign as well.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_two_numbers_and_a_protocol() {
        assert_eq!(port("ports", "25:2525"), Ok(("tcp".into(), 25, 2525)));
        assert_eq!(port("ports", "53:53/udp"), Ok(("udp".into(), 53, 53)));
        assert_eq!(port("ports", "53:53/"), Ok((String::new(), 53, 53)));
        for bad in ["", "25", ":", "25:", ":25", "65536:1", "1:65536", "+1:1", "-1:1", " 1:1", "1:1:1", "1:1 /tcp"] {
            let message = port("staged", bad).unwrap_err().to_string();
            assert!(message.starts_with("staged: ") && message.contains("HOST:UNIKERNEL"), "{message}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_a_range() {
        for (text, seconds) in [("1s", 1), ("86400s", 86400), ("10m", 600), ("1h", 3600), ("24h", 86400)] {
            assert_eq!(watch(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "m", "10", "0s", "0h", "86401s", "25h", "4294967295h", "4294967296s", "1.5h", "1h30m", "-1m"] {
            assert!(watch(bad).is_err(), "{bad}");
        }
    }
}
