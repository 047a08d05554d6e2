use super::*;

#[test]
fn paths_in_an_image_are_plain() {
    for good in ["/unikernel.hvt", "/a/b_c/d+e@f-g.spt", "/...", "/.a"] {
        assert_eq!(good.parse::<ImagePath>().unwrap().as_path(), Path::new(good));
    }
    let long = format!("/{}", "a/".repeat(600));
    for bad in [
        "", "/", "a", "//a", "/a/", "/a//b", "/./a", "/a/..", "/a b", "/a\nb", "/$a", "/a*", "/-a", "/a/-b", "/ä",
        &long,
    ] {
        let message = bad.parse::<ImagePath>().unwrap_err().to_string();
        assert!(message.contains("image-path"), "{message}");
    }
}

#[test]
fn authorities_are_hosts_and_ports() {
    for good in ["a", "a.b-c.d", "10.0.0.1", "a:1", "a:65535", "[::1]", "[fe80::1]:5000"] {
        assert!(is_authority(good), "{good}");
    }
    let label = format!("{}.a", "a".repeat(64));
    for bad in [
        "", ".", "a.", ".a", "-a", "a-", "a_b", "a b", "a:", "a:0", "a:65536", "a:1:2", "::1", "[::1", "[::1]x", "[]",
        &label,
    ] {
        assert!(!is_authority(bad), "{bad}");
    }
}
