//! What Collect drops of a stack, and what RemoveStack leaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::held_download::HeldDownload;
use crate::host::{A_WHILE, Options, ROOT, error_of, eventually};
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

/// Nothing drains for a shorter time than a test takes.
const LONG_DRAIN: &str = "[publish]\ndrain = 600000\n";

/// Looks again and again, for as long as a service that does not wait would need at most.
async fn stays(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert!(holds(), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_chain_goes_when_its_last_connection_has() {
    isolated("collecting::a_chain_goes_when_its_last_connection_has", |_| async {
        let Some(scene) = Scene::configured(LONG_DRAIN).await else { return };
        scene.go_live(FIRST).await;
        let first = scene.seen().await.live;
        let download = HeldDownload::begin(&scene.host, LIVE);
        scene.go_live(SECOND).await;
        scene.go_live(THIRD).await;
        let manager = scene.manager.clone();
        let collect = tokio::spawn(async move { manager.collect(Options::new()).await });
        // Behind the entry its own members still work for the connection.
        stays("one of them went under a connection", || {
            let running = scene.host.running();
            first.values().all(|id| running.contains(id))
        })
        .await;
        assert!(!collect.is_finished());
        download.finish().await;
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
        let Some(scene) = Scene::configured(LONG_DRAIN).await else { return };
        let with_ports = |versions| {
            let [entry, signer, forward] = members(&scene.host, versions);
            let (signer, forward) = (signer.more("ports = [\"8081:80\"]"), forward.more("ports = [\"8082:80\"]"));
            manifest("mail", &[entry, signer, forward])
        };
        scene.apply_and_activate(&with_ports(FIRST)).await.unwrap();
        let first = scene.seen().await.live;
        let download = HeldDownload::begin(&scene.host, 8081);
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
        download.finish().await;
        eventually("so has it", async || state("signer").await == "retired").await;
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
        assert_eq!(told.of_mail_until(|told| told.removed > 0).await.removed, 1);
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
        scene.apply_and_activate(&mail_with(&scene.host, FIRST, "entry", "drain = 600000")).await.unwrap();
        let download = HeldDownload::begin(&scene.host, LIVE);
        let manager = scene.manager.clone();
        let remove = tokio::spawn(async move { manager.call("RemoveStack", &("mail",)).await.map(drop) });
        stays("one of them went under a connection", || scene.host.running().len() == 3).await;
        assert!(!remove.is_finished());
        download.finish().await;
        remove.await.unwrap().unwrap();
        assert!(scene.host.running().is_empty());
    });
}
