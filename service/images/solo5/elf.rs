//! The ELF around the notes: headers that keep to the file, segments that a tender will load, notes where they belong.
//!
//! Every read has a size that was checked before: a header's word is never taken for memory.

use std::io::{Read, Seek, SeekFrom};

use object::LittleEndian;
use object::elf::{self, FileHeader64, NoteHeader64, ProgramHeader64, SectionHeader64};
use object::pod::{self, Pod};

use super::notes::NoteKind;
use super::{Error, invalid};

type Segment = ProgramHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// What this build's tenders run: images of the host's own architecture.
#[cfg(target_arch = "x86_64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_X86_64, "x86_64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_AARCH64, "aarch64");

/// Real images have about ten segments, and two dozen sections with 260 bytes of names.
const MAX_SEGMENTS: u16 = 128;
const MAX_SECTIONS: u16 = 4096;
const MAX_SECTION_NAMES: u64 = 256 << 10;

/// A note's header and the name "Solo5" with its padding.
const NOTE_HEAD: usize = 20;
const OWNER: &[u8] = b"Solo5\0";
/// Where both tenders let a guest's memory begin.
const LOWEST_ADDRESS: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;

/// An ELF file whose headers are read and lie within the file.
pub(super) struct Elf<R> {
    file: Bounded<R>,
    entry: u64,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    section_names: Vec<u8>,
}

impl<R: Read + Seek> Elf<R> {
    pub(super) fn read(reader: R) -> Result<Self, Error> {
        let mut file = Bounded::new(reader)?;
        let head = file.part(0, 64.min(file.size), "ELF header")?;
        let header = check_header(&head)?;
        let segments = file.table(header.e_phoff.get(LE), header.e_phnum.get(LE), "program headers")?;
        let sections: Vec<Section> = file.table(header.e_shoff.get(LE), header.e_shnum.get(LE), "section headers")?;
        let section_names = match sections.get(usize::from(header.e_shstrndx.get(LE).0)) {
            Some(names) if names.sh_size.get(LE) <= MAX_SECTION_NAMES => {
                file.part(names.sh_offset.get(LE), names.sh_size.get(LE), "section names")?
            }
            _ => return invalid("this ELF file has no usable table of section names, which Albatross needs"),
        };
        Ok(Self { file, entry: header.e_entry.get(LE), segments, sections, section_names })
    }

