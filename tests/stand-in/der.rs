//! The little of DER that Albatross's messages need: definite lengths, short tags.

/// Why bytes are not the DER that was expected. The daemon answers none of them, it closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

pub type Result<T> = std::result::Result<T, Malformed>;

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const OCTETS: u8 = 0x04;
pub const NULL: u8 = 0x05;
pub const TEXT: u8 = 0x0c;
pub const TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// The tag of an explicit context-specific choice.
pub const fn choice(number: u8) -> u8 {
    0xa0 | number
}

/// Reads one value after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag that comes next, if any value does.
    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value, whatever it is: its tag and its content.
    pub fn any(&mut self) -> Result<(u8, Reader<'a>)> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed("end of data"))?;
        let (&first, rest) = rest.split_first().ok_or(Malformed("no length"))?;
        let (length, rest) = if first < 0x80 { (first as usize, rest) } else { long_length(first & 0x7f, rest)? };
        let content = rest.get(..length).ok_or(Malformed("shorter than its length"))?;
        self.0 = &rest[length..];
        Ok((tag, Reader(content)))
    }

    /// The content of the next value, which must have this tag.
    pub fn value(&mut self, tag: u8) -> Result<Reader<'a>> {
        match self.any()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed("unexpected tag")),
        }
    }

    /// As [`Self::value`] where the value may be left out.
    pub fn optional(&mut self, tag: u8) -> Result<Option<Reader<'a>>> {
        if self.peek() == Some(tag) { self.value(tag).map(Some) } else { Ok(None) }
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(Malformed("trailing bytes")) }
    }

    pub fn integer(&mut self) -> Result<i64> {
        let bytes = self.value(INTEGER)?.0;
        if bytes.is_empty() || bytes.len() > 8 {
            return Err(Malformed("integer out of range"));
        }
        let start = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
        Ok(bytes.iter().fold(start, |number, byte| number << 8 | i64::from(*byte)))
    }

    pub fn boolean(&mut self) -> Result<bool> {
        match self.value(BOOLEAN)?.0 {
            [0] => Ok(false),
            [_] => Ok(true),
            _ => Err(Malformed("not a boolean")),
        }
    }

    pub fn octets(&mut self) -> Result<&'a [u8]> {
        Ok(self.value(OCTETS)?.0)
    }

    pub fn text(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.value(TEXT)?.0).into_owned())
    }

    pub fn null(&mut self) -> Result<()> {
        self.value(NULL)?.end()
    }

    /// What is left, unread.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Reads values until the end.
    pub fn all<T>(mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut values = Vec::new();
        while !self.is_empty() {
            values.push(read(&mut self)?);
        }
        Ok(values)
    }
}

fn long_length(octets: u8, rest: &[u8]) -> Result<(usize, &[u8])> {
    if octets == 0 || octets > 4 || rest.len() < octets as usize {
        return Err(Malformed("length out of range"));
    }
    let (length, rest) = rest.split_at(octets as usize);
    Ok((length.iter().fold(0, |number, byte| number << 8 | *byte as usize), rest))
}

/// One value: tag, length, content.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 6);
    bytes.push(tag);
    if content.len() < 0x80 {
        bytes.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
        bytes.push(0x80 | length.len() as u8);
        bytes.extend(length);
    }
    bytes.extend(content);
    bytes
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// A SET OF: its values are sorted by their encoding.
pub fn set(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    parts.sort();
    value(SET, &parts.concat())
}

pub fn integer(number: i64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let skip = (0..7).take_while(|&at| bytes[at] == sign && (bytes[at + 1] ^ sign) & 0x80 == 0).count();
    value(INTEGER, &bytes[skip..])
}

pub fn boolean(truth: bool) -> Vec<u8> {
    value(BOOLEAN, &[if truth { 0xff } else { 0 }])
}

pub fn octets(bytes: &[u8]) -> Vec<u8> {
    value(OCTETS, bytes)
}

pub fn text(text: &str) -> Vec<u8> {
    value(TEXT, text.as_bytes())
}

pub fn null() -> Vec<u8> {
    value(NULL, &[])
}
