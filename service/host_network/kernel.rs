//! What this kernel can do, as far as only its release says: to try it would leave a failed request behind.

/// Whether the running kernel is at least this version. Distributions' patches are not seen.
pub(super) fn is_at_least(major: u32, minor: u32) -> bool {
    release_is_at_least(&rustix::system::uname().release().to_string_lossy(), major, minor)
}

/// By a release such as `6.12.48+deb13-amd64`; `false` for one that cannot be read.
pub(super) fn release_is_at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(one)), Some(Ok(two))) if (one, two) >= (major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_decides() {
        for release in ["6.9.0", "6.9-rc1", "6.12.48+deb13-amd64", "6.18.44-fc-v595", "7.0.0", "10.1"] {
            assert!(release_is_at_least(release, 6, 9), "{release}");
        }
        for release in ["6.8.12-5-pve", "6.1.0-37-amd64", "5.14.0-503.el9", "4.19", "6", "", "next", "99999999999.9"] {
            assert!(!release_is_at_least(release, 6, 9), "{release}");
        }
    }
}
