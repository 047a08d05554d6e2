//! Manifests, indexes, configurations, digests: what the JSON of an image says and what is there.

use serde_json::{Value, json};

use super::cases::{Case, Content, Form, good, unikernel};
use super::saved_image::{
    Files, Layer, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Tar, artifact, blob, config, descriptor, digest,
    docker_legacy, docker_oci, hex, layout, oci_image, oci_layout, tar_of, with,
};

pub fn all() -> Vec<Case> {
    [manifest_json(), digests(), sizes(), choices(), indexes(), layers(), folders()].into_iter().flatten().collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn manifest_json() -> Vec<Case> {
    let with_text = |name, text: &str, says| Case::docker(name, Tar::new().file("manifest.json", text).end(), says);
    let large = Tar::new().raw(&Tar::header("manifest.json", b'0', 100 << 20), b"[").0;
    let large = Content::Extended(large, (100 << 20) + 4096);
    let deep = format!(r#"[{{"x":{}"#, "[".repeat(100_000));
    let many = format!("[{}]", vec![r#"{"Config":""}"#; 5000].join(","));
    let names = format!(r#"[{{"Config":"x","RepoTags":[{}""]}}]"#, r#""a","#.repeat(5000));
    vec![
        with_text("manifest.json that is none", "not JSON", "manifest.json of the image is wrong"),
        with_text("manifest.json with no image", "[]", "has no image").without_image(),
        with_text("manifest.json of another shape", r#"{"Config":"x"}"#, "manifest.json of the image is wrong"),
        with_text("manifest.json 100000 deep", &deep, "manifest.json of the image is wrong"),
        with_text("manifest.json with 5000 images", &many, "at most 4096"),
        with_text("manifest.json with 5000 tags", &names, "at most 4096"),
        with_text("a key twice", r#"[{"Config":"x","Config":"y","Layers":["a"]}]"#, "duplicate field"),
        with_text("a configuration upwards", r#"[{"Config":"../x","Layers":["a"]}]"#, "leads upwards"),
        with_text("a configuration of the host", r#"[{"Config":"/etc/passwd","Layers":["a"]}]"#, "absolute name"),
        with_text("no UTF-8 in it", "[{\"Config\":\"\\ud800\"}]", "manifest.json of the image is wrong"),
        Case { content: large, ..Case::docker("manifest.json of 100 MiB", Vec::new(), "more than 4194304 bytes") },
    ]
}

/// `files` with one bit of `name`'s content changed.
fn damaged(mut files: Files, name: &str) -> Files {
    let file = files.iter_mut().find(|(known, _)| known == name).expect("such a file");
    let middle = file.1.len() / 2;
    file.1[middle] ^= 1;
    files
}

fn digests() -> Vec<Case> {
    let layers = [Layer::plain(good())];
    let legacy = docker_legacy(&[(&["a:1"], &layers)]);
    let whole = oci_layout(&layers, "1");
    let manifest = oci_image(&layers).1;
    let other = |digest: &str| layout(Files::new(), &[json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1})]);
    let exchanged = Layer { tar: good().end(), ..Layer::gzip(Tar::new().file("unikernel.spt", "another")) };
    let layer = format!("{}/layer.tar", hex(&layers[0].tar));
    let configuration = format!("{}.json", hex(&config(&layers)));
    let (blobs, one) = artifact(&unikernel(), None);
    let name = blobs[0].0.clone();
    let pushed = layout(blobs, &[descriptor(OCI_MANIFEST, &one)]);
    let broken = |files: &Files, name: &str| tar_of(&damaged(files.clone(), name));
    vec![
        Case::docker("a layer that was changed", broken(&legacy, &layer), "layer 1 of 1, unpacked, is damaged"),
        Case::docker("a configuration that was changed", broken(&legacy, &configuration), "image is damaged"),
        Case::oci("a blob that was changed", &damaged(whole.clone(), &blob(&layers[0].stored).0), "should have"),
        Case::oci("a manifest that was changed", &damaged(whole.clone(), &blob(&manifest).0), "a manifest of"),
        Case::oci("another layer than the configuration says", &oci_layout(&[exchanged], "1"), "unpacked, is damaged"),
        Case::oci("an artifact that was changed", &damaged(pushed, &name), "is damaged"),
        Case::oci("a digest of sha512", &other(&format!("sha512:{}", "0".repeat(128))), "only sha256"),
        Case::oci("a digest that is a path", &other("sha256:../../../etc/passwd"), "bad digest"),
        Case::oci("a digest in capitals", &other(&format!("sha256:{}", "A".repeat(64))), "bad digest"),
        Case::oci("a digest of no algorithm", &other("0"), "without an algorithm"),
        Case::oci("a blob that is not there", &other(&digest(b"")), "is missing in the image"),
    ]
}

fn sizes() -> Vec<Case> {
    let layer = Layer::plain(good());
    let told = |size: Value| {
        let config = config(std::slice::from_ref(&layer));
        let described = with(descriptor(OCI_LAYER, &layer.stored), "size", size);
        let manifest = bytes(&json!({"config": descriptor(OCI_CONFIG, &config), "layers": [described]}));
        let blobs = vec![blob(&config), blob(&layer.stored), blob(&manifest)];
        layout(blobs, &[descriptor(OCI_MANIFEST, &manifest)])
    };
    vec![
        Case::oci("a layer that is longer than said", &told(json!(1)), "bytes and not 1"),
        Case::oci("a layer that is shorter than said", &told(json!(u64::MAX)), "bytes and not 18446744073709551615"),
        Case::oci("a layer of a negative size", &told(json!(-1)), "a manifest of the image is wrong"),
        Case::oci("a layer of a size that is no number", &told(json!("1")), "a manifest of the image is wrong"),
        Case::oci("a layer of a size beyond all", &told(json!(1e300)), "a manifest of the image is wrong"),
    ]
}

fn choices() -> Vec<Case> {
    let layers = [Layer::plain(good())];
    let several = docker_legacy(&[(&["a:1"], &layers), (&["b:1"], &[layers[0].clone(), layers[0].clone()])]);
    let (blobs, manifest) = oci_image(&layers);
    let platform = json!({"os": "windows", "architecture": "riscv64"});
    let other = layout(blobs, &[with(descriptor(OCI_MANIFEST, &manifest), "platform", platform)]);
    let nowhere = [Layer::plain(Tar::new().file("boot/web.spt", unikernel()))];
    vec![
        Case::docker("several images", tar_of(&several), "name one by its tag: a:1, b:1").without_image(),
        Case::oci("none for this host", &other, "only for: windows/riscv64").without_image(),
        Case::docker("another path", tar_of(&docker_oci(&nowhere, "a:1")), "looks like a unikernel: /boot/web.spt"),
    ]
}

fn indexes() -> Vec<Case> {
    let layers = [Layer::plain(good())];
    let (blobs, manifest) = oci_image(&layers);
    let (mut nested, mut inner) = (blobs.clone(), descriptor(OCI_MANIFEST, &manifest));
    for _ in 0..6 {
        let index = bytes(&json!({"manifests": [inner]}));
        inner = descriptor(OCI_INDEX, &index);
        nested.push(blob(&index));
    }
    let of = |kind, document: &Value| {
        let document = bytes(document);
        layout([blobs.clone(), vec![blob(&document)]].concat(), &[descriptor(kind, &document)])
    };
    let both = json!({
        "manifests": [descriptor(OCI_MANIFEST, &manifest)], "layers": [descriptor(OCI_LAYER, &layers[0].stored)],
    });
    let unknown = json!({"mediaType": "application/vnd.example.thing.v9+json", "things": []});
    let count = vec![descriptor(OCI_MANIFEST, &manifest); 5000];
    vec![
        Case::oci("indexes within indexes", &layout(nested, &[inner]), "indexes within indexes"),
        Case::oci("a manifest that is an index too", &of(OCI_MANIFEST, &both), "both an index and a manifest"),
        Case::oci(
            "an index that is a manifest",
            &layout(blobs.clone(), &[descriptor(OCI_INDEX, &manifest)]),
            "not what",
        ),
        Case::oci("a document of an unknown type", &of("application/x", &unknown), "neither an index nor a manifest"),
        Case::oci("an index with nothing", &layout(Files::new(), &[]), "no image for").without_image(),
        Case::oci("an index with 5000 images", &layout(blobs, &count), "at most 4096"),
    ]
}

fn layers() -> Vec<Case> {
    let stored = |bytes: &[u8]| Layer { stored: bytes.to_vec(), ..Layer::plain(good()) };
    let magic = |magic: &[u8]| stored(&[magic, &[0; 600]].concat());
    let secret = Layer { media_type: format!("{OCI_LAYER}+gzip+encrypted"), ..Layer::gzip(good()) };
    let many = vec![Layer::plain(Tar::new()); 129];
    let mut missing = docker_legacy(&[(&["a:1"], &[Layer::plain(good())])]);
    missing.remove(0);
    let mut fewer = docker_legacy(&[(&["a:1"], &[Layer::plain(good()), Layer::plain(Tar::new())])]);
    let listed = fewer.last_mut().expect("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&listed.1).unwrap();
    manifest[0]["Layers"].as_array_mut().unwrap().pop();
    listed.1 = bytes(&manifest);
    let (mut blobs, one) = artifact(&unikernel(), None);
    let mut two: Value = serde_json::from_slice(&one).unwrap();
    two["layers"] = json!([two["layers"][0], two["layers"][0]]);
    let two = bytes(&two);
    blobs.push(blob(&two));
    vec![
        Case::oci_layer("an encrypted layer", secret, "is encrypted"),
        Case::oci_layer("a layer of xz", magic(b"\xfd7zXZ\0"), "compressed with xz"),
        Case::oci_layer("a layer of bzip2", magic(b"BZh91AY"), "compressed with bzip2"),
        Case::oci_layer("a layer of text", stored(&[b'x'; 600]), "no tar, or a damaged one"),
        Case::oci("129 layers", &oci_layout(&many, "1"), "has 129 layers, more than the limit of 128"),
        Case::docker("no layers", tar_of(&docker_legacy(&[(&["a:1"], &[])])), "has no layers"),
        Case::docker("a layer that is listed and missing", tar_of(&missing), "layer 1 is missing in the archive"),
        Case::docker("fewer layers than the configuration says", tar_of(&fewer), "has 1 layers and 2 diff_ids"),
        Case::oci("an artifact of two files", &layout(blobs, &[descriptor(OCI_MANIFEST, &two)]), "has 2 files"),
    ]
}

/// Layouts as folders, whose links could lead anywhere.
fn folders() -> Vec<Case> {
    let case = |name, files: Files, says| Case {
        form: Form::Layout,
        content: Content::Folder(files),
        ..Case::docker(name, Vec::new(), says)
    };
    let whole = || oci_layout(&[Layer::plain(good())], "1");
    let linked = |name: &str, target: &str| {
        let mut files = whole();
        files.retain(|(known, _)| known != name);
        files.push((format!("{name}->"), target.as_bytes().to_vec()));
        files
    };
    let layer = blob(&good().end()).0;
    let mut inside = whole();
    inside.iter_mut().for_each(|(name, _)| *name = name.replace("blobs/", "elsewhere/"));
    inside.push(("blobs->".to_owned(), b"elsewhere".to_vec()));
    let empty = vec![("oci-layout".to_owned(), Vec::new())];
    vec![
        case(
            "index.json as a link to the host",
            linked("index.json", "/etc/passwd"),
            "is a link, which is not followed",
        ),
        case("a blob as a link to a device", linked(&layer, "/dev/zero"), "is a link, which is not followed"),
        case("a folder of blobs as a link", inside, "is a link, which is not followed"),
        case("a folder with nothing", empty, "there is no index.json"),
    ]
}
