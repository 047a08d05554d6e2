use proptest::prelude::*;

use super::*;

fn hex(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

#[test]
fn every_form_of_the_contract_is_read_and_gives_its_text_back() {
    let digest = hex("0");
    let commit = "a".repeat(40);
    for text in [
        "/srv/web.hvt",
        &digest,
        "docker-daemon:web",
        "docker-daemon:mirage/web:1.0_b",
        "docker-daemon:localhost:5000/web:latest",
        &format!("docker-daemon:web@{digest}"),
        &format!("docker-daemon:{digest}"),
        "docker-archive:/srv/web image.tar",
        "docker-archive:/srv/web.tar:web:latest",
        "docker-archive:/srv/web.tar:ghcr.io/mirage/web",
        "oci-archive:/srv/web.tar",
        "oci-archive:/srv/web.tar:v1+2",
        "oci:/srv/web",
        "oci:/srv/web:registry.example/web:latest",
        "docker://ghcr.io/mirage/web",
        "docker://127.0.0.1:5000/web:1",
        "docker://[::1]:5000/a/b/c--d__e.f:x",
        &format!("docker://docker.io/library/web:1@{digest}"),
        "git+https://example.org/web",
        "git+https://example.org:8443/a%20b/web.git#v1.0",
        &format!("git+ssh://git@example.org/web.git#{commit}"),
        "git+file:///srv/git/web repository.git#release/1",
    ] {
        let reference = text.parse::<ImageReference>().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), text);
        let json = serde_json::to_string(&reference).unwrap();
        assert_eq!(json, serde_json::to_string(text).unwrap());
        assert_eq!(serde_json::from_str::<ImageReference>(&json).unwrap(), reference);
    }
}

#[test]
fn what_is_refused_says_why() {
    let upper = format!("docker://ghcr.io/web@{}", hex("A"));
    for (text, why) in [
        ("", "git+https://"),
        ("a/b", "absolute path"),
        ("https://example.org/x", "DeployImage"),
        ("/a\0b", "absolute path"),
        ("sha256:12", "64 hexadecimal"),
        ("docker:web", "a form that is not known"),
        ("DOCKER://ghcr.io/web", "a form that is not known"),
        ("docker-daemon:", "image name"),
        ("docker-daemon:Web", "image name"),
        ("docker-daemon:-web", "image name"),
        ("docker-daemon:a//b", "image name"),
        ("docker-daemon:a..b", "image name"),
        ("docker-daemon:a___b", "image name"),
        ("docker-daemon:web:", "tag"),
        ("docker-daemon:web:-x", "tag"),
        ("docker-daemon:web:a b", "tag"),
        ("docker-daemon:sha256:12", "digest"),
        ("docker-daemon:web@sha512:00", "digest"),
        ("docker-archive:web.tar", "begins with '/'"),
        ("docker-archive:/a\nb", "control characters"),
        ("docker-archive:/a:@0", "index"),
        ("docker-archive:/a:", "image name"),
        ("oci:", "begins with '/'"),
        ("oci:/a:-x", "OCI layout"),
        ("oci-archive:/a:x y", "OCI layout"),
        ("docker://web", "docker://docker.io/library/NAME"),
        ("docker://library/web:1", "names no registry"),
        ("docker:////ghcr.io/web", "image name"),
        ("docker://ghcr.io", "names no registry"),
        ("docker://ghcr.io/", "image name"),
        ("docker://ghcr.io:/web", "registry"),
        ("docker://ghcr.io:0/web", "registry"),
        ("docker://ghcr.io:+5/web", "registry"),
        ("docker://-x.io/web", "registry"),
        ("docker://[::g]/web", "registry"),
        ("docker://[::1]5000/web", "registry"),
        ("docker://user@ghcr.io/web", "digest"),
        (&upper, "lower case"),
        ("git+http://example.org/x", "git+https://"),
        ("git+https:/x", "git+https://"),
        ("git+ext::sh -c true", "git+https://"),
    ] {
        let message = text.parse::<ImageReference>().unwrap_err().to_string();
        assert!(message.contains(why) && message.len() < 500, "{text:?}: {message}");
    }
    let long = format!("docker-daemon:{}", "a".repeat(256)).parse::<ImageReference>().unwrap_err().to_string();
    assert!(long.contains("255") && long.len() < 400, "{long}");
}

#[test]
fn a_name_says_which_registry_tag_and_digest() {
    let name = |text: &str| text.parse::<ImageName>().unwrap();
    let long = name(&format!("localhost:5000/a/b:1@{}", hex("1")));
    assert_eq!(long.registry.unwrap().as_str(), "localhost:5000");
    assert_eq!((long.repository.as_str(), long.digest.unwrap().as_str()), ("a/b", hex("1").as_str()));
    // A first part without a '.' or a port is a part of the name.
    assert_eq!((name("mirage/web").registry, name("mirage/web").tag()), (None, "latest"));
    assert_eq!((name("web:5000").repository.as_str(), name("web:5000").tag()), ("web", "5000"));
    let saved = "/x.tar:localhost:5000/web:1".parse::<SavedImage<ImageName>>().unwrap();
    assert_eq!((saved.path, saved.name.unwrap().tag()), ("/x.tar".into(), "1"));
}

