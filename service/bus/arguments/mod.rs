//! What callers send, parsed into requests. Pure: nothing here talks to a bus, a file or the owner of state.
//!
//! Nothing is ignored in silence: an option that is not known, has another type, says nothing or contradicts another
//! one is refused by name. What depends on the state of the world (is the core allowed, is the address free, is the
//! template right) is admission's to say.

mod collect;
mod configuration;
mod console;
mod deploy;
mod image_options;
mod manifest;
mod options;
mod publication;
mod publish;
mod refusal;

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::{Exclusion, LeaseTag, ServiceName, StackName, UnikernelId};

pub use collect::collect;
pub use console::{console_lines, history};
pub use deploy::{deploy, image};
pub use manifest::manifest;
pub use options::{Options, RawOptions};
pub use publish::publish;

/// Items of a list that a person would still write or generate; what is longer is a mistake or an attack.
const MAX_ITEMS: usize = 4096;

/// Why a call's arguments were refused: which one, and what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidArgument(String);

impl InvalidArgument {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

pub fn service(text: &str) -> Result<ServiceName, InvalidArgument> {
    own_words(text)
}

pub fn stack(text: &str) -> Result<StackName, InvalidArgument> {
    own_words(text)
}

pub fn unikernel(text: &str) -> Result<UnikernelId, InvalidArgument> {
    own_words(text)
}

pub fn tag(text: &str) -> Result<LeaseTag, InvalidArgument> {
    own_words(text)
}

/// `force` of Destroy, its only option.
pub fn force(values: RawOptions) -> Result<bool, InvalidArgument> {
    let mut options = Options::check("Destroy", values, &[("force", "b")])?;
    Ok(options.take("force")?.unwrap_or(false))
}

/// `activate` of Apply, its only option: whether the stack goes live as soon as it is ready.
pub fn apply(values: RawOptions) -> Result<bool, InvalidArgument> {
    let mut options = Options::check("Apply", values, &[("activate", "b")])?;
    Ok(options.take("activate")?.unwrap_or(false))
}

/// A prefix such as `10.0.0.0/24`. Bits behind its length are taken as zero: `10.0.0.7/24` is the same prefix.
pub fn prefix(what: &str, text: &str) -> Result<IpNet, InvalidArgument> {
    match text.parse::<IpNet>() {
        Ok(prefix) => {
            not_mapped(what, text, prefix.addr())?;
            Ok(prefix.trunc())
        }
        Err(_) => Err(InvalidArgument(format!("{what} {:?} is not a prefix such as 10.0.0.0/24", shortened(text)))),
    }
}

pub fn exclusions(what: &str, texts: &[String]) -> Result<Vec<Exclusion>, InvalidArgument> {
    at_most(what, texts.len(), MAX_ITEMS)?;
    texts.iter().map(|text| exclusion(what, text)).collect()
}

fn exclusion(what: &str, text: &str) -> Result<Exclusion, InvalidArgument> {
    let exclusion: Exclusion = text.parse().map_err(|error| InvalidArgument(format!("{what}: {error}")))?;
    not_mapped(what, text, exclusion.range().first)?;
    if exclusion.range().first.is_ipv6() {
        let text = shortened(text);
        return Err(InvalidArgument(format!("{what}: {text:?} excludes nothing: what is leased are IPv4 addresses")));
    }
    Ok(exclusion)
}

fn address(what: &str, text: &str) -> Result<IpAddr, InvalidArgument> {
    let address = text
        .parse()
        .map_err(|_| InvalidArgument(format!("{what} {:?} is not an IP address such as 10.0.0.7", shortened(text))))?;
    not_mapped(what, text, address)?;
    Ok(address)
}

/// Refuses `::ffff:10.0.0.7`: programs show IPv4 clients so, but no packet has such an address.
fn not_mapped(what: &str, text: &str, address: IpAddr) -> Result<(), InvalidArgument> {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(InvalidArgument(format!("{what} {:?} is IPv4 written as IPv6: write it as IPv4", shortened(text))))
        }
        _ => Ok(()),
    }
}

