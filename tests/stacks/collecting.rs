//! What Collect drops of a stack, and what RemoveStack leaves.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::{HOST, Options, ROOT, error_of, eventually};
use crate::manifest::{FIRST, LIVE, SECOND, STAGED, THIRD, mail, mail_with, manifest, members};
use crate::netns::isolated;
use crate::scene::{Chain, Scene};
use crate::told::Told;

fn ids(chains: &[&Chain]) -> BTreeSet<String> {
    chains.iter().flat_map(|chain| chain.values().cloned()).collect()
}

#[test]
fn what_is_live_staged_or_previous_stays() {
    isolated("collecting::what_is_live_staged_or_previous_stays", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await.live;
        scene.go_live(SECOND).await;
        scene.go_live(THIRD).await;
        let fourth = ["entry-4", "signer-4", "forward-4"];
        scene.apply(&mail(&scene.host, fourth)).await.unwrap();
        let seen = scene.seen().await;
        let images = scene.host.stored_images().len();
        let dry = Options::from([("dry-run", true.into())]);
        let planned = scene.manager.collect(dry).await.unwrap();
        assert_eq!(scene.host.running().len(), 12);
        let removed = scene.manager.collect(Options::new()).await.unwrap();
        assert_eq!(removed, planned);
        let of = |wanted: &str| {
            let all = removed.iter().filter(|(kind, _)| kind == wanted);
            all.map(|(_, name)| name.clone()).collect::<BTreeSet<_>>()
        };
        assert_eq!(of("unikernel"), ids(&[&first]));
        assert_eq!(of("lease"), ids(&[&first]));
        assert_eq!(of("image").len(), 3);
        let kept = ids(&[&seen.live, &seen.staged, &seen.previous]);
        assert_eq!(scene.host.running().into_iter().collect::<BTreeSet<_>>(), kept);
        assert_eq!(scene.host.stored_images().len(), images - 3, "those of the previous chain stay");
        assert_eq!(scene.seen().await, seen);
        scene.settled().await;
        // A staged chain that is replaced by another is of no chain any more.
        scene.apply(&mail(&scene.host, THIRD)).await.unwrap();
        scene.manager.collect(Options::new()).await.unwrap();
        assert_eq!(scene.host.running().into_iter().collect::<BTreeSet<_>>(), ids(&[&seen.live, &seen.previous]));
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, SECOND).await;
        scene.settled().await;
    });
}

/// The bytes that came.
fn download(scene: &Scene, port: u16, milliseconds: u64) -> JoinHandle<usize> {
    let stream = scene.host.client.run(move || {
        let mut stream = TcpStream::connect((HOST, port)).unwrap();
        let path = format!("/download?bytes={}&rate=1000000", milliseconds * 1000);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        stream
    });
    std::thread::spawn(move || {
        let (mut stream, mut all) = (stream, Vec::new());
        stream.read_to_end(&mut all).map(|_| all.len()).unwrap_or_default()
    })
}

#[test]
fn a_chain_goes_when_its_last_connection_has() {
    isolated("collecting::a_chain_goes_when_its_last_connection_has", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        let first = scene.seen().await.live;
        let download = download(&scene, LIVE, 2_500);
        tokio::time::sleep(Duration::from_millis(200)).await;
        scene.go_live(SECOND).await;
        scene.go_live(THIRD).await;
        let manager = scene.manager.clone();
        let collect = tokio::spawn(async move { manager.collect(Options::new()).await });
        while !download.is_finished() {
            let running = scene.host.running();
            // Behind the entry its own members still work for the connection.
            let gone = first.values().filter(|id| !running.contains(id)).collect::<Vec<_>>();
            assert!(gone.is_empty() || download.is_finished(), "{gone:?} went under a connection");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let bytes = download.join().unwrap();
        assert!(bytes > 2_500_000, "the download ended early: {bytes}");
        collect.await.unwrap().unwrap();
        let seen = scene.seen().await;
        let kept = ids(&[&seen.live, &seen.previous]);
        assert_eq!(scene.host.running().into_iter().collect::<BTreeSet<_>>(), kept);
        scene.settled().await;
    });
}

