//! Images: where they come from, what identifies them, and what their manifest asks for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::build::BuildOptions;
use super::container::{EngineImage, ImageName, ImagePath, LayoutName, SavedImage};
use super::names::InvalidName;
use super::repository::{GitSource, InvalidRepository};

/// SHA-256 of an image file: its name in the store, and what Albatross reports of what it runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(pub [u8; 32]);

impl ImageDigest {
    /// 64 hexadecimal digits, without the `sha256:` in front.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |number: u8| char::from(DIGITS[usize::from(number)]);
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageDigest {
    type Err = InvalidImageReference;

    /// `sha256:HEX` with 64 digits, of either case.
    fn from_str(text: &str) -> Result<Self, InvalidImageReference> {
        let invalid = || InvalidImageReference::Digest(shortened(text));
        let hex = text.strip_prefix("sha256:").ok_or_else(invalid)?;
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut digest = [0; 32];
        for (byte, digits) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = InvalidImageReference;
    fn try_from(text: String) -> Result<Self, InvalidImageReference> {
        text.parse()
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> String {
        digest.to_string()
    }
}

/// With whose rights a path is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

/// The `image` of Deploy, parsed. A descriptor (`DeployImage`) does not come through here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageReference {
    /// A file of the host, opened with the caller's rights.
    Path(PathBuf),
    /// An image that the store has already.
    Stored(ImageDigest),
    /// Of the local engine.
    Engine(EngineImage),
    DockerArchive(SavedImage<ImageName>),
    OciArchive(SavedImage<LayoutName>),
    /// A folder.
    OciLayout(SavedImage<LayoutName>),
    /// Of a registry, which the name says.
    Registry(ImageName),
    /// Built from a repository.
    Git(GitSource),
}

impl ImageReference {
    /// Whether it names one image for ever.
    pub fn is_fixed(&self) -> bool {
        match self {
            Self::Stored(_) | Self::Engine(EngineImage::Id(_)) => true,
            Self::Engine(EngineImage::Named(name)) | Self::Registry(name) => name.digest.is_some(),
            Self::Git(source) => source.reference.as_ref().is_some_and(|reference| reference.commit().is_some()),
            Self::Path(_) | Self::DockerArchive(_) | Self::OciArchive(_) | Self::OciLayout(_) => false,
        }
    }
}

/// What is said with a reference: where in it the unikernel stands, how it is built, what signs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageOptions {
    /// Inside of a container image; where unikernels usually stand where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_path: Option<ImagePath>,
    /// Of a repository, and of nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildOptions>,
    /// The text that minisign wrote; what stands beside the unikernel where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl ImageOptions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Where the unikernel is looked for, first to last.
    pub fn image_paths(&self) -> Vec<ImagePath> {
        match (&self.build, &self.image_path) {
            (Some(build), _) => build.image_paths(),
            (None, Some(path)) => vec![path.clone()],
            (None, None) => ImagePath::defaults().into(),
        }
    }
}

/// Why an `image` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImageReference {
    #[error("{0:?} is not a digest: write sha256: and 64 hexadecimal digits")]
    Digest(String),
    #[error(
        "image {0:?} is of a form that is not known: give an absolute path, sha256:HEX of a stored image, docker-daemon:, \
         docker-archive:, oci-archive:, oci:, docker://, git+https://, git+ssh:// or git+file:///, or hand the file over \
         with DeployImage"
    )]
    Form(String),
    #[error("{0:?} names no registry: write docker://REGISTRY/NAME, such as docker://docker.io/library/NAME")]
    NoRegistry(String),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Repository(#[from] InvalidRepository),
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

impl FromStr for ImageReference {
    type Err = InvalidImageReference;

    fn from_str(text: &str) -> Result<Self, InvalidImageReference> {
        if text.starts_with("sha256:") {
            return text.parse().map(Self::Stored);
        }
        if text.starts_with('/') && !text.contains('\0') {
            return Ok(Self::Path(text.into()));
        }
        if text.starts_with("git+") {
            return Ok(Self::Git(text.parse()?));
        }
        let (transport, rest) = text.split_once(':').unwrap_or(("", text));
        Ok(match transport {
            "docker-daemon" => Self::Engine(rest.parse()?),
            "docker-archive" => Self::DockerArchive(rest.parse()?),
            "oci-archive" => Self::OciArchive(rest.parse()?),
            "oci" => Self::OciLayout(rest.parse()?),
            "docker" if rest.starts_with("//") => Self::Registry(registry_image(rest)?),
            _ => return Err(InvalidImageReference::Form(shortened(text))),
        })
    }
}

/// `//REGISTRY/NAME[:TAG][@DIGEST]`. Without a registry it is not taken for one of Docker's: nobody should get a
/// stranger's image for want of a word.
fn registry_image(text: &str) -> Result<ImageName, InvalidImageReference> {
    let name: ImageName = text.strip_prefix("//").unwrap_or(text).parse()?;
    if name.registry.is_none() {
        return Err(InvalidImageReference::NoRegistry(shortened(&name.to_string())));
    }
    Ok(name)
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidImageReference;
    fn try_from(text: String) -> Result<Self, InvalidImageReference> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What comes over the bus or out of a manifest is UTF-8, and so is a path that was parsed from it.
            Self::Path(path) => path.display().fmt(f),
            Self::Stored(digest) => digest.fmt(f),
            Self::Engine(image) => write!(f, "docker-daemon:{image}"),
            Self::DockerArchive(image) => write!(f, "docker-archive:{image}"),
            Self::OciArchive(image) => write!(f, "oci-archive:{image}"),
            Self::OciLayout(image) => write!(f, "oci:{image}"),
            Self::Registry(name) => write!(f, "docker://{name}"),
            Self::Git(source) => source.fmt(f),
        }
    }
}