    /// The tender's own conditions, and that no segment is cut off: better now than when the unikernel does not start.
    pub(super) fn check_segments(&self) -> Result<(), Error> {
        if self.entry < LOWEST_ADDRESS {
            return invalid(format!("this image's entry point {:#x} lies below {LOWEST_ADDRESS:#x}", self.entry));
        }
        let mut end = 0;
        let mut loaded = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            let size = segment.p_filesz.get(LE);
            if size == 0 {
                continue;
            }
            self.file.check(segment.p_offset.get(LE), size, &format!("segment {index}"))?;
            if segment.p_type.get(LE) == elf::PT_LOAD {
                end = loaded_range(segment, end)
                    .or_else(|why| invalid(format!("segment {index} of this image {why}")))?;
                loaded += 1;
            }
        }
        if loaded == 0 { invalid("this ELF file has no segment to load") } else { Ok(()) }
    }

    /// The descriptor of the one note of this kind, found as the tender finds it and as Albatross does.
    pub(super) fn note(&mut self, kind: &NoteKind) -> Result<Vec<u8>, Error> {
        let mut found = None;
        for index in 0..self.segments.len() {
            let segment = self.segments[index];
            if segment.p_type.get(LE) != elf::PT_NOTE {
                continue;
            }
            if let Some(descriptor) = self.note_of_segment(index, &segment, kind)? {
                if found.is_some() {
                    return invalid(format!("this image has two Solo5 notes of one kind: {}", kind.what));
                }
                found = Some((segment.p_offset.get(LE), descriptor));
            }
        }
        let Some((offset, descriptor)) = found else {
            return invalid(format!(
                "this ELF file has no Solo5 {}: expected an image built for Solo5's hvt or spt",
                kind.what
            ));
        };
        self.check_section(kind, offset)?;
        Ok(descriptor)
    }

    /// Only the first note of a segment counts: the tender reads no further.
    fn note_of_segment(&mut self, index: usize, segment: &Segment, kind: &NoteKind) -> Result<Option<Vec<u8>>, Error> {
        let (offset, size) = (segment.p_offset.get(LE), segment.p_filesz.get(LE));
        if size < NOTE_HEAD as u64 {
            return if size < 12 {
                invalid(format!("note segment {index} is too short: {size} bytes"))
            } else {
                Ok(None)
            };
        }
        let head = self.file.part(offset, NOTE_HEAD as u64, "note")?;
        let Ok((note, name)) = pod::from_bytes::<NoteHeader64<LittleEndian>>(&head) else { return Ok(None) };
        let owned = note.n_namesz.get(LE) as usize == OWNER.len() && name.starts_with(OWNER);
        if !owned || note.n_type.get(LE).0 != kind.number {
            return Ok(None);
        }
        // Albatross pads by the place in the file, the tender by the place in the note.
        if offset % 4 != 0 {
            return invalid(format!(
                "the Solo5 {} is not aligned: it stands at byte {offset}, expected a multiple of 4",
                kind.what
            ));
        }
        let length = note.n_descsz.get(LE);
        if length == 0 || length as usize > kind.largest {
            return invalid(format!("the Solo5 {} has {length} bytes, expected 1 to {}", kind.what, kind.largest));
        }
        if u64::from(length) > size - NOTE_HEAD as u64 {
            return invalid(format!(
                "the Solo5 {} has {length} bytes, more than its segment of {size} holds",
                kind.what
            ));
        }
        self.file.part(offset + NOTE_HEAD as u64, length.into(), "note").map(Some)
    }

    fn check_section(&self, kind: &NoteKind, offset: u64) -> Result<(), Error> {
        // Albatross reads every name up to the one it looks for, and more: one that does not end stops it.
        let names: Option<Vec<&[u8]>> = self.sections.iter().map(|section| self.section_name(section)).collect();
        let Some(names) = names else {
            return invalid("a section name of this ELF file does not end within the table of names");
        };
        let named = names.iter().position(|name| *name == kind.section.as_bytes());
        match named.and_then(|index| self.sections.get(index)) {
            Some(section) if section.sh_offset.get(LE) == offset && section.sh_size.get(LE) >= NOTE_HEAD as u64 => {
                Ok(())
            }
            Some(_) => invalid(format!(
                "section {} is not where the note segment is: Albatross and the tender would read different notes",
                kind.section
            )),
            None => invalid(format!("this image has no section {}, where Albatross looks for it", kind.section)),
        }
    }

    fn section_name(&self, section: &Section) -> Option<&[u8]> {
        let start = usize::try_from(section.sh_name.get(LE)).ok()?;
        let rest = self.section_names.get(start..)?;
        rest.iter().position(|&byte| byte == 0).and_then(|end| rest.get(..end))
    }
}

