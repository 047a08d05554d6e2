//! Several parts in one input, with digests that fit: what is behind a digest would never be reached by chance.
//!
//! Parts stand one after the other with a line `%%` between. In a part, `#2` is the digest of part 2, `%2` its digest and
//! size as a descriptor has them, and `@2` its digest's digits. Only parts behind the one that names them can be named.

use albatross_deployer::images::archive::Digest;

const BETWEEN: &[u8] = b"\n%%\n";
const PARTS: usize = 9;

/// The parts as they are named, from 0 on.
pub fn parts(input: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = split(input).into_iter().map(<[u8]>::to_vec).collect();
    let mut named: Vec<(Digest, usize)> = Vec::new();
    // From the last on: `named` has them in reverse.
    for index in (0..parts.len()).rev() {
        let filled = filled_in(&parts[index], |number| named.get(parts.len().checked_sub(number + 1)?).copied());
        named.push((Digest::of(content(&filled)), content(&filled).len()));
        parts[index] = filled;
    }
    parts
}

/// Without the name that a part may begin with, a line `= NAME`.
pub fn content(part: &[u8]) -> &[u8] {
    named(part).map_or(part, |(_, content)| content)
}

/// The name of a part, and what is behind it.
pub fn named(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = part.strip_prefix(b"= ")?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn split(input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    while parts.len() + 1 < PARTS
        && let Some(end) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN)
    {
        parts.push(&rest[..end]);
        rest = &rest[end + BETWEEN.len()..];
    }
    parts.push(rest);
    parts
}

fn filled_in(part: &[u8], named: impl Fn(usize) -> Option<(Digest, usize)>) -> Vec<u8> {
    let mut filled = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((&byte, after)) = rest.split_first() {
        let number = after.first().filter(|digit| digit.is_ascii_digit()).map(|digit| usize::from(digit - b'0'));
        let text = number.and_then(&named).and_then(|(digest, size)| match byte {
            b'#' => Some(digest.to_string()),
            b'@' => Some(digest.hex()),
            b'%' => Some(format!(r#""digest":"{digest}","size":{size}"#)),
            _ => None,
        });
        match text {
            Some(text) => {
                filled.extend(text.as_bytes());
                rest = &after[1..];
            }
            None => {
                filled.push(byte);
                rest = after;
            }
        }
    }
    filled
}
