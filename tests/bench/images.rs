//! Images of 64 MiB out of a registry and out of an engine, against the programs that people take for it; and what the
//! workers that read them have in memory.
//!
//! Of a Deploy of an image that neither the store nor the cache of layers has, the import is compared: from the call until
//! its job is at the next step, with the image checked and durable in the store. What follows is not the import's, and most
//! of it is the stand-in's own time over a create of 64 MiB. skopeo syncs what it writes too, and keeps the layer as it
//! comes; `docker cp` and `podman cp` leave the file to the kernel.

use std::collections::HashMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus::{MatchRule, MessageStream, OwnedVariant};

use super::distribution::{Distribution, REGISTRY, SKOPEO, have};
use super::engines::{Engine, Kind};
use super::figures::{Samples, at_most, note, within_memory};
use super::host::{Manager, Options, ROOT, TestHost, options};
use super::netns::isolated;
use super::saved_image::{Layer, Tar, docker_legacy, oci_layout, tar_of};
use super::solo5_image::{MARKER, Target, image};

/// MiB of the image that is timed.
const LARGE: usize = 64;
/// MiB of the one that must not take more memory.
const LARGER: usize = 256;
const ROUNDS: usize = 9;
/// Rounds before, that are not counted.
const WARM: usize = 1;
const PORT: u16 = 5000;
/// KiB, of one worker.
const MEMORY: u64 = 32 * 1024;
const LOOK: Duration = Duration::from_millis(1);
const CONFIG: &str = "[limits]\nimage-size = \"512 MiB\"\n[images]\n";

pub fn run() {
    if have("a registry", &[REGISTRY, SKOPEO]) {
        isolated("images", |_| from_registry());
    }
    for (kind, client) in [(Kind::Docker, ("docker", "docker.io")), (Kind::Podman, ("podman", "podman"))] {
        if have(&format!("{kind:?}"), &[client])
            && let Some(engine) = Engine::start(kind)
        {
            isolated("images", move |_| async move { from_engine(&engine).await });
        }
    }
}

async fn from_registry() {
    let Some(scene) = Scene::start(&format!("insecure-registries = [\"127.0.0.1:{PORT}\"]")).await else { return };
    let registry = Distribution::start(PORT);
    for size in [LARGE, LARGER] {
        let archive = scene.path("pushed.tar");
        std::fs::write(&archive, tar_of(&oci_layout(&[layer(size)], "1"))).unwrap();
        // It comes without compression, and is pushed as gzip, as skopeo makes it.
        registry.copy(&format!("oci-archive:{}", archive.display()), &format!("unikernel:{size}"));
        std::fs::remove_file(archive).unwrap();
    }
    let name = |size: usize| format!("docker://127.0.0.1:{PORT}/unikernel:{size}");
    let skopeo = |folder: &Path| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &name(LARGE)]);
        skopeo.arg(format!("dir:{}", folder.display()));
        must(&mut skopeo);
    };
    scene.compare("out of a registry", &name(LARGE), "skopeo copy", skopeo).await;
    scene.memory("out of a registry", name).await;
}

async fn from_engine(engine: &Engine) {
    let Some(scene) = Scene::start(&format!("docker-socket = \"{}\"", engine.socket.display())).await else { return };
    for size in [LARGE, LARGER] {
        engine.load(&tar_of(&docker_legacy(&[(&[&format!("unikernel:{size}")], &[layer(size)])])));
    }
    let client = client(engine);
    let copy = |folder: &Path| {
        std::fs::create_dir(folder).unwrap();
        let run = |arguments: &[&str]| must(Command::new(client[0].as_str()).args(&client[1..]).args(arguments));
        let container = run(&["create", "--network=none", &format!("unikernel:{LARGE}"), "/unikernel"]);
        let container = container.trim();
        let file = folder.join("unikernel.spt").display().to_string();
        run(&["cp", &format!("{container}:/unikernel.spt"), &file]);
        run(&["rm", container]);
        assert_eq!(std::fs::metadata(file).unwrap().len(), unikernel(LARGE).len() as u64);
    };
    let program = &client[0];
    let (what, against) = (format!("out of {:?}", engine.kind), format!("{program} create, cp and rm"));
    let name = |size: usize| format!("docker-daemon:unikernel:{size}");
    scene.compare(&what, &name(LARGE), &against, copy).await;
    scene.memory(&what, name).await;
    engine.assert_clean("all deployments");
}

/// The engine's own program, as it is called for this engine. Podman's needs no engine, and is faster without.
fn client(engine: &Engine) -> Vec<String> {
    let folder = engine.socket.parent().unwrap().display();
    let words = match engine.kind {
        Kind::Docker => format!("docker --host unix://{}", engine.socket.display()),
        Kind::Podman => format!(
            "podman --root {folder}/data --runroot {folder}/exec --storage-driver vfs --cgroup-manager cgroupfs \
             --events-backend file"
        ),
    };
    words.split_whitespace().map(str::to_owned).collect()
}

fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn layer(size: usize) -> Layer {
    Layer::plain(Tar::new().file("unikernel.spt", unikernel(size)))
}

/// An image of so many MiB, that no compression makes smaller.
fn unikernel(size: usize) -> Vec<u8> {
    const OTHERS: usize = 16 << 10;
    let padding = (size << 20) - OTHERS;
    let mut bytes = image(Target::Spt, "1", &["service"], &[], padding);
    let text = bytes.windows(MARKER.len()).position(|part| part == MARKER.as_bytes()).unwrap();
    // What is read of the text ends at its first zero.
    let end = text + bytes[text..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for eight in bytes[end..end + padding].chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

struct Scene {
    host: TestHost,
    manager: Manager,
}

impl Scene {
    async fn start(images: &str) -> Option<Self> {
        let mut host = TestHost::without_service()?;
        std::fs::write(host.config(), format!("{CONFIG}{images}\n")).unwrap();
        host.start_service().await;
        let manager = host.manager().await;
        Some(Self { host, manager })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.directory.path().join(name)
    }

    async fn deploy(&self, image: &str) -> String {
        let mut wanted = options("running");
        wanted.insert("timeout", 60_u64.into());
        self.manager.deploy("large", image, wanted).await.unwrap_or_else(|error| panic!("{image}: {error}")).0
    }

    /// As if it had never been there.
    async fn forget(&self, id: &str) {
        self.manager.call("Destroy", &(id, Options::new())).await.unwrap();
        self.manager.collect(Options::new()).await.unwrap();
        assert!(self.host.stored_images().is_empty());
        let Ok(layers) = std::fs::read_dir(self.host.state().join("layers")) else { return };
        layers.for_each(|layer| std::fs::remove_file(layer.unwrap().path()).unwrap());
    }

    async fn compare(&self, what: &str, image: &str, against: &str, other: impl Fn(&Path)) {
        let mut signals = changes_of_jobs(&self.manager).await;
        let [mut imported, mut deployed, mut copied] = <[Samples; 3]>::default();
        for round in 0..WARM + ROUNDS {
            if round == WARM {
                [imported, deployed, copied] = Default::default();
            }
            let begun = Instant::now();
            let (id, at) = tokio::join!(deployed.time(self.deploy(image)), until_imported(&mut signals));
            imported.push(at - begun);
            self.forget(&id).await;
            let folder = self.path("copied");
            copied.time(async { other(&folder) }).await;
            std::fs::remove_dir_all(folder).unwrap();
        }
        note(&format!("import of {LARGE} MiB {what}: {}", imported.summary()));
        note(&format!("  the whole Deploy: {}", deployed.summary()));
        note(&format!("  {against} of the same: {}", copied.summary()));
        at_most(&format!("import of {LARGE} MiB {what}"), imported.median(), 1.0, against, copied.median());
    }

    async fn memory(&self, what: &str, name: impl Fn(usize) -> String) {
        for size in [LARGE, LARGER] {
            let look = Look::start(self.host.service_pid());
            let id = self.deploy(&name(size)).await;
            let peak = look.end();
            self.forget(&id).await;
            within_memory(&format!("a worker's memory at its peak, {size} MiB {what}"), peak, MEMORY);
        }
    }
}

async fn changes_of_jobs(manager: &Manager) -> MessageStream {
    let rule = MatchRule::builder().path_namespace(format!("{ROOT}/job")).member("PropertiesChanged");
    MessageStream::for_match_rule(rule.build().unwrap(), &manager.0, NonZero::new(4096)).await.unwrap()
}

/// When a job has left the import behind that it was seen at.
async fn until_imported(signals: &mut MessageStream) -> Instant {
    let mut was_seen = false;
    loop {
        let message = signals.next().await.unwrap().unwrap();
        let at = Instant::now();
        let body = message.body();
        let (_, mut changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) = body.deserialize().unwrap();
        let Some(step) = changed.remove("Step").map(|step| String::try_from(step).unwrap()) else { continue };
        if step.starts_with("importing") {
            was_seen = true;
        } else if was_seen {
            return at;
        }
    }
}

/// Looks at the workers as long as it is not ended.
struct Look {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Look {
    fn start(service: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&is_over);
        let look = move || {
            let mut peak = 0;
            while !theirs.load(Ordering::Relaxed) {
                peak = workers(service).filter_map(peak_of).fold(peak, u64::max);
                std::thread::sleep(LOOK);
            }
            peak
        };
        Self { is_over, thread: std::thread::spawn(look) }
    }

    /// KiB of the worker that had most.
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        let peak = self.thread.join().unwrap();
        assert!(peak > 0, "no worker was seen");
        peak
    }
}

/// What is no worker yet is the service itself still.
fn workers(service: u32) -> impl Iterator<Item = u32> {
    let children = std::fs::read_to_string(format!("/proc/{service}/task/{service}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().filter_map(|child| child.parse().ok()).collect();
    children.into_iter().filter(|child| {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"--worker")
    })
}

/// KiB; none of one that has ended.
fn peak_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
