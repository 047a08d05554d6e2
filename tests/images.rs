//! Images against real files, pipes, users and a full disk; and images made to deceive.

// Helpers outside of test functions are no production code either.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::future::pending;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use albatross_deployer::domain::{Caller, ImageDigest, ImageRecord};
use albatross_deployer::images::{Error, Store, open_as, solo5};
use futures_util::future::join_all;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::process::{getegid, geteuid};
use rustix::thread::{
    CapabilitySet, Gid, Uid, capabilities, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A Solo5 image as small as it can be, with the places in it that tests bend.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    abi: usize,
    manifest: usize,
    names: usize,
    sections: usize,
}

const NETWORK: u32 = 2;
const BLOCK: u32 = 1;
const ENTRY: usize = 104;
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

impl Image {
    /// Segments: 0 to load, 1 ABI note, 2 manifest note. Sections: 1 ABI, 2 manifest, 3 names.
    fn new(devices: &[(&str, u32)]) -> Self {
        let mut image = Self { bytes: vec![0; 0x1000], abi: 0x1000, manifest: 0x1024, names: 0, sections: 0 };
        image.append(&[&note(b"ABI1", 16)[..], &words(&[1, 2, 0, 0])].concat());
        let entries = devices.len() + 1;
        let mut manifest = note(b"MFT1", 12 + entries * ENTRY);
        manifest.extend(words(&[0, 1, u32::try_from(entries).unwrap()]));
        for (name, kind) in [("", 1 << 30)].iter().chain(devices) {
            let mut entry = vec![0; ENTRY];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            entry[68..72].copy_from_slice(&kind.to_le_bytes());
            manifest.extend(entry);
        }
        image.append(&manifest);
        let (loaded, manifest_size) = (image.bytes.len() - 0x1000, manifest.len());
        image.names = image.bytes.len();
        image.append(b"\0.note.solo5.abi\0.note.solo5.manifest\0.shstrtab\0");
        let names_size = image.bytes.len() - image.names;
        image.sections = image.bytes.len();
        image.append(&vec![0; 4 * 64]);
        image.header();
        image.segment(0, 1, 5, 0x1000, loaded, 0x1000);
        image.segment(1, 4, 4, image.abi, 36, 4);
        image.segment(2, 4, 4, image.manifest, manifest_size, 4);
        image.section(1, 1, image.abi, 36);
        image.section(2, 17, image.manifest, manifest_size);
        image.section(3, 38, image.names, names_size);
        image
    }

    fn header(&mut self) {
        self.put(0, b"\x7fELF\x02\x01\x01");
        self.put(16, &2u16.to_le_bytes());
        self.put(18, &MACHINE.to_le_bytes());
        self.put(20, &1u32.to_le_bytes());
        self.put(24, &0x10_0000u64.to_le_bytes());
        self.put(32, &64u64.to_le_bytes());
        self.put(40, &(self.sections as u64).to_le_bytes());
        for (index, half) in [64u16, 56, 3, 64, 4, 3].into_iter().enumerate() {
            self.put(52 + 2 * index, &half.to_le_bytes());
        }
    }

    fn segment(&mut self, index: usize, kind: u32, flags: u32, offset: usize, size: usize, align: u64) {
        let at = segment(index, 0);
        self.put(at, &words(&[kind, flags]));
        let address = 0x10_0000 + offset as u64 - 0x1000;
        for (word, value) in [offset as u64, address, address, size as u64, size as u64, align].into_iter().enumerate()
        {
            self.put(at + 8 + 8 * word, &value.to_le_bytes());
        }
    }

