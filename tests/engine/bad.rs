//! Engines that do what they should not: each is an error within seconds, and never more.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use albatross_deployer::images::engine::{Dockerfile, Work};
use albatross_deployer::images::worker::Kind;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::fake::{Answers, Fake, ID, json, pong, stated};
use crate::saved_image::Tar;
use crate::worker::{PATIENCE, Ran, engine, image_paths, run, take, taken};

/// Answers requests whose first line has `asked` in it.
fn to(asked: &'static str, answer: impl Fn(&mut UnixStream) + Send + Sync + 'static) -> Arc<Answers> {
    Arc::new(move |line, stream| {
        let is_it = line.contains(asked);
        if is_it {
            answer(stream);
        }
        is_it
    })
}

fn say(asked: &'static str, answer: impl Into<Vec<u8>>) -> Arc<Answers> {
    let answer = answer.into();
    to(asked, move |stream| drop(stream.write_all(&answer)))
}

/// Says `start`, and then `more` until nobody hears it.
fn without_end(asked: &'static str, start: &'static str, more: &'static str, pause: Duration) -> Arc<Answers> {
    to(asked, move |stream| {
        let _ = stream.write_all(start.as_bytes());
        while stream.write_all(more.as_bytes()).is_ok() {
            std::thread::sleep(pause);
        }
    })
}

fn file() -> Vec<u8> {
    Tar::new().file("u", b"kernel").end()
}

fn ask(answers: Arc<Answers>, work: Work) -> Ran {
    let fake = Fake::start(file(), answers);
    let context = if matches!(work, Work::Build { .. }) { file() } else { Vec::new() };
    run(engine(&fake.socket, "test.label", work, PATIENCE), context)
}

