//! When a unikernel counts as ready, and how often it is asked again while it is live.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};

use super::{ConsolePattern, InvalidPattern, port_range};

/// When a unikernel counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// Albatross runs it, and still does after it had the time to fail on its arguments.
    #[default]
    Running,
    /// Something accepts on this port.
    Tcp { port: u16 },
    /// The answer to a GET has an accepted status.
    Http(HttpRule),
    /// A line that it has printed since it was started.
    Console(ConsolePattern),
}

impl Readiness {
    /// Whether the rule can be asked again at any time. That a unikernel has started and what it has printed are events.
    pub fn is_repeatable(&self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Http(_))
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Http(rule) => rule.fmt(f),
            Self::Console(pattern) => write!(f, "console:{pattern}"),
        }
    }
}

/// A GET over HTTP, and which answers mean ready. The request goes to the unikernel's own address, whatever `host` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRule {
    pub port: u16,
    /// With the query, beginning with `/`. Parsed, it is one that a request can have; out of a ledger that another version
    /// wrote it need not be.
    pub path: String,
    /// The virtual host that is asked for; `None`: the unikernel's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    #[serde(default, skip_serializing_if = "Statuses::is_default")]
    pub statuses: Statuses,
}

impl HttpRule {
    /// Any 2xx or 3xx answer to a GET of `path`.
    pub fn new(port: u16, path: impl Into<String>) -> Self {
        Self { port, path: path.into(), host: None, statuses: Statuses::default() }
    }
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "http://{host}:{}{}", self.port, self.path)?,
            None => write!(f, "http:{}{}", self.port, self.path)?,
        }
        if self.statuses.is_default() { Ok(()) } else { write!(f, "{STATUS}{}", self.statuses) }
    }
}

/// A host as the `Host` header has it: a name, an IPv4 address, or an IPv6 address in brackets.
///
/// Of RFC 3986's reg-name only what DNS and hosts files use: letters, digits, `-`, `.` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// The longest name in DNS (RFC 1035, 2.3.4), as text.
const MAX_HOST: usize = 253;

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let literal = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_name = || text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let valid = match literal {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => (1..=MAX_HOST).contains(&text.len()) && is_name(),
        };
        if valid { Ok(Self(text)) } else { Err("HOST is a name of letters, digits, '-', '.' and '_', or an address") }
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> Self {
        host.0
    }
}

/// HTTP statuses that mean ready, as ranges with both ends in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Statuses(Vec<(u16, u16)>);

/// Ranges that one rule may list; what is longer is a mistake.
const MAX_RANGES: usize = 32;

impl Statuses {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&status))
    }

    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Statuses {
    /// 2xx and 3xx: a redirect is an answer of one that works.
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

impl FromStr for Statuses {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "statuses are a list such as 200-299,401, each of 200 to 599 (1xx is no final answer)";
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|status| digits && (200..=599).contains(status))
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some((status(first)?, status(last)?)).filter(|(first, last)| first <= last)
        };
        let ranges = text.split(',').take(MAX_RANGES + 1).map(range).collect::<Option<Vec<_>>>();
        ranges.filter(|ranges| ranges.len() <= MAX_RANGES).map(Self).ok_or(FORM)
    }
}

impl TryFrom<String> for Statuses {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Statuses> for String {
    fn from(statuses: Statuses) -> Self {
        statuses.to_string()
    }
}

/// How a live unikernel is asked whether its readiness rule still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// From the end of one check to the next one.
    pub interval: Duration,
    /// So many in a row that fail are no coincidence.
    pub failures: NonZeroU32,
}

/// What an HTTP rule's statuses begin with. Only the last part of a rule can be this: a path that has these characters
/// itself writes `%3Bstatus=`.
const STATUS: &str = ";status=";

/// Bytes of a path with its query.
const MAX_PATH: usize = 1024;

const RULES: &str = "write running, tcp:PORT, http:PORT/PATH or http://HOST:PORT/PATH with a port of 1 to 65535 and, where \
     other answers than 200-399 are meant, ;status=200-299,401 behind; or console:REGEX";

