//! Registries that mean no good, or have a bad day: each has its error, soon, and nothing is left of it.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::hostile::{Asked, Behaviour, Hostile, chunk, head, send, without_end};
use super::netns::isolated;
use super::saved_image::{Files, OCI_INDEX, OCI_MANIFEST, descriptor, digest, oci_image};
use super::scene::Scene;

/// Milliseconds in which a registry says something.
const PATIENCE: u64 = 400;

const INVALID: &str = "ImageInvalid";
const UNAVAILABLE: &str = "ImageUnavailable";

/// A good image, and what its parts are called.
struct Image {
    version: &'static str,
    parts: (Files, Vec<u8>),
    layer: Vec<u8>,
}

fn image(scene: &Scene, version: &'static str) -> Image {
    let layer = scene.layer(version, "unikernel.spt");
    let stored = layer.stored.clone();
    Image { version, parts: oci_image(&[layer]), layer: stored }
}

/// Behaves so wherever the layer is asked for.
fn layer(
    image: &Image,
    bad: impl Fn(&[u8], &Asked, usize, &mut TcpStream) -> bool + Send + Sync + 'static,
) -> Box<Behaviour> {
    let (layer, name) = (image.layer.clone(), digest(&image.layer));
    Box::new(move |asked, number, stream| asked.path.ends_with(&name) && bad(&layer, asked, number, stream))
}

/// And so where a manifest is asked for.
fn manifest(bad: impl Fn(&Asked, usize, &mut TcpStream) + Send + Sync + 'static) -> Box<Behaviour> {
    Box::new(move |asked, number, stream| {
        if asked.is_manifest() {
            bad(asked, number, stream);
        }
        asked.is_manifest()
    })
}

fn send_manifest(stream: &mut TcpStream, bytes: &[u8]) {
    send(stream, "200 OK", &format!("Content-Type: {OCI_MANIFEST}\r\n"), bytes);
}

#[test]
fn what_is_sent_is_not_what_it_should_be() {
    isolated("bad::what_is_sent_is_not_what_it_should_be", |_| async {
        let Some(scene) = Scene::start(&(6000..6020).collect::<Vec<_>>(), PATIENCE, "").await else { return };
        let good = image(&scene, "1");
        let layers = good.parts.1.clone();
        let cases: Vec<(&str, Box<Behaviour>, &str, &[&str])> = vec![
            (
                "a layer with another digest",
                layer(&good, |layer, _, _, stream| {
                    let mut other = layer.to_vec();
                    other[20] ^= 1;
                    send(stream, "200 OK", "", &other);
                    true
                }),
                INVALID,
                &["layer 1 of 1 is damaged"],
            ),
            (
                "a layer that is announced larger",
                layer(&good, |layer, _, _, stream| {
                    send(stream, "200 OK", "", &[layer, b"and more"].concat());
                    true
                }),
                INVALID,
                &["bytes where the manifest says"],
            ),
            (
                "a layer without end",
                layer(&good, |layer, _, _, stream| {
                    head(stream, "200 OK", "Transfer-Encoding: chunked\r\n");
                    chunk(stream, layer);
                    without_end(stream, &[7; 60_000], Duration::ZERO);
                    true
                }),
                INVALID,
                &["layer 1 of 1", "longer than the manifest says"],
            ),
            (
                "a manifest without end",
                manifest(|_, _, stream| {
                    head(stream, "200 OK", &format!("Content-Type: {OCI_MANIFEST}\r\nTransfer-Encoding: chunked\r\n"));
                    without_end(stream, &[b' '; 60_000], Duration::ZERO);
                }),
                INVALID,
                &["the manifest has more than 4194304 bytes"],
            ),
            (
                "a manifest that is too large",
                manifest(|_, _, stream| send_manifest(stream, &vec![b' '; 5 << 20])),
                INVALID,
                &["the manifest has more than 4194304 bytes"],
            ),
            (
                "a manifest that is none",
                manifest(|_, _, stream| send_manifest(stream, b"<html>hello</html>")),
                INVALID,
                &["of the image is wrong"],
            ),
            (
                "a manifest of nothing",
                manifest(|_, _, stream| send_manifest(stream, b"{}")),
                INVALID,
                &["neither an index nor a manifest"],
            ),
            (
                "a page for people",
                manifest(|_, _, stream| {
                    send(stream, "200 OK", "Content-Type: text/html; charset=utf-8\r\n", b"<p>log in")
                }),
                UNAVAILABLE,
                &["answers with text/html where a manifest should be: is it a registry?"],
            ),
            (
                "a manifest as before 2017",
                manifest(|_, _, stream| {
                    let kind = "Content-Type: application/vnd.docker.distribution.manifest.v1+prettyjws\r\n";
                    send(stream, "200 OK", kind, b"{}");
                }),
                UNAVAILABLE,
                &["a form of before 2017"],
            ),
            (
                "a manifest that is called an index",
                manifest(move |_, _, stream| {
                    send(stream, "200 OK", &format!("Content-Type: {OCI_INDEX}\r\n"), &layers);
                }),
                INVALID,
                &["not what it is called"],
            ),
            ("indexes without end", manifest(nested), INVALID, &["indexes within indexes"]),
            (
                "another manifest than the index says",
                manifest(|asked, _, stream| {
                    if asked.path.contains("sha256:") {
                        send_manifest(stream, b"{}");
                    } else {
                        send(stream, "200 OK", &format!("Content-Type: {OCI_INDEX}\r\n"), &index_of(b"[]"));
                    }
                }),
                INVALID,
                &["is damaged"],
            ),
            (
                "a layer of two halves",
                layer(&good, |layer, asked, _, stream| {
                    let range = format!("Content-Range: bytes {}-\r\n", asked.from());
                    match asked.from() {
                        0 => {
                            head(stream, "200 OK", &format!("Content-Length: {}\r\n", layer.len()));
                            let _ = stream.write_all(&layer[..100]);
                        }
                        from => send(stream, "206 Partial", &range, &vec![0; layer.len() - from]),
                    }
                    true
                }),
                INVALID,
                &["damaged"],
            ),
        ];
        for (port, (what, behaviour, name, says)) in (6000..).zip(cases) {
            let registry = Hostile::start(port, good.parts.clone(), behaviour);
            println!("{what}:");
            scene.refuses(&format!("docker://{}/web", registry.host), name, says).await;
        }
        let registry = Hostile::start(6019, good.parts.clone(), Box::new(|_, _, _| false));
        let other = digest(b"other");
        scene.refuses(&format!("docker://{}/web:1@{other}", registry.host), UNAVAILABLE, &["has no"]).await;
        let registry = Hostile::start(6018, good.parts.clone(), manifest(|_, _, stream| send_manifest(stream, b"{}")));
        scene.refuses(&format!("docker://{}/web:1@{other}", registry.host), INVALID, &["is damaged"]).await;
        nothing_is_left(&scene).await;
    });
}