    fn section(&mut self, index: usize, name: u32, offset: usize, size: usize) {
        let at = self.sections + 64 * index;
        self.put(at, &words(&[name, 7]));
        self.put(at + 24, &(offset as u64).to_le_bytes());
        self.put(at + 32, &(size as u64).to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where entry `index` of the manifest begins.
    fn entry(&self, index: usize) -> usize {
        self.manifest + 20 + 12 + index * ENTRY
    }

    fn padded(mut self, size: usize) -> Vec<u8> {
        self.bytes.resize(size, 0x5a);
        self.bytes
    }
}

fn note(kind: &[u8; 4], size: usize) -> Vec<u8> {
    [&words(&[6, u32::try_from(size).unwrap()])[..], kind, b"Solo5\0\0\0"].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The place of a field of a program header: 4 flags, 8 offset, 16 address, 32 size in file, 40 in memory, 48 align.
fn segment(index: usize, field: usize) -> usize {
    64 + 56 * index + field
}

fn good() -> Image {
    Image::new(&[("service", NETWORK), ("data", BLOCK), ("log", BLOCK)])
}

fn digest(bytes: &[u8]) -> ImageDigest {
    ImageDigest(Sha256::digest(bytes).into())
}

fn refusal(bytes: Vec<u8>) -> String {
    match solo5::inspect(Cursor::new(bytes)) {
        Err(Error::Invalid(why)) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_good_image_shows_its_devices() {
    let devices = solo5::inspect(Cursor::new(good().bytes)).unwrap();
    assert_eq!(devices.network.0, "service");
    assert_eq!(devices.blocks, ["data", "log"]);
    let mut spt = good();
    spt.put(spt.abi + 20, &words(&[2]));
    assert!(solo5::inspect(Cursor::new(spt.bytes)).is_ok());
    // A network and a block device may share a name: the tender's options tell them apart.
    assert!(solo5::inspect(Cursor::new(Image::new(&[("a", NETWORK), ("a", BLOCK)]).bytes)).is_ok());
    let most: Vec<String> = (0..62).map(|number| format!("b{number}")).collect();
    let mut most: Vec<(&str, u32)> = most.iter().map(|name| (name.as_str(), BLOCK)).collect();
    most.push(("service", NETWORK));
    assert_eq!(solo5::inspect(Cursor::new(Image::new(&most).bytes)).unwrap().blocks.len(), 62);
}

type Bend = fn(&mut Image);

#[test]
fn bad_headers_are_refused_with_a_reason() {
    let table: &[(Bend, &str)] = &[
        (|i| i.bytes.clear(), "empty"),
        (|i| i.bytes = b"#!/bin/sh\n".to_vec(), "not an ELF file, it begins with 23 21 2f 62"),
        (|i| i.bytes = vec![0x1f, 0x8b, 8, 0, 1], "begins with 1f 8b 08 00"),
        (|i| i.bytes.truncate(40), "truncated: an ELF header has 64 bytes, the file has 40"),
        (|i| i.put(4, &[1]), "64-bit little-endian"),
        (|i| i.put(5, &[2]), "64-bit little-endian"),
        (|i| i.put(20, &words(&[9])), "version 1"),
        (|i| i.put(12, &[1]), "version 1"),
        (|i| i.put(18, &243u16.to_le_bytes()), "another machine (ELF number 243), this host is"),
        (|i| i.put(16, &3u16.to_le_bytes()), "type 3, expected 2 (executable)"),
        (|i| i.put(54, &32u16.to_le_bytes()), "of 56 bytes"),
        (|i| i.put(56, &0u16.to_le_bytes()), "claims 0 program headers"),
        (|i| i.put(56, &65535u16.to_le_bytes()), "claims 65535 program headers"),
        (|i| i.put(32, &0x7fff_0000u64.to_le_bytes()), "truncated: program headers"),
        (|i| i.put(32, &u64::MAX.to_le_bytes()), "beyond 64 bits"),
        (|i| i.put(60, &0u16.to_le_bytes()), "do not strip"),
        (|i| i.put(60, &60000u16.to_le_bytes()), "claims 60000 sections"),
        (|i| i.put(40, &(u64::MAX - 3).to_le_bytes()), "beyond 64 bits"),
        (|i| i.put(62, &9u16.to_le_bytes()), "no usable table of section names"),
        (|i| i.put(i.sections + 3 * 64 + 32, &(1u64 << 40).to_le_bytes()), "no usable table of section names"),
        (|i| i.put(i.sections + 3 * 64 + 24, &(1u64 << 40).to_le_bytes()), "truncated: section names"),
    ];
    refuses_all(table);
}

#[test]
fn bad_segments_are_refused_with_a_reason() {
    let table: &[(Bend, &str)] = &[
        (|i| i.put(24, &0u64.to_le_bytes()), "entry point 0x0"),
        (|i| i.put(segment(0, 32), &(1u64 << 30).to_le_bytes()), "truncated: segment 0 would end at byte"),
        (|i| i.put(segment(0, 8), &u64::MAX.to_le_bytes()), "segment 0 would end beyond 64 bits"),
        (|i| i.put(segment(0, 40), &1u64.to_le_bytes()), "more than the 1 it takes in memory"),
        (|i| i.put(segment(0, 48), &3u64.to_le_bytes()), "alignment 3"),
        (|i| i.put(segment(0, 48), &0u64.to_le_bytes()), "alignment 0"),
        (|i| i.put(segment(0, 48), &16u64.to_le_bytes()), "not aligned to pages"),
        (|i| i.put(segment(0, 16), &0x1000u64.to_le_bytes()), "loaded at 0x1000"),
        (|i| i.put(segment(0, 16), &(u64::MAX - 5).to_le_bytes()), "beyond the address space"),
        (|i| i.put(segment(0, 4), &7u32.to_le_bytes()), "writable and executable"),
        (|i| i.put(segment(0, 0), &6u32.to_le_bytes()), "no segment to load"),
        (|i| i.bytes.copy_within(segment(0, 0)..segment(1, 0), segment(1, 0)), "in front of the segment before it"),
    ];
    refuses_all(table);
}

#[test]
fn bad_abi_notes_are_refused_with_a_reason() {
    let table: &[(Bend, &str)] = &[
        (|i| i.put(segment(1, 32), &4u64.to_le_bytes()), "note segment 1 is too short"),
        (|i| i.put(segment(1, 32), &12u64.to_le_bytes()), "no Solo5 ABI note"),
        (|i| i.put(segment(1, 0), &6u32.to_le_bytes()), "no Solo5 ABI note"),
        (|i| i.put(i.abi + 8, b"ABI2"), "no Solo5 ABI note"),
        (|i| i.put(i.abi + 12, b"Other\0"), "no Solo5 ABI note"),
        (|i| i.put(i.abi + 12, b"Solo56"), "no Solo5 ABI note"),
        (|i| i.put(i.abi, &words(&[5])), "no Solo5 ABI note"),
        (|i| i.put(i.abi + 4, &words(&[0])), "ABI note has 0 bytes"),
        (|i| i.put(i.abi + 4, &words(&[8])), "has 8 bytes, expected 16"),
        (|i| i.put(i.abi + 4, &words(&[20])), "more than its segment"),
        (|i| i.put(i.abi + 4, &words(&[u32::MAX])), "has 4294967295 bytes"),
        (|i| i.put(i.abi + 20, &words(&[3])), "target 3 (virtio), expected hvt or spt"),
        (|i| i.put(i.abi + 20, &words(&[0])), "target 0 (unknown)"),
        (|i| i.put(i.abi + 20, &words(&[u32::MAX])), "target 4294967295 (unknown)"),
        (|i| i.put(i.abi + 24, &words(&[1])), "hvt ABI version 1, expected 2"),
        (|i| i.put(i.abi + 28, &words(&[1])), "reserved words"),
        (|i| i.put(segment(2, 8), &(i.abi as u64).to_le_bytes()), "two Solo5 notes of one kind"),
        (unaligned, "not aligned"),
        (|i| i.put(i.names + 2, b"N"), "no section .note.solo5.abi"),
        (|i| i.put(i.sections + 64 + 24, &0x2000u64.to_le_bytes()), "would read different notes"),
        (|i| i.put(i.sections + 64 + 32, &11u64.to_le_bytes()), "would read different notes"),
        (|i| i.put(i.sections + 64, &words(&[1 << 20])), "a section name of this ELF file does not end"),
        (|i| i.put(i.sections - 1, b"x"), "a section name of this ELF file does not end"),
    ];
    refuses_all(table);
}

/// The ABI note two bytes further on, with its segment and its section.
fn unaligned(image: &mut Image) {
    let note = image.bytes[image.abi..image.abi + 36].to_vec();
    image.put(image.abi, &[0, 0]);
    image.put(image.abi + 2, &note);
    let moved = (image.abi as u64 + 2).to_le_bytes();
    image.put(segment(1, 8), &moved);
    image.put(image.sections + 64 + 24, &moved);
}

#[test]
fn bad_manifests_are_refused_with_a_reason() {
    let table: &[(Bend, &str)] = &[
        (|i| i.put(i.manifest + 8, b"MFT2"), "no Solo5 manifest"),
        (|i| i.put(i.manifest + 4, &words(&[40])), "too short: 40 bytes"),
        (|i| i.put(i.manifest + 4, &words(&[7000])), "has 7000 bytes, expected 1 to 6668"),
        (|i| i.put(i.manifest + 4, &words(&[6668])), "more than its segment"),
        (|i| i.put(i.manifest + 24, &words(&[2])), "manifest version 2, expected 1"),
        (|i| i.put(i.manifest + 28, &words(&[0])), "claims 0 entries"),
        (|i| i.put(i.manifest + 28, &words(&[65])), "claims 65 entries, expected 1 to 64"),
        (|i| i.put(i.manifest + 28, &words(&[u32::MAX])), "claims 4294967295 entries"),
        (|i| i.put(i.manifest + 28, &words(&[3])), "which take 324 bytes, but it has 428"),
        (|i| i.put(i.entry(0) + 68, &words(&[NETWORK])), "reserved entry"),
        (|i| i.put(i.entry(0), b"x"), "reserved entry"),
        (|i| i.put(i.entry(1), &[b'a'; 68]), "name of device 1 in this image's manifest does not end"),
        (|i| i.put(i.entry(1), &[0; 8]), "is called \"\""),
        (|i| i.put(i.entry(1), b"a=b"), "expected letters and digits"),
        (|i| i.put(i.entry(1), b"\xff\x1b"), "expected letters and digits"),
        (|i| i.put(i.entry(1) + 68, &words(&[7])), "of type 7"),
        (|i| i.put(i.entry(2) + 68, &words(&[1 << 30])), "of type 1073741824"),
        (|i| i.put(i.entry(1) + 72, &[1]), "entry 1 of this image's manifest sets"),
        (|i| i.put(i.entry(1) + 96, &[1]), "entry 1 of this image's manifest sets"),
        (|i| i.put(i.entry(3), b"data"), "names a device twice"),
        (|i| *i = Image::new(&[]), "no network device; exactly one"),
        (|i| *i = Image::new(&[("data", BLOCK)]), "no network device; exactly one"),
        (
            |i| *i = Image::new(&[("service", NETWORK), ("private", NETWORK)]),
            "this image has 2 network devices: service, private; exactly one",
        ),
        (|i| i.put(i.sections + 128 + 24, &0x1000u64.to_le_bytes()), "would read different notes"),
    ];
    refuses_all(table);
}

fn refuses_all(table: &[(Bend, &str)]) {
    for (bend, expected) in table {
        let mut image = good();
        bend(&mut image);
        let why = refusal(image.bytes);
        assert!(why.contains(expected), "expected {expected:?} in {why:?}");
    }
}

#[test]
fn every_shortened_image_is_refused() {
    let whole = good().bytes;
    for size in 0..whole.len() {
        refusal(whole[..size].to_vec());
    }
}

proptest::proptest! {
    #[test]
    fn no_image_makes_the_check_panic(changes in proptest::collection::vec((0usize..2048, 0u8..), 1..12)) {
        let mut image = good();
        for (at, byte) in changes {
            // Headers in front, notes and sections behind: the zeros between are not looked at.
            let at = if at < 256 { at } else { 0x1000 + at - 256 };
            if let Some(place) = image.bytes.get_mut(at) { *place = byte; }
        }
        let _ = solo5::inspect(Cursor::new(image.bytes));
    }
}

/// With images that Solo5 itself has built, in the folder SOLO5_IMAGES.
#[test]
fn real_images_are_refused_for_nothing_but_their_devices() {
    let Some(folder) = std::env::var_os("SOLO5_IMAGES") else {
        println!("SKIPPED: SOLO5_IMAGES names no folder of Solo5's test images");
        return;
    };
    let mut good = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match solo5::inspect(File::open(&path).unwrap()) {
            Ok(_) => good += 1,
            Err(Error::Invalid(why)) if path.ends_with("buggyelf.hvt") => println!("{}: {why}", path.display()),
            Err(error) => assert!(error.to_string().contains("exactly one is needed"), "{}: {error}", path.display()),
        }
    }
    assert!(good > 0, "no image with one network device");
}

const MIB: usize = 1 << 20;

fn store() -> (TempDir, Store) {
    store_of(4 * MIB as u64)
}

fn store_of(limit: u64) -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(&folder.path().join("images"), limit).unwrap().inspecting_here();
    (folder, store)
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join("images")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn take(store: &Store, source: impl Into<OwnedFd>) -> Result<ImageRecord, Error> {
    store.import(File::from(source.into()), |_, _| {}, pending()).await
}

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Longer than anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// After an error or a cancellation the import's thread may still be cleaning up.
async fn emptied(folder: &TempDir) {
    let started = Instant::now();
    while !names(folder).is_empty() {
        assert!(started.elapsed() < PATIENCE, "left behind: {:?}", names(folder));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_file_left_at_its_end_is_taken_from_its_start() {
    let (folder, store) = store();
    let bytes = good().padded(3 * MIB);
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let progress = move |bytes, total| telling.lock().unwrap().push((bytes, total));
    let source = file_with(&bytes);
    let mut kept = source.try_clone().unwrap();
    let record = store.import(source, progress, pending()).await.unwrap();
    assert_eq!(record.digest, digest(&bytes));
    assert_eq!((record.size, record.network_device.0.as_str()), (3 * MIB as u64, "service"));
    assert_eq!(record.block_devices, ["data", "log"]);
    assert_eq!(told.lock().unwrap().last(), Some(&(3 * MIB as u64, Some(3 * MIB as u64))));
    assert_eq!(kept.stream_position().unwrap(), 3 * MIB as u64, "the client's offset was moved");
    assert_eq!(names(&folder), [format!("sha256-{}", record.digest.hex())]);

    let (mut stored, size) = store.open_stored(record.digest).await.unwrap();
    let mut content = Vec::new();
    stored.read_to_end(&mut content).unwrap();
    assert!(content == bytes && size == record.size);
    assert_eq!(store.list().await.unwrap(), [record.digest]);
    assert!(store.remove(record.digest).await.unwrap());
    assert!(!store.remove(record.digest).await.unwrap());
    assert!(matches!(store.open_stored(record.digest).await, Err(Error::NotStored(digest)) if digest == record.digest));
}

#[tokio::test]
async fn a_memfd_and_a_pipe_are_taken() {
    let (_folder, store) = store();
    let bytes = good().padded(MIB);
    let mut memory = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
    memory.write_all(&bytes).unwrap();
    assert_eq!(take(&store, memory).await.unwrap().digest, digest(&bytes));

    let bytes = good().padded(2 * MIB);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let content = bytes.clone();
    let writing = std::thread::spawn(move || {
        for part in content.chunks(100_000) {
            writer.write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    assert_eq!(take(&store, reader).await.unwrap().digest, digest(&bytes));
    writing.join().unwrap();
}

#[tokio::test]
async fn what_is_stored_already_is_not_written_again() {
    let (folder, store) = store();
    let bytes = good().bytes;
    let record = take(&store, file_with(&bytes)).await.unwrap();
    let path = folder.path().join("images").join(format!("sha256-{}", record.digest.hex()));
    let before = inode(&path);
    assert_eq!(take(&store, file_with(&bytes)).await.unwrap(), record);
    assert_eq!(inode(&path), before);
    assert!(store.verify(record.digest).await.unwrap());
    // One that lost its end is replaced, and so is one of which a single bit is another.
    let cut = |file: File| file.set_len(100).unwrap();
    let bend = |mut file: File| file.write_all(b"\x7fELf").unwrap();
    for damage in [cut as fn(File), bend as fn(File)] {
        damage(OpenOptions::new().write(true).open(&path).unwrap());
        assert!(!store.verify(record.digest).await.unwrap());
        assert_eq!(take(&store, file_with(&bytes)).await.unwrap(), record);
        assert!(store.verify(record.digest).await.unwrap());
    }
    assert_eq!(names(&folder).len(), 1);
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[tokio::test]
async fn many_may_bring_the_same_image_at_once() {
    let (folder, store) = store();
    let bytes = good().padded(MIB);
    // More than there are slots.
    let imports: Vec<_> = (0..40).map(|_| take(&store, file_with(&bytes))).collect();
    for record in join_all(imports).await {
        assert_eq!(record.unwrap().digest, digest(&bytes));
    }
    assert_eq!(names(&folder).len(), 1);
}

#[tokio::test]
async fn the_limit_holds_for_files_and_pipes() {
    let (folder, store) = store();
    let exact = take(&store, file_with(&good().padded(4 * MIB))).await.unwrap();
    store.remove(exact.digest).await.unwrap();

    let larger = good().padded(4 * MIB + 1);
    let error = take(&store, file_with(&larger)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit } if limit == 4 * MIB as u64), "{error}");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let writing = std::thread::spawn(move || {
        // Without end: it must be the reader who ends it.
        while writer.write_all(&larger).is_ok() {}
    });
    assert!(matches!(take(&store, reader).await, Err(Error::TooLarge { .. })));
    writing.join().unwrap();
    emptied(&folder).await;
}

#[tokio::test]
async fn what_all_images_may_have_together_has_a_limit() {
    let (folder, store) = store();
    let store = store.with_room(5 * MIB as u64);
    assert!(!store.is_nearly_full().await.unwrap());
    let first = take(&store, file_with(&good().padded(3 * MIB))).await.unwrap();
    assert!(store.is_nearly_full().await.unwrap(), "another of 4 MiB would be too much");
    let error = take(&store, file_with(&good().padded(3 * MIB - 1))).await.unwrap_err().to_string();
    assert!(error.contains("5242880") && error.contains("store-size"), "{error}");
    assert_eq!(names(&folder).len(), 1);
    assert_eq!(take(&store, file_with(&good().padded(3 * MIB))).await.unwrap(), first, "it takes no more room");
    assert!(store.remove(first.digest).await.unwrap());
    take(&store, file_with(&good().padded(3 * MIB - 1))).await.unwrap();
}

#[tokio::test]
async fn a_bad_image_leaves_nothing() {
    let (folder, store) = store();
    assert!(matches!(take(&store, file_with(b"no image")).await, Err(Error::Invalid(_))));
    assert!(matches!(take(&store, file_with(b"")).await, Err(Error::Invalid(_))));
    emptied(&folder).await;
}

#[tokio::test]
async fn a_silent_pipe_is_cancelled_at_once() {
    let (folder, store) = store();
    let (reader, _writer) = std::io::pipe().unwrap();
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let import = store.import(File::from(OwnedFd::from(reader)), |_, _| {}, async move {
        let _ = cancelled.await;
    });
    let cancelling = async {
        while names(&folder).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.send(()).unwrap();
        Instant::now()
    };
    let (imported, since) = tokio::join!(import, cancelling);
    assert!(matches!(imported, Err(Error::Cancelled)));
    assert!(since.elapsed() < PATIENCE / 4, "{:?}", since.elapsed());
    emptied(&folder).await;
}

#[tokio::test]
async fn a_dropped_import_ends() {
    let (folder, store) = store();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let import = take(&store, reader);
    assert!(tokio::time::timeout(Duration::from_millis(150), import).await.is_err());
    emptied(&folder).await;
    // Its thread has closed the pipe as well.
    let error = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        writer.write_all(b"x").err()
    });
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn silence_and_slowness_have_an_end() {
    let (folder, store) = store();
    let patient = store.with_patience(Duration::from_millis(300), Duration::from_millis(900));
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"\x7fELF").unwrap();
    let started = Instant::now();
    let error = take(&patient, reader).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(why) if why.contains("sent nothing for 0.3 s, 4 bytes")), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());

    let (reader, mut writer) = std::io::pipe().unwrap();
    let writing = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let error = take(&patient, reader).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(why) if why.contains("not there after 0.9 s")), "{error}");
    writing.join().unwrap();
    emptied(&folder).await;
}

#[tokio::test]
async fn a_pipe_that_somebody_else_reads_too_does_not_hold_its_thread() {
    let (folder, store) = store();
    let store = store.with_patience(Duration::from_millis(400), Duration::from_secs(5));
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut thief = reader.try_clone().unwrap();
    let stealing = std::thread::spawn(move || {
        let mut stolen = [0; 64];
        loop {
            match thief.read(&mut stolen) {
                Ok(0) => return,
                _ => std::thread::yield_now(),
            }
        }
    });
    for _ in 0..200 {
        writer.write_all(b"x").unwrap();
    }
    assert!(take(&store, reader).await.is_err());
    emptied(&folder).await;
    drop(writer);
    stealing.join().unwrap();
}

#[tokio::test]
async fn descriptors_that_hold_no_image_are_refused() {
    let (folder, store) = store();
    let open = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let written = folder.path().join("written");
    fs::write(&written, good().bytes).unwrap();
    let write_only = OpenOptions::new().write(true).open(&written).unwrap();
    let table: [(OwnedFd, &str); 6] = [
        (open("/", OFlags::RDONLY), "is a directory"),
        (open("/dev/zero", OFlags::RDONLY), "is a device"),
        (UnixStream::pair().unwrap().0.into(), "is a socket"),
        (write_only.into(), "is not open for reading"),
        (open(written.to_str().unwrap(), OFlags::PATH), "is not open for reading"),
        (std::io::pipe().unwrap().1.into(), "is not open for reading"),
    ];
    for (descriptor, expected) in table {
        let error = take(&store, descriptor).await.unwrap_err();
        assert!(matches!(&error, Error::Unavailable(why) if why.contains(expected)), "{expected}: {error}");
    }
    emptied(&folder).await;
}

#[tokio::test]
async fn opening_the_store_closes_it_to_others_and_clears_leftovers() {
    let folder = TempDir::new().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::set_permissions(&images, Permissions::from_mode(0o755)).unwrap();
    fs::write(images.join("incoming-1-0"), "half").unwrap();
    fs::write(images.join("incoming-99999-7"), "half").unwrap();
    fs::write(images.join("README"), "an operator's").unwrap();
    let store = Store::open(&images, 100).unwrap();
    assert_eq!(names(&folder), ["README"]);
    assert_eq!(fs::metadata(&images).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(store.list().await.unwrap().is_empty());
    let error = Store::open(&images.join("README"), 100).unwrap_err().to_string();
    assert!(error.contains("README"), "{error}");
}

/// Runs the one test `name` of this file in a process of its own, which finds `IMAGES_CHILD` set.
fn child(name: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env("IMAGES_CHILD", value);
    command
}

#[tokio::test]
async fn kill_leaves_what_the_next_start_removes() {
    if let Some(images) = std::env::var_os("IMAGES_CHILD") {
        let store = Store::open(Path::new(&images), 1000).unwrap();
        let _ = take(&store, std::io::stdin().as_fd().try_clone_to_owned().unwrap()).await;
        return;
    }
    let folder = TempDir::new().unwrap();
    let images = folder.path().join("images");
    let mut running = child("kill_leaves_what_the_next_start_removes", &images)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    running.stdin.as_mut().unwrap().write_all(b"\x7fELF").unwrap();
    let started = Instant::now();
    while !images.is_dir() || names(&folder).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(names(&folder).len(), 1);
    Store::open(&images, 1000).unwrap();
    assert!(names(&folder).is_empty());
}

#[tokio::test]
async fn an_import_needs_no_more_memory_than_its_buffer() {
    let name = "an_import_needs_no_more_memory_than_its_buffer";
    let Some(images) = std::env::var_os("IMAGES_CHILD") else {
        let folder = TempDir::new().unwrap();
        let ended = child(name, folder.path()).status().unwrap();
        assert!(ended.success());
        return;
    };
    let store = Store::open(Path::new(&images), 64 * MIB as u64).unwrap().inspecting_here();
    let mut source = file_with(&good().bytes);
    source.seek(SeekFrom::Start(0)).unwrap();
    source.set_len(64 * MIB as u64).unwrap();
    // The first import pays for what every later one has: code pages, the thread's arena.
    take(&store, file_with(&good().bytes)).await.unwrap();
    // 5 resets the peak to what is resident now.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = resident("VmHWM:");
    take(&store, source).await.unwrap();
    let grown = resident("VmHWM:") - before;
    println!("64 MiB took {grown} KiB");
    assert!(grown < 1024, "{grown} KiB");
}

/// KiB.
fn resident(field: &str) -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&images).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        println!("SKIPPED: no right to mount a small file system");
        return;
    }
    let store = Store::open(&images, 4 * MIB as u64).unwrap();
    let error = take(&store, file_with(&good().padded(2 * MIB))).await;
    let left = names(&folder);
    drop(store);
    assert!(Command::new("umount").arg(&images).status().unwrap().success());
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::NoSpace { directory } if *directory == images), "{error}");
    assert!(error.to_string().contains(images.to_str().unwrap()), "{error}");
    assert!(left.is_empty(), "{left:?}");
}

