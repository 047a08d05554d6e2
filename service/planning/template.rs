//! Argument templates: `{address}` and its kin, `{{` and `}}` for braces.

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

/// What may stand between braces.
pub const NAMES: [&str; 6] = ["address", "prefix-length", "gateway", "network", "id", "service"];

const PLACEHOLDERS: &str = "{address}, {prefix-length}, {gateway}, {network}, {id}, {service}";

/// Refuses what [`expand`] could not fill in, before anything else happens.
///
/// A message names the argument by its place and never repeats its text, which can be a secret.
pub fn check(arguments: &Arguments) -> Result<(), Error> {
    for (index, argument) in arguments.0.iter().enumerate() {
        if argument.contains('\0') {
            return Err(invalid(index, argument.find('\0'), "holds a NUL byte"));
        }
        parts(argument, index, |name| {
            let known = NAMES.contains(&name);
            known.then(String::new)
        })?;
    }
    Ok(())
}

/// The arguments as the unikernel gets them.
pub fn expand(arguments: &Arguments, values: &Values<'_>) -> Result<Arguments, Error> {
    let mut expanded = Vec::with_capacity(arguments.0.len());
    for (index, argument) in arguments.0.iter().enumerate() {
        if argument.contains("{gateway}") && values.gateway.is_none() {
            return Err(Error::InvalidArgument(format!(
                "args[{index}] uses {{gateway}}, but network {} has none: set gateway in [network.{}]",
                values.network, values.network
            )));
        }
        expanded.push(parts(argument, index, |name| value(name, values))?);
    }
    let length = expanded.iter().map(|argument| argument.len() + 1).sum::<usize>().saturating_sub(1);
    if length > GUEST_COMMAND_LINE {
        return Err(Error::InvalidArgument(format!(
            "args are {length} bytes when joined with spaces: a Solo5 tender takes {GUEST_COMMAND_LINE}"
        )));
    }
    Ok(Arguments(expanded))
}

fn value(name: &str, values: &Values<'_>) -> Option<String> {
    Some(match name {
        "address" => values.address.to_string(),
        "prefix-length" => values.prefix_length.to_string(),
        "gateway" => values.gateway?.to_string(),
        "network" => values.network.to_string(),
        "id" => values.id.to_string(),
        "service" => values.service.to_string(),
        _ => return None,
    })
}

fn parts(text: &str, index: usize, mut value: impl FnMut(&str) -> Option<String>) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let offset = text.len() - rest.len() + at;
        out.push_str(&rest[..at]);
        let brace = &rest[at..];
        if brace.starts_with("{{") || brace.starts_with("}}") {
            out.push_str(&brace[..1]);
            rest = &brace[2..];
        } else if let Some((name, after)) = brace.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            let filled = value(name).ok_or_else(|| {
                invalid(index, Some(offset), &format!("has a placeholder that is none of {PLACEHOLDERS}"))
            })?;
            out.push_str(&filled);
            rest = after;
        } else {
            return Err(invalid(index, Some(offset), "has a single brace: write {{ or }} for a brace"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn invalid(index: usize, offset: Option<usize>, what: &str) -> Error {
    Error::InvalidArgument(match offset {
        Some(offset) => format!("args[{index}] {what} (at byte {offset})"),
        None => format!("args[{index}] {what}"),
    })
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
}
