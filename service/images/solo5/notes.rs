//! The two notes of Solo5, byte for byte: the ABI that an image was built for, and its manifest of devices.
//!
//! The layout is that of C structs on a 64-bit little-endian machine (Solo5's `elf_abi.h` and `mft_abi.h`), the rules
//! are those of the tender and of Albatross together.

use super::{Error, invalid};

/// How a note is found.
pub(super) struct NoteKind {
    /// For messages.
    pub what: &'static str,
    /// `n_type`, its letters read as a little-endian number.
    pub number: u32,
    /// Where Albatross looks for it.
    pub section: &'static str,
    /// Bytes of descriptor that the tender takes at most.
    pub largest: usize,
}

pub(super) const ABI: NoteKind =
    NoteKind { what: "ABI note", number: u32::from_le_bytes(*b"ABI1"), section: ".note.solo5.abi", largest: 32 };

pub(super) const MANIFEST: NoteKind = NoteKind {
    what: "manifest",
    number: u32::from_le_bytes(*b"MFT1"),
    section: ".note.solo5.manifest",
    largest: MANIFEST_HEAD + MAX_ENTRIES * ENTRY,
};

/// `HVT_ABI_VERSION` and `SPT_ABI_VERSION`: both tenders have had the same number so far.
const ABI_VERSION: u32 = 2;
const TARGETS: [&str; 6] = ["hvt", "spt", "virtio", "muen", "genode", "xen"];

/// The target must be one that Albatross has a tender for, its version the tender's.
pub(super) fn check_abi(descriptor: &[u8]) -> Result<(), Error> {
    if descriptor.len() != 16 {
        return invalid(format!("the ABI note of this image has {} bytes, expected 16", descriptor.len()));
    }
    let [target, version, reserved @ ..] = [0, 4, 8, 12].map(|offset| word(descriptor, offset));
    let index = usize::try_from(target).unwrap_or(usize::MAX).wrapping_sub(1);
    let name = TARGETS.get(index).copied().unwrap_or("unknown");
    if !matches!(name, "hvt" | "spt") {
        return invalid(format!("this image is for Solo5 target {target} ({name}), expected hvt or spt"));
    }
    if version != ABI_VERSION {
        return invalid(format!(
            "this image has {name} ABI version {version}, expected {ABI_VERSION}: build it with a Solo5 of that version"
        ));
    }
    if reserved != [0, 0] {
        return invalid("reserved words of this image's ABI note are not zero: it is not of a version known here");
    }
    Ok(())
}

const MANIFEST_VERSION: u32 = 1;
/// `MFT_MAX_ENTRIES`, with the reserved first one.
const MAX_ENTRIES: usize = 64;
/// Padding to 8 bytes behind the note's header of 20, version, number of entries.
const MANIFEST_HEAD: usize = 12;
/// `struct mft_entry`: name 68, type 4, properties 16, backing 8, attached 1 and padding 7.
const ENTRY: usize = 104;
const NAME: usize = 68;
const PRIVATE: std::ops::Range<usize> = 72..97;

const BLOCK: u32 = 1;
const NETWORK: u32 = 2;
const RESERVED_FIRST: u32 = 1 << 30;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    Network(String),
    Block(String),
}

pub(super) fn manifest(descriptor: &[u8]) -> Result<Vec<Device>, Error> {
    if descriptor.len() < MANIFEST_HEAD + ENTRY {
        return invalid(format!("the manifest of this image is too short: {} bytes", descriptor.len()));
    }
    let version = word(descriptor, 4);
    if version != MANIFEST_VERSION {
        return invalid(format!("this image has manifest version {version}, expected {MANIFEST_VERSION}"));
    }
    let entries = usize::try_from(word(descriptor, 8)).unwrap_or(usize::MAX);
    if !(1..=MAX_ENTRIES).contains(&entries) {
        return invalid(format!("the manifest of this image claims {entries} entries, expected 1 to {MAX_ENTRIES}"));
    }
    let expected = MANIFEST_HEAD + entries * ENTRY;
    if descriptor.len() != expected {
        return invalid(format!(
            "the manifest of this image claims {entries} entries, which take {expected} bytes, but it has {}",
            descriptor.len()
        ));
    }
    let mut devices = Vec::with_capacity(entries);
    for (index, entry) in descriptor[MANIFEST_HEAD..].chunks_exact(ENTRY).enumerate() {
        if entry[PRIVATE].iter().any(|&byte| byte != 0) {
            return invalid(format!("entry {index} of this image's manifest sets what only the tender may set"));
        }
        if index == 0 {
            check_reserved(entry)?;
            continue;
        }
        let device = device(index, entry)?;
        // The tender finds a device by name and type, so the second of the same could never be given to it.
        if devices.contains(&device) {
            return invalid(format!("the manifest of this image names a device twice: {device:?}"));
        }
        devices.push(device);
    }
    Ok(devices)
}

/// The first entry stands for no device: it makes index 0 unused.
fn check_reserved(entry: &[u8]) -> Result<(), Error> {
    if word(entry, NAME) != RESERVED_FIRST || entry[..NAME].iter().any(|&byte| byte != 0) {
        return invalid("the manifest of this image does not begin with its reserved entry");
    }
    Ok(())
}

fn device(index: usize, entry: &[u8]) -> Result<Device, Error> {
    let Some(end) = entry[..NAME].iter().position(|&byte| byte == 0) else {
        return invalid(format!("the name of device {index} in this image's manifest does not end"));
    };
    // The alphabet that the tender's --net: and --block: options can spell, and that Solo5's elftool lets through.
    let name = String::from_utf8_lossy(&entry[..end]).into_owned();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return invalid(format!(
            "device {index} of this image's manifest is called {name:?}, expected letters and digits"
        ));
    }
    match word(entry, NAME) {
        BLOCK => Ok(Device::Block(name)),
        NETWORK => Ok(Device::Network(name)),
        other => invalid(format!("device {name} of this image is of type {other}, expected 1 (block) or 2 (network)")),
    }
}

/// The little-endian number at `offset`; 0 beyond the end, which callers have ruled out by the length.
fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}