#[test]
fn what_can_change_is_told_from_what_cannot() {
    let digest = hex("2");
    let commit = "0123456789".repeat(4);
    for (text, fixed) in [
        (digest.clone(), true),
        (format!("docker-daemon:{digest}"), true),
        (format!("docker://ghcr.io/web@{digest}"), true),
        (format!("git+https://example.org/x#{commit}"), true),
        ("docker://ghcr.io/web:1".into(), false),
        ("git+https://example.org/x#v1".into(), false),
        ("git+https://example.org/x".into(), false),
        ("/x".into(), false),
        ("oci:/x:1".into(), false),
    ] {
        assert_eq!(text.parse::<ImageReference>().unwrap().is_fixed(), fixed, "{text}");
    }
}

fn name() -> impl Strategy<Value = String> {
    let registry = "(([A-Za-z0-9]{1,9}\\.[a-z0-9]{1,9}|localhost|\\[::1\\])(:[1-9][0-9]{0,3})?/)?";
    let digest = "(@sha256:[0-9a-f]{64})?";
    (
        "[a-z0-9]{1,5}((_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}(\\.[a-z0-9]{1,5})?){0,2}",
        "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?",
    )
        .prop_flat_map(move |(name, tag)| (registry, digest).prop_map(move |(r, d)| format!("{r}{name}{tag}{d}")))
}

fn texts() -> impl Strategy<Value = String> {
    let path = "/[^:\\pC]{0,40}";
    prop_oneof![
        name().prop_map(|name| format!("docker-daemon:{name}")),
        name().prop_map(|name| format!("docker://example.org/{name}")),
        (path, proptest::option::of(name())).prop_map(|(path, name)| format!(
            "docker-archive:{path}{}",
            name.map(|n| format!(":{n}")).unwrap_or_default()
        )),
        (path, "(:[a-z0-9]{1,9}([-._:@+/][A-Z0-9]{1,5}|--[a-z]){0,3})?")
            .prop_map(|(path, name)| format!("oci:{path}{name}")),
        "git\\+https://[a-z0-9]{1,20}(\\.[a-z]{2,3})?(:[1-9][0-9]{0,3})?(/[a-z~%]{0,1}[0-9][a-f]{1,9}){1,3}(#[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,2})?",
        "git\\+ssh://([a-z][a-z0-9_.-]{0,9}@)?[a-z0-9]{1,20}(/[A-Za-z0-9 _-]{1,9}){1,3}(\\.git)?(#[0-9a-f]{40})?",
        "git\\+file:///[^%?#\\\\./\\pC][^%?#\\\\./\\pC]{0,40}(#[a-z0-9]{1,9})?",
        // Nearly anything, of the characters that matter.
        "(docker-daemon|docker-archive|oci|docker|git\\+https|git\\+ssh|git\\+file|sha256|):[a-zA-Z0-9/:@#%.\\[\\] _-]{0,30}",
    ]
}

proptest! {
    #[test]
    fn what_is_read_gives_its_text_back(text in texts()) {
        if let Ok(reference) = text.parse::<ImageReference>() {
            prop_assert_eq!(reference.to_string(), text.clone());
            prop_assert_eq!(text.parse::<ImageReference>().unwrap(), reference);
        }
    }

    #[test]
    fn every_name_of_the_specification_is_read(name in name()) {
        let text = format!("docker-daemon:{name}");
        prop_assert!(text.parse::<ImageReference>().is_ok(), "{}", text);
    }

    #[test]
    fn nothing_from_outside_panics(text in "\\PC{0,80}", form in "(docker-daemon|docker-archive|oci|docker|git\\+https|git\\+file):(//)?") {
        let _ = text.parse::<ImageReference>();
        let _ = format!("{form}{text}").parse::<ImageReference>();
    }
}

#[test]
fn an_origin_is_gone_back_to_by_what_it_meant() {
    let (digest, commit) = (hex("2"), "0123456789".repeat(4));
    for (image, meant, pinned) in [
        ("docker-daemon:web:1", Some(&digest), format!("docker-daemon:{digest}")),
        ("docker-daemon:web:1", None, "docker-daemon:web:1".into()),
        ("docker://ghcr.io/web:1", Some(&digest), format!("docker://ghcr.io/web:1@{digest}")),
        ("git+https://example.org/x#main", Some(&commit), format!("git+https://example.org/x#{commit}")),
        ("oci:/srv/web:1", Some(&digest), "oci:/srv/web:1".into()),
    ] {
        let (image, meant) = (image.parse().unwrap(), meant.cloned());
        let origin = Origin {
            image,
            options: ImageOptions::default(),
            caller: Caller { uid: 0, gid: 0, groups: Vec::new() },
            meant,
        };
        assert_eq!(origin.pinned().to_string(), pinned);
    }
}
