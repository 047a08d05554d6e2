//! Plain, gzip or zstd, told apart by their first bytes: media types of real images are often wrong.

use std::io::{self, BufRead, Chain, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::error::{Error, unsupported};
use super::limits::{Meter, discard};

/// What zstd may keep to look back into. RFC 8878 asks of decoders for 8 MiB, which is what the tools for images use.
const WINDOW: u64 = 8 << 20;

/// Compressions that are refused by their names.
const OTHERS: [(&[u8], &str); 4] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip, which is no image at all"),
];

/// The start, which was looked at, and the rest.
type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// A stream as it was before it was compressed. What comes out is counted.
pub(super) struct Unpacked<'m, 'a, R> {
    decoder: Decoder<Whole<R>>,
    meter: &'m Meter<'a>,
}

enum Decoder<R> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(Box<Frames<R>>),
}

impl<'m, 'a, R: BufRead> Unpacked<'m, 'a, R> {
    pub fn new(what: &str, mut reader: R, meter: &'m Meter<'a>) -> Result<Self, Error> {
        let mut start = Vec::new();
        reader.by_ref().take(6).read_to_end(&mut start).map_err(|error| meter.explain(what, &error))?;
        if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
            return unsupported(format!("{what} is compressed with {name}: use gzip, zstd or none"));
        }
        let is_gzip = start.starts_with(&[0x1f, 0x8b]);
        // The second kind is a frame to be skipped, with which zstd:chunked may begin.
        let is_zstd = start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || matches!(start.get(..4), Some([0x50..=0x5f, 0x2a, 0x4d, 0x18]));
        let whole = Cursor::new(start).chain(reader);
        let decoder = match (is_gzip, is_zstd) {
            (true, _) => Decoder::Gzip(MultiGzDecoder::new(whole)),
            (_, true) => Decoder::Zstd(Box::new(Frames::new(whole))),
            _ => Decoder::Plain(whole),
        };
        Ok(Self { decoder, meter })
    }

    pub fn is_plain(&self) -> bool {
        matches!(self.decoder, Decoder::Plain(_))
    }

    /// The packed bytes that were not unpacked yet.
    pub fn into_packed(self) -> R {
        let whole = match self.decoder {
            Decoder::Plain(reader) => reader,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(frames) => frames.source,
        };
        whole.into_inner().1
    }
}

impl<R: BufRead> Read for Unpacked<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(reader) => return reader.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(frames) => frames.read(buffer)?,
        };
        self.meter.unpacked(count)?;
        Ok(count)
    }
}

/// One frame after the other: a decoder of the library ends with its frame, an image's layer may have thousands.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self { source, decoder }
    }

    /// Whether there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    discard(&mut self.source, u64::from(length))?;
                }
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
            }
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            } else if !self.next_frame()? {
                return Ok(0);
            }
        }
    }
}
