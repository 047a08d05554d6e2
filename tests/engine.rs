//! Images of the local engine: Docker's and Podman's own, and engines that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "engine/bad.rs"]
mod bad;
#[path = "engine/building.rs"]
mod building;
#[path = "engine/crowd.rs"]
mod crowd;
#[path = "support/engines.rs"]
mod engines;
#[path = "engine/fake.rs"]
mod fake;
#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "engine/proxy.rs"]
mod proxy;
#[path = "engine/registry.rs"]
mod registry;
#[path = "support/saved_image.rs"]
mod saved_image;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;
#[path = "engine/worker.rs"]
mod worker;

use std::path::Path;
use std::sync::Arc;

use engines::{Engine, Kind};
use host::{Manager, Options, TestHost, error_of, eventually, options};
use netns::isolated;
use proxy::Proxy;
use saved_image::{Layer, Tar, docker_legacy, tar_of};

#[test]
fn images_of_docker() {
    images_of(Kind::Docker, "images_of_docker");
}

#[test]
fn images_of_podman() {
    images_of(Kind::Podman, "images_of_podman");
}

/// With one engine, since it takes longest of all to start.
fn images_of(kind: Kind, test: &str) {
    let Some(engine) = Engine::start(kind) else { return };
    let engine = Arc::new(engine);
    let within = |name: &'static str, part: for<'a> fn(&'a Engine, &'a mut TestHost) -> Part<'a>| {
        let engine = Arc::clone(&engine);
        println!("{test}: {name}");
        isolated(test, move |_| async move {
            let Some(mut host) = TestHost::without_service() else { return };
            part(&engine, &mut host).await;
            engine.assert_clean(name);
        });
    };
    within("it comes to answer", |engine, host| Box::pin(comes_to_answer(engine, host)));
    within("what is not there is said", |engine, host| Box::pin(what_is_not_there(engine, host)));
    within("cancelled", |engine, host| Box::pin(cancelled(engine, host)));
    within("killed", |engine, host| Box::pin(killed(engine, host)));
    building::all(&engine);
}

type Part<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

/// With `more` of a configuration.
async fn start(host: &mut TestHost, socket: &Path, more: &str) -> Manager {
    std::fs::write(host.config(), format!("[images]\ndocker-socket = \"{}\"\n{more}", socket.display())).unwrap();
    host.start_service().await;
    host.manager().await
}

/// An image with the unikernel of `version`, and many ways to it.
fn image(host: &TestHost, version: &str) -> Vec<u8> {
    let unikernel = std::fs::read(host.image(version, &[])).unwrap();
    let below = Layer::gzip(Tar::new().folder("deep/").file("deep/web.spt", b"older").file("unikernel.hvt/x", b""));
    let above = Layer::gzip(
        Tar::new()
            .file("unikernel.spt", &unikernel)
            .file("deep/web.spt", unikernel)
            .symlink("short", "deep")
            .symlink("latest", "/../short/web.spt")
            .symlink("outside", "/etc/shadow")
            .symlink("circle", "circle"),
    );
    let name = format!("web:{version}");
    tar_of(&docker_legacy(&[(&[&name], &[below, above])]))
}

async fn comes_to_answer(engine: &Engine, host: &mut TestHost) {
    let manager = start(host, &engine.socket, "").await;
    for version in ["1", "2", "3", "4"] {
        engine.load(&image(host, version));
    }
    let id = engine.get("/images/web:4/json")["Id"].as_str().unwrap().to_owned();
    for (image, version, path) in [
        ("web:1", "1", "/unikernel.spt"),
        ("web:2", "2", "/deep/web.spt"),
        ("web:3", "3", "/latest"),
        (&id, "4", "/short/web.spt"),
    ] {
        let mut options = options("http:80/");
        options.insert("image-path", path.into());
        let image = format!("docker-daemon:{image}");
        let began = std::time::Instant::now();
        manager.deploy("website", &image, options).await.unwrap_or_else(|error| panic!("{image} {path}: {error}"));
        println!("deployed {image} {path} in {:?}", began.elapsed());
        manager.publish("website", &[("tcp", 8080, 80)], Options::new()).await.unwrap();
        let answer = host.get(8080).unwrap();
        assert!(answer.starts_with(&format!("version={version} ")), "{image} {path}: {answer}");
        engine.assert_clean("a deployment");
    }
}

