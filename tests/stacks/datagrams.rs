//! UDP clients that keep sending from one port while chains come and go.

use crate::host::version_over_udp;
use crate::manifest::{Member, manifest};
use crate::netns::{isolated, udp_socket};
use crate::scene::Scene;

const LIVE: u16 = 5353;
const STAGED: u16 = 5354;

/// A resolver, whose image answers over UDP as well.
fn resolver(scene: &Scene, version: &str) -> String {
    let ports = format!("ports = [\"{LIVE}:53/any\"]\nstaged = [\"{STAGED}:53/any\"]");
    let resolver = Member::new("resolver", scene.host.image(version, &["--port=53"]));
    manifest("mail", &[resolver.ready("tcp:53").more(&ports)])
}

#[test]
fn a_udp_client_gets_to_what_is_staged_and_to_what_goes_live() {
    isolated("datagrams::a_udp_client_gets_to_what_is_staged_and_to_what_goes_live", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let [of_live, of_staged] = [(); 2].map(|()| udp_socket(&scene.host.client));
        // One client each, which sends before anybody is there for it, and after each move.
        let both = || [version_over_udp(&of_live, LIVE), version_over_udp(&of_staged, STAGED)];
        let are = |live: &str, staged: &str| {
            [live, staged].map(|version| (!version.is_empty()).then(|| format!("version={version}")))
        };
        assert_eq!(both(), are("", ""));
        scene.apply(&resolver(&scene, "1")).await.unwrap();
        assert_eq!(both(), are("", "1"), "staged");
        scene.activate().await.unwrap();
        assert_eq!(both(), are("1", ""), "activated");
        scene.apply(&resolver(&scene, "2")).await.unwrap();
        assert_eq!(both(), are("1", "2"), "the next one is staged");
        scene.activate().await.unwrap();
        assert_eq!(both(), are("2", ""), "the next one is live");
        scene.roll_back().await.unwrap();
        assert_eq!(version_over_udp(&of_live, LIVE).as_deref(), Some("version=1"), "rolled back");
        scene.remove().await.unwrap();
        assert_eq!(version_over_udp(&of_live, LIVE), None, "removed");
    });
}
