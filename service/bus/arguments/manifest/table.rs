//! A table of the manifest: which keys it has, of which types, and where they stand.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue, Deserializer};

use super::super::options::Known;
use super::super::refusal::Refusal;
use super::super::shortened;
use super::place::Fault;

/// Keys and values of the manifest's head or of one member. No `Debug`: the arguments can hold secrets.
pub(super) struct Table<'a> {
    /// What it is called in messages.
    pub(super) what: &'static str,
    /// Where it begins.
    pub(super) offset: usize,
    pub(super) entries: DeTable<'a>,
}

impl<'a> Table<'a> {
    /// Refuses the first key that is not known or has a value of another type than its D-Bus signature says.
    pub(super) fn check(&self, known: &[Known]) -> Result<(), Fault> {
        let mut entries = self.entries.iter().collect::<Vec<_>>();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let Some((_, signature)) = known.iter().find(|(known, _)| *known == name) else {
                let (what, key_offset, name) = (self.what, key.span().start, shortened(name));
                let keys = known.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
                return Err(Fault::new(key_offset, format!("{what} has no key {name:?}; its keys are {keys}")));
            };
            fits(name, value, signature, false)?;
        }
        Ok(())
    }

    /// Takes the values of `defaults` for keys that this table does not have. Each keeps its place.
    pub(super) fn fill_in(&mut self, defaults: DeTable<'a>) {
        for (key, value) in defaults {
            if !self.entries.contains_key(key.get_ref().as_ref()) {
                self.entries.insert(key, value);
            }
        }
    }

    /// What it says of the keys that `T` has. It has to be checked.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let table = Spanned::new(self.offset..self.offset, self.entries.clone());
        // Not with serde's own words, which quote the value: an argument can be a secret. The types were checked; this
        // fails only if a table of known keys and its reader disagree.
        T::deserialize(Deserializer::from(table))
            .map_err(|error| Fault::new(error.span().map_or(self.offset, |span| span.start), "this cannot be read"))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key)?.get_ref().as_str()
    }

    /// The digits of a whole number, as they are written.
    pub(super) fn number(&self, key: &str) -> Option<&str> {
        Some(self.entries.get(key)?.get_ref().as_integer()?.as_str())
    }

    /// Where the value of a key stands, or an entry of it.
    pub(super) fn offset_of(&self, key: &str, entry: Option<usize>) -> usize {
        let Some(value) = self.entries.get(key) else { return self.offset };
        let entries = value.get_ref().as_array();
        let entry = entries.zip(entry).and_then(|(entries, at)| entries.get(at));
        entry.unwrap_or(value).span().start
    }

    pub(super) fn fault(&self, refusal: Refusal) -> Fault {
        Fault { offset: self.offset_of(refusal.option, refusal.entry), reason: refusal.reason }
    }
}

/// Whether a value has the type of a D-Bus signature; in a list, the entry that has not is shown.
pub(super) fn fits(key: &str, value: &Spanned<DeValue<'_>>, signature: &str, within: bool) -> Result<(), Fault> {
    let wrong = |what: &str| {
        let expected = in_words(signature);
        let (is, must) = if within { ("has", "an entry must be") } else { ("is", "it must be") };
        Err(Fault::new(value.span().start, format!("{key} {is} {what}, {must} {expected}")))
    };
    let elements = signature.strip_prefix('a');
    let parts = signature.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    match (value.get_ref(), elements, parts) {
        (DeValue::Array(list), Some(element), _) => list.iter().try_for_each(|value| fits(key, value, element, true)),
        (DeValue::Array(list), _, Some(parts)) if list.len() == parts.len() => {
            list.iter().zip(parts.split("").skip(1)).try_for_each(|(value, part)| fits(key, value, part, true))
        }
        // TOML can write it; D-Bus, through which a text may go out again, cannot.
        (DeValue::String(text), ..) if signature == "s" && text.contains('\0') => wrong("a text with a NUL character"),
        (DeValue::String(_), ..) if signature == "s" => Ok(()),
        (DeValue::Integer(number), ..) if ["t", "u", "i"].contains(&signature) => {
            if in_range(number, signature) {
                Ok(())
            } else {
                wrong("a number that is too small or too large")
            }
        }
        (other, ..) => wrong(kind(other)),
    }
}

fn in_range(number: &DeInteger<'_>, signature: &str) -> bool {
    let (digits, radix) = (number.as_str(), number.radix());
    match signature {
        "t" => u64::from_str_radix(digits, radix).is_ok(),
        "u" => u32::from_str_radix(digits, radix).is_ok(),
        _ => i32::from_str_radix(digits, radix).is_ok(),
    }
}

/// What a value is, never the value itself.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn in_words(signature: &str) -> &str {
    match signature {
        "s" => "a text",
        "t" => "a whole number from 0 on",
        "u" => "a whole number from 0 to 4294967295",
        "i" => "a whole number from -2147483648 to 2147483647",
        "as" => "a list of texts",
        "ai" => "a list of whole numbers",
        "(ssu)" => "a list of two texts and a whole number",
        "a(ssu)" => "a list of lists of two texts and a whole number",
        other => other,
    }
}
