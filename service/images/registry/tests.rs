//! What the worker's task makes and says, of a registry on loopback.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hostile::{Behaviour, Hostile, head, without_end};
use super::saved_image::{Files, Layer, Tar, artifact, digest, oci_image, signed_artifact};
use super::{Access, Insecure, Patience, Request, run};
use crate::images::worker::{Failure, Kind, Voice, Wanted};

const UNIKERNEL: &[u8] = b"\x7fELF, and then the rest of a unikernel";

struct Outcome {
    outcome: Result<(), Failure>,
    unikernel: Vec<u8>,
    said: Vec<Value>,
}

impl Outcome {
    /// What was heard of this kind.
    fn heard(&self, kind: &str) -> Vec<&Value> {
        self.said.iter().map(|said| &said["Heard"][kind]).filter(|said| !said.is_null()).collect()
    }
}

fn good() -> Box<Behaviour> {
    Box::new(|_, _, _| false)
}

fn take(image: (Files, Vec<u8>), behaviour: Box<Behaviour>, change: impl FnOnce(&mut Request)) -> Outcome {
    let registry = Hostile::start(0, image, behaviour);
    let cache = tempfile::tempdir().unwrap();
    let paths = vec!["/unikernel.hvt".parse().unwrap(), "/unikernel.spt".parse().unwrap()];
    let mut request = Request {
        image: format!("{}/web", registry.host).parse().unwrap(),
        insecure: Insecure(vec![registry.host.clone()]),
        access: Access::Anyone,
        cache: cache.path().to_owned(),
        cache_limit: 1 << 20,
        wanted: Wanted { paths, named: false, limit: 1 << 20, signature: true },
        patience: Patience { silence: Duration::from_millis(500), ..Patience::default() },
    };
    change(&mut request);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let hearing = std::thread::spawn(move || {
        BufReader::new(ours).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    });
    let reading = std::thread::spawn(move || {
        let mut unikernel = Vec::new();
        reader.read_to_end(&mut unikernel).unwrap();
        unikernel
    });
    let output = std::os::fd::OwnedFd::from(writer).into();
    let outcome = run(&request, output, &mut Voice::new(theirs));
    Outcome { outcome, unikernel: reading.join().unwrap(), said: hearing.join().unwrap() }
}

#[test]
fn what_is_said_of_an_image() {
    let layers = [Layer::gzip(Tar::new().file("unikernel.spt", UNIKERNEL).file("unikernel.spt.minisig", "signed"))];
    let (files, manifest) = oci_image(&layers);
    let told = take((files, manifest.clone()), good(), |_| ());
    assert_eq!(told.outcome, Ok(()));
    assert_eq!(told.unikernel, UNIKERNEL);
    assert_eq!(told.heard("Origin"), [&json!(digest(&manifest))]);
    assert_eq!(told.heard("Signature"), [&json!("signed")]);
    assert_eq!(told.heard("Step"), [&json!("asking the registry"), &json!("downloading")]);
    let size = layers[0].stored.len();
    assert!(told.heard("Progress").contains(&&json!({"done": size, "total": size})), "{:?}", told.said);
    let unsigned = take(oci_image(&[Layer::plain(Tar::new().file("unikernel.hvt", UNIKERNEL))]), good(), |_| ());
    assert_eq!((unsigned.outcome.is_ok(), unsigned.heard("Signature").len()), (true, 0));
}

/// An artifact with `signature` beside it.
fn signed(signature: &[u8]) -> (Files, Vec<u8>) {
    signed_artifact(UNIKERNEL, "it.hvt", signature)
}

#[test]
fn what_signs_an_artifact() {
    let told = take(signed(b"signed"), good(), |_| ());
    assert_eq!(told.outcome, Ok(()));
    assert_eq!(told.unikernel, UNIKERNEL);
    assert_eq!(told.heard("Signature"), [&json!("signed")]);
    let unasked = take(signed(b"signed"), good(), |request| request.wanted.signature = false);
    assert_eq!(unasked.heard("Signature").len(), 0);
    let long = take(signed(&[b'x'; 5000]), good(), |_| ());
    assert!(long.outcome.unwrap_err().message.contains("the signature of the artifact has 5000 bytes"));
    let unsigned = take(artifact(UNIKERNEL, None), good(), |_| ());
    assert_eq!((unsigned.outcome.is_ok(), unsigned.heard("Signature").len()), (true, 0));
}

#[test]
fn a_path_that_was_named_is_not_passed_over() {
    let told = take(artifact(UNIKERNEL, None), good(), |request| request.wanted.named = true);
    let failure = told.outcome.unwrap_err();
    assert_eq!(failure.kind, Kind::Invalid);
    assert!(failure.message.contains("leave option image-path out"), "{}", failure.message);
    let layers = [Layer::gzip(Tar::new().file("unikernel.spt", UNIKERNEL))];
    assert_eq!(take(oci_image(&layers), good(), |request| request.wanted.named = true).outcome, Ok(()));
}

#[test]
fn without_a_cache_it_works_as_well() {
    let image = || oci_image(&[Layer::gzip(Tar::new().file("unikernel.spt", UNIKERNEL))]);
    let nowhere = take(image(), good(), |request| request.cache = "/nowhere".into());
    assert_eq!((nowhere.outcome, nowhere.unikernel.as_slice()), (Ok(()), UNIKERNEL));
    let small = take(image(), good(), |request| request.cache_limit = 1);
    assert_eq!((small.outcome, small.unikernel.as_slice()), (Ok(()), UNIKERNEL));
}

#[test]
fn what_takes_too_long_in_all_is_given_up() {
    let layer = Layer::plain(Tar::new().file("unikernel.hvt", vec![7; 1 << 20]));
    let (name, bytes) = (digest(&layer.stored), layer.stored.clone());
    let slowly: Box<Behaviour> = Box::new(move |asked, _, stream| {
        let is_layer = asked.path.ends_with(&name);
        if is_layer {
            head(stream, "200 OK", "Transfer-Encoding: chunked\r\n");
            bytes.chunks(20_000).for_each(|piece| {
                super::hostile::chunk(stream, piece);
                std::thread::sleep(Duration::from_millis(100));
            });
            without_end(stream, b"x", Duration::from_millis(100));
        }
        is_layer
    });
    let before = Instant::now();
    let told = take(oci_image(&[layer]), slowly, |request| {
        request.wanted.limit = 2 << 20;
        request.patience.whole = Duration::from_secs(1);
    });
    assert!(told.outcome.unwrap_err().message.contains("the image was not there after 1 s"));
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
}
