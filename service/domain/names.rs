//! Names that people and peers give to things, each checked once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused. The text is for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    pub(super) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // A caller's name can be as long as a bus message; an error is to be read by a person.
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

/// Gives a checked string type its `FromStr`, `Display`, serde form and comparison by text.
macro_rules! checked_name {
    ($name:ident, $what:literal, $rule:literal, $check:expr) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(InvalidName::new($what, text, $rule)) }
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(super) use checked_name;

/// The name under which something is published, e.g. `website`.
///
/// At most 52 characters, so that `<service>.<10 hex digits>` fits the 63 of an Albatross label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

checked_name!(
    ServiceName,
    "service name",
    "1 to 52 characters of a-z, 0-9, '-' and '.', not beginning with '-' or '.'",
    is_plain_name
);

/// The name of a stack, e.g. `mail`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StackName(String);

checked_name!(
    StackName,
    "stack name",
    "1 to 52 characters of a-z, 0-9, '-' and '.', not beginning with '-' or '.'",
    is_plain_name
);

/// What services and stacks may be called.
fn is_plain_name(text: &str) -> bool {
    (1..=52).contains(&text.len())
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// Hex digits of the configuration's digest in a [`UnikernelId`]: 40 bits, as the contract fixes it.
const ID_DIGITS: usize = 10;

/// `<service>.<first 10 hex digits of the digest of the configuration>`; also the unikernel's name in Albatross and
/// the tag of its lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnikernelId(String);

checked_name!(UnikernelId, "unikernel id", "a service name, a '.' and 10 hexadecimal digits in lower case", |text| {
    text.rsplit_once('.').is_some_and(|(service, digits)| {
        service.parse::<ServiceName>().is_ok()
            && digits.len() == ID_DIGITS
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
});

impl UnikernelId {
    /// The id of the configuration with this digest under `service`.
    pub fn new(service: &ServiceName, configuration: &[u8; 32]) -> Self {
        let digits = configuration[..ID_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self(format!("{service}.{digits}"))
    }

    pub fn service(&self) -> ServiceName {
        // The last '.' parts the two: a service name may have dots, the digits have none.
        ServiceName(self.0[..self.0.len() - ID_DIGITS - 1].into())
    }

    pub fn tag(&self) -> LeaseTag {
        LeaseTag(self.0.clone())
    }
}

/// Who holds a lease: a unikernel's id, or whatever text `AllocateAddress` was called with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseTag(String);

checked_name!(LeaseTag, "lease tag", "1 to 255 bytes without control characters", |text| {
    (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
});

/// A network of unikernels: the name of its bridge on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

// The kernel's rule (dev_valid_name) is wider; what is left out here could not be said in a policy of Albatross or
// would need escapes in an nftables ruleset.
checked_name!(
    NetworkName,
    "network",
    "a bridge's name: 1 to 15 characters of a-z, A-Z, 0-9, '-', '_' and '.', not beginning with '-' or '.'",
    |text| {
        (1..=15).contains(&text.len())
            && !text.starts_with(['-', '.'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names() {
        for good in ["a", "website", "a.b-c", "0", &"x".repeat(52)] {
            assert!(good.parse::<ServiceName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a_b", "ä", "a b", "a\0", &"x".repeat(53)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_gives_its_service_back() {
        let service: ServiceName = "a.b.c".parse().unwrap();
        let id = UnikernelId::new(&service, &[0xab; 32]);
        assert_eq!(id.as_str(), "a.b.c.ababababab");
        assert_eq!(id.service(), service);
        assert_eq!(id.as_str().parse::<UnikernelId>().unwrap(), id);
        for bad in ["a", "a.123", "a.ABABABABAB", ".ababababab", "a.abababababab"] {
            assert!(bad.parse::<UnikernelId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_and_networks() {
        assert!("anything goes: ümlaut".parse::<LeaseTag>().is_ok());
        assert!("line\nbreak".parse::<LeaseTag>().is_err());
        assert!("br0".parse::<NetworkName>().is_ok());
        for bad in ["", "..", "br/0", "a b", "sixteen-is-toolong"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad}");
        }
    }
}