fn index_of(manifest: &[u8]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_INDEX, manifest)]});
    serde_json::to_vec(&index).unwrap()
}

/// An index that has an index that has an index.
fn nested(asked: &Asked, _: usize, stream: &mut TcpStream) {
    let mut indexes = vec![index_of(b"{}")];
    for at in 0..8 {
        indexes.push(index_of(&indexes[at]));
    }
    let top = indexes.last().unwrap().clone();
    let found = indexes.into_iter().find(|index| asked.path.ends_with(&digest(index))).unwrap_or(top);
    send(stream, "200 OK", &format!("Content-Type: {OCI_INDEX}\r\n"), &found);
}

async fn nothing_is_left(scene: &Scene) {
    assert!(scene.host.running().is_empty());
    scene.host.until_no_image_is_left().await;
    scene.nobody_works().await;
    // What was kept is what it is called.
    for (name, _) in scene.cached() {
        assert_eq!(digest(&std::fs::read(scene.cache().join(&name)).unwrap()), format!("sha256:{name}"));
    }
}

#[test]
fn it_does_not_answer_as_it_should() {
    isolated("bad::it_does_not_answer_as_it_should", |_| async {
        let Some(scene) = Scene::start(&(6000..6020).collect::<Vec<_>>(), PATIENCE, "").await else { return };
        let good = image(&scene, "1");
        let long = || thread::sleep(Duration::from_secs(20));
        let cases: Vec<(&str, Box<Behaviour>, &str, &[&str])> = vec![
            ("never answers", manifest(move |_, _, _| long()), UNAVAILABLE, &["sends nothing any more"]),
            (
                "headers without end",
                manifest(|_, _, stream| {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
                    while stream.write_all(&[b'x'; 1000]).is_ok() {}
                }),
                UNAVAILABLE,
                &["127.0.0.1"],
            ),
            (
                "a manifest that trickles",
                manifest(|_, _, stream| {
                    head(stream, "200 OK", &format!("Content-Type: {OCI_MANIFEST}\r\nTransfer-Encoding: chunked\r\n"));
                    without_end(stream, b" ", Duration::from_millis(50));
                }),
                UNAVAILABLE,
                &["is too slow: it sent", "bytes in"],
            ),
            (
                "a layer that stops",
                layer(&good, move |layer, _, _, stream| {
                    head(stream, "200 OK", &format!("Content-Length: {}\r\n", layer.len()));
                    long();
                    true
                }),
                UNAVAILABLE,
                &["sends nothing any more"],
            ),
            (
                "a layer that trickles",
                layer(&good, |layer, asked, _, stream| {
                    head(
                        stream,
                        "206 Partial",
                        &format!("Content-Range: bytes {}-\r\nTransfer-Encoding: chunked\r\n", asked.from()),
                    );
                    layer[asked.from()..].iter().all(|byte| {
                        thread::sleep(Duration::from_millis(50));
                        chunk(stream, &[*byte])
                    })
                }),
                UNAVAILABLE,
                &["is too slow: it sent", "bytes in"],
            ),
            (
                "a layer that always breaks off in the same place",
                layer(&good, |layer, _, _, stream| {
                    head(stream, "200 OK", &format!("Content-Length: {}\r\n", layer.len()));
                    let _ = stream.write_all(&layer[..100]);
                    true
                }),
                UNAVAILABLE,
                &["ended the connection before everything was there"],
            ),
            (
                "another part than was asked for",
                layer(&good, |layer, asked, _, stream| {
                    match asked.from() {
                        0 => {
                            head(stream, "200 OK", &format!("Content-Length: {}\r\n", layer.len()));
                            let _ = stream.write_all(&layer[..100]);
                        }
                        from => send(stream, "206 Partial Content", "Content-Range: bytes 0-9/10\r\n", &layer[from..]),
                    }
                    true
                }),
                UNAVAILABLE,
                &["sends another part than it was asked for"],
            ),
            (
                "always 500",
                manifest(|_, _, stream| send(stream, "500 Oh", "", b"hunter2")),
                UNAVAILABLE,
                &["HTTP status 500", "try again later"],
            ),
            ("418", manifest(|_, _, stream| send(stream, "418 Teapot", "", b"")), UNAVAILABLE, &["HTTP status 418"]),
            ("no HTTP", manifest(|_, _, stream| head(stream, "\0\0", "")), UNAVAILABLE, &["127.0.0.1:6009"]),
            ("says nothing and goes", manifest(|_, _, _| ()), UNAVAILABLE, &["127.0.0.1:6010"]),
            (
                "in a circle",
                manifest(|asked, _, stream| {
                    send(stream, "307 Over there", &format!("Location: {}\r\n", asked.path), b"")
                }),
                UNAVAILABLE,
                &["from one address to the next without end"],
            ),
            (
                "to what is not on the web",
                manifest(|_, _, stream| send(stream, "302 Over there", "Location: ftp://127.0.0.1/x\r\n", b"")),
                UNAVAILABLE,
                &["sends to what is not on the web"],
            ),
            (
                "to nowhere",
                manifest(|_, _, stream| send(stream, "302 Over there", "", b"")),
                UNAVAILABLE,
                &["sends to what is no address"],
            ),
            (
                "a token that is none",
                manifest(|asked, _, stream| {
                    let realm = "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:6014/v2/manifests/\"\r\n";
                    if asked.path.starts_with("/v2/web") {
                        send(stream, "401 Who", realm, b"");
                    } else {
                        send(stream, "200 OK", "", b"hello");
                    }
                }),
                UNAVAILABLE,
                &["gives no token"],
            ),
            (
                "a token that does not help",
                manifest(|asked, _, stream| {
                    let realm = "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:6015/v2/manifests/\"\r\n";
                    if asked.path.starts_with("/v2/web") {
                        send(stream, "401 Who", realm, b"");
                    } else {
                        send(stream, "200 OK", "", b"{\"token\": \"hunter2\"}");
                    }
                }),
                UNAVAILABLE,
                &["wants to know who asks"],
            ),
            (
                "a token from a file",
                manifest(|_, _, stream| {
                    send(stream, "401 Who", "WWW-Authenticate: Bearer realm=\"file:///etc/passwd\"\r\n", b"");
                }),
                UNAVAILABLE,
                &["sends for a token"],
            ),
        ];
        for (port, (what, behaviour, name, says)) in (6000..).zip(cases) {
            let registry = Hostile::start(port, good.parts.clone(), behaviour);
            println!("{what}:");
            let message = scene.refuses(&format!("docker://{}/web", registry.host), name, says).await;
            assert!(!message.contains("hunter2"), "{what}: {message}");
        }
        assert!(!scene.host.log().contains("hunter2"));
        nothing_is_left(&scene).await;
    });
}