fn check_header(bytes: &[u8]) -> Result<&FileHeader64<LittleEndian>, Error> {
    if bytes.is_empty() {
        return invalid("the file is empty, expected a Solo5 image");
    }
    if !bytes.starts_with(&elf::ELFMAG) {
        let begins: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        return invalid(format!("not an ELF file, it begins with {}: expected a Solo5 image", begins.join(" ")));
    }
    let Ok((header, _)) = pod::from_bytes::<FileHeader64<LittleEndian>>(bytes) else {
        return invalid(format!("truncated: an ELF header has 64 bytes, the file has {}", bytes.len()));
    };
    let ident = &header.e_ident;
    if ident.class != elf::ELFCLASS64 || ident.data != elf::ELFDATA2LSB {
        return invalid("not a 64-bit little-endian ELF file, which is what Solo5 runs on this host");
    }
    if header.e_version.get(LE) != 1 || header.e_ehsize.get(LE) != 64 || ident.padding != [0; 7] {
        return invalid("the ELF header is not of version 1");
    }
    let machine = header.e_machine.get(LE);
    if machine != MACHINE.0 {
        return invalid(format!(
            "this image is for another machine (ELF number {}), this host is {} ({})",
            machine.0, MACHINE.1, MACHINE.0.0
        ));
    }
    let kind = header.e_type.get(LE);
    if kind != elf::ET_EXEC {
        return invalid(format!(
            "this ELF file is of type {}, expected 2 (executable): a program for the host is not a Solo5 image",
            kind.0
        ));
    }
    let (segments, sections) = (header.e_phnum.get(LE), header.e_shnum.get(LE));
    if segments == 0 || segments > MAX_SEGMENTS || header.e_phentsize.get(LE) != 56 {
        return invalid(format!(
            "the ELF header claims {segments} program headers, expected 1 to {MAX_SEGMENTS} of 56 bytes"
        ));
    }
    if sections == 0 || sections > MAX_SECTIONS || header.e_shentsize.get(LE) != 64 {
        return invalid(format!(
            "the ELF header claims {sections} sections, expected 1 to {MAX_SECTIONS} of 64 bytes: Albatross finds the \
             notes by their sections, do not strip them"
        ));
    }
    Ok(header)
}

/// Where a segment to load ends in memory; `before` is where the one in front of it ended.
fn loaded_range(segment: &Segment, before: u64) -> Result<u64, String> {
    let (address, align) = (segment.p_vaddr.get(LE), segment.p_align.get(LE));
    let (in_file, in_memory) = (segment.p_filesz.get(LE), segment.p_memsz.get(LE));
    if !align.is_power_of_two() {
        return Err(format!("has alignment {align}, expected a power of two"));
    }
    if in_memory < in_file {
        return Err(format!("has {in_file} bytes in the file, more than the {in_memory} it takes in memory"));
    }
    let start = address & align.wrapping_neg();
    let end = address.checked_add(in_memory).and_then(|end| end.checked_next_multiple_of(align));
    let Some(end) = end else {
        return Err("ends beyond the address space".to_owned());
    };
    if start < LOWEST_ADDRESS {
        return Err(format!("is to be loaded at {start:#x}, expected {LOWEST_ADDRESS:#x} or above"));
    }
    if start < before {
        return Err(format!("is to be loaded at {start:#x}, inside or in front of the segment before it"));
    }
    if start % PAGE != 0 || end % PAGE != 0 {
        return Err(format!("is not aligned to pages of {PAGE} bytes"));
    }
    let writable_code = elf::PF_W.0 | elf::PF_X.0;
    if segment.p_flags.get(LE).0 & writable_code == writable_code {
        return Err("is writable and executable at once, which no tender loads".to_owned());
    }
    Ok(end)
}

/// A file of known size: nothing beyond it is asked for.
struct Bounded<R> {
    reader: R,
    size: u64,
}

impl<R: Read + Seek> Bounded<R> {
    fn new(mut reader: R) -> Result<Self, Error> {
        let size = reader.seek(SeekFrom::End(0)).map_err(unreadable)?;
        Ok(Self { reader, size })
    }

    /// That `what` lies within the file.
    fn check(&self, offset: u64, size: u64, what: &str) -> Result<(), Error> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(()),
            Some(end) => invalid(format!("truncated: {what} would end at byte {end}, the file has {}", self.size)),
            None => invalid(format!("{what} would end beyond 64 bits: offset {offset}, size {size}")),
        }
    }

    /// `size` bytes, which the caller has bounded.
    fn part(&mut self, offset: u64, size: u64, what: &str) -> Result<Vec<u8>, Error> {
        self.check(offset, size, what)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.reader.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        self.reader.read_exact(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    fn table<T: Pod>(&mut self, offset: u64, count: u16, what: &str) -> Result<Vec<T>, Error> {
        let bytes = self.part(offset, u64::from(count) * size_of::<T>() as u64, what)?;
        match pod::slice_from_bytes(&bytes, count.into()) {
            Ok((table, _)) => Ok(table.to_vec()),
            Err(()) => invalid(format!("{what} cannot be read")),
        }
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::Io { what: "read the image".to_owned(), error }
}
