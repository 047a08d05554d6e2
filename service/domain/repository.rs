//! Git repositories: their URLs, and what is named in them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::container::{is_authority, is_lower_hex, is_plain_path};
use super::names::{InvalidName, checked_name};

/// What a branch or tag may be called, or a commit: what git-check-ref-format(1) allows, and no option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitRef(String);

checked_name!(
    GitRef,
    "Git reference",
    "a branch, tag or commit: 1 to 255 bytes, not beginning with '-', and none that git-check-ref-format(1) refuses",
    is_reference
);

impl GitRef {
    /// The commit that it is, and so always will be.
    pub fn commit(&self) -> Option<CommitId> {
        self.0.parse().ok()
    }
}

/// A commit's whole name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

checked_name!(CommitId, "commit", "40 hexadecimal digits in lower case", |text| text.len() == 40 && is_lower_hex(text));

/// A file of a repository, e.g. `mirage/config.ml`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryPath(String);

checked_name!(
    RepositoryPath,
    "path in the repository",
    "relative to its root, less than 1024 bytes of a-z, A-Z, 0-9, '.', '_', '-', '+', '@' and '/', without '.', '..', and names that begin with '-'",
    is_plain_path
);

impl RepositoryPath {
    /// The folder that it is in, relative to the root, `None` for the root; and its name there.
    pub fn split(&self) -> (Option<&str>, &str) {
        self.0.rsplit_once('/').map_or((None, &self.0), |(folder, name)| (Some(folder), name))
    }
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GitTransport {
    Https,
    Ssh,
    /// A path of the host, opened with the caller's rights.
    File,
}

impl GitTransport {
    const ALL: [Self; 3] = [Self::Https, Self::Ssh, Self::File];

    /// The URL's scheme, and what Git calls the protocol.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
            Self::File => "file",
        }
    }
}

/// The URL of a repository, without the `git+`. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitUrl {
    transport: GitTransport,
    text: String,
}

impl GitUrl {
    pub fn transport(&self) -> GitTransport {
        self.transport
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where it is on this host.
    pub fn path(&self) -> Option<&Path> {
        (self.transport == GitTransport::File).then(|| self.text.strip_prefix("file://").map(Path::new)).flatten()
    }
}

/// Why a `git+` image was refused. A URL that may hold a password is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRepository {
    #[error("an image out of Git is git+https://, git+ssh:// or git+file:///")]
    Scheme,
    #[error(
        "the URL of a git+ image holds a user or a password, which would be kept and shown with it: take them out, and let \
         the service have the access"
    )]
    Credentials,
    #[error("{0:?} is no host, or no port of it: a repository's URL is git+https://HOST[:PORT]/PATH#REF")]
    Host(String),
    #[error(
        "the path of a git+ image is not valid: it begins with '/', is less than 2048 bytes long, and has no '?', '\\', \
         control characters, '.' and '..'{0}"
    )]
    Path(&'static str),
    #[error(transparent)]
    Reference(#[from] InvalidName),
}

impl FromStr for GitUrl {
    type Err = InvalidRepository;

    fn from_str(text: &str) -> Result<Self, InvalidRepository> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidRepository::Scheme)?;
        let transport = GitTransport::ALL.into_iter().find(|transport| transport.scheme() == scheme);
        let transport = transport.ok_or(InvalidRepository::Scheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_authority(transport, authority)?;
        check_path(transport, path)?;
        Ok(Self { transport, text: text.into() })
    }
}

fn check_authority(transport: GitTransport, authority: &str) -> Result<(), InvalidRepository> {
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    // The user of SSH is no secret, and is who the key is for.
    let plain = |user: &str| {
        !user.starts_with('-')
            && !user.is_empty()
            && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    match (transport, user) {
        (_, None) => {}
        (GitTransport::Ssh, Some(user)) if plain(user) => {}
        _ => return Err(InvalidRepository::Credentials),
    }
    let valid = if transport == GitTransport::File { host.is_empty() } else { is_authority(host) };
    if valid { Ok(()) } else { Err(InvalidRepository::Host(host.chars().take(80).collect())) }
}

fn check_path(transport: GitTransport, path: &str) -> Result<(), InvalidRepository> {
    let refused = |c: char| c.is_control() || matches!(c, '?' | '#' | '\\');
    let dots = path.split('/').any(|part| matches!(part, "." | ".."));
    if !path.starts_with('/') || path.len() < 2 || path.len() >= 2048 || path.contains(refused) || dots {
        return Err(InvalidRepository::Path(""));
    }
    match transport {
        // It is a server's to say what they mean.
        GitTransport::Https if path.split('%').skip(1).all(is_escape) => Ok(()),
        GitTransport::Https => Err(InvalidRepository::Path(", and two hexadecimal digits after every '%'")),
        // Git would replace them, and this service does not: they would mean two different places.
        GitTransport::Ssh | GitTransport::File if path.contains('%') => Err(InvalidRepository::Path(", and no '%'")),
        GitTransport::Ssh | GitTransport::File => Ok(()),
    }
}

/// Whether what follows a '%' stands for a character that could stand there itself.
fn is_escape(text: &str) -> bool {
    let byte = text.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok());
    byte.is_some_and(|byte| !byte.is_ascii_control())
}

impl TryFrom<String> for GitUrl {
    type Error = InvalidRepository;
    fn try_from(text: String) -> Result<Self, InvalidRepository> {
        text.parse()
    }
}

impl From<GitUrl> for String {
    fn from(url: GitUrl) -> String {
        url.text
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `git+URL[#REF]`: what is built.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitSource {
    pub url: GitUrl,
    /// The remote's HEAD where it is not said.
    pub reference: Option<GitRef>,
}

impl FromStr for GitSource {
    type Err = InvalidRepository;

    fn from_str(text: &str) -> Result<Self, InvalidRepository> {
        let text = text.strip_prefix("git+").ok_or(InvalidRepository::Scheme)?;
        let (url, reference) = text.split_once('#').map_or((text, None), |(url, reference)| (url, Some(reference)));
        Ok(Self { url: url.parse()?, reference: reference.map(str::parse).transpose()? })
    }
}

impl fmt::Display for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "git+{}", self.url)?;
        self.reference.as_ref().map_or(Ok(()), |reference| write!(f, "#{reference}"))
    }
}

fn is_reference(text: &str) -> bool {
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let refused = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    (1..=255).contains(&text.len())
        && !text.starts_with('-')
        && text != "@"
        && !text.contains("..")
        && !text.contains("@{")
        && !text.ends_with('.')
        && !text.contains(refused)
        && text.split('/').all(component)
}

#[cfg(test)]
mod tests;
