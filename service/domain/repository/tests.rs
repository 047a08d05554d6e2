use super::*;

fn refused(text: &str) -> String {
    text.parse::<GitSource>().unwrap_err().to_string()
}

#[test]
fn a_source_says_where_and_what() {
    let source = "git+ssh://git@example.org:22/mirage/web.git#main".parse::<GitSource>().unwrap();
    assert_eq!(
        (source.url.transport(), source.url.as_str()),
        (GitTransport::Ssh, "ssh://git@example.org:22/mirage/web.git")
    );
    assert_eq!((source.reference.unwrap().as_str(), source.url.path()), ("main", None));
    let source = "git+file:///srv/git/a b#main".parse::<GitSource>().unwrap();
    assert_eq!(source.url.path(), Some(Path::new("/srv/git/a b")));
    assert_eq!("git+https://example.org/x".parse::<GitSource>().unwrap().reference, None);
}

#[test]
fn secrets_are_refused_and_not_repeated() {
    for text in [
        "git+https://user:hunter2@example.org/x#v1",
        "git+https://hunter2@example.org/x",
        "git+https://@example.org/x",
        "git+ssh://git:hunter2@example.org/x",
        "git+ssh://a@b@example.org/x",
        "git+ssh://-hunter2@example.org/x",
        "git+file://hunter2@/x",
        "git+https://example.org/x?token=hunter2",
        "git+http://user:hunter2@example.org/x",
        "git+ftp://user:hunter2@example.org/x",
    ] {
        assert!(!refused(text).contains("hunter2"), "{}", refused(text));
    }
    assert!(refused("git+https://user:hunter2@example.org/x").contains("password"));
}

#[test]
fn urls_are_checked() {
    for (text, why) in [
        ("git+https:///x", "no host"),
        ("git+https://-oProxyCommand=x/x", "no host"),
        ("git+ssh://-oProxyCommand=x/x", "no host"),
        ("git+https://a b/x", "no host"),
        ("git+file://host/x", "no host"),
        ("git+https://example.org", "path"),
        ("git+https://example.org/", "path"),
        ("git+https://example.org/a/../b", "path"),
        ("git+https://example.org/a\nb", "path"),
        ("git+https://example.org/a%0ab", "path"),
        ("git+https://example.org/a%2", "path"),
        ("git+https://example.org/a%+1", "path"),
        ("git+https://example.org/a\\b", "path"),
        ("git+file:///a%20b", "no '%'"),
        ("git+file:///../b", "path"),
        ("git+file://", "path"),
        ("git+file:x", "git+file:///"),
    ] {
        assert!(refused(text).contains(why), "{text:?}: {}", refused(text));
    }
    assert!(refused(&format!("git+https://example.org/{}", "x".repeat(2048))).contains("2048"));
}

#[test]
fn references_are_what_git_takes_and_never_options() {
    for good in ["main", "v1.0", "release/1", "refs/heads/main", "a@b", "ä", "HEAD", "feature#2"] {
        assert!(good.parse::<GitRef>().is_ok(), "{good}");
    }
    let long = "x".repeat(256);
    for bad in [
        "",
        "-x",
        "--upload-pack=x",
        "@",
        "a..b",
        "a@{1}",
        "a b",
        "a\nb",
        "a:b",
        "+a:b",
        "a^",
        "a~1",
        "a*",
        "a?",
        "a[",
        "a\\b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        &long,
    ] {
        assert!(bad.parse::<GitRef>().is_err(), "{bad}");
    }
    let commit = "0123456789".repeat(4);
    assert_eq!(commit.parse::<GitRef>().unwrap().commit().unwrap().as_str(), commit);
    for other in ["main", "0123456", &"0123456789".repeat(6), &"A".repeat(40)] {
        assert_eq!(other.parse::<GitRef>().unwrap().commit(), None);
    }
}

#[test]
fn paths_stay_in_the_repository() {
    assert_eq!("a/b/config.ml".parse::<RepositoryPath>().unwrap().split(), (Some("a/b"), "config.ml"));
    assert_eq!("config.ml".parse::<RepositoryPath>().unwrap().split(), (None, "config.ml"));
    for bad in [
        "",
        "/a",
        "..",
        "../a",
        "a/../../b",
        "a//b",
        "./a",
        "a/",
        "-f",
        "a/--from=x",
        "a b",
        "a\nRUN x",
        "a$b",
        "a'b",
        "a\"b",
        "a\\",
    ] {
        assert!(bad.parse::<RepositoryPath>().is_err(), "{bad}");
    }
}
