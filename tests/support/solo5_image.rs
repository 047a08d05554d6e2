//! Builds small ELF files that carry the notes of a Solo5 image, for tests and demos.
//!
//! Layout as Solo5's linker leaves it: `.interp`, `.note.solo5.manifest`, `.note.solo5.abi` and a loadable `.rodata`, each note both
//! a section and a PT_NOTE segment. The `.rodata` holds text lines that the stand-in's guest reads (see [`text`]).
#![allow(dead_code, reason = "each test takes of this module what it needs")]

const PAGE: usize = 0x1000;
const LOAD_ADDRESS: u64 = 0x10_0000;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const ABI_NOTE: u32 = 0x3149_4241; // "ABI1"
const MANIFEST_NOTE: u32 = 0x3154_464d; // "MFT1"
const DEVICE_NAME: usize = 68;
const RESERVED_FIRST: u32 = 1 << 30;

/// The first line of the text in the image: what follows, up to a NUL, are lines `key=value`.
pub const MARKER: &str = "albatross-stand-in image\n";

/// Which tender runs the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Hvt,
    Spt,
}

/// An image to build; [`image`] is the short way.
#[derive(Clone, Debug)]
pub struct Image {
    pub target: Target,
    pub abi_version: u32,
    pub version: String,
    pub net_devices: Vec<String>,
    pub block_devices: Vec<String>,
    /// Arguments the guest obeys before those it is given, e.g. `--exit=3`.
    pub built_in_arguments: Vec<String>,
    /// Whether it knows `--name=`; one that does not exits with 64.
    pub knows_name: bool,
    /// Bytes of zeros added, to make the image as large as a real one.
    pub padding: usize,
}

/// A valid image that answers with `version`.
pub fn image(target: Target, version: &str, net_devices: &[&str], block_devices: &[&str], padding: usize) -> Vec<u8> {
    Image::new(target, version).net(net_devices).block(block_devices).padding(padding).build()
}

impl Image {
    pub fn new(target: Target, version: &str) -> Self {
        Self {
            target,
            abi_version: 2,
            version: version.to_owned(),
            net_devices: Vec::new(),
            block_devices: Vec::new(),
            built_in_arguments: Vec::new(),
            knows_name: true,
            padding: 0,
        }
    }

    pub fn net(mut self, devices: &[&str]) -> Self {
        self.net_devices.extend(devices.iter().map(|device| (*device).to_owned()));
        self
    }

    pub fn block(mut self, devices: &[&str]) -> Self {
        self.block_devices.extend(devices.iter().map(|device| (*device).to_owned()));
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.built_in_arguments.push(argument.to_owned());
        self
    }

    pub fn without_name_option(mut self) -> Self {
        self.knows_name = false;
        self
    }

    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// The bytes of the ELF file.
    pub fn build(&self) -> Vec<u8> {
        let manifest = note(MANIFEST_NOTE, &manifest(&self.block_devices, &self.net_devices));
        let abi = note(ABI_NOTE, &abi(self.target, self.abi_version));
        let mut text = text(self).into_bytes();
        text.resize(text.len() + 1 + self.padding, 0);
        assemble(&manifest, &abi, &text)
    }
}

/// The lines the guest reads: `version=1`, `argument=--exit=3`, `no-name-option`.
fn text(image: &Image) -> String {
    let mut lines = format!("{MARKER}version={}\n", image.version);
    for argument in &image.built_in_arguments {
        lines.push_str(&format!("argument={argument}\n"));
    }
    if !image.knows_name {
        lines.push_str("no-name-option\n");
    }
    lines
}