/// Of many that drain at once the one with a connection is told from the others.
#[test]
fn one_of_many_that_drain_has_a_connection() {
    isolated("collecting::one_of_many_that_drain_has_a_connection", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let with_ports = |versions| {
            let [entry, signer, forward] = members(&scene.host, versions);
            let (signer, forward) = (signer.more("ports = [\"8081:80\"]"), forward.more("ports = [\"8082:80\"]"));
            manifest("mail", &[entry, signer, forward])
        };
        scene.apply_and_activate(&with_ports(FIRST)).await.unwrap();
        let first = scene.seen().await.live;
        let download = download(&scene, 8081, 1_500);
        tokio::time::sleep(Duration::from_millis(200)).await;
        scene.apply_and_activate(&with_ports(SECOND)).await.unwrap();
        let state = async |member: &str| {
            let path = format!("{ROOT}/unikernel/{}", first[member].replace('.', "_2e"));
            scene.manager.property::<String>(&path, "org.albatross.Deployer1.Unikernel", "State").await.unwrap()
        };
        eventually("those without have ended", async || {
            state("entry").await == "retired" && state("forward").await == "retired"
        })
        .await;
        assert_eq!(state("signer").await, "draining");
        let download = tokio::task::spawn_blocking(move || download.join().unwrap()).await.unwrap();
        eventually("so has it", async || state("signer").await == "retired").await;
        assert!(download > 1_500_000, "{download}");
    });
}

#[test]
fn what_has_drained_goes_by_itself_where_that_is_wanted() {
    isolated("collecting::what_has_drained_goes_by_itself_where_that_is_wanted", |_| async {
        let config = "[collect]\nautomatic = true\nkeep-previous = 0\n[publish]\ndrain = 100\n";
        let Some(scene) = Scene::configured(config).await else { return };
        for versions in [FIRST, SECOND, THIRD] {
            scene.go_live(versions).await;
        }
        let seen = scene.seen().await;
        let kept = ids(&[&seen.live, &seen.previous]);
        eventually("the first chain has gone", async || {
            scene.host.running().into_iter().collect::<BTreeSet<_>>().is_subset(&kept)
        })
        .await;
        scene.answers(LIVE, THIRD).await;
        assert!(ids(&[&seen.live]).is_subset(&scene.host.running().into_iter().collect()));
        scene.roll_back().await.unwrap();
        scene.answers(LIVE, SECOND).await;
    });
}

#[test]
fn a_stack_that_is_removed_leaves_nothing() {
    isolated("collecting::a_stack_that_is_removed_leaves_nothing", |_| async {
        let Some(scene) = Scene::live(FIRST).await else { return };
        scene.go_live(SECOND).await;
        scene.go_live(THIRD).await;
        // FIRST is of no chain any more.
        scene.apply(&mail(&scene.host, ["entry-4", "signer-4", "forward-4"])).await.unwrap();
        let mut told = Told::listen(&scene.manager).await;
        scene.remove().await.unwrap();
        assert_eq!(told.of_mail().await.removed, 1);
        scene.nobody_at(LIVE);
        scene.nobody_at(STAGED);
        assert!(scene.host.running().is_empty(), "{:?}", scene.host.running());
        scene.nothing_is_left().await;
        assert_eq!(error_of(scene.remove().await).0, "NoSuchStack");
        // And again from nothing.
        scene.go_live(FIRST).await;
        scene.settled().await;
    });
}

#[test]
fn a_stack_that_is_removed_has_time_for_its_connections() {
    isolated("collecting::a_stack_that_is_removed_has_time_for_its_connections", |_| async {
        let Some(scene) = Scene::new().await else { return };
        scene.apply_and_activate(&mail_with(&scene.host, FIRST, "entry", "drain = 5000")).await.unwrap();
        let download = download(&scene, LIVE, 1_500);
        tokio::time::sleep(Duration::from_millis(200)).await;
        scene.remove().await.unwrap();
        let bytes = download.join().unwrap();
        assert!(bytes > 1_500_000, "the download ended early: {bytes}");
        assert!(scene.host.running().is_empty());
    });
}
