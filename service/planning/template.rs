//! Argument templates: `{address}` and its kin, `{NAME.address}` of other members in a stack, `{{` and `}}` for braces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::Error;
use crate::domain::{Arguments, NetworkName, ServiceName, UnikernelId};

/// What a tender accepts for all arguments joined with single spaces, in bytes.
const GUEST_COMMAND_LINE: usize = 8191;

/// What the placeholders stand for.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    pub address: IpAddr,
    pub prefix_length: u8,
    pub gateway: Option<IpAddr>,
    pub network: &'a NetworkName,
    pub id: &'a UnikernelId,
    pub service: &'a ServiceName,
}

/// Their names.
pub const PLACEHOLDERS: [&str; 6] = ["address", "prefix-length", "gateway", "network", "id", "service"];

/// How a stack's manifest writes the address of another member.
const OF_MEMBER: &str = "{NAME.address}";

/// Refuses what [`expand`] could not fill in, before anything else happens.
///
/// A message names the argument by its place and never repeats its text, which can be a secret.
pub fn check(arguments: &Arguments) -> Result<(), Error> {
    filled(arguments, |part| match part {
        Part::Placeholder(name) if !PLACEHOLDERS.contains(&name) => Err(unknown(&[])),
        _ => Ok(String::new()),
    })?;
    Ok(())
}

/// The members of a stack whose addresses `arguments` use. Refuses what [`check`] refuses, `{NAME.address}` aside.
pub fn members(arguments: &Arguments) -> Result<BTreeSet<ServiceName>, Error> {
    let mut members = BTreeSet::new();
    filled(arguments, |part| {
        if let Part::Placeholder(name) = part {
            let member = member(name);
            if member.is_none() && !PLACEHOLDERS.contains(&name) {
                return Err(unknown(&[OF_MEMBER]));
            }
            members.extend(member);
        }
        Ok(String::new())
    })?;
    Ok(members)
}

/// `arguments` with the addresses of other members in them, and all else as it was: still to be [`expand`]ed.
///
/// Fails where `address` knows no address of a member.
pub fn fill_members(
    arguments: &Arguments,
    address: impl Fn(&ServiceName) -> Option<IpAddr>,
) -> Result<Arguments, Error> {
    filled(arguments, |part| match part {
        Part::Brace(brace) => Ok(format!("{brace}{brace}")),
        Part::Placeholder(name) => match member(name) {
            Some(member) => {
                let known = address(&member).ok_or_else(|| format!("uses {{{member}.address}}, which is not known"))?;
                Ok(known.to_string())
            }
            None => Ok(format!("{{{name}}}")),
        },
    })
}

/// The arguments as the unikernel gets them.
pub fn expand(arguments: &Arguments, values: &Values<'_>) -> Result<Arguments, Error> {
    let expanded = filled(arguments, |part| match part {
        Part::Brace(brace) => Ok(brace.into()),
        Part::Placeholder(name) => value(name, values),
    })?;
    let length = expanded.0.iter().map(|argument| argument.len() + 1).sum::<usize>().saturating_sub(1);
    if length > GUEST_COMMAND_LINE {
        return Err(Error::InvalidArgument(format!(
            "args are {length} bytes when joined with spaces: a Solo5 tender takes {GUEST_COMMAND_LINE}"
        )));
    }
    Ok(expanded)
}

fn value(name: &str, values: &Values<'_>) -> Result<String, String> {
    let no_gateway = || {
        let network = values.network;
        format!("uses {{gateway}}, but network {network} has none: set gateway in [network.{network}]")
    };
    Ok(match name {
        "address" => values.address.to_string(),
        "prefix-length" => values.prefix_length.to_string(),
        "gateway" => values.gateway.ok_or_else(no_gateway)?.to_string(),
        "network" => values.network.to_string(),
        "id" => values.id.to_string(),
        "service" => values.service.to_string(),
        _ => return Err(unknown(&[])),
    })
}

/// The member that a placeholder is about. Names may hold dots: the last one parts them.
fn member(placeholder: &str) -> Option<ServiceName> {
    placeholder.strip_suffix(".address")?.parse().ok()
}

fn unknown(besides: &[&str]) -> String {
    let known = PLACEHOLDERS.iter().map(|name| format!("{{{name}}}"));
    let known = known.chain(besides.iter().map(|text| text.to_string())).collect::<Vec<_>>().join(", ");
    format!("has a placeholder that is none of {known}")
}

/// What a template has besides plain text.
enum Part<'a> {
    /// One that is written as two.
    Brace(char),
    /// What is between its braces.
    Placeholder(&'a str),
}