async fn what_is_not_there(engine: &Engine, host: &mut TestHost) {
    let manager = start(host, &engine.socket, "").await;
    engine.load(&image(host, "1"));
    let none = format!("sha256:{}", "0".repeat(64));
    for (image, path, name, says) in [
        ("nothing:1", "/unikernel.spt", "ImageUnavailable", "no image nothing:1"),
        ("web:9", "/unikernel.spt", "ImageUnavailable", "no image web:9"),
        (&none, "/unikernel.spt", "ImageUnavailable", "no image sha256:"),
        ("web:1", "/nothing", "ImageInvalid", "no /nothing"),
        ("web:1", "/deep", "ImageInvalid", "a directory"),
        ("web:1", "/outside", "ImageInvalid", "/outside"),
        ("web:1", "/circle", "ImageInvalid", "/circle"),
        ("web:1", "/unikernel.spt/x", "ImageInvalid", "/unikernel.spt/x"),
    ] {
        let mut options = options("running");
        options.insert("image-path", path.into());
        let refused = error_of(manager.deploy("website", &format!("docker-daemon:{image}"), options).await);
        println!("{image} {path}: {refused:?}");
        assert_eq!(refused.0, name, "{image} {path}: {}", refused.1);
        assert!(refused.1.contains(says), "{image} {path}: {}", refused.1);
    }
    // Neither of the usual names is a file.
    let (kind, message) = error_of(manager.deploy("website", "docker-daemon:web:1", options("running")).await);
    assert_eq!(kind, "ImageInvalid", "{message}");
    assert!(message.contains("/unikernel.hvt in the image is a directory"), "{message}");
    host.kill_service();
    let manager = start(host, Path::new("/nowhere/engine.sock"), "").await;
    let (kind, message) = error_of(manager.deploy("website", "docker-daemon:web:1", options("running")).await);
    assert_eq!(kind, "ImageUnavailable");
    assert!(message.contains("/nowhere/engine.sock") && message.contains("images.docker-socket"), "{message}");
    assert!(host.running().is_empty());
    host.until_no_image_is_left().await;
}

/// Deploys until a container is there and the file does not come.
async fn deploy_half(engine: &Engine, proxy: &Proxy, manager: &Manager) -> tokio::task::JoinHandle<(String, String)> {
    proxy.hold(true);
    let calling = manager.clone();
    let deploying = tokio::spawn(async move {
        let mut options = options("running");
        options.insert("image-path", "/unikernel.spt".into());
        error_of(calling.deploy("website", "docker-daemon:web:1", options).await)
    });
    eventually("the file is waited for", async || proxy.holds_something()).await;
    assert_eq!(engine.leftovers().len(), 1, "the container is there meanwhile");
    deploying
}

async fn cancelled(engine: &Engine, host: &mut TestHost) {
    let proxy = Proxy::start(host.directory.path().join("engine.sock"), &engine.socket);
    let manager = start(host, &proxy.socket, "").await;
    engine.load(&image(host, "1"));
    let deploying = deploy_half(engine, &proxy, &manager).await;
    let began = std::time::Instant::now();
    manager.cancel("importing").await;
    assert_eq!(deploying.await.unwrap().0, "Cancelled");
    println!("cancelled in {:?}", began.elapsed());
    engine.assert_clean("a call that was cancelled");
    println!("and tidied up in {:?}", began.elapsed());
    let again = deploy_half(engine, &proxy, &manager).await;
    host.stop_service();
    assert_eq!(engine.leftovers(), [""; 0], "a service that was told to stop leaves nothing");
    again.abort();
    assert!(host.stored_images().is_empty());
}

async fn killed(engine: &Engine, host: &mut TestHost) {
    let proxy = Proxy::start(host.directory.path().join("engine.sock"), &engine.socket);
    let manager = start(host, &proxy.socket, "").await;
    engine.load(&image(host, "1"));
    let deploying = deploy_half(engine, &proxy, &manager).await;
    host.kill_service();
    deploying.abort();
    assert_eq!(engine.leftovers().len(), 1, "nobody has removed it");
    proxy.hold(false);
    host.start_service().await;
    engine.assert_clean("the next start");
}
