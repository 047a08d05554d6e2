//! One header of a tar, and the records of an extended one.
//!
//! Strict where readers differ: an archive that two programs read differently can show one file to who looks at it and
//! another to who runs it. The layout of the fields is the library's (`tar`), what is accepted in them is decided here.

use super::error::{Error, malformed, shown, unsupported};

pub(super) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharacterDevice,
    BlockDevice,
    Fifo,
}

impl Kind {
    pub fn words(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::HardLink => "a hard link",
            Self::CharacterDevice => "a character device",
            Self::BlockDevice => "a block device",
            Self::Fifo => "a fifo",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Entry(Kind),
    /// GNU: its content is the name of the next entry.
    LongName,
    /// GNU: its content is the target of the next entry's link.
    LongLink,
    /// PAX: records for the next entry.
    Extended,
    /// PAX: records for all that follow.
    Global,
}

#[derive(Debug)]
pub(super) struct Header {
    pub kind: Type,
    /// Bytes of content.
    pub size: u64,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
}

/// Nothing for a block of zeros, which marks the end.
///
/// # Errors
/// [`Error::Malformed`] for what is no header; [`Error::Unsupported`] for kinds of entries that images do not have.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Option<Header>, Error> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let header = tar::Header::from_byte_slice(block);
    check_sum(block, &header.as_old().cksum)?;
    let name = header.path_bytes().into_owned();
    let kind = kind(header.as_old().linkflag[0], &name)?;
    let size = number(&header.as_old().size)
        .map_err(|why| Error::Malformed(format!("the tar gives {} a size that {why}: is it damaged?", shown(&name))))?;
    let link = header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
    Ok(Some(Header { kind, size, name, link }))
}

/// Old programs added the bytes up as signed ones.
fn check_sum(block: &[u8; BLOCK], field: &[u8; 8]) -> Result<(), Error> {
    let (before, after) = (block.get(..148).unwrap_or_default(), block.get(156..).unwrap_or_default());
    // Its own field counts as spaces.
    let sum = |value: fn(u8) -> i64| before.iter().chain(after).map(|byte| value(*byte)).sum::<i64>() + 8 * 0x20;
    match number(field).map(u64::cast_signed) {
        Ok(said) if said == sum(i64::from) || said == sum(|byte| byte.cast_signed().into()) => Ok(()),
        _ => malformed("this is no tar, or a damaged one: the checksum of a header is wrong"),
    }
}

fn kind(flag: u8, name: &[u8]) -> Result<Type, Error> {
    Ok(match flag {
        // Before POSIX a directory was a file whose name ended so.
        0 | b'0' | b'7' if name.ends_with(b"/") => Type::Entry(Kind::Directory),
        0 | b'0' | b'7' => Type::Entry(Kind::File),
        b'1' => Type::Entry(Kind::HardLink),
        b'2' => Type::Entry(Kind::Symlink),
        b'3' => Type::Entry(Kind::CharacterDevice),
        b'4' => Type::Entry(Kind::BlockDevice),
        b'5' => Type::Entry(Kind::Directory),
        b'6' => Type::Entry(Kind::Fifo),
        b'L' => Type::LongName,
        b'K' => Type::LongLink,
        b'x' => Type::Extended,
        b'g' => Type::Global,
        b'S' => return unsupported(format!("the image has a sparse file, {}, which is not read here", shown(name))),
        other => {
            return unsupported(format!(
                "the image has an entry of the unknown type {:?}: {}",
                other as char,
                shown(name)
            ));
        }
    })
}

/// Octal digits between spaces or NULs, or, for what those cannot hold, a big-endian number after the byte 0x80.
fn number(field: &[u8]) -> Result<u64, &'static str> {
    if let Some((first @ 0x80.., rest)) = field.split_first() {
        if first & 0x40 != 0 {
            return Err("is negative");
        }
        let start = u64::from(first & 0x3f);
        return rest
            .iter()
            .try_fold(start, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)))
            .ok_or("no file can have");
    }
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    field.get(start..end).unwrap_or_default().iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => Ok(value * 8 + u64::from(byte - b'0')),
        b'-' => Err("is negative"),
        _ => Err("is no number"),
    })
}

/// What of an extended header matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub name: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
}

/// `LENGTH KEY=VALUE\n`, again and again. The length counts the whole record; a value may have any bytes in it.
///
/// # Errors
/// [`Error::Malformed`], and [`Error::Unsupported`] for sparse files.
pub(super) fn records(mut rest: &[u8]) -> Result<Records, Error> {
    let mut records = Records::default();
    while !rest.is_empty() {
        let Some((key, value, after)) = record(rest) else {
            return malformed("the tar has a damaged extended header");
        };
        rest = after;
        let twice = match key {
            b"path" => records.name.replace(value.to_vec()).is_some(),
            b"linkpath" => records.link.replace(value.to_vec()).is_some(),
            b"size" => records.size.replace(decimal(value)?).is_some(),
            key if key.starts_with(b"GNU.sparse.") => {
                return unsupported("the image has a sparse file, which is not read here");
            }
            _ => false,
        };
        if twice {
            return malformed(format!("an extended header of the tar says {} twice", shown(key)));
        }
    }
    Ok(records)
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let (digits, _) = bytes.split_at_checked(space)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, after) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = body.split_at_checked(equals)?;
    Some((key, value.get(1..)?, after))
}

fn decimal(value: &[u8]) -> Result<u64, Error> {
    let digits = Some(value).filter(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.map_or_else(|| malformed(format!("an extended header of the tar says the size is {}", shown(value))), Ok)
}