#[test]
fn a_bad_day_is_got_over() {
    isolated("bad::a_bad_day_is_got_over", |_| async {
        let Some(scene) = Scene::start(&(6000..6010).collect::<Vec<_>>(), PATIENCE, "").await else { return };
        let versions = ["1", "2", "3", "4"].map(|version| image(&scene, version));
        let [cut, without_parts, ..] = &versions;
        let breaks_off = |layer: &[u8], asked: &Asked, stream: &mut TcpStream| {
            let from = asked.from();
            let range = format!("Content-Range: bytes {from}-\r\n");
            head(
                stream,
                if from > 0 { "206 Partial" } else { "200 OK" },
                &format!("{range}Content-Length: {}\r\n", layer.len() - from),
            );
            let _ = stream.write_all(&layer[from..from + 100]);
        };
        let behaviours: [Box<Behaviour>; 4] = [
            layer(cut, move |layer, asked, number, stream| {
                if number < 2 {
                    breaks_off(layer, asked, stream);
                }
                number < 2
            }),
            layer(without_parts, move |layer, asked, number, stream| {
                match number {
                    0 => breaks_off(layer, asked, stream),
                    _ => send(stream, "200 OK", "", layer),
                }
                true
            }),
            Box::new(|_, number, stream| {
                if number < 2 {
                    send(stream, "503 Soon", "", b"");
                }
                number < 2
            }),
            Box::new(|asked, number, stream| {
                if number == 0 && asked.is_manifest() {
                    send(stream, "429 Slowly", "Retry-After: 1\r\n", b"");
                }
                number == 0 && asked.is_manifest()
            }),
        ];
        for ((port, behaviour), image) in (6000..).zip(behaviours).zip(&versions) {
            let registry = Hostile::start(port, image.parts.clone(), behaviour);
            scene.answers(&format!("docker://{}/web", registry.host), image.version, None).await;
            let layer = digest(&image.layer);
            let from: Vec<usize> =
                registry.asked().iter().filter(|asked| asked.path.ends_with(&layer)).map(Asked::from).collect();
            match image.version {
                "1" => assert_eq!(from, [0, 100, 200]),
                "2" => assert_eq!(from, [0, 100]),
                "3" => assert_eq!(from, [0, 0, 0]),
                _ => assert_eq!(from, [0]),
            }
        }
    });
}