/// `arguments` with `value` in the place of each part; where it fails, it says what is wrong with that argument.
fn filled(
    arguments: &Arguments,
    mut value: impl FnMut(Part<'_>) -> Result<String, String>,
) -> Result<Arguments, Error> {
    let filled = arguments.0.iter().enumerate().map(|(index, argument)| {
        let invalid = |(at, what)| Error::InvalidArgument(format!("args[{index}] {what} (at byte {at})"));
        if let Some(at) = argument.find('\0') {
            return Err(invalid((at, "holds a NUL byte".into())));
        }
        parts(argument, &mut value).map_err(invalid)
    });
    filled.collect::<Result<_, _>>().map(Arguments)
}

fn parts(text: &str, value: &mut impl FnMut(Part<'_>) -> Result<String, String>) -> Result<String, (usize, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let offset = text.len() - rest.len() + at;
        out.push_str(&rest[..at]);
        let brace = &rest[at..];
        let (part, after) = if let Some(after) = brace.strip_prefix("{{") {
            (Part::Brace('{'), after)
        } else if let Some(after) = brace.strip_prefix("}}") {
            (Part::Brace('}'), after)
        } else if let Some((name, after)) = brace.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            (Part::Placeholder(name), after)
        } else {
            return Err((offset, "has a single brace: write {{ or }} for a brace".into()));
        };
        out.push_str(&value(part).map_err(|what| (offset, what))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Error> {
        let (network, service) = ("br0".parse().unwrap(), "web".parse().unwrap());
        let id = UnikernelId::new(&service, &[0; 32]);
        let values = Values {
            address: "10.0.0.7".parse().unwrap(),
            prefix_length: 24,
            gateway: None,
            network: &network,
            id: &id,
            service: &service,
        };
        let arguments = Arguments(vec![text.into()]);
        check(&arguments)?;
        Ok(expand(&arguments, &values)?.0.remove(0))
    }

    #[test]
    fn placeholders_and_braces() {
        assert_eq!(expanded("--ipv4={address}/{prefix-length}").unwrap(), "--ipv4=10.0.0.7/24");
        assert_eq!(expanded("{id}{service}{network}").unwrap(), "web.0000000000webbr0");
        assert_eq!(expanded(r#"{{"a": "ü{address}"}}"#).unwrap(), r#"{"a": "ü10.0.0.7"}"#);
        assert_eq!(expanded("").unwrap(), "");
    }

    #[test]
    fn what_is_wrong_and_where_but_never_the_text() {
        for (bad, says) in [
            ("secret{adress}", "at byte 6"),
            ("secret{", "at byte 6"),
            ("secret}", "at byte 6"),
            ("secret\0", "NUL"),
            ("secret{gateway}", "has none"),
            (&format!("secret{}", "x".repeat(8192)), "8191"),
        ] {
            let message = expanded(bad).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("args"), "{bad}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_doubled_brace_is_no_placeholder() {
        assert_eq!(expanded("{{gateway}}").unwrap(), "{gateway}");
    }

    fn members_of(text: &str) -> Result<Vec<String>, Error> {
        Ok(members(&Arguments(vec![text.into()]))?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn members_are_named_by_what_is_before_the_last_address() {
        assert_eq!(members_of("{b.address}{a.address}:{a.address}").unwrap(), ["a", "b"]);
        assert_eq!(
            members_of("{x.y.address}{x.address.address}{address.address}").unwrap(),
            ["address", "x.address", "x.y"]
        );
        assert_eq!(members_of("{address}{gateway}{{a.address}}").unwrap(), [""; 0]);
    }

    #[test]
    fn what_no_member_can_be_and_where_but_never_the_text() {
        for (bad, says) in [
            ("secret{adress}", "at byte 6"),
            ("secret{adress}", "{service}, {NAME.address} "),
            ("secret{.address}", "none of"),
            ("secret{A.address}", "none of"),
            ("secret{a.adress}", "none of"),
            ("secret{a.address", "single brace"),
            ("secret\0", "NUL"),
        ] {
            let message = members_of(bad).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("args[0]"), "{bad}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
        let message = expanded("{a.address}").unwrap_err().to_string();
        assert!(message.contains("none of") && !message.contains("NAME"), "{message}");
    }

    #[test]
    fn members_are_filled_in_and_nothing_else_is_touched() {
        let known = |member: &ServiceName| match member.as_str() {
            "a.b" => "10.0.0.9".parse().ok(),
            "six" => "fd00::9".parse().ok(),
            _ => None,
        };
        let fill = |text: &str| fill_members(&Arguments(vec!["{id}".into(), text.into()]), known);
        let text = |text: &str| fill(text).unwrap().0.remove(1);
        assert_eq!(text("{{{a.b.address}}}{address}}} {six.address}"), "{{10.0.0.9}}{address}}} fd00::9");
        assert_eq!(text("{{a.b.address}}"), "{{a.b.address}}");
        assert_eq!(text("ü {gateway}{nothing}"), "ü {gateway}{nothing}");
        let message = fill("x{c.address}").unwrap_err().to_string();
        assert!(message.contains("args[1]") && message.contains("{c.address}"), "{message}");
    }
}
