//! Names of container images, as the distribution specification and containers-transports(5) write them.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::build::Target;
use super::names::{InvalidName, checked_name};
use super::port_range;

/// The host of a registry, and its port where it is said, e.g. `ghcr.io` or `localhost:5000`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Registry(String);

checked_name!(
    Registry,
    "registry",
    "a host with a '.' or a port, or localhost, such as ghcr.io or 10.0.0.2:5000",
    |text| { is_authority(text) && looks_like_a_registry(text) }
);

/// The path of an image in a registry or an engine, e.g. `mirage/website`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRepository(String);

checked_name!(
    ImageRepository,
    "image name",
    "1 to 255 characters in parts between '/', each of a-z and 0-9 with '.', '_', '__' or any number of '-' between them",
    |text| (1..=255).contains(&text.len()) && text.split('/').all(is_path_component)
);

/// What an image of a name is told apart by, e.g. `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

checked_name!(
    Tag,
    "tag",
    "1 to 128 characters of a-z, A-Z, 0-9, '_', '-' and '.', not beginning with '-' or '.'",
    |text| {
        (1..=128).contains(&text.len())
            && !text.starts_with(['-', '.'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    }
);

/// `sha256:` and 64 digits: of a manifest or of an engine's image, and so never the name of a file in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentDigest(String);

checked_name!(ContentDigest, "digest", "sha256: and 64 hexadecimal digits in lower case", |text| {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_lower_hex(hex))
});

/// The name of an image in an OCI layout: its annotation `org.opencontainers.image.ref.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayoutName(String);

checked_name!(
    LayoutName,
    "name of an image in an OCI layout",
    "1 to 255 letters and digits, with '-', '.', '_', ':', '@', '+', '/' or '--' between them",
    |text| {
        (1..=255).contains(&text.len())
            && text.replace("--", "-").split(['-', '.', '_', ':', '@', '+', '/']).all(is_alphanumeric)
    }
);

/// `[REGISTRY/]NAME[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    pub registry: Option<Registry>,
    pub repository: ImageRepository,
    pub tag: Option<Tag>,
    /// Which manifest it must be: the tag then is for people only.
    pub digest: Option<ContentDigest>,
}

impl ImageName {
    /// The tag that is meant.
    pub fn tag(&self) -> &str {
        self.tag.as_ref().map_or("latest", Tag::as_str)
    }
}

impl FromStr for ImageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        // A ':' that a '/' follows is in front of a registry's port.
        let tagged = rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (name, tag) = tagged.map_or((rest, None), |(name, tag)| (name, Some(tag)));
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if looks_like_a_registry(first) => (Some(first), rest),
            _ => (None, name),
        };
        Ok(Self {
            registry: registry.map(str::parse).transpose()?,
            repository: repository.parse()?,
            tag: tag.map(str::parse).transpose()?,
            digest: digest.map(str::parse).transpose()?,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// An image of an engine: by its name, or `sha256:HEX`, the engine's own id of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EngineImage {
    Named(ImageName),
    Id(ContentDigest),
}

impl FromStr for EngineImage {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // "sha256" could be a name, but engines take it for an id as well.
        if text.starts_with("sha256:") { text.parse().map(Self::Id) } else { text.parse().map(Self::Named) }
    }
}

impl fmt::Display for EngineImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// Gives a name of several parts the serde form of a text.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }
    )*};
}

as_text!(ImageName, EngineImage);

/// An image in an archive or a folder of the host: `PATH[:NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SavedImage<Name> {
    /// Absolute, and without a ':', which begins the name.
    pub path: PathBuf,
    /// The only image there where it is not said.
    pub name: Option<Name>,
}

/// The kernel's PATH_MAX, without its zero byte.
const MAX_PATH: usize = 4095;

impl<Name: FromStr<Err = InvalidName>> FromStr for SavedImage<Name> {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (path, name) = text.split_once(':').map_or((text, None), |(path, name)| (path, Some(name)));
        if !path.starts_with('/') || path.len() > MAX_PATH || path.chars().any(char::is_control) {
            let rule = "it begins with '/', is at most 4095 bytes long, and has no control characters";
            return Err(InvalidName::new("path of a saved image", path, rule));
        }
        if name.is_some_and(|name| name.starts_with('@')) {
            let rule = "an image of an archive is chosen by its name, not by its index";
            return Err(InvalidName::new("name of a saved image", name.unwrap_or_default(), rule));
        }
        Ok(Self { path: path.into(), name: name.map(str::parse).transpose()? })
    }
}

impl<Name: fmt::Display> fmt::Display for SavedImage<Name> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

/// Where the unikernel stands inside of a container image or a build (`image-path`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImagePath(String);

checked_name!(
    ImagePath,
    "image-path",
    "the absolute path of a file, at most 1024 bytes of a-z, A-Z, 0-9, '.', '_', '-', '+', '@' and '/', without '.' and '..'",
    |text| text.strip_prefix('/').is_some_and(is_plain_path)
);

impl ImagePath {
    /// Where a unikernel for `target` stands when nobody says otherwise.
    pub fn default_of(target: Target) -> Self {
        Self(format!("/unikernel.{}", target.as_str()))
    }

    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// What is the same in a shell, in a Dockerfile and in an archive, without any quotes.
pub(super) fn is_plain_path(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'@');
    let component = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.starts_with('-') && part.bytes().all(plain)
    };
    text.len() < 1024 && text.split('/').all(component)
}

/// `HOST[:PORT]`, the host a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => match (address.parse::<Ipv6Addr>(), rest) {
            (Ok(_), "") => return text.len() <= 255,
            (Ok(_), rest) => ("ipv6", rest.strip_prefix(':')),
            (Err(_), _) => return false,
        },
        None => text.split_once(':').map_or((text, Some("443")), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 255 && host.split('.').all(label) && port.and_then(port_range::port).is_some()
}

/// What the distribution specification takes for a registry in front of a name's first '/'.
fn looks_like_a_registry(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':', '[']) || text.bytes().any(|b| b.is_ascii_uppercase())
}

/// Letters and digits, with one '.', one or two '_', or any number of '-' between them.
fn is_path_component(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(letter) && text.bytes().next_back().is_some_and(letter);
    let mut separators = text.split(|c: char| u8::try_from(c).is_ok_and(letter)).filter(|part| !part.is_empty());
    ends && separators.all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

fn is_alphanumeric(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests;