/// Also not where a registry that may be asked so sends who asks.
#[test]
fn plain_http_is_spoken_only_with_who_is_listed() {
    isolated("bad::plain_http_is_spoken_only_with_who_is_listed", |_| async {
        let more = "auth-file = \"FOLDER/auth.json\"";
        let Some(scene) = Scene::start(&[6000, 6001], PATIENCE, more).await else { return };
        scene.log_in(&[("127.0.0.1:6000", "me:hunter2"), ("127.0.0.1:6001", "me:hunter2")]);
        let good = image(&scene, "1");
        let unlisted = Hostile::start(6002, good.parts.clone(), Box::new(|_, _, _| false));
        let sends = layer(&good, |_, asked, _, stream| {
            send(stream, "307 Over there", &format!("Location: http://127.0.0.1:6002{}\r\n", asked.path), b"");
            true
        });
        let asks = manifest(|_, _, stream| {
            let realm = "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:6002/token\"\r\n";
            send(stream, "401 Who", realm, b"");
        });
        for (port, behaviour, says) in [(6000, sends, "sends to"), (6001, asks, "sends for a token to")] {
            let registry = Hostile::start(port, good.parts.clone(), behaviour);
            let says = format!("{says} 127.0.0.1:6002, without TLS");
            scene.refuses(&format!("docker://{}/web", registry.host), UNAVAILABLE, &[&says]).await;
        }
        assert!(unlisted.asked().is_empty(), "{:?}", unlisted.asked());
        nothing_is_left(&scene).await;
    });
}

