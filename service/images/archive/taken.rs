//! What an engine gives of a container: a tar of the one file, and perhaps a second one behind it, of what signs the file.

use std::io::{BufReader, ErrorKind, Read, Write};

use super::entries::{Entries, Stream};
use super::error::{Error, malformed};
use super::header::{BLOCK, Kind};
use super::limits::{Limits, Meter, Observer};
use crate::images::signature;

const WHAT: &str = "what the engine gave";

/// Bytes of zeros behind a tar: programs fill up their last record, of 10 KiB as a rule.
const ZEROS: u64 = 1 << 20;

/// Writes the file of the first tar, and returns the one of the second, which there is at most `with_signature`. What was
/// written counts only when this is `Ok`.
///
/// # Errors
/// [`Error::Malformed`] where a tar has anything but one regular file; see [`Error`].
pub fn taken(
    tars: impl Read,
    with_signature: bool,
    limits: &Limits,
    observer: &mut dyn Observer,
    output: &mut dyn Write,
) -> Result<Option<Vec<u8>>, Error> {
    let meter = Meter::new(limits, observer);
    let mut source = BufReader::with_capacity(64 << 10, meter.source(tars));
    one_file(&mut source, limits.output, &meter, output)?;
    let Some(block) = after_zeros(&mut source, &meter)? else { return Ok(None) };
    if !with_signature {
        return malformed(format!("{WHAT} has something behind its end"));
    }
    let mut signature = Vec::new();
    let mut rest = block.chain(source);
    one_file(&mut rest, signature::LONGEST, &meter, &mut signature)?;
    match after_zeros(&mut rest, &meter)? {
        None => Ok(Some(signature)),
        Some(_) => malformed(format!("{WHAT} has something behind its end")),
    }
}

fn one_file(tar: &mut dyn Read, limit: u64, meter: &Meter<'_>, output: &mut dyn Write) -> Result<(), Error> {
    let mut entries = Entries::new(WHAT, Stream(tar), meter);
    let Some(entry) = entries.next()? else { return malformed(format!("{WHAT} has no file")) };
    if entry.kind != Kind::File {
        return malformed(format!("{WHAT} is {}, and not a file", entry.kind.words()));
    }
    if entry.size > limit {
        return Err(Error::OutputTooLarge { size: entry.size, limit });
    }
    copy(&mut entries, meter, output)?;
    if entries.next()?.is_some() {
        return malformed(format!("{WHAT} has more than one file"));
    }
    if !entries.is_marked() {
        return Err(meter.explain(WHAT, &ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// The whole content of an entry, which the entries end.
fn copy(content: &mut impl Read, meter: &Meter<'_>, output: &mut dyn Write) -> Result<(), Error> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(meter.explain(WHAT, &error)),
        };
        output.write_all(buffer.get(..count).unwrap_or_default()).map_err(Error::Write)?;
    }
    output.flush().map_err(Error::Write)
}

/// The first block that is not of zeros, if any comes.
fn after_zeros(source: &mut impl Read, meter: &Meter<'_>) -> Result<Option<std::io::Cursor<Vec<u8>>>, Error> {
    for _ in 0..ZEROS / BLOCK as u64 {
        let mut block = Vec::with_capacity(BLOCK);
        let read = source.by_ref().take(BLOCK as u64).read_to_end(&mut block);
        read.map_err(|error| meter.explain(WHAT, &error))?;
        match block.len() {
            0 => return Ok(None),
            BLOCK if block.iter().any(|byte| *byte != 0) => return Ok(Some(std::io::Cursor::new(block))),
            BLOCK => {}
            _ => return Err(meter.explain(WHAT, &ErrorKind::UnexpectedEof.into())),
        }
    }
    malformed(format!("{WHAT} does not end"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::saved_image::Tar;
    use super::*;

    fn read(tars: &[u8], with_signature: bool) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
        let limits = Limits { output: 1 << 20, ..Limits::default() };
        let mut output = Vec::new();
        let signature = taken(tars, with_signature, &limits, &mut |_| Ok(()), &mut output);
        signature.map(|signature| (output, signature)).map_err(|error| error.to_string())
    }

    fn one(name: &str, content: &[u8]) -> Vec<u8> {
        Tar::new().file(name, content).end()
    }

    #[test]
    fn one_file_and_what_signs_it() {
        assert_eq!(read(&one("u", b"kernel"), false), Ok((b"kernel".to_vec(), None)));
        assert_eq!(read(&one("u", b"kernel"), true), Ok((b"kernel".to_vec(), None)));
        let filled = [one("u", b"kernel"), vec![0; 9216]].concat();
        assert_eq!(read(&filled, false), Ok((b"kernel".to_vec(), None)));
        let both = [filled, one("u.minisig", b"trust")].concat();
        assert_eq!(read(&both, true), Ok((b"kernel".to_vec(), Some(b"trust".to_vec()))));
    }

    #[test]
    fn an_extended_header_is_no_second_file() {
        let tar =
            Tar::new().pax(&[("path", "a-name-as-long-as-it-likes"), ("mtime", "1.5")]).file("u", b"kernel").end();
        assert_eq!(read(&tar, false), Ok((b"kernel".to_vec(), None)));
    }

    #[test]
    fn everything_else_is_refused() {
        let good = one("u", b"kernel");
        let large = Tar::header("u", b'0', (1 << 20) + 1);
        let lying = Tar::header("u", b'0', 1 << 19);
        let half = [good.clone(), one("s", b"trust")].concat();
        for (tars, with_signature, says) in [
            (Vec::new(), false, "no file"),
            (Tar::new().end(), false, "no file"),
            (Tar::new().folder("u/").end(), false, "a directory"),
            (Tar::new().symlink("u", "/etc/shadow").end(), false, "a symbolic link"),
            (Tar::new().hard_link("u", "v").end(), false, "a hard link"),
            (Tar::new().entry("u", b'3', b"").end(), false, "a character device"),
            (Tar::new().entry("u", b'4', b"").end(), false, "a block device"),
            (Tar::new().entry("u", b'6', b"").end(), false, "a fifo"),
            (Tar::new().file("u", b"a").file("v", b"b").end(), false, "more than one file"),
            (Tar::new().file("../u", b"a").end(), false, "upwards"),
            (Tar::new().raw(&large, b"").end(), false, "more than the limit"),
            (Tar::new().raw(&lying, b"short").0, false, "cut off"),
            (Tar::new().file("u", b"kernel").0, false, "cut off"),
            (vec![0xa5; 4096], false, "no tar"),
            (half.clone(), false, "behind its end"),
            ([half, one("t", b"third")].concat(), true, "behind its end"),
            ([good.clone(), one("s", &[b'x'; 5000])].concat(), true, "more than the limit"),
            ([good.clone(), vec![0; 2 << 20]].concat(), false, "does not end"),
            ([good, vec![0; 100]].concat(), false, "cut off"),
        ] {
            let error = read(&tars, with_signature).unwrap_err();
            assert!(error.contains(says), "{error:?} does not say {says:?}");
        }
    }
}
