//! The ledger is from the future, has no room, or is somebody else's.

use std::path::Path;
use std::process::Command;

use crate::asking::Asking;
use crate::host::{ARGUMENTS, MANAGER, Options, ROOT, TestHost, error_of, eventually, options};
use crate::netns::isolated;
use crate::scene::{Deed, Scene};
use crate::small_disk::SmallDisk;

#[test]
fn a_ledger_of_a_newer_version_is_refused() {
    isolated("ledger::a_ledger_of_a_newer_version_is_refused", |_| async {
        let Some(mut scene) = Scene::new().await else { return };
        scene.host.kill_service();
        set_version(&scene.host.state().join("state.redb"), 1 << 40);
        scene.host.spawn_service();
        assert_eq!(scene.host.wait_for_end().code(), Some(1));
        assert!(scene.host.log().contains("install the newer"), "{}", scene.host.log());
        assert!(scene.host.get(8080).is_ok(), "what is published stays");
        set_version(&scene.host.state().join("state.redb"), 1);
        scene.host.start_service().await;
        scene.settled().await;
    });
}

fn set_version(ledger: &Path, version: u64) {
    let database = redb::Database::open(ledger).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let written = transaction.open_table(meta).unwrap().insert("schema", version).map(|before| before.is_some());
    assert!(written.unwrap(), "the ledger has its version there");
    transaction.commit().unwrap();
}

#[test]
fn two_services_do_not_share_a_ledger() {
    isolated("ledger::two_services_do_not_share_a_ledger", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let before = scene.settled().await;
        let asking = Asking::start(&scene.host, 8080);
        let second = Command::new(env!("CARGO_BIN_EXE_albatross-deployer"))
            .args(["--bus", &scene.host.bus.address])
            .arg("--state-directory")
            .arg(scene.host.state())
            .arg("--albatross-directory")
            .arg(scene.host.albatross.directory())
            .arg("--config")
            .arg(scene.host.config())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success() && said.contains("in use by another process"), "{said}");
        assert_eq!(scene.settled().await, before);
        asking.nothing_lost();
    });
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    isolated("ledger::a_full_disk_leaves_nothing_half_made", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        let disk = match SmallDisk::mount(&host.state(), 8) {
            Ok(disk) => disk,
            Err(why) => {
                return println!("SKIPPED: a_full_disk_leaves_nothing_half_made: no file system of its own: {why}");
            }
        };
        host.start_service().await;
        let scene = Scene::on(host).await;
        let asking = Asking::start(&scene.host, 8080);
        let before = scene.settled().await;
        disk.fill();
        let (name, message) = error_of(scene.deploy("website", "2").await);
        println!("Deploy on a full disk: {name}: {message}");
        scene.until("nothing half-made", |account| *account == before).await;
        // The image is there already: now it is the ledger that has no room for what is long.
        let image = scene.host.stored_images().remove(0).replace("sha256-", "sha256:");
        let long = format!("--print={}", "x".repeat(7000));
        let mut wanted = options("http:80/");
        wanted.insert("args", [&ARGUMENTS[..], &[&long]].concat().into());
        let (name, message) = error_of(scene.manager.deploy("website", &image, wanted.clone()).await);
        println!("Deploy with a full ledger: {name}: {message}");
        assert!(name == "Internal" && message.contains("free space"), "{name}: {message}");
        scene.until("nothing half-made", |account| *account == before).await;
        let sources = (0..2000).map(|n| format!("203.{}.{}.0/24", n / 256, n % 256)).collect::<Vec<_>>();
        let narrow = Options::from([("sources", sources.into())]);
        let (name, message) = error_of(scene.manager.publish("website", &[("tcp", 8080, 80)], narrow.clone()).await);
        println!("Publish with a full ledger: {name}: {message}");
        assert!(name == "Internal" && message.contains("free space"), "{name}: {message}");
        assert_eq!(scene.settled().await, before);
        let no_room = async || {
            let degraded = scene.manager.property::<Vec<String>>(ROOT, MANAGER, "Degraded").await.unwrap();
            degraded.iter().any(|note| note.contains("free space"))
        };
        // A shorter change that fits ends it again: what the service tidies up may come between.
        let says_so = async || {
            let refused = scene.manager.publish("website", &[("tcp", 8080, 80)], narrow.clone()).await;
            refused.is_err() && no_room().await
        };
        eventually("Degraded says so", says_so).await;
        disk.make_room();
        scene.manager.deploy("website", &image, wanted).await.unwrap();
        scene.prepare(Deed::Deploy).await;
        assert_eq!(scene.settled().await, before);
        eventually("Degraded says it no more", async || !no_room().await).await;
        asking.nothing_lost();
        drop(scene);
    });
}
