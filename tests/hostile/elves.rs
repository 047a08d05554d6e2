//! ELF files that are no unikernels, or not of this host, or would be read differently by who looks and by who runs.

use super::cases::Case;
use super::solo5_image::{Image, Target, image};

pub fn all() -> Vec<Case> {
    [headers(), tables(), segments(), notes(), manifests()].into_iter().flatten().collect()
}

fn good() -> Vec<u8> {
    image(Target::Spt, "1", &["service"], &[], 0)
}

/// A good image with these bytes at `offset`.
fn with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = good();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    image
}

fn word(bytes: &[u8], offset: usize) -> usize {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap()) as usize
}

/// Where the program header with this number begins: `.interp`, what is loaded, the ABI note, the manifest.
fn program(number: usize) -> usize {
    64 + number * 56
}

/// Where the segment with this number begins in the file.
fn segment(number: usize) -> usize {
    word(&good(), program(number) + 8)
}

/// Where the section header with this number begins.
fn section(number: usize) -> usize {
    word(&good(), 40) + number * 64
}

const INTERPRETER: usize = 0;
const LOADED: usize = 1;
const ABI: usize = 2;
const MANIFEST: usize = 3;

fn headers() -> Vec<Case> {
    let cut = |length: usize| good()[..length].to_vec();
    vec![
        Case::elf("an empty file", Vec::new(), "is empty"),
        Case::elf("a script", b"#!/bin/sh\nrm -rf /\n".to_vec(), "not an ELF file"),
        Case::elf("the letters and nothing else", b"\x7fELF".to_vec(), "truncated"),
        Case::elf("a cut ELF header", cut(63), "truncated"),
        Case::elf("nothing but the ELF header", cut(64), "truncated: program headers"),
        Case::elf("a file that is cut in its segment", cut(4200), "truncated"),
        Case::elf("a file that is cut before its end", cut(good().len() - 1), "truncated: section headers"),
        Case::elf("32 bits", with(4, &[1]), "not a 64-bit little-endian"),
        Case::elf("big endian", with(5, &[2]), "not a 64-bit little-endian"),
        Case::elf("ELF of version 2", with(20, &[2]), "not of version 1"),
        Case::elf("for RISC-V", with(18, &243_u16.to_le_bytes()), "for another machine (ELF number 243)"),
        Case::elf("a shared library", with(16, &[3]), "of type 3"),
        Case::elf("an object file", with(16, &[1]), "of type 1"),
        Case::elf("a core dump", with(16, &[4]), "of type 4"),
        Case::elf("a program of this host", std::fs::read("/bin/true").unwrap(), ""),
    ]
}

fn tables() -> Vec<Case> {
    let beyond = u64::MAX.to_le_bytes();
    vec![
        Case::elf("no program headers", with(56, &[0, 0]), "claims 0 program headers"),
        Case::elf("65535 program headers", with(56, &[0xff, 0xff]), "claims 65535 program headers"),
        Case::elf("program headers of one byte", with(54, &[1, 0]), "of 56 bytes"),
        Case::elf("program headers beyond the file", with(32, &(1_u64 << 40).to_le_bytes()), "truncated: program"),
        Case::elf("program headers beyond all", with(32, &beyond), "beyond 64 bits"),
        Case::elf("no sections", with(60, &[0, 0]), "claims 0 sections"),
        Case::elf("65535 sections", with(60, &[0xff, 0xff]), "claims 65535 sections"),
        Case::elf("sections of one byte", with(58, &[1, 0]), "of 64 bytes"),
        Case::elf("sections beyond all", with(40, &beyond), "beyond 64 bits"),
        Case::elf("names of sections in no section", with(62, &[0xff, 0xff]), "no usable table of section names"),
        Case::elf("names of sections of 8 EiB", with(section(5) + 32, &(1_u64 << 63).to_le_bytes()), "no usable table"),
        Case::elf("names of sections beyond all", with(section(5) + 24, &beyond), "beyond 64 bits"),
        Case::elf("a section name beyond its table", with(section(2), &0x7fff_u32.to_le_bytes()), "does not end"),
    ]
}

fn segments() -> Vec<Case> {
    let loaded = program(LOADED);
    let field = |offset: usize, value: u64| with(loaded + offset, &value.to_le_bytes());
    // Two to be loaded at one place: what was the interpreter's becomes another of those.
    let mut overlapping = good();
    overlapping.copy_within(loaded..loaded + 56, program(INTERPRETER));
    vec![
        Case::elf("nothing to load", with(loaded, &4_u32.to_le_bytes()), ""),
        Case::elf("an entry below the guest's memory", with(24, &0x1000_u64.to_le_bytes()), "entry point 0x1000"),
        Case::elf("a segment at address 0", field(16, 0), "is to be loaded at 0x0"),
        Case::elf("a segment beyond the file", field(8, 1 << 40), "truncated: segment 1"),
        Case::elf("a segment that begins beyond all", field(8, u64::MAX), "beyond 64 bits"),
        Case::elf("a segment of 16 EiB", field(32, u64::MAX), "beyond 64 bits"),
        Case::elf("less memory than file", field(40, 1), "more than the 1 it takes"),
        Case::elf("memory beyond the address space", field(40, u64::MAX), "beyond the address space"),
        Case::elf("an alignment of 3", field(48, 3), "alignment 3"),
        Case::elf("an alignment of 0", field(48, 0), "alignment 0"),
        Case::elf("segments over each other", overlapping, "inside or in front of the segment before"),
        Case::elf("writable code", with(loaded + 4, &7_u32.to_le_bytes()), "writable and executable"),
    ]
}

