//! Where a registry may send who asks. Pure.

use serde::{Deserialize, Serialize};
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};

/// Bytes of an address: what CDNs sign is long.
const LONGEST: usize = 8192;

/// The hosts, as `HOST` or `HOST:PORT`, with whom plain HTTP may be spoken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Insecure(pub Vec<String>);

impl Insecure {
    /// A registry, as the image's name has it.
    pub(super) fn has(&self, registry: &str) -> bool {
        self.0.iter().any(|listed| listed.eq_ignore_ascii_case(registry))
    }

    /// The host of an address with plain HTTP: its port goes without saying.
    fn has_plain(&self, authority: &str) -> bool {
        let short = authority.strip_suffix(":80").unwrap_or(authority);
        self.has(short) || self.has(&format!("{short}:80"))
    }
}

/// The address that `location` means, seen from `from`. The way leads where there is no TLS only to who is `insecure`.
///
/// # Errors
/// In words, what is wrong with it. The address is not among them: it may hold a secret.
pub(super) fn target(from: &Uri, location: &str, insecure: &Insecure) -> Result<Uri, String> {
    if location.len() > LONGEST {
        return Err("to an address that is too long".into());
    }
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (from.scheme_str().unwrap_or_default(), from.authority().map(Authority::as_str));
    let text = match (location.split_once("://"), authority) {
        (Some((scheme, _)), _) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        (_, Some(authority)) if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => return Err("to what is no address".into()),
    };
    let uri: Uri = text.parse().map_err(|_| "to what is no address".to_owned())?;
    check(&uri, insecure)?;
    Ok(uri)
}

/// # Errors
/// In words, why nothing is asked there.
pub(super) fn check(uri: &Uri, insecure: &Insecure) -> Result<(), String> {
    let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
    match uri.scheme() {
        _ if authority.is_empty() || authority.contains('@') => Err("to what is no address".into()),
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(()),
        Some(scheme) if *scheme == Scheme::HTTP && insecure.has_plain(authority) => Ok(()),
        Some(scheme) if *scheme == Scheme::HTTP => Err(format!(
            "to {authority}, without TLS: where that is meant, add {authority} to images.insecure-registries in the configuration"
        )),
        _ => Err("to what is not on the web".into()),
    }
}

/// Whether both are asked over the same connection: what was said to the one may be said to the other.
pub(super) fn is_same_place(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_leads() {
        let from: Uri = "https://a.example:5000/v2/x".parse().unwrap();
        for (location, expected) in [
            ("/y?z", Ok("https://a.example:5000/y?z")),
            ("//b.example/y", Ok("https://b.example/y")),
            ("https://b.example/y?signed=1#part", Ok("https://b.example/y?signed=1")),
            ("/y?to=https://c.example", Ok("https://a.example:5000/y?to=https://c.example")),
            (
                "http://b.example/y",
                Err(
                    "to b.example, without TLS: where that is meant, add b.example to images.insecure-registries in the configuration",
                ),
            ),
            ("https://user:word@b.example/", Err("to what is no address")),
            ("file:///etc/passwd", Err("to what is no address")),
            ("ftp://b.example/", Err("to what is not on the web")),
            ("y", Err("to what is no address")),
            ("", Err("to what is no address")),
            ("/\u{1}", Err("to what is no address")),
        ] {
            let found = target(&from, location, &Insecure::default()).map(|uri| uri.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{location}");
        }
        assert!(target(&from, &format!("/{}", "x".repeat(9000)), &Insecure::default()).is_err());
    }

    #[test]
    fn without_tls_only_to_who_is_listed() {
        let from: Uri = "http://a.example:5000/v2/x".parse().unwrap();
        let insecure = Insecure(["a.example:5000", "b.example", "c.example:80", "[::1]:5000"].map(String::from).into());
        for (location, good) in [
            ("/y", true),
            ("//A.example:5000/y", true),
            ("//a.example/y", false),
            ("http://a.example:5001/y", false),
            ("http://b.example/y", true),
            ("http://b.example:80/y", true),
            ("http://b.example:5000/y", false),
            ("http://c.example/y", true),
            ("http://[::1]:5000/y", true),
            ("http://d.example/y", false),
            ("http://b.example.d.example/y", false),
            ("https://d.example/y", true),
        ] {
            assert_eq!(target(&from, location, &insecure).is_ok(), good, "{location}");
        }
    }

    #[test]
    fn the_same_place_has_the_same_port_and_scheme() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert!(is_same_place(&uri("http://a:1/x"), &uri("http://A:1/y")));
        for other in ["http://a:2/", "https://a:1/", "http://b:1/", "http://a/"] {
            assert!(!is_same_place(&uri("http://a:1/"), &uri(other)), "{other}");
        }
    }
}