/// A readiness rule that cannot be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a readiness rule: {1}")]
pub struct InvalidReadiness(String, String);

impl FromStr for Readiness {
    type Err = InvalidReadiness;

    fn from_str(text: &str) -> Result<Self, InvalidReadiness> {
        let invalid = |why: String| InvalidReadiness(text.chars().take(120).collect(), why);
        if text == "running" {
            return Ok(Self::Running);
        }
        if let Some(port) = text.strip_prefix("tcp:") {
            return Ok(Self::Tcp { port: port_number(port).map_err(|why| invalid(why.into()))? });
        }
        if let Some(pattern) = text.strip_prefix("console:") {
            return pattern.parse().map(Self::Console).map_err(|error: InvalidPattern| invalid(error.to_string()));
        }
        let rule = text.strip_prefix("http:").ok_or(RULES).and_then(http_rule);
        rule.map(Self::Http).map_err(|why| invalid(why.into()))
    }
}

fn port_number(text: &str) -> Result<u16, &'static str> {
    port_range::port(text).ok_or(RULES)
}

/// The rule that stands behind `http:`.
fn http_rule(text: &str) -> Result<HttpRule, &'static str> {
    let (target, statuses) = match text.rsplit_once(STATUS) {
        Some((target, list)) => (target, list.parse()?),
        None => (text, Statuses::default()),
    };
    if target.contains(STATUS) {
        return Err(";status= is there twice: in a path it is written %3Bstatus=");
    }
    let (host, rest) = match target.strip_prefix("//") {
        Some(rest) => {
            let (host, rest) = host_and_rest(rest)?;
            (Some(host), rest)
        }
        None => (None, target),
    };
    let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    Ok(HttpRule { port: port_number(port)?, path: checked_path(path)?.into(), host, statuses })
}

/// `HOST`, and `PORT/PATH`.
fn host_and_rest(text: &str) -> Result<(HostName, &str), &'static str> {
    let authority = text.split('/').next().unwrap_or_default();
    let (host, _) = authority.rsplit_once(':').ok_or(RULES)?;
    let rest = text.get(host.len() + 1..).ok_or(RULES)?;
    Ok((HostName::try_from(host.to_owned())?, rest))
}

