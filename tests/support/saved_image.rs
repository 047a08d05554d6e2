//! Builds saved images for tests: tars, good and bad ones, layers, `docker save`'s archives of both kinds, OCI layouts.
#![allow(dead_code, reason = "each test takes of this module what it needs")]
#![allow(missing_debug_implementations, clippy::unwrap_used, reason = "for tests, which may end where they are wrong")]

use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A tar, entry by entry, with no look at whether it makes sense.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn header(name: &str, kind: u8, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkflag[0] = kind;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        header
    }

    /// The header as it is, and the content with its padding.
    #[must_use]
    pub fn raw(mut self, header: &tar::Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    #[must_use]
    pub fn entry(self, name: &str, kind: u8, content: &[u8]) -> Self {
        self.raw(&Self::header(name, kind, content.len() as u64), content)
    }

    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(name, b'0', content.as_ref())
    }

    #[must_use]
    pub fn folder(self, name: &str) -> Self {
        self.entry(name, b'5', b"")
    }

    #[must_use]
    pub fn link(self, kind: u8, name: &str, target: &str) -> Self {
        let mut header = Self::header(name, kind, 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.raw(&header, b"")
    }

    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    /// An extended header with these records, in front of the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let content: String = records.iter().map(|(key, value)| record(key, value)).collect();
        self.entry("PaxHeaders/x", b'x', content.as_bytes())
    }

    /// With the two blocks that mark the end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
pub fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length = length.to_string().len() + rest.len();
    }
    format!("{length}{rest}")
}

/// A layer, and how it is compressed in the image.
#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub stored: Vec<u8>,
    pub media_type: String,
}

impl Layer {
    pub fn plain(tar: Tar) -> Self {
        let tar = tar.end();
        Self { stored: tar.clone(), tar, media_type: OCI_LAYER.to_owned() }
    }

    pub fn gzip(tar: Tar) -> Self {
        let tar = tar.end();
        Self { stored: gzip(&tar), tar, media_type: format!("{OCI_LAYER}+gzip") }
    }

    pub fn zstd(tar: Tar) -> Self {
        let tar = tar.end();
        Self { stored: zstd(&tar), tar, media_type: format!("{OCI_LAYER}+zstd") }
    }
}

pub fn config(layers: &[Layer]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": []},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        // Podman builds on no image without.
        "history": layers.iter().map(|_| json!({"created_by": "a test"})).collect::<Vec<_>>(),
    });
    serde_json::to_vec(&config).unwrap()
}

/// An archive's or a folder's files.
pub type Files = Vec<(String, Vec<u8>)>;

pub fn tar_of(files: &Files) -> Vec<u8> {
    files.iter().fold(Tar::new(), |tar, (name, content)| tar.file(name, content)).end()
}

/// As Docker wrote it before version 25. The lowest layer is the first.
pub fn docker_legacy(images: &[(&[&str], &[Layer])]) -> Files {
    let mut files = Files::new();
    let mut listed = Vec::new();
    for (tags, layers) in images {
        let config = config(layers);
        let name = format!("{}.json", hex(&config));
        let mut paths = Vec::new();
        for layer in *layers {
            let path = format!("{}/layer.tar", hex(&layer.tar));
            if files.iter().all(|(known, _)| *known != path) {
                files.push((path.clone(), layer.stored.clone()));
            }
            paths.push(path);
        }
        files.push((name.clone(), config));
        listed.push(json!({"Config": name, "RepoTags": tags, "Layers": paths}));
    }
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&listed).unwrap()));
    files
}

pub fn blob(content: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", hex(content)), content.to_vec())
}

pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

/// `descriptor` with one more field.
pub fn with(mut descriptor: Value, field: &str, value: Value) -> Value {
    descriptor[field] = value;
    descriptor
}

/// An image's blobs and its manifest.
pub fn oci_image(layers: &[Layer]) -> (Files, Vec<u8>) {
    let config = config(layers);
    let described: Vec<Value> = layers.iter().map(|layer| descriptor(&layer.media_type, &layer.stored)).collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config), "layers": described,
    }))
    .unwrap();
    let mut files: Files = layers.iter().map(|layer| blob(&layer.stored)).collect();
    files.extend([blob(&config), blob(&manifest)]);
    (files, manifest)
}

/// What `oras push` makes of one file.
pub fn artifact(content: &[u8], title: Option<&str>) -> (Files, Vec<u8>) {
    artifact_of(&[(content, title)])
}

/// What it makes of a file and another that signs it.
pub fn signed_artifact(content: &[u8], title: &str, signature: &[u8]) -> (Files, Vec<u8>) {
    artifact_of(&[(content, Some(title)), (signature, Some(&format!("{title}.minisig")))])
}

fn artifact_of(files: &[(&[u8], Option<&str>)]) -> (Files, Vec<u8>) {
    let layer = |(content, title): &(&[u8], Option<&str>)| {
        let layer = descriptor(OCI_LAYER, content);
        match title {
            Some(title) => with(layer, "annotations", json!({"org.opencontainers.image.title": title})),
            None => layer,
        }
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.unknown.artifact.v1",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": files.iter().map(layer).collect::<Vec<_>>(),
    }))
    .unwrap();
    let mut blobs: Files = files.iter().map(|(content, _)| blob(content)).collect();
    blobs.extend([blob(b"{}"), blob(&manifest)]);
    (blobs, manifest)
}

/// A layout whose index has these manifests.
pub fn layout(mut blobs: Files, manifests: &[Value]) -> Files {
    blobs.sort();
    blobs.dedup();
    blobs.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    blobs.push(("index.json".to_owned(), serde_json::to_vec(&index).unwrap()));
    blobs
}

/// A layout with one image, called `tag`.
pub fn oci_layout(layers: &[Layer], tag: &str) -> Files {
    let (blobs, manifest) = oci_image(layers);
    let named = json!({"org.opencontainers.image.ref.name": tag});
    layout(blobs, &[with(descriptor(OCI_MANIFEST, &manifest), "annotations", named)])
}

/// As Docker writes it since version 25: a layout, and `manifest.json` with its paths.
pub fn docker_oci(layers: &[Layer], tag: &str) -> Files {
    let mut files = oci_layout(layers, "latest");
    let path = |content: &[u8]| format!("blobs/sha256/{}", hex(content));
    let paths: Vec<String> = layers.iter().map(|layer| path(&layer.stored)).collect();
    let listed = json!([{"Config": path(&config(layers)), "RepoTags": [tag], "Layers": paths}]);
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&listed).unwrap()));
    files
}
