//! What a download consists of: bytes that depend on where they stand, so that one that is lost, repeated or moved shows.
#![allow(dead_code, reason = "who serves it takes one half of this module, who checks it the other")]

/// The byte at this position of every download; one that can be printed.
pub fn byte_at(position: u64) -> u8 {
    // The high byte of a multiple of the golden ratio: no short period, and neighbours differ.
    let hash = (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    b'!' + hash % 94
}

/// The bytes from `position` on.
pub fn bytes_from(position: u64, length: usize) -> Vec<u8> {
    (position..).take(length).map(byte_at).collect()
}

/// Where `bytes`, which should stand at `position`, differ first from what was served.
pub fn first_wrong(position: u64, bytes: &[u8]) -> Option<u64> {
    (position..).zip(bytes).find(|(at, byte)| byte_at(*at) != **byte).map(|(at, _)| at)
}