const NOBODY: u32 = 65534;

fn nobody() -> Caller {
    Caller { uid: NOBODY, gid: NOBODY, groups: vec![] }
}

/// A folder that everybody may enter, with a file of this owner and mode.
fn shared_file(owner: u32, group: u32, mode: u32) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("image");
    fs::write(&path, "content").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(owner), Some(group)).unwrap();
    (folder, path)
}

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("SKIPPED: only root can act as another user");
    }
    root
}

async fn refused_open(path: &Path, caller: &Caller) -> String {
    match open_as(path.to_path_buf(), caller).await {
        Err(Error::Unavailable(why)) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_path_opens_with_the_callers_rights_only() {
    if !is_root() {
        return;
    }
    let before = fs::read_to_string("/proc/self/status").unwrap();
    let (_a, private) = shared_file(0, 0, 0o600);
    let why = refused_open(&private, &nobody()).await;
    assert!(
        why.contains(private.to_str().unwrap()) && why.contains("uid 65534") && why.contains("Permission denied"),
        "{why}"
    );
    let root = Caller { uid: 0, gid: 0, groups: vec![] };
    let mut content = String::new();
    open_as(private, &root).await.unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");

    // The folder's own rights count, and so do the caller's groups, but not the service's.
    let (folder, public) = shared_file(0, 0, 0o644);
    assert!(open_as(public.clone(), &nobody()).await.is_ok());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    assert!(refused_open(&public, &nobody()).await.contains("Permission denied"));
    let (_b, of_group) = shared_file(0, 4711, 0o640);
    assert!(refused_open(&of_group, &nobody()).await.contains("Permission denied"));
    assert!(open_as(of_group.clone(), &Caller { groups: vec![4711], ..nobody() }).await.is_ok());
    assert!(open_as(of_group, &Caller { gid: 4711, ..nobody() }).await.is_ok());
    let (_c, roots) = shared_file(0, 0, 0o040);
    assert!(refused_open(&roots, &nobody()).await.contains("Permission denied"));
    let (_d, own) = shared_file(NOBODY, NOBODY, 0o400);
    assert!(open_as(own, &nobody()).await.is_ok());

    let of_threads = |status: &str| {
        let fields = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"];
        status
            .lines()
            .filter(|line| fields.iter().any(|field| line.starts_with(field)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(of_threads(&before), of_threads(&fs::read_to_string("/proc/self/status").unwrap()));
    assert!(geteuid().is_root() && getegid().is_root());
    assert!(File::open("/proc/self/mem").is_ok());
}

#[tokio::test]
async fn the_number_that_means_no_change_is_no_user() {
    if !is_root() {
        return;
    }
    let (_folder, private) = shared_file(0, 0, 0o600);
    for caller in [
        Caller { uid: u32::MAX, ..nobody() },
        Caller { gid: u32::MAX, ..nobody() },
        Caller { groups: vec![u32::MAX], ..nobody() },
    ] {
        assert!(refused_open(&private, &caller).await.contains("no valid user or group"));
    }
}

#[tokio::test]
async fn only_regular_files_open_and_nothing_hangs() {
    let own = Caller { uid: geteuid().as_raw(), gid: getegid().as_raw(), groups: vec![] };
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(refused_open(&fifo, &own).await.contains("not a regular file"));
    assert!(refused_open(folder.path(), &own).await.contains("not a regular file"));
    assert!(refused_open(Path::new("/dev/zero"), &own).await.contains("not a regular file"));
    assert!(refused_open(&folder.path().join("none"), &own).await.contains("No such file"));
    assert!(refused_open(Path::new("/proc/self/environ"), &own).await.contains("/proc"));

    // What this process has open is not the caller's, whatever way leads to it.
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let open = File::open(&secret).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&open);
    for path in
        [format!("/proc/self/fd/{number}"), format!("/dev/fd/{number}"), format!("/proc/self/root{}", secret.display())]
    {
        assert!(refused_open(Path::new(&path), &own).await.contains("symbolic links"), "{path}");
    }
    // A link of the caller's own is as good as a path.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    assert!(open_as(link, &own).await.is_ok());
}

/// The service as a user of its own: it cannot be anybody else, and must not lend what it has.
#[test]
fn a_service_that_is_not_root_says_what_to_do() {
    if !is_root() {
        return;
    }
    let (_a, public) = shared_file(0, 0, 0o644);
    let (_b, own) = shared_file(NOBODY, NOBODY, 0o400);
    let service = std::thread::spawn(move || {
        // Threads inherit the credentials of the one that starts them.
        set_thread_groups(&[]).unwrap();
        let (group, user) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        set_thread_res_gid(group, group, group).unwrap();
        set_thread_res_uid(user, user, user).unwrap();
        assert!(capabilities(None).unwrap().effective.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for uid in [0, 1000] {
                let why = refused_open(&public, &Caller { uid, ..nobody() }).await;
                assert!(why.contains(&format!("uid {uid}")) && why.contains("DeployImage"), "{why}");
            }
            assert!(open_as(own, &nobody()).await.is_ok());
        });
    });
    service.join().unwrap();
}

/// The service as a user of its own with capabilities: these are not the caller's.
#[test]
fn capabilities_of_the_service_open_nothing() {
    if !is_root() {
        return;
    }
    let (_a, private) = shared_file(0, 0, 0o600);
    let (_b, own) = shared_file(1000, 1000, 0o400);
    let service = std::thread::spawn(move || {
        set_keep_capabilities(true).unwrap();
        let user = Uid::from_raw(NOBODY);
        set_thread_res_uid(user, user, user).unwrap();
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::DAC_OVERRIDE | CapabilitySet::SETUID | CapabilitySet::SETGID;
        set_capabilities(None, sets).unwrap();
        assert!(File::open(&private).is_ok(), "the test's service is to be able to");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let caller = |uid| Caller { uid, gid: uid, groups: vec![] };
            for uid in [1000, NOBODY] {
                assert!(refused_open(&private, &caller(uid)).await.contains("Permission denied"));
            }
            assert!(open_as(own, &caller(1000)).await.is_ok());
        });
    });
    service.join().unwrap();
}

#[tokio::test]
async fn the_store_is_closed_to_callers() {
    if !is_root() {
        return;
    }
    let (folder, store) = store();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let record = take(&store, file_with(&good().bytes)).await.unwrap();
    let path = folder.path().join("images").join(format!("sha256-{}", record.digest.hex()));
    assert!(refused_open(&path, &nobody()).await.contains("Permission denied"));
}
