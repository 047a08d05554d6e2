//! Builds by an engine, by the worker that the service has them made by.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use albatross_deployer::images::engine::{Dockerfile, Patience, Work};
use albatross_deployer::images::worker::{Heard, Kind};

use crate::engines::{Engine, Kind as Which, has};
use crate::registry::Registry;
use crate::saved_image::Tar;
use crate::worker::{Ran, Worker, engine as task, image_paths, run, taken};

static BUILDS: AtomicU32 = AtomicU32::new(0);

const UNIKERNEL: &[u8] = b"what would be a unikernel";

pub fn all(engine: &Engine) {
    from_the_context(engine);
    what_signs_it_comes_along(engine);
    from_a_text(engine);
    refused(engine);
    if load_base(engine) {
        caches(engine);
        on_an_image_of_a_registry(engine);
        failed(engine);
        killed(engine);
    } else {
        println!("SKIPPED: builds that run something: install busybox, a static one");
    }
}

fn context() -> Tar {
    Tar::new()
        .file("Dockerfile", "FROM scratch\nCOPY main.bin /unikernel.spt\n")
        .file("signed/Dockerfile", "FROM scratch\nCOPY main.bin /u\nCOPY main.bin.minisig /u.minisig\n")
        .file("main.bin", UNIKERNEL)
        .file("main.bin.minisig", "trusted")
}

fn text(text: &str) -> Dockerfile {
    Dockerfile::Text { with_caches: text.into(), plain: "no engine that is here takes this".into() }
}

fn work(dockerfile: Dockerfile) -> Work {
    Work::Build { dockerfile, paths: image_paths(&["/unikernel.hvt", "/unikernel.spt", "/u"]), signature: true }
}

fn build(engine: &Engine, dockerfile: Dockerfile) -> Ran {
    let began = std::time::Instant::now();
    // BuildKit does not know at once that a session is over.
    let label = format!("test.build-{}", BUILDS.fetch_add(1, Ordering::Relaxed));
    let ran = run(task(&engine.socket, &label, work(dockerfile), Patience::default()), context().end());
    println!("built by {:?} in {:?}: {:?}", engine.kind, began.elapsed(), ran.outcome);
    engine.assert_clean("a build");
    ran
}

fn assert_made(ran: Ran) -> Ran {
    assert!(ran.outcome.is_ok(), "{ran:?}");
    let taken = taken(ran.output, 1 << 20);
    assert_eq!(taken.output, UNIKERNEL, "{:?}", taken.outcome);
    taken
}

fn from_the_context(engine: &Engine) {
    let ran = build(engine, Dockerfile::OfContext("Dockerfile".into()));
    let lines = ran.lines().join("\n");
    assert!(lines.contains("COPY main.bin /unikernel.spt"), "{lines}");
    assert!(ran.heard.contains(&Heard::Step("building 1/1".into())) || lines.contains("STEP 1/3"), "{ran:?}");
    assert_made(ran);
}

fn what_signs_it_comes_along(engine: &Engine) {
    let taken = assert_made(build(engine, Dockerfile::OfContext("signed/Dockerfile".into())));
    assert_eq!(taken.heard, [Heard::Signature("trusted".into())]);
}

fn from_a_text(engine: &Engine) {
    assert_made(build(engine, text("FROM scratch\nCOPY main.bin /unikernel.hvt\n")));
}

fn refused(engine: &Engine) {
    for dockerfile in [Dockerfile::OfContext("Nothing".into()), text("FROM scratch\nBREW tea\n"), text("")] {
        let ran = build(engine, dockerfile);
        assert_eq!(ran.failure().kind, Kind::Build, "{ran:?}");
    }
    // It stands where nobody has looked for it.
    let ran = build(engine, text("FROM scratch\nCOPY main.bin /elsewhere\n"));
    assert_eq!(ran.failure().kind, Kind::Invalid, "{ran:?}");
}