/// A network device as an image's manifest names it, e.g. `service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkDevice(pub String);

/// Where an image came from: enough to get it once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub image: ImageReference,
    pub options: ImageOptions,
    /// Who had asked: what is of this host is reached with no more rights.
    pub caller: Caller,
    /// What the reference meant then: the digest of a manifest, an engine's id of an image, a commit.
    pub meant: Option<String>,
}

impl Origin {
    /// What the reference meant then, where that can be said for ever.
    pub fn pinned(&self) -> ImageReference {
        let Some(meant) = &self.meant else { return self.image.clone() };
        match &self.image {
            ImageReference::Registry(name) => {
                let digest = meant.parse().ok().or_else(|| name.digest.clone());
                ImageReference::Registry(ImageName { digest, ..name.clone() })
            }
            ImageReference::Git(source) => {
                let reference = meant.parse().ok().or_else(|| source.reference.clone());
                ImageReference::Git(GitSource { reference, ..source.clone() })
            }
            ImageReference::Engine(image) => {
                let id = meant.parse().map(EngineImage::Id);
                ImageReference::Engine(id.unwrap_or_else(|_| image.clone()))
            }
            other => other.clone(),
        }
    }
}

impl fmt::Display for Origin {
    /// The reference, and what it meant where that is more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.to_string();
        match self.meant.as_ref().filter(|meant| !image.contains(meant.as_str())) {
            Some(meant) => write!(f, "{image} ({meant})"),
            None => f.write_str(&image),
        }
    }
}

/// An image of the store and what its notes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub digest: ImageDigest,
    /// Bytes.
    pub size: u64,
    /// The one network device of the manifest.
    pub network_device: NetworkDevice,
    /// Block devices of the manifest, in its order.
    pub block_devices: Vec<String>,
    /// What it came from first; `None` where it was handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<Origin>>,
    /// What minisign wrote, as it was verified when the image came or was named last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

#[cfg(test)]
mod tests;