#[test]
fn a_secret_goes_to_nobody_else() {
    isolated("bad::a_secret_goes_to_nobody_else", |_| async {
        let more = "auth-file = \"FOLDER/auth.json\"";
        let Some(scene) = Scene::start(&(6000..6007).collect::<Vec<_>>(), PATIENCE, more).await else { return };
        let entries = ["6000", "6002", "6004"].map(|port| format!("127.0.0.1:{port}"));
        scene.log_in(&entries.each_ref().map(|host| (host.as_str(), "me:hunter2")));
        let known = "Basic bWU6aHVudGVyMg==";
        let good = image(&scene, "1");
        let storage = Hostile::start(6001, good.parts.clone(), Box::new(|_, _, _| false));
        // Sends who asks for a layer to another, where nobody knows the user.
        let sending = move |asked: &Asked, _: usize, stream: &mut TcpStream| {
            if asked.header("authorization") != Some(known) {
                send(stream, "401 Who", "WWW-Authenticate: Basic realm=\"test\"\r\n", b"");
            } else if asked.path.contains("/blobs/") {
                let elsewhere = format!("Location: http://127.0.0.1:6001{}?signed=1\r\n", asked.path);
                send(stream, "307 Over there", &elsewhere, b"");
            } else {
                return false;
            }
            true
        };
        let registry = Hostile::start(6000, good.parts.clone(), Box::new(sending));
        scene.answers(&format!("docker://{}/web", registry.host), "1", None).await;
        assert!(!storage.asked().is_empty());
        assert!(storage.asked().iter().all(|asked| asked.header("authorization").is_none()));

        // Another that asks for the user: nobody tells it.
        let curious = |_: &Asked, _: usize, stream: &mut TcpStream| {
            send(stream, "401 Who", "WWW-Authenticate: Basic realm=\"test\"\r\n", b"");
            true
        };
        let elsewhere = Hostile::start(6003, good.parts.clone(), Box::new(curious));
        let sending = |asked: &Asked, _: usize, stream: &mut TcpStream| {
            send(stream, "302 Over there", &format!("Location: http://127.0.0.1:6003{}\r\n", asked.path), b"");
            true
        };
        let registry = Hostile::start(6002, good.parts.clone(), Box::new(sending));
        scene.refuses(&format!("docker://{}/web", registry.host), UNAVAILABLE, &["refuses the credentials"]).await;
        assert!(elsewhere.asked().iter().all(|asked| asked.header("authorization").is_none()));

        // A token from another: the user is told there, as the registry says, and the token to the registry alone.
        let tokens = |asked: &Asked, _: usize, stream: &mut TcpStream| {
            let good = asked.header("authorization") == Some("Basic bWU6aHVudGVyMg==")
                && asked.path == "/token?scope=repository%3Aa%2Fweb%3Apull&service=test";
            let (status, body) =
                if good { ("200 OK", &b"{\"access_token\": \"abc\"}"[..]) } else { ("403 No", &b""[..]) };
            send(stream, status, "Content-Type: application/json\r\n", body);
            true
        };
        let tokens = Hostile::start(6005, good.parts.clone(), Box::new(tokens));
        let sending = |asked: &Asked, _: usize, stream: &mut TcpStream| {
            let challenge = "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:6005/token\",service=\"test\",scope=\"repository:x:push\"\r\n";
            let is_unknown = asked.header("authorization") != Some("Bearer abc");
            if is_unknown {
                send(stream, "401 Who", challenge, b"");
            }
            is_unknown
        };
        let registry = Hostile::start(6004, good.parts.clone(), Box::new(sending));
        scene.answers(&format!("docker://{}/a/web", registry.host), "1", None).await;
        assert_eq!(tokens.asked().len(), 1, "one token for all parts");
        assert!(registry.asked().iter().all(|asked| asked.header("authorization") != Some(known)));

        // What a token server has given for a password: it alone is told it.
        let text = "{\"auths\": {\"127.0.0.1:6006\": {\"identitytoken\": \"hunter2\"}}}";
        scene.save("auth.json", text.as_bytes());
        let sending = |asked: &Asked, _: usize, stream: &mut TcpStream| {
            let challenge = "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:6006/token\"\r\n";
            let is_unknown = asked.header("authorization") != Some("Bearer abc");
            if asked.path == "/token" {
                send(stream, "200 OK", "", b"{\"access_token\": \"abc\"}");
            } else if is_unknown {
                send(stream, "401 Who", challenge, b"");
            }
            is_unknown
        };
        let registry = Hostile::start(6006, good.parts.clone(), Box::new(sending));
        scene.answers(&format!("docker://{}/a/web", registry.host), "1", None).await;
        let told: Vec<String> =
            registry.asked().iter().map(|asked| asked.body.clone()).filter(|b| !b.is_empty()).collect();
        assert_eq!(
            told,
            [
                "scope=repository%3Aa%2Fweb%3Apull&grant_type=refresh_token&client_id=albatross-deployer&refresh_token=hunter2"
            ]
        );
        assert!(!scene.host.log().contains("hunter2"));
    });
}
