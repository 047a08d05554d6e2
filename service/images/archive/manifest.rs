//! The documents of an image, as far as they matter here. Unknown fields are passed over without being kept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::digest::Digest;
use super::error::{Error, malformed, shown};

/// Elements of any list of a document. What one of a list takes in memory is many times what it takes in JSON.
const LIST: usize = 4096;

/// Reads a document, `what` for messages.
///
/// # Errors
/// [`Error::Malformed`] with the place in the document.
pub(super) fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Malformed(format!("{what} of the image is wrong: {}", shown(error.to_string()))))
}

/// Something that an index or a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<Annotations>,
}

/// What an image is built for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub os: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on this host's processor.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Variants are not compared: of arm64 there is one in use.
    pub fn fits(&self, wanted: &Self) -> bool {
        self.os == wanted.os && self.architecture == wanted.architecture
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{}", shown(variant)))
    }
}

/// Those that are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Annotations {
    /// The tag in an OCI layout.
    #[serde(rename = "org.opencontainers.image.ref.name", default)]
    pub ref_name: Option<String>,
    /// Repository and tag, as Docker and containerd write it.
    #[serde(rename = "io.containerd.image.name", default)]
    pub image_name: Option<String>,
    /// BuildKit's statements about an image stand beside it in the index.
    #[serde(rename = "vnd.docker.reference.type", default)]
    pub reference_type: Option<String>,
    /// The name of an artifact's file.
    #[serde(rename = "org.opencontainers.image.title", default)]
    pub title: Option<String>,
}

/// An index or a manifest. Which of them is told by what is in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    manifests: Option<Bounded<Descriptor>>,
    #[serde(default)]
    layers: Option<Bounded<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// One of these is to be chosen.
    Index(Vec<Descriptor>),
    Manifest(Box<Manifest>),
}

#[derive(Debug)]
pub(super) struct Manifest {
    pub config: Option<Descriptor>,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
    pub is_artifact: bool,
}

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Reads an index or a manifest; `media_type` is what it was announced as.
///
/// # Errors
/// [`Error::Malformed`] also for a document that can be read as both (CVE-2021-41190): two programs would take two images
/// out of it.
pub(super) fn stage(what: &str, bytes: &[u8], media_type: &str) -> Result<Stage, Error> {
    let document: Document = read(what, bytes)?;
    let says_other = |kinds: &[&str]| {
        let said = [Some(media_type), document.media_type.as_deref()];
        said.into_iter().flatten().any(|said| kinds.contains(&said))
    };
    match (document.manifests, document.layers) {
        (Some(manifests), None) if !says_other(&MANIFESTS) && document.config.is_none() => {
            Ok(Stage::Index(manifests.0))
        }
        (None, Some(layers)) if !says_other(&INDEXES) => {
            let is_image = document.artifact_type.is_none()
                && document.config.as_ref().is_none_or(|config| CONFIGS.contains(&config.media_type.as_str()));
            let manifest = Manifest { config: document.config, layers: layers.0, is_artifact: !is_image };
            Ok(Stage::Manifest(Box::new(manifest)))
        }
        (None, None) => malformed(format!("{what} of the image is neither an index nor a manifest")),
        _ => malformed(format!("{what} of the image is both an index and a manifest, or not what it is called")),
    }
}

/// An image's configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub rootfs: Option<RootFs>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub diff_ids: Bounded<Digest>,
}

/// One image of `docker save`: paths within the archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Bounded<String>,
    /// The lowest first.
    #[serde(default)]
    pub layers: Bounded<String>,
}

/// A list that may be `null`, and not longer than [`LIST`].
#[derive(Debug, Clone)]
pub(super) struct Bounded<T>(pub Vec<T>);

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Elements(PhantomData))
    }
}

struct Elements<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
    type Value = Bounded<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {LIST}")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Bounded::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == LIST {
                return Err(de::Error::invalid_length(LIST + 1, &self));
            }
            list.push(element);
        }
        Ok(Bounded(list))
    }
}
