//! The `a{sv}` of a call: which keys there are, and the type of each.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use zbus::OwnedVariant;
use zbus::wire::{Signature, Type};

use super::{InvalidArgument, shortened};

/// Options as they come off the bus.
#[derive(Debug, Default)]
pub struct RawOptions {
    /// Sorted, so that of several mistakes the same one is always named.
    values: BTreeMap<String, OwnedVariant>,
    /// A key that came more than once. The bus lets it pass, and to take either value would ignore the other.
    twice: Option<String>,
}

impl RawOptions {
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }
}

impl FromIterator<(String, OwnedVariant)> for RawOptions {
    fn from_iter<I: IntoIterator<Item = (String, OwnedVariant)>>(entries: I) -> Self {
        let mut options = Self::default();
        for (key, value) in entries {
            if let Some(former) = options.values.insert(key.clone(), value) {
                drop(former);
                options.twice.get_or_insert(key);
            }
        }
        options
    }
}

impl Type for RawOptions {
    const SIGNATURE: &'static Signature = <BTreeMap<String, OwnedVariant>>::SIGNATURE;
}

impl<'de> Deserialize<'de> for RawOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = RawOptions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("options by their keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawOptions, A::Error> {
        std::iter::from_fn(|| map.next_entry().transpose()).collect()
    }
}

/// An option's key and the D-Bus signature that its value must have.
pub type Known = (&'static str, &'static str);

/// Options of which every key is known and every value has its type.
#[derive(Debug)]
pub struct Options(BTreeMap<String, OwnedVariant>);

impl Options {
    /// Refuses the first key that `method` does not know, and the first value of another type.
    pub fn check(method: &str, values: RawOptions, known: &[Known]) -> Result<Self, InvalidArgument> {
        if let Some(key) = &values.twice {
            return Err(InvalidArgument(format!("option {:?} of {method} is there twice", shortened(key))));
        }
        for (key, value) in &values.values {
            let Some((_, expected)) = known.iter().find(|(name, _)| name == key) else {
                let keys = known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                let key = shortened(key);
                return Err(InvalidArgument(format!("{method} has no option {key:?}; its options are {keys}")));
            };
            let signature = value.value_signature().to_string();
            if signature != *expected {
                let (is, must) = (in_words(&shortened(&signature)), in_words(expected));
                return Err(InvalidArgument(format!("option {key} of {method} has type {is}, it must be {must}")));
            }
        }
        Ok(Self(values.values))
    }

    /// The value of `key`, `None` where the caller did not give it.
    pub fn take<T>(&mut self, key: &'static str) -> Result<Option<T>, InvalidArgument>
    where
        T: TryFrom<OwnedVariant>,
    {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        // The signature was checked: this fails only if a table of known options and its reader disagree.
        T::try_from(value).map(Some).map_err(|_| InvalidArgument(format!("option {key} cannot be read")))
    }
}

/// A signature with what it means: `busctl` wants the letters, a person the words.
fn in_words(signature: &str) -> String {
    let meaning = match signature {
        "s" => "a text",
        "b" => "a boolean",
        "u" => "an unsigned number of 32 bits",
        "t" => "an unsigned number of 64 bits",
        "i" => "a signed number of 32 bits",
        "x" => "a signed number of 64 bits",
        "as" => "a list of texts",
        "ai" => "a list of signed numbers of 32 bits",
        "a(ssu)" => "a list of (text, text, unsigned number of 32 bits)",
        _ => return signature.into(),
    };
    format!("{signature} ({meaning})")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sent;
    use super::*;

    const KNOWN: &[Known] = &[("memory", "t"), ("args", "as")];

    #[test]
    fn refuses_by_name_and_says_what_there_is() {
        let message = Options::check("Deploy", sent([("memroy", 1u64.into())]), KNOWN).unwrap_err().to_string();
        assert_eq!(message, "Deploy has no option \"memroy\"; its options are memory, args");
        let message = Options::check("Deploy", sent([("memory", 1u32.into())]), KNOWN).unwrap_err().to_string();
        assert_eq!(
            message,
            "option memory of Deploy has type u (an unsigned number of 32 bits), it must be t (an unsigned number of 64 \
             bits)"
        );
    }

    #[test]
    fn refuses_what_is_there_twice() {
        let twice = sent([("memory", 1u64.into()), ("memory", 2u64.into())]);
        let message = Options::check("Deploy", twice, KNOWN).unwrap_err().to_string();
        assert_eq!(message, "option \"memory\" of Deploy is there twice");
    }

    #[test]
    fn gives_each_value_once() {
        let mut options =
            Options::check("Deploy", sent([("args", vec!["a", "b"].into()), ("memory", 5u64.into())]), KNOWN).unwrap();
        assert_eq!(options.take::<u64>("memory"), Ok(Some(5)));
        assert_eq!(options.take::<u64>("memory"), Ok(None));
        assert_eq!(options.take::<Vec<String>>("args"), Ok(Some(vec!["a".into(), "b".into()])));
    }
}
