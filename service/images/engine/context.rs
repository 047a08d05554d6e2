//! What is built, on its way to the engine: the tar that comes in, behind the Dockerfile where one was made for it.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::thread;

use futures_util::{Stream, StreamExt, stream};
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

use super::error::Error;

/// Bytes of a piece, and pieces that wait.
const PIECE: usize = 64 << 10;
const WAITING: usize = 4;

/// A context, as it comes.
pub(super) struct Context {
    first: Bytes,
    rest: mpsc::Receiver<io::Result<Bytes>>,
}

impl Context {
    /// Waits, for as long as that takes, until something comes: who makes the context may have to fetch it first. Read
    /// by a thread, so that the engine's answers are heard meanwhile.
    pub async fn begin(file: File) -> Result<Self, Error> {
        let (sender, mut rest) = mpsc::channel(WAITING);
        let thread = thread::Builder::new().name("context".into()).spawn(move || pass_on(file, &sender));
        thread.map_err(Error::Start)?;
        match rest.recv().await {
            Some(Ok(first)) => Ok(Self { first, rest }),
            Some(Err(error)) => Err(Error::Context(error)),
            None => Err(Error::Context(ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The body of the request. What stands in `before` comes first.
    pub fn body(self, before: Vec<u8>) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static {
        let mut rest = self.rest;
        let begin = [Bytes::from(before), self.first].into_iter().filter(|piece| !piece.is_empty()).map(Ok);
        let rest = stream::poll_fn(move |context| rest.poll_recv(context));
        stream::iter(begin).chain(rest).map(|piece| piece.map(Frame::data))
    }
}

/// Until nobody wants more.
fn pass_on(mut file: File, to: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        if to.blocking_send(piece).is_err() || is_last {
            return;
        }
    }
}

/// A tar's entry with `text`, to stand in front of the others: without the blocks that end a tar.
pub(super) fn entry(name: &str, text: &str) -> Result<Vec<u8>, Error> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(Error::Start)?;
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    let mut entry = [header.as_bytes().as_slice(), text.as_bytes()].concat();
    entry.resize(entry.len().next_multiple_of(512), 0);
    Ok(entry)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_stands_in_front_of_a_tar() {
        let mut tar = entry(".made", "FROM scratch\n").unwrap();
        let mut rest = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        rest.append_data(&mut header, "u", &b"abc"[..]).unwrap();
        tar.extend(rest.into_inner().unwrap());
        let mut archive = tar::Archive::new(&tar[..]);
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, [".made", "u"]);
    }
}
