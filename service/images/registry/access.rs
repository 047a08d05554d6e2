//! Whom a registry lets in: the file that Docker and Podman share, containers-auth.json(5). Pure.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Who a registry is told that we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Nobody whom it would know.
    Anyone,
    /// Somebody whom only a program knows that is not run here: its name.
    Helper(String),
    Known(Credential),
}

/// Never shown: it is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// What a registry's token server has given for a password.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// What is wrong with the file. It does not repeat what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("line {line}, column {column} is not as it should be")]
    Form { line: usize, column: usize },
    #[error("the entry {0:?} has an auth that is not USER:PASSWORD in base64")]
    Entry(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

/// The entry of `file` for an image, the one that says most of its name; nobody where there is none.
///
/// # Errors
/// [`Wrong`], for a file that is not as it should be, or the entry that is meant.
pub fn of_file(file: &[u8], registry: &str, repository: &str) -> Result<Access, Wrong> {
    // The error's own text would repeat what stands in the file.
    let file: File =
        serde_json::from_slice(file).map_err(|error| Wrong::Form { line: error.line(), column: error.column() })?;
    let host = normal(registry);
    for name in prefixes(&format!("{host}/{repository}")) {
        for (key, entry) in file.auths.iter().filter(|(key, _)| normal(key) == name) {
            if let Some(credential) = entry.credential().ok_or_else(|| Wrong::Entry(key.clone()))? {
                return Ok(Access::Known(credential));
            }
        }
    }
    let helper = file.cred_helpers.iter().find(|(key, _)| normal(key) == host).map(|(_, helper)| helper);
    Ok(helper.or(file.creds_store.as_ref()).cloned().map_or(Access::Anyone, Access::Helper))
}

impl Entry {
    /// None where it is broken; none in it where it has none, as Docker leaves it for what a helper knows.
    fn credential(&self) -> Option<Option<Credential>> {
        if let Some(token) = self.identity_token.as_ref().filter(|token| !token.is_empty()) {
            return Some(Some(Credential::IdentityToken(token.clone())));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) else { return Some(None) };
        let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        // Docker pads with zero bytes.
        let (user, password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
        Some(Some(Credential::Password { user, password }))
    }
}

/// Docker writes `https://index.docker.io/v1/` where others write `docker.io`.
fn normal(key: &str) -> String {
    let key = key.to_ascii_lowercase();
    let rest = key.split_once("://").map_or(key.as_str(), |(_, rest)| rest).trim_end_matches('/');
    let rest = rest.strip_suffix("/v1").or(rest.strip_suffix("/v2")).unwrap_or(rest);
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

/// The whole name first, the host alone last.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.rsplit_once('/').map(|(rest, _)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(user: &str, password: &str) -> Access {
        Access::Known(Credential::Password { user: user.into(), password: password.into() })
    }

    fn file(auths: &str) -> String {
        format!(r#"{{"auths": {{{auths}}}, "unknown": 1}}"#)
    }

    fn auth(key: &str, text: &str) -> String {
        format!(r#""{key}": {{"auth": "{}"}}"#, STANDARD.encode(text))
    }

    #[test]
    fn the_entry_that_says_most() {
        let only =
            |key: &str, repository: &str| of_file(file(&auth(key, "u:p")).as_bytes(), "r.example:5000", repository);
        assert_eq!(only("r.example:5000", "a/b"), Ok(known("u", "p")));
        assert_eq!(only("r.example:5000/a", "a/b"), Ok(known("u", "p")));
        assert_eq!(only("r.example:5000/a", "ab"), Ok(Access::Anyone));
        assert_eq!(only("r.example:5000/a/b/c", "a/b"), Ok(Access::Anyone));
        assert_eq!(only("r.example", "a/b"), Ok(Access::Anyone));
        let both = file(&[auth("r.example:5000/a", "deep:1"), auth("r.example:5000", "host:2")].join(","));
        assert_eq!(of_file(both.as_bytes(), "r.example:5000", "a/b"), Ok(known("deep", "1")));
        assert_eq!(of_file(both.as_bytes(), "r.example:5000", "b"), Ok(known("host", "2")));
    }

    #[test]
    fn as_docker_writes_them() {
        for key in ["https://index.docker.io/v1/", "docker.io", "index.docker.io"] {
            assert_eq!(
                of_file(file(&auth(key, "u:p")).as_bytes(), "docker.io", "library/x"),
                Ok(known("u", "p")),
                "{key}"
            );
        }
        let padded = file(&auth("a.example", "u:p:q\0\0"));
        assert_eq!(of_file(padded.as_bytes(), "a.example", "x"), Ok(known("u", "p:q")));
        let token = r#"{"auths": {"a.example": {"auth": "", "identitytoken": "t"}}}"#;
        let expected = Access::Known(Credential::IdentityToken("t".into()));
        assert_eq!(of_file(token.as_bytes(), "a.example", "x"), Ok(expected));
        let helper = r#"{"auths": {"a.example": {}}, "credHelpers": {"a.example": "desktop"}}"#;
        assert_eq!(of_file(helper.as_bytes(), "a.example", "x"), Ok(Access::Helper("desktop".into())));
        assert_eq!(of_file(helper.as_bytes(), "b.example", "x"), Ok(Access::Anyone));
        let store = r#"{"auths": {"a.example": {}}, "credsStore": "secretservice"}"#;
        assert_eq!(of_file(store.as_bytes(), "a.example", "x"), Ok(Access::Helper("secretservice".into())));
        assert_eq!(of_file(b"{}", "a.example", "x"), Ok(Access::Anyone));
    }

    #[test]
    fn what_is_wrong_is_not_repeated() {
        for text in
            ["", "5", "{\"auths\": {\"a.example\": \"hunter2\"}}", "{\"auths\": 5}", "{\"auths\": {\"a.example\":"]
        {
            let wrong = of_file(text.as_bytes(), "a.example", "x").unwrap_err();
            assert!(matches!(wrong, Wrong::Form { .. }), "{text}");
            assert!(!wrong.to_string().contains("hunter2"));
        }
        for bad in ["hunter2", "aHVudGVyMg==", "/w=="] {
            let text = format!(r#"{{"auths": {{"a.example": {{"auth": "{bad}"}}}}}}"#);
            assert_eq!(of_file(text.as_bytes(), "a.example", "x"), Err(Wrong::Entry("a.example".into())), "{bad}");
            // What is broken for others does not matter.
            assert_eq!(of_file(text.as_bytes(), "b.example", "x"), Ok(Access::Anyone));
        }
        assert_eq!(format!("{:?}", known("me", "hunter2")), "Known(Credential)");
    }
}