/// For types whose parser says itself what was wrong with which text.
fn own_words<T: FromStr<Err: Display>>(text: &str) -> Result<T, InvalidArgument> {
    text.parse().map_err(|error: T::Err| InvalidArgument(error.to_string()))
}

fn milliseconds(key: &str, value: u64, least: u64, most: Duration) -> Result<Duration, InvalidArgument> {
    let duration = Duration::from_millis(value);
    if value < least || duration > most {
        let most = most.as_millis();
        return Err(InvalidArgument(format!("{key} is {value} milliseconds: it can be {least} to {most}")));
    }
    Ok(duration)
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), InvalidArgument> {
    if count > limit {
        return Err(InvalidArgument(format!("{what} has {count} entries: there can be at most {limit}")));
    }
    Ok(())
}

/// For lists whose absence means "all": an empty one reads as "none", and must not be taken as its opposite.
fn not_empty<T>(key: &str, list: &[T], instead: &str) -> Result<(), InvalidArgument> {
    if list.is_empty() {
        return Err(InvalidArgument(format!("{key} is empty: {instead}")));
    }
    Ok(())
}

/// A caller's text can be as long as a bus message; an error is to be read by a person.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use zbus::{OwnedVariant, Variant};

    use super::*;

    /// Options as a caller would send them.
    pub(super) fn sent<const N: usize>(entries: [(&str, Variant<'static>); N]) -> RawOptions {
        entries.into_iter().map(|(key, value)| (key.to_owned(), OwnedVariant::try_from(value).unwrap())).collect()
    }

    #[test]
    fn force_is_a_boolean_and_nothing_else_is_known() {
        assert_eq!(force(sent([])), Ok(false));
        assert_eq!(force(sent([("force", true.into())])), Ok(true));
        let message = force(sent([("force", "yes".into())])).unwrap_err().to_string();
        assert!(message.contains("force") && message.contains("type s") && message.contains("b ("), "{message}");
        assert!(force(sent([("forced", true.into())])).unwrap_err().to_string().contains("force"));
    }

    #[test]
    fn activate_is_a_boolean_and_nothing_else_is_known() {
        assert_eq!((apply(sent([])), apply(sent([("activate", true.into())]))), (Ok(false), Ok(true)));
        assert!(apply(sent([("activate", "yes".into())])).unwrap_err().to_string().contains("type s"));
        assert!(apply(sent([("force", true.into())])).unwrap_err().to_string().contains("activate"));
        assert_eq!(stack("mail").unwrap().as_str(), "mail");
        assert!(stack("Mail").unwrap_err().to_string().contains("stack name"));
    }

    #[test]
    fn prefixes_lose_their_host_bits() {
        assert_eq!(prefix("prefix", "10.0.0.7/24").unwrap().to_string(), "10.0.0.0/24");
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/24"] {
            assert!(prefix("prefix", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv4_is_not_written_as_ipv6() {
        for refused in [
            prefix("prefix", "::ffff:10.0.0.0/120").map(drop),
            exclusion("exclude", "::ffff:10.0.0.1").map(drop),
            exclusion("exclude", "::ffff:10.0.0.1-::ffff:10.0.0.9").map(drop),
            exclusion("exclude", "::ffff:10.0.0.0/120").map(drop),
            address("address", "::ffff:10.0.0.1").map(drop),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("IPv4 written as IPv6"), "{message}");
        }
        let message = exclusion("exclude", "fd00::1").unwrap_err().to_string();
        assert!(message.contains("IPv4 addresses"), "{message}");
    }

    #[test]
    fn long_texts_do_not_come_back_whole() {
        let long = "x".repeat(100_000);
        assert!(prefix("prefix", &long).unwrap_err().to_string().len() < 200);
        assert!(service(&long).unwrap_err().to_string().len() < 300);
        assert!(force(sent([(&*long, true.into())])).unwrap_err().to_string().len() < 300);
    }
}