/// An image in which something can be run.
fn load_base(engine: &Engine) -> bool {
    let is_static =
        || std::process::Command::new("ldd").arg("/bin/busybox").output().is_ok_and(|ldd| !ldd.status.success());
    if !has("busybox") || !is_static() {
        return false;
    }
    let mut header = Tar::header("bin/busybox", b'0', 0);
    let busybox = std::fs::read("/bin/busybox").unwrap();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    let tar = Tar::new().raw(&header, &busybox).symlink("bin/sh", "busybox");
    // By the engine itself: Podman builds nothing on an image that does not say how it came to be.
    engine.build("docker.io/library/base:1", &tar.file("Dockerfile", "FROM scratch\nCOPY bin /bin\n").end());
    true
}

fn caches(engine: &Engine) {
    let counted = |number: u32| {
        text(&format!(
            "FROM docker.io/library/base:1\nCOPY main.bin /u\n\
             RUN --mount=type=cache,id=test,target=/cache echo {number} >> /cache/log; echo cache $(cat /cache/log)\n"
        ))
        .with_tools()
    };
    assert_made(build(engine, counted(1)));
    let ran = build(engine, counted(2));
    assert!(ran.lines().contains(&"cache 1 2"), "the second build sees what the first has left: {:?}", ran.lines());
    assert_made(ran);
}

/// Of one that gives its images to everybody, but wants to be asked for a token first, as the large ones do.
fn on_an_image_of_a_registry(engine: &Engine) {
    // Podman wants TLS of every registry that its host's configuration does not name.
    if engine.kind == Which::Podman {
        return;
    }
    if !has("docker-registry") {
        return println!("SKIPPED: an image of a registry: install docker-registry");
    }
    let registry = Registry::start(engine);
    engine.push("docker.io/library/base:1", registry.open, "base");
    let from = format!("FROM 127.0.0.1:{}/base:1\nCOPY main.bin /u\n", registry.guarded);
    assert_made(build(engine, text(&from)));
}

trait WithTools {
    fn with_tools(self) -> Self;
}

impl WithTools for Dockerfile {
    /// The base has one program, which is many.
    fn with_tools(self) -> Self {
        match self {
            Self::Text { with_caches, plain } => {
                Self::Text { with_caches: with_caches.replace("cat ", "/bin/busybox cat "), plain }
            }
            other => other,
        }
    }
}

fn failed(engine: &Engine) {
    let steps = "for i in $(/bin/busybox seq 1 30); do echo line $i; done; echo oops >&2; exit 3";
    let ran = build(engine, text(&format!("FROM docker.io/library/base:1\nRUN {steps}\n")));
    let failure = ran.failure();
    assert_eq!(failure.kind, Kind::Build);
    assert!(failure.message.contains("line 30") && failure.message.contains("oops"), "{}", failure.message);
    assert!(!failure.message.contains("line 5\n"), "only the last lines: {}", failure.message);
    assert!(ran.lines().contains(&"line 5"), "the log has all: {:?}", ran.lines());
}

fn killed(engine: &Engine) {
    let slow = text("FROM docker.io/library/base:1\nRUN echo begun; /bin/busybox sleep 5\nCOPY main.bin /u\n");
    let mut worker =
        Worker::start(task(&engine.socket, "test.killed", work(slow), Patience::default()), context().end());
    while worker.next()["Heard"]["Line"] != "begun" {}
    worker.kill();
    let tidy = || {
        let ran = run(task(&engine.socket, "other", Work::TidyOthers, Patience::default()), Vec::new());
        assert!(ran.outcome.is_ok(), "{ran:?}");
    };
    tidy();
    // Podman comes to the end of its step first, and may still make an image of it: the service looks again for that.
    std::thread::sleep(Duration::from_secs(7));
    let end = Instant::now() + Duration::from_secs(30);
    while !engine.leftovers().is_empty() {
        assert!(Instant::now() < end, "{:?}", engine.leftovers());
        std::thread::sleep(Duration::from_secs(1));
        tidy();
    }
}
