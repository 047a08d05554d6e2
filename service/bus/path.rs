//! Object paths: pure.

use zbus::{ObjectPath, OwnedObjectPath};

use crate::domain::{JobNumber, ServiceName, StackName, UnikernelId};

/// Where the Manager and the ObjectManager are.
pub const ROOT: &str = "/org/albatross/Deployer1";

pub fn unikernel(id: &UnikernelId) -> OwnedObjectPath {
    path("unikernel", &escape(id.as_str()))
}

pub fn service(name: &ServiceName) -> OwnedObjectPath {
    path("service", &escape(name.as_str()))
}

pub fn stack(name: &StackName) -> OwnedObjectPath {
    path("stack", &escape(name.as_str()))
}

pub fn job(number: JobNumber) -> OwnedObjectPath {
    path("job", &format!("_{number}"))
}

/// The bus has no null path: `/` says that there is nothing.
pub fn unikernel_or_none(id: Option<&UnikernelId>) -> OwnedObjectPath {
    id.map_or_else(|| ObjectPath::from_static_str_unchecked("/").into(), unikernel)
}

fn path(kind: &str, element: &str) -> OwnedObjectPath {
    // Valid whatever the element was: escaping leaves letters, digits and '_', and never nothing.
    ObjectPath::from_string_unchecked(format!("{ROOT}/{kind}/{element}")).into()
}

/// systemd's `bus_label_escape`: `_` and two hex digits in lower case for what is not a letter or a digit, and for a
/// digit at the beginning as well; `_` alone for the empty text.
fn escape(text: &str) -> String {
    if text.is_empty() {
        return "_".into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for (index, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("_{byte:02x}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_systemd_does() {
        // The cases of systemd's own test of bus_label_escape.
        for (text, escaped) in
            [("", "_"), ("a", "a"), ("1", "_31"), (".", "_2e"), ("foo123bar", "foo123bar"), ("foo.bar", "foo_2ebar")]
        {
            assert_eq!(escape(text), escaped);
        }
        assert_eq!(escape("2foo-ü_"), "_32foo_2d_c3_bc_5f");
    }

    #[test]
    fn paths_are_valid_and_different_for_different_things() {
        let id: UnikernelId = "0.web-site.0123456789".parse().unwrap();
        assert_eq!(unikernel(&id).as_str(), "/org/albatross/Deployer1/unikernel/_30_2eweb_2dsite_2e0123456789");
        assert_eq!(service(&id.service()).as_str(), "/org/albatross/Deployer1/service/_30_2eweb_2dsite");
        assert_eq!(stack(&"mail.2".parse().unwrap()).as_str(), "/org/albatross/Deployer1/stack/mail_2e2");
        assert_eq!(job(JobNumber(7)).as_str(), "/org/albatross/Deployer1/job/_7");
        assert_eq!(unikernel_or_none(None).as_str(), "/");
        for path in [unikernel(&id), service(&id.service()), job(JobNumber(u64::MAX))] {
            assert!(ObjectPath::try_from(path.as_str()).is_ok(), "{path}");
        }
    }
}