fn notes() -> Vec<Case> {
    let (abi, manifest) = (segment(ABI), segment(MANIFEST));
    let number = |value: u32| value.to_le_bytes();
    let mut twice = good();
    twice.copy_within(program(ABI)..program(ABI) + 56, program(INTERPRETER));
    let older = Image { abi_version: 1, ..Image::new(Target::Hvt, "1").net(&["service"]) }.build();
    let newer = Image { abi_version: 3, ..Image::new(Target::Spt, "1").net(&["service"]) }.build();
    let short = with(program(ABI) + 32, &8_u64.to_le_bytes());
    let apart = with(section(3) + 24, &(manifest as u64).to_le_bytes());
    vec![
        Case::elf("an owner's name of 4 GiB", with(abi, &number(u32::MAX)), "has no Solo5 ABI note"),
        Case::elf("a note of 4 GiB", with(abi + 4, &number(u32::MAX)), "4294967295 bytes, expected 1 to"),
        Case::elf("a note of nothing", with(abi + 4, &number(0)), "has 0 bytes"),
        Case::elf("a note longer than its segment", with(abi + 4, &number(32)), "more than its segment"),
        Case::elf("a note of another length", with(abi + 4, &number(12)), "has 12 bytes, expected 16"),
        Case::elf("a note of another kind", with(abi + 8, b"ABI9"), "has no Solo5 ABI note"),
        Case::elf("a note of another owner", with(abi + 12, b"Sol6"), "has no Solo5 ABI note"),
        Case::elf("a note in a segment of 8 bytes", short, "too short: 8 bytes"),
        Case::elf("two ABI notes", twice, "two Solo5 notes of one kind"),
        Case::elf("a section that shows another note", apart, "would read different notes"),
        Case::elf("no manifest", with(manifest + 8, b"MFT9"), "has no Solo5 manifest"),
        Case::elf("an older ABI", older, "hvt ABI version 1, expected 2"),
        Case::elf("a newer ABI", newer, "spt ABI version 3, expected 2"),
        Case::elf("for virtio", with(abi + 20, &number(3)), "target 3 (virtio)"),
        Case::elf("for Muen", with(abi + 20, &number(4)), "target 4 (muen)"),
        Case::elf("for Genode", with(abi + 20, &number(5)), "target 5 (genode)"),
        Case::elf("for Xen", with(abi + 20, &number(6)), "target 6 (xen)"),
        Case::elf("for nothing known", with(abi + 20, &number(0)), "target 0 (unknown)"),
        Case::elf("reserved words that say something", with(abi + 28, &number(1)), "reserved words"),
    ]
}

fn manifests() -> Vec<Case> {
    let head = segment(MANIFEST) + 20;
    let first = head + 12;
    let second = first + 104;
    let number = |value: u32| value.to_le_bytes();
    let networks = |names: &[&str]| image(Target::Spt, "1", names, &[], 0);
    let many: Vec<String> = (0..63).map(|number| format!("disk{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut more = many.clone();
    more.push("last");
    vec![
        Case::elf("a manifest of version 9", with(head + 4, &number(9)), "manifest version 9"),
        Case::elf("a manifest of four billion devices", with(head + 8, &number(u32::MAX)), "claims 4294967295 entries"),
        Case::elf("a manifest of no entry", with(head + 8, &number(0)), "claims 0 entries"),
        Case::elf("a manifest of more than it has", with(head + 8, &number(3)), "claims 3 entries"),
        Case::elf("65 devices", image(Target::Spt, "1", &["service"], &many, 0), "expected 1 to"),
        Case::elf("63 disks and no network", image(Target::Spt, "1", &[], &many, 0), "no network device"),
        Case::elf("66 devices", image(Target::Spt, "1", &["service"], &more, 0), "expected 1 to"),
        Case::elf("no network device", networks(&[]), "no network device"),
        Case::elf("two network devices", networks(&["a", "b"]), "2 network devices: a, b"),
        Case::elf("a device twice", networks(&["a", "a"]), "names a device twice"),
        Case::elf("no reserved entry", with(first + 68, &number(2)), "does not begin with its reserved entry"),
        Case::elf("a name that does not end", with(second, &[b'a'; 68]), "does not end"),
        Case::elf("a device with the tender's options", with(second, b"a:b"), "expected letters and digits"),
        Case::elf("a device with a terminal's commands", with(second, b"\x1b[2J"), "expected letters and digits"),
        Case::elf("a device of an unknown type", with(second + 68, &number(7)), "of type 7"),
        Case::elf("an address that only the tender may set", with(second + 72, &[1]), "only the tender may set"),
    ]
}
