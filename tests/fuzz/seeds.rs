//! What the fuzz targets begin with: good inputs of every form, small, and some that are nearly good.

use super::saved_image::{
    Layer, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Tar, docker_legacy, docker_oci, gzip, oci_layout, tar_of, zstd,
};
use super::solo5_image::{Target, image};

pub struct Seed {
    /// Of the target.
    pub target: &'static str,
    /// Those that are called `good-` are.
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

const UNIKERNEL: &[u8] = b"\x7fELF, and the rest";

pub fn all() -> Vec<Seed> {
    let seeds = [archives(), engines(), parts(), documents(), layers(), images(), words()];
    seeds.into_iter().flatten().map(|(target, name, bytes)| Seed { target, name, bytes }).collect()
}

type Seeds = Vec<(&'static str, &'static str, Vec<u8>)>;

fn lower() -> Tar {
    Tar::new().folder("d/").file("d/x", "old").symlink("unikernel.hvt", "d/x")
}

fn upper() -> Tar {
    Tar::new().file("d/.wh.x", "").hard_link("d/l", "d/r").file("d/r", UNIKERNEL).symlink("unikernel.hvt", "./d/l")
}

fn archives() -> Seeds {
    let one = [Layer::plain(Tar::new().file("unikernel.hvt", UNIKERNEL))];
    let two = [Layer::plain(lower()), Layer::gzip(upper())];
    let other = [Layer::zstd(upper())];
    vec![
        ("docker_archive", "good-legacy", tar_of(&docker_legacy(&[(&["a:1"], &one)]))),
        ("docker_archive", "good-layers", tar_of(&docker_oci(&two, "a:1"))),
        ("docker_archive", "good-packed", gzip(&tar_of(&docker_oci(&two, "a:1")))),
        ("docker_archive", "several", tar_of(&docker_legacy(&[(&["a:1"], &one), (&["a:2"], &two)]))),
        ("oci_archive", "good-layout", tar_of(&oci_layout(&one, "1"))),
        ("oci_archive", "good-zstd", tar_of(&oci_layout(&other, "1"))),
        ("oci_archive", "good-packed", gzip(&tar_of(&oci_layout(&two, "1")))),
    ]
}

fn engines() -> Seeds {
    let one = Tar::new().file("unikernel.hvt", UNIKERNEL).end();
    let signed = Tar::new().pax(&[("mtime", "1.5")]).file("unikernel.hvt.minisig", "signed").end();
    vec![
        ("engine_tar", "good-signed", [one.clone(), vec![0; 512], signed].concat()),
        ("engine_tar", "good", one),
        ("engine_tar", "link", Tar::new().symlink("unikernel.hvt", "d/x").end()),
    ]
}

/// Joined as `properties/parts.rs` takes them apart.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&b"\n%%\n"[..])
}

fn called(name: &str, content: &[u8]) -> Vec<u8> {
    [format!("= {name}\n").as_bytes(), content].concat()
}

