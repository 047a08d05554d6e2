//! What albatrossd looks for in an image: the notes with the tender's ABI and the devices. Its words on failure.

const MALFORMED: &str = "error during ELF parsing";
const NOT_FOUND: &str = "manifest not found";
const ENTRY: usize = 104;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Hvt,
    Spt,
}

impl Target {
    pub fn word(self) -> &'static str {
        match self {
            Self::Hvt => "hvt",
            Self::Spt => "spt",
        }
    }
}

/// A device of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    Block(String),
    Net(String),
}

/// The tender that runs the image; only ABI version 2 has one here.
pub fn target(image: &[u8]) -> Result<Target, String> {
    let abi = note(image, ".note.solo5.abi")?;
    if abi.len() != 16 {
        return Err("abi manifest size mismatch".into());
    }
    let target = match word(abi, 0) {
        Some(1) => Target::Hvt,
        Some(2) => Target::Spt,
        Some(other @ 3..=6) => {
            let names = ["virtio", "muen", "genode", "xen"];
            return Err(format!("unsupported solo5 target {}", names[other as usize - 3]));
        }
        other => return Err(format!("unknown abi target: {}", other.unwrap_or_default() as i32)),
    };
    match word(abi, 4) {
        Some(2) => Ok(target),
        version => Err(format!(
            "unexpected solo5 tender --version output, expected one line with 'ABI version {}', got {} stand-in\nABI version 2",
            version.unwrap_or_default(),
            target.word()
        )),
    }
}

/// The devices of the manifest, in its order.
pub fn devices(image: &[u8]) -> Result<Vec<Device>, String> {
    let manifest = note(image, ".note.solo5.manifest")?;
    if manifest.len() < 12 + ENTRY {
        return Err("manifest too small".into());
    }
    if word(manifest, 4) != Some(1) {
        return Err("unsupported manifest version".into());
    }
    let entries = word(manifest, 8).unwrap_or_default();
    if entries == 0 {
        return Err("zero manifest entries".into());
    }
    if entries > 64 {
        return Err("too many manifest entries".into());
    }
    if manifest.len() != 12 + entries as usize * ENTRY {
        return Err("unexpected note size".into());
    }
    manifest[12 + ENTRY..].chunks(ENTRY).map(device).collect()
}

fn device(entry: &[u8]) -> Result<Device, String> {
    let name = entry[..68].split(|byte| *byte == 0).next().filter(|name| name.len() < 68);
    let name = String::from_utf8_lossy(name.ok_or("unterminated device name")?).into_owned();
    match word(entry, 68) {
        Some(1) => Ok(Device::Block(name)),
        Some(2) => Ok(Device::Net(name)),
        other => Err(format!("unknown manifest entry type: {}", other.unwrap_or_default() as i32)),
    }
}

/// The devices asked for must be those of the manifest, no more and no fewer.
pub fn devices_match(devices: &[Device], bridges: &[&str], blocks: &[&str]) -> Result<(), String> {
    let mut listed = Vec::new();
    let (mut in_manifest_net, mut in_manifest_block) = (Vec::new(), Vec::new());
    for device in devices {
        match device {
            Device::Block(name) => (listed.push(format!("block {name:?}")), in_manifest_block.push(name.as_str())),
            Device::Net(name) => (listed.push(format!("net {name:?}")), in_manifest_net.push(name.as_str())),
        };
    }
    let listed = format!("Devices present in manifest: {}", listed.join(", "));
    if !same(&in_manifest_block, blocks) {
        return Err(format!("specified block device(s) does not match with manifest. {listed}"));
    }
    if !same(&in_manifest_net, bridges) {
        return Err(format!("specified bridge(s) does not match with the manifest. {listed}"));
    }
    Ok(())
}

fn same(left: &[&str], right: &[&str]) -> bool {
    left.iter().all(|name| right.contains(name)) && right.iter().all(|name| left.contains(name))
}

/// The description of the note in the section of this name.
fn note<'a>(image: &'a [u8], name: &str) -> Result<&'a [u8], String> {
    let section = section(image, name).ok_or(MALFORMED)?.ok_or(NOT_FOUND)?;
    let size = word(section, 4).ok_or(MALFORMED)? as usize;
    section.get(20..20 + size).ok_or_else(|| MALFORMED.into())
}

/// `None`: not an ELF file. `Some(None)`: one without the section.
fn section<'a>(image: &'a [u8], wanted: &str) -> Option<Option<&'a [u8]>> {
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = long(image, 0x28)?;
    let size = usize::from(short(image, 0x3a)?);
    let count = usize::from(short(image, 0x3c)?);
    let header = |index: usize| image.get(table.checked_add(index * size)?..)?.get(..64);
    let content = |header: &[u8]| image.get(long(header, 0x18)?..)?.get(..long(header, 0x20)?);
    let names = content(header(usize::from(short(image, 0x3e)?))?)?;
    for index in 1..count {
        let header = header(index)?;
        let name = names.get(word(header, 0)? as usize..)?.split(|byte| *byte == 0).next()?;
        if name == wanted.as_bytes() {
            return content(header).map(Some);
        }
    }
    Some(None)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
}