fn link(target: &str) -> Vec<u8> {
    let mode = (1_u32 << 27) | 0o777;
    stated(&BASE64_STANDARD.encode(format!(
        r#"{{"name":"u","size":1,"mode":{mode},"mtime":"2026-01-01T00:00:00Z","linkTarget":"{target}"}}"#
    )))
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

#[test]
fn a_good_one_gives_its_file() {
    let ran = ask(Arc::new(|_, _| false), take("web:1", &["/u"]));
    assert!(ran.outcome.is_ok(), "{ran:?}");
    let ran = taken(ran.output, 1 << 20);
    assert!(ran.outcome.is_ok(), "{ran:?}");
    assert_eq!(ran.output, b"kernel");
}

#[test]
fn every_bad_answer_is_an_error() {
    let moment = Duration::from_millis(1);
    let huge = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "a".repeat(1 << 20));
    let other = format!(r#"{{"Id":"{}"}}"#, ID.replace('1', "2"));
    let cases: Vec<(&str, Arc<Answers>, &str, Kind, &str)> = vec![
        (
            "never answers",
            to("", |_| std::thread::sleep(Duration::from_secs(5))),
            "web:1",
            Kind::Unavailable,
            "in time",
        ),
        ("closes at once", to("", |_| ()), "web:1", Kind::Unavailable, "say its version"),
        ("no HTTP", say("", "SSH-2.0-OpenSSH_9\r\n"), "web:1", Kind::Unavailable, "cannot be read"),
        ("huge header", say("", huge), "web:1", Kind::Unavailable, "cannot be read"),
        (
            "a header without end",
            without_end("", "HTTP/1.1 200 OK\r\n", "X: y\r\n", moment),
            "web:1",
            Kind::Unavailable,
            "",
        ),
        ("trickle", without_end("", CHUNKED, " ", Duration::from_millis(50)), "web:1", Kind::Unavailable, "in time"),
        ("no version", say("/_ping", json("OK")), "web:1", Kind::Unavailable, "no version"),
        ("another version", say("/_ping", pong("2.0", "")), "web:1", Kind::Unavailable, "no version"),
        ("other shape", say("/images/", json(r#"{"Id":[1,2]}"#)), "web:1", Kind::Unavailable, "cannot be read"),
        ("no id", say("/images/", json("{}")), "web:1", Kind::Unavailable, "no id"),
        ("an id that is none", say("/images/", json(r#"{"Id":"--rm"}"#)), "web:1", Kind::Unavailable, "no id"),
        ("another image", say("/images/", json(&other)), ID, Kind::Unavailable, "another"),
        (
            "JSON without end",
            without_end("/images/", CHUNKED, "[[[[[[[[", Duration::ZERO),
            "web:1",
            Kind::Unavailable,
            "",
        ),
        (
            "an error without end",
            without_end("/images/", "HTTP/1.1 500 Oh\r\nConnection: close\r\n\r\n", "oh no oh no", Duration::ZERO),
            "web:1",
            Kind::Unavailable,
            "more than",
        ),
        ("no state", say("HEAD", "HTTP/1.1 200 OK\r\n\r\n"), "web:1", Kind::Unavailable, "cannot be read"),
        ("no base64", say("HEAD", stated("!!!")), "web:1", Kind::Unavailable, "cannot be read"),
        ("no JSON", say("HEAD", stated("AAAA")), "web:1", Kind::Unavailable, "cannot be read"),
        ("a circle", say("HEAD", link("/u")), "web:1", Kind::Invalid, "40 links"),
        ("a link to nothing", say("HEAD", link("")), "web:1", Kind::Unavailable, "leads to"),
        (
            "a file that stops coming",
            to("GET /v1.41/containers/albatross-deployer-", |stream| {
                let _ = stream.write_all(CHUNKED.as_bytes());
                std::thread::sleep(Duration::from_secs(6));
            }),
            "web:1",
            Kind::Unavailable,
            "in time",
        ),
    ];
    for (name, answers, image, kind, says) in cases {
        let ran = ask(answers, take(image, &["/u"]));
        println!("{name}: {:?} in {:?}", ran.outcome, ran.took);
        let failure = ran.failure();
        assert_eq!(failure.kind, kind, "{name}: {failure:?}");
        assert!(failure.message.contains(says), "{name}: {failure:?}");
        assert!(ran.took < Duration::from_secs(6), "{name}: {:?}", ran.took);
    }
}

#[test]
fn a_bad_tar_is_an_error() {
    let cases = [
        ("a device", Tar::new().entry("u", b'3', b"").end(), Kind::Invalid),
        ("a link", Tar::new().symlink("u", "/etc/shadow").end(), Kind::Invalid),
        ("two files", Tar::new().file("u", b"a").file("v", b"b").end(), Kind::Invalid),
        ("too large", Tar::new().file("u", vec![0; 2 << 20]).end(), Kind::TooLarge),
        ("cut off", Tar::new().file("u", vec![0; 2 << 10]).0[..1000].to_vec(), Kind::Invalid),
        ("no tar", vec![b'x'; 5000], Kind::Invalid),
        ("nothing", Vec::new(), Kind::Invalid),
    ];
    for (name, tar, kind) in cases {
        let fake = Fake::start(tar, Arc::new(|_, _| false));
        let ran = run(engine(&fake.socket, "test.label", take("web:1", &["/u"]), PATIENCE), Vec::new());
        assert!(ran.outcome.is_ok(), "{name}: the engine's worker does not read it: {ran:?}");
        let ran = taken(ran.output, 1 << 20);
        println!("{name}: {:?}", ran.outcome);
        assert_eq!(ran.failure().kind, kind, "{name}: {ran:?}");
    }
}

#[test]
fn a_bad_build_is_an_error() {
    let moment = Duration::from_millis(5);
    let line = r#"{"stream":"still at it\n"}"#.to_owned() + "\n";
    let line: &'static str = line.leak();
    let cases: Vec<(&str, Arc<Answers>, Kind, &str)> = vec![
        ("no end", without_end("/build?", CHUNKED, line, moment), Kind::Unavailable, "in time"),
        (
            "an endless line",
            without_end("/build?", CHUNKED, "aaaaaaaaaaaaaaaa", Duration::ZERO),
            Kind::Unavailable,
            "a line",
        ),
        ("silence", to("/build?", |_| std::thread::sleep(Duration::from_secs(6))), Kind::Unavailable, "in time"),
        ("no JSON", say("/build?", json("hello\n")), Kind::Unavailable, "cannot be read"),
        ("no image", say("/build?", json("")), Kind::Build, "did not say why"),
        ("no id", say("/build?", json(r#"{"aux":{"ID":"../x"}}"#)), Kind::Build, "did not say why"),
        ("an error", say("/build?", json(r#"{"error":"no space"}"#)), Kind::Build, "no space"),
        (
            "refused",
            say("/build?", "HTTP/1.1 500 Oh\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}"),
            Kind::Build,
            "no",
        ),
        (
            "no session",
            Arc::new(|line, stream| {
                let answer = if line.contains("/_ping") { pong("1.46", "") } else { json("{}") };
                let is_it = line.contains("/_ping") || line.contains("/session");
                is_it && stream.write_all(&answer).is_ok()
            }),
            Kind::Unavailable,
            "session",
        ),
        ("too old", say("/_ping", pong("1.40", "")), Kind::Unavailable, "too old"),
    ];
    for (name, answers, kind, says) in cases {
        let dockerfile = Dockerfile::OfContext("Dockerfile".into());
        let build = Work::Build { dockerfile, paths: image_paths(&["/u"]), signature: false };
        let ran = ask(answers, build);
        println!("{name}: {:?} in {:?}", ran.outcome, ran.took);
        let failure = ran.failure();
        assert_eq!(failure.kind, kind, "{name}: {failure:?}");
        assert!(failure.message.contains(says), "{name}: {failure:?}");
        assert!(ran.took < Duration::from_secs(6), "{name}: {:?}", ran.took);
    }
}
