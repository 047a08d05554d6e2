//! Comments as nft keeps them: type, length, bytes with a final NUL, in an object's user data. The kernel does not
//! look into it.

/// NFTNL_UDATA_{TABLE,CHAIN,RULE}_COMMENT; that of a set has another number.
const COMMENT: u8 = 0;
const SET_COMMENT: u8 = 7;
/// nft reads no longer one.
const LONGEST: usize = 127;

pub(super) fn table_comment(comment: &str) -> Vec<u8> {
    entry(COMMENT, comment)
}

pub(super) fn chain_comment(comment: &str) -> Vec<u8> {
    entry(COMMENT, comment)
}

pub(super) fn rule_comment(comment: &str) -> Vec<u8> {
    entry(COMMENT, comment)
}

pub(super) fn set_comment(comment: &str) -> Vec<u8> {
    entry(SET_COMMENT, comment)
}

fn entry(kind: u8, comment: &str) -> Vec<u8> {
    let end = (0..=LONGEST.min(comment.len())).rev().find(|&end| comment.is_char_boundary(end)).unwrap_or(0);
    let comment = &comment.as_bytes()[..end];
    // Below 128 bytes: the length fits its one byte.
    let mut bytes = vec![kind, comment.len() as u8 + 1];
    bytes.extend(comment);
    bytes.push(0);
    bytes
}

/// The comment of a table, chain or rule.
pub(super) fn comment(userdata: &[u8]) -> Option<String> {
    find(userdata, COMMENT)
}

pub(super) fn comment_of_set(userdata: &[u8]) -> Option<String> {
    find(userdata, SET_COMMENT)
}

fn find(mut userdata: &[u8], wanted: u8) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return String::from_utf8(value.strip_suffix(&[0]).unwrap_or(value).to_vec()).ok();
        }
        userdata = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(rule_comment("c1"), b"\x00\x03c1\x00");
        assert_eq!(comment(&rule_comment("c1")).as_deref(), Some("c1"));
        assert_eq!(comment_of_set(&set_comment("x")).as_deref(), Some("x"));
        // nft writes others before it.
        assert_eq!(comment_of_set(b"\x00\x04\x00\x00\x00\x00\x07\x02x\x00").as_deref(), Some("x"));
        assert_eq!(comment(b"\x00\x09short"), None);
        assert_eq!(comment(&table_comment(&"ä".repeat(200))), Some("ä".repeat(63)));
    }
}