/// The path, checked: it goes into a request line as it is: nothing in it may end the line or the word, and a fragment is never sent.
fn checked_path(path: &str) -> Result<&str, &'static str> {
    let is_word = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.len() > MAX_PATH || !is_word || path.parse::<PathAndQuery>().is_err() {
        return Err("PATH is at most 1024 characters of a URI, without a fragment: others are written %XX");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> HttpRule {
        match text.parse() {
            Ok(Readiness::Http(rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn rules() {
        assert_eq!("running".parse(), Ok(Readiness::Running));
        assert_eq!("tcp:80".parse(), Ok(Readiness::Tcp { port: 80 }));
        assert_eq!("console:^up: .*".parse(), Ok(Readiness::Console("^up: .*".parse().unwrap())));
        assert_eq!(http("http:80/a?b"), HttpRule::new(80, "/a?b"));
        assert_eq!(http("http:80"), HttpRule::new(80, "/"));
        assert_eq!(http("http:80/a;b=c"), HttpRule::new(80, "/a;b=c"));
        for bad in [
            "",
            "ready",
            "tcp:0",
            "tcp:",
            "tcp:65536",
            "tcp:+80",
            "http:80/a b",
            "http:80/a\r\nHost: x",
            "http:80/a#b",
            "http:80?x",
            "http:80/ä",
            "http:+80/",
            "console",
            "console:",
            "console:[",
        ] {
            assert!(bad.parse::<Readiness>().is_err(), "{bad}");
        }
        assert!(format!("http:80/{}", "x".repeat(MAX_PATH)).parse::<Readiness>().is_err());
        let message = "console:a(".parse::<Readiness>().unwrap_err().to_string();
        assert!(message.contains("console:a(") && message.contains("unclosed group"), "{message}");
    }

    #[test]
    fn virtual_hosts() {
        let host = |text: &str| {
            let rule = http(text);
            (rule.host.unwrap().to_string(), rule.port, rule.path)
        };
        assert_eq!(host("http://www.example.org:8080/a"), ("www.example.org".into(), 8080, "/a".into()));
        assert_eq!(host("http://web_1:80"), ("web_1".into(), 80, "/".into()));
        assert_eq!(host("http://[fd00::1]:80/x:y"), ("[fd00::1]".into(), 80, "/x:y".into()));
        for bad in [
            "http://",
            "http:///",
            "http://:80/",
            "http://a/",
            "http://a:/",
            "http://a:0/",
            "http://a:80:80/",
            "http://u@a:80/",
            "http://a b:80/",
            "http://a\r\nX:80/",
            "http://a%0d:80/",
            "http://ä:80/",
            "http://a?:80/",
            "http://fd00::1:80/",
            "http://[fd00::1]/",
            "http://[fe80::1%eth0]:80/",
            "http://[a]:80/",
            "http://[:80/",
        ] {
            assert!(bad.parse::<Readiness>().is_err(), "{bad}");
        }
        assert!(format!("http://{}:80/", "a".repeat(MAX_HOST + 1)).parse::<Readiness>().is_err());
    }

    #[test]
    fn accepted_statuses() {
        let accepts = |text: &str, status| http(text).statuses.contains(status);
        assert!(accepts("http:80/", 200) && accepts("http:80/", 399));
        assert!(!accepts("http:80/", 199) && !accepts("http:80/", 400));
        for text in ["http:80/a;b;status=200-299,401", "http://x:80/;status=200-299,401", "http:80;status=200-299,401"]
        {
            let accepted = (200..600).filter(|&status| accepts(text, status)).collect::<Vec<_>>();
            assert_eq!(accepted, (200..300).chain([401]).collect::<Vec<_>>(), "{text}");
        }
        assert_eq!(http("http:80/a;b;status=401").path, "/a;b");
        assert_eq!(http("http:80/a%3Bstatus=1").path, "/a%3Bstatus=1");
        for bad in ["", "20", "1000", "199", "600", "100-200", "300-200", "200,", "200-", "+20", "2xx", "200 ", "200/a"]
        {
            assert!(format!("http:80/;status={bad}").parse::<Readiness>().is_err(), "{bad}");
        }
        assert!("http:80/;status=200;status=401".parse::<Readiness>().is_err());
        assert!(format!("http:80/;status={}", vec!["200"; MAX_RANGES + 1].join(",")).parse::<Readiness>().is_err());
    }

    #[test]
    fn written_rules_are_read_again() {
        for text in [
            "running",
            "tcp:25",
            "http:80/",
            "http://a.example:8080/b;status=204,400-404",
            "console:^up",
            "http:1/;status=503",
        ] {
            assert_eq!(text.parse::<Readiness>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_ledgers_form_only_grows() {
        let form = r#"{"http":{"port":80,"path":"/"}}"#;
        let rule = Readiness::Http(HttpRule::new(80, "/"));
        assert_eq!(serde_json::to_string(&rule).unwrap(), form);
        assert_eq!(serde_json::from_str::<Readiness>(form).unwrap(), rule);
        let form = r#"{"http":{"port":80,"path":"/","host":"a.example","statuses":"200,400-404"}}"#;
        let rule = "http://a.example:80/;status=200,400-404".parse::<Readiness>().unwrap();
        assert_eq!(serde_json::to_string(&rule).unwrap(), form);
        assert_eq!(serde_json::from_str::<Readiness>(form).unwrap(), rule);
        let check = Check { interval: Duration::from_secs(1), failures: NonZeroU32::new(3).unwrap() };
        let check_form = r#"{"interval":{"secs":1,"nanos":0},"failures":3}"#;
        assert_eq!(serde_json::to_string(&check).unwrap(), check_form);
        assert_eq!(serde_json::from_str::<Check>(check_form).unwrap(), check);
        assert!(serde_json::from_str::<Readiness>(&form.replace("a.example", "a\\r\\nX: y")).is_err());
    }
}
