//! How a registry says what it wants to hear from who asks (RFC 7235, and the distribution specification). Pure.

/// What it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token that is to be had at `realm`.
    Bearer { realm: String, service: Option<String> },
}

/// Those of one `WWW-Authenticate` that are understood; what is not understood is passed over.
pub(super) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut open: Option<Raw> = None;
    for word in words(header) {
        match word.split_once('=') {
            // The first parameter stands behind the scheme: `Bearer realm=...`.
            Some((key, value)) => {
                let (scheme, key) = key.trim().rsplit_once(' ').map_or((None, key.trim()), |(s, k)| (Some(s), k));
                if let Some(scheme) = scheme {
                    found.extend(open.replace(Raw::new(scheme)).and_then(Raw::finish));
                }
                if let Some(open) = &mut open {
                    open.set(key, unquoted(value.trim()));
                }
            }
            None if word.trim().is_empty() => {}
            None => found.extend(open.replace(Raw::new(&word)).and_then(Raw::finish)),
        }
    }
    found.extend(open.and_then(Raw::finish));
    found
}

#[derive(Default)]
struct Raw {
    scheme: String,
    realm: Option<String>,
    service: Option<String>,
}

impl Raw {
    fn new(scheme: &str) -> Self {
        Self { scheme: scheme.trim().to_ascii_lowercase(), ..Self::default() }
    }

    fn set(&mut self, key: &str, value: String) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => self.realm = Some(value),
            "service" => self.service = Some(value),
            _ => {}
        }
    }

    fn finish(self) -> Option<Challenge> {
        match (self.scheme.as_str(), self.realm) {
            ("basic", _) => Some(Challenge::Basic),
            ("bearer", Some(realm)) => Some(Challenge::Bearer { realm, service: self.service }),
            _ => None,
        }
    }
}

/// What stands between commas, those inside of quotes aside.
fn words(header: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in header.chars() {
        match c {
            ',' if !quoted => words.push(String::new()),
            _ => words.iter_mut().last().into_iter().for_each(|word| word.push(c)),
        }
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
    }
    words
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let mut escaped = false;
    let keep = |c: &char| {
        escaped = *c == '\\' && !escaped;
        !escaped
    };
    inner.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) }
    }

    #[test]
    fn as_registries_write_them() {
        for (header, expected) in [
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"))],
            ),
            (r#"bearer service=a, realm="b c\"d""#, vec![bearer("b c\"d", Some("a"))]),
            (r#"Negotiate, Basic realm="a, b", Bearer realm="c""#, vec![Challenge::Basic, bearer("c", None)]),
            (r#"Bearer service="nowhere""#, vec![]),
            ("", vec![]),
            (",,=,\"", vec![]),
        ] {
            assert_eq!(challenges(header), expected, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_comes_ends_it(header in "[ -~]{0,80}") {
            challenges(&header);
        }
    }
}