fn note(kind: u32, description: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [6, description.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Solo5\0\0\0");
    note.extend(description);
    note
}

fn abi(target: Target, version: u32) -> Vec<u8> {
    let target: u32 = match target {
        Target::Hvt => 1,
        Target::Spt => 2,
    };
    [target, version, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn manifest(blocks: &[String], nets: &[String]) -> Vec<u8> {
    let mut bytes = vec![0; 4]; // the note's header is 20 bytes and the structure after it aligned to 8
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((1 + blocks.len() as u32 + nets.len() as u32).to_le_bytes());
    bytes.extend(entry("", RESERVED_FIRST));
    nets.iter().for_each(|name| bytes.extend(entry(name, 2)));
    blocks.iter().for_each(|name| bytes.extend(entry(name, 1)));
    bytes
}

fn entry(name: &str, kind: u32) -> Vec<u8> {
    assert!(name.len() < DEVICE_NAME, "a device name has at most 67 characters: {name}");
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(DEVICE_NAME, 0);
    bytes.extend(kind.to_le_bytes());
    bytes.resize(104, 0); // properties, backing and `attached` are the tender's to fill in
    bytes
}

struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    offset: usize,
    size: usize,
    align: u64,
}

fn assemble(manifest: &[u8], abi: &[u8], text: &[u8]) -> Vec<u8> {
    let interpreter = b"/nonexistent/solo5/\0\0\0\0\0";
    let address = |offset: usize| LOAD_ADDRESS + (offset - PAGE) as u64;
    let mut file = vec![0; PAGE];
    let mut sections = Vec::new();
    for (name, kind, content, align) in [
        (".interp", 1, &interpreter[..], 8),
        (".note.solo5.manifest", 7, manifest, 4),
        (".note.solo5.abi", 7, abi, 4),
        (".rodata", 1, text, 32),
    ] {
        pad(&mut file, align as usize);
        let offset = file.len();
        sections.push(Section { name, kind, flags: 2, address: address(offset), offset, size: content.len(), align });
        file.extend(content);
    }
    let loaded = file.len() - PAGE;
    let names = append_section_names(&mut file, &mut sections);
    pad(&mut file, 8);
    let section_headers = file.len();
    file.resize(section_headers + SECTION_HEADER, 0); // the null section
    sections.iter().zip(names).for_each(|(section, name)| file.extend(section_header(section, name)));

    let programs = program_headers(&sections, loaded);
    file[..HEADER].copy_from_slice(&elf_header(programs.len(), section_headers as u64, sections.len() as u16 + 1));
    for (index, program) in programs.iter().enumerate() {
        let at = HEADER + index * PROGRAM_HEADER;
        file[at..at + PROGRAM_HEADER].copy_from_slice(program);
    }
    file
}

fn pad(file: &mut Vec<u8>, align: usize) {
    file.resize(file.len().next_multiple_of(align), 0);
}

fn append_section_names(file: &mut Vec<u8>, sections: &mut Vec<Section>) -> Vec<u32> {
    let offset = file.len();
    sections.push(Section { name: ".shstrtab", kind: 3, flags: 0, address: 0, offset, size: 0, align: 1 });
    file.push(0);
    let mut names = Vec::new();
    for section in sections.iter() {
        names.push((file.len() - offset) as u32);
        file.extend(section.name.as_bytes());
        file.push(0);
    }
    if let Some(table) = sections.last_mut() {
        table.size = file.len() - offset;
    }
    names
}

fn section_header(section: &Section, name: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTION_HEADER);
    bytes.extend(name.to_le_bytes());
    bytes.extend(section.kind.to_le_bytes());
    for word in [section.flags, section.address, section.offset as u64, section.size as u64, 0, section.align, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn program_headers(sections: &[Section], loaded: usize) -> Vec<[u8; PROGRAM_HEADER]> {
    let segment = |kind: u32, flags: u32, section: &Section| {
        program_header(kind, flags, section.offset as u64, section.address, section.size as u64, section.align)
    };
    vec![
        segment(3, 4, &sections[0]),
        program_header(1, 5, PAGE as u64, LOAD_ADDRESS, loaded as u64, PAGE as u64),
        segment(4, 4, &sections[2]),
        segment(4, 4, &sections[1]),
    ]
}

fn program_header(kind: u32, flags: u32, offset: u64, address: u64, size: u64, align: u64) -> [u8; PROGRAM_HEADER] {
    let mut bytes = [0; PROGRAM_HEADER];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&flags.to_le_bytes());
    for (index, word) in [offset, address, address, size, size, align].iter().enumerate() {
        bytes[8 + index * 8..16 + index * 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn elf_header(programs: usize, section_headers: u64, sections: u16) -> [u8; HEADER] {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for word in [LOAD_ADDRESS, HEADER as u64, section_headers] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    let counts = [
        HEADER as u16,
        PROGRAM_HEADER as u16,
        programs as u16,
        SECTION_HEADER as u16,
        sections,
        sections.saturating_sub(1),
    ];
    counts.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
    let mut header = [0; HEADER];
    header.copy_from_slice(&bytes);
    header
}