fn parts() -> Seeds {
    let layer = upper().end();
    let docker = |listed: &str, config: &str| {
        let (listed, config) = (called("manifest.json", listed.as_bytes()), called("c.json", config.as_bytes()));
        joined(&[&listed, &config, &called("l", &layer), &called("k", &lower().end())])
    };
    let rootfs = r##"{"rootfs":{"type":"layers","diff_ids":["#3","#2"]}}"##;
    vec![
        ("docker_parts", "good", docker(r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["k","l"]}]"#, rootfs)),
        ("docker_parts", "null", docker(r#"[{"Config":"c.json","RepoTags":null,"Layers":["k","l"]}]"#, rootfs)),
        ("docker_parts", "counts", docker(r#"[{"Config":"c.json","Layers":["l"]}]"#, rootfs)),
        ("docker_parts", "digests", docker(r#"[{"Config":"@1.json","Layers":["blobs/sha256/@2"]}]"#, rootfs)),
    ]
}

fn documents() -> Seeds {
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[
        {{"mediaType":"{OCI_MANIFEST}",%1,"platform":{{"os":"linux","architecture":"amd64","variant":"v2"}},
        "annotations":{{"org.opencontainers.image.ref.name":"1","io.containerd.image.name":"a:1"}}}},
        {{"mediaType":"{OCI_MANIFEST}",%2,"platform":{{"os":"unknown","architecture":"unknown"}},
        "annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}}]}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}",%2}},"layers":[
        {{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd",%3}}]}}"#
    );
    let config = r##"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["#4"]}}"##;
    let tar = Tar::new().file("unikernel.spt", UNIKERNEL).end();
    let whole = [index.as_bytes(), manifest.as_bytes(), config.as_bytes(), &zstd(&tar), &tar];
    let artifact =
        br#"{"artifactType":"a","config":{"mediaType":"application/vnd.oci.empty.v1+json",%2},"layers":[{%1}]}"#;
    let nested = br#"{"manifests":[{%1}]}"#;
    vec![
        ("oci_documents", "good-index", joined(&whole)),
        ("oci_documents", "good-artifact", joined(&[artifact, UNIKERNEL, b"{}"])),
        ("oci_documents", "good-bare", joined(&[br#"{"layers":[{%1}]}"#, UNIKERNEL])),
        ("oci_documents", "nested", joined(&[nested, nested, nested, nested, nested, nested, b"{}"])),
        ("oci_documents", "both", joined(&[br#"{"manifests":[{%1}],"layers":[{%1}]}"#, UNIKERNEL])),
        ("oci_documents", "encrypted", joined(&[br#"{"layers":[{"mediaType":"x+encrypted",%1}]}"#, b"x"])),
    ]
}

fn layers() -> Seeds {
    let extended = Tar::new().pax(&[("path", "unikernel.hvt"), ("size", "19"), ("SCHILY.xattr.user.a", "b")]);
    let extended = extended.file("cut", UNIKERNEL).entry("././@LongLink", b'L', b"long\0").file("long", "x");
    let long_link = Tar::new().entry("././@LongLink", b'K', b"d/r\0").symlink("unikernel.spt", "cut").file("d/r", "x");
    let odd = Tar::new().entry("g", b'g', b"12 comment=a\n").entry("null", b'3', b"").entry("fifo", b'6', b"");
    let opaque =
        Tar::new().folder("d").file("d/.wh..wh..opq", "").file("d/.wh..wh.plnk", "").file("unikernel.hvt", "x");
    let (lower, upper, extended) = (lower().end(), upper().end(), extended.end());
    vec![
        ("layers", "good-plain", upper.clone()),
        ("layers", "good-gzip", gzip(&upper)),
        ("layers", "good-zstd", [zstd(&upper), b"\x50\x2a\x4d\x18\x02\0\0\0ab".to_vec(), zstd(&[0; 600])].concat()),
        ("layers", "good-extended", extended.clone()),
        ("layers", "good-long-link", long_link.end()),
        ("layers", "good-two", joined(&[&lower, &gzip(&upper)])),
        ("layers", "good-opaque", joined(&[&lower, &extended, &opaque.end()])),
        ("layers", "odd", odd.end()),
        ("layers", "whiteout", joined(&[&upper, &Tar::new().file(".wh.d", "").end()])),
        ("layers", "circle", Tar::new().symlink("unikernel.hvt", "a").symlink("a", "unikernel.hvt").end()),
        ("layers", "sparse", Tar::new().pax(&[("GNU.sparse.major", "1")]).file("unikernel.hvt", "x").end()),
    ]
}

fn images() -> Seeds {
    vec![
        ("solo5_image", "good-hvt", image(Target::Hvt, "1", &["service"], &[], 0)),
        ("solo5_image", "good-spt", image(Target::Spt, "1", &["service"], &["data", "more"], 0)),
        ("solo5_image", "two-networks", image(Target::Spt, "1", &["a", "b"], &[], 0)),
    ]
}

fn words() -> Seeds {
    let mail = include_bytes!("../../busctl-examples/mail-stack/mail.toml").to_vec();
    let full = br#"stack = "s"
memory = 64
restart = "on-failure"
restart-exit-codes = [2, 3]
[service.a]
image = "docker-archive:/srv/a.tar:a:1"
image-path = "/x"
args = ["--dns={b.address}", "{address}"]
ready = "http:80/"
ports = ["80:8080/tcp", "53:53/udp"]
addresses = ["192.0.2.1"]
sources = ["10.0.0.0/8"]
drain = 1000
[service.b]
image = "docker://registry.test/b:1"
watch = "5m"
cpu = 0
address = "10.0.0.7"
"#;
    let info = include_bytes!("../frames/info_two_running.reply.bin").to_vec();
    let statistics = include_bytes!("../frames/stats_subscribe.reply.2.bin").to_vec();
    let mut seeds: Seeds = vec![
        ("stack_manifest", "good-mail", mail),
        ("stack_manifest", "full", full.to_vec()),
        ("albatross_frame", "good-info", info),
        ("albatross_frame", "good-statistics", statistics),
    ];
    seeds.extend(REFERENCES.map(|(name, text)| ("image_reference", name, text.as_bytes().to_vec())));
    seeds
}

const REFERENCES: [(&str, &str); 9] = [
    ("good-path", "/srv/unikernel.hvt"),
    ("good-stored", "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    ("good-engine", "docker-daemon:localhost:5000/a/b:1"),
    ("good-archive", "docker-archive:/srv/a.tar:a/b:1"),
    ("good-layout", "oci:/srv/layout:v1"),
    (
        "good-registry",
        "docker://registry.test:5000/a/b:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ),
    ("good-https", "git+https://git.test/a/b.git#main"),
    ("good-ssh", "git+ssh://git@git.test:22/a.git#refs/tags/v1"),
    ("good-file", "git+file:///srv/a#0123456789abcdef0123456789abcdef01234567"),
];
