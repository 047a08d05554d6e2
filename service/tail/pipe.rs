//! What OpenConsole and OpenLog give: a pipe, written as fast as its reader reads and no faster.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep;

use super::{News, Ring, Tail};
use crate::domain::ConsoleLine;

/// Bytes that are on their way to one reader, beside those of a line and those in the pipe itself.
const CHUNK: usize = 4096;

/// How long a reader may take for each chunk when no line comes any more.
const LEAVE: Duration = Duration::from_secs(30);

/// The writing end, until the reader closes the other one or has all that there will ever be.
#[derive(Debug)]
pub struct Pipe {
    pub tail: Arc<Tail>,
    pub sender: Sender,
    /// The number of the line that comes next. It is all that a reader costs: what it has not read is in the ring, or
    /// lost.
    pub cursor: u64,
    /// Written already, and not taken by the pipe.
    pub pending: Vec<u8>,
    /// What keeps a place among the readers.
    pub _place: OwnedSemaphorePermit,
}

impl Pipe {
    pub async fn run(mut self) {
        let mut news = self.tail.news();
        loop {
            let ended = news.borrow_and_update().ended;
            if self.pending.is_empty() {
                let ring = self.tail.ring();
                self.cursor = fill(&mut self.pending, &ring, self.cursor);
            }
            let gone = if !self.pending.is_empty() {
                self.write(&mut news).await
            } else if ended {
                true
            } else {
                tokio::select! {
                    changed = news.changed() => changed.is_err(),
                    () = closed(&self.sender) => true,
                }
            };
            if gone {
                return;
            }
        }
    }

    /// Writes what is pending. Whether nobody will read it.
    async fn write(&mut self, news: &mut watch::Receiver<News>) -> bool {
        let patience = async {
            let _ = news.wait_for(|news| news.ended).await;
            sleep(LEAVE).await;
        };
        tokio::select! {
            written = write(&self.sender, &mut self.pending) => written.is_err(),
            () = patience => true,
        }
    }
}

async fn write(sender: &Sender, pending: &mut Vec<u8>) -> io::Result<()> {
    while !pending.is_empty() {
        sender.writable().await?;
        match sender.try_write(pending) {
            Ok(written) => drop(pending.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the reader has closed its end, which the kernel tells as an error of ours.
async fn closed(sender: &Sender) {
    while let Ok(ready) = sender.ready(Interest::ERROR).await {
        if ready.is_error() || ready.is_write_closed() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A line as the pipe has it.
pub fn append(bytes: &mut Vec<u8>, line: &ConsoleLine) {
    bytes.extend_from_slice(&line.text);
    bytes.push(b'\n');
}

/// Lines of `ring` from `cursor` on, a chunk of them, with a note where some are lost. Returns where it goes on.
fn fill(bytes: &mut Vec<u8>, ring: &Ring, cursor: u64) -> u64 {
    let (lost, lines) = ring.from(cursor);
    if lost > 0 {
        let lines = if lost == 1 { "line" } else { "lines" };
        bytes.extend_from_slice(format!("[albatross-deployer: {lost} {lines} lost]\n").as_bytes());
    }
    let mut cursor = cursor + lost;
    for line in lines {
        if bytes.len() >= CHUNK {
            break;
        }
        append(bytes, line);
        cursor += 1;
    }
    cursor
}

#[cfg(test)]
mod tests {
    use super::super::Bounds;
    use super::*;
    use crate::domain::Timestamp;

    fn ring(lines: usize) -> Ring {
        let mut ring = Ring::new(Bounds { lines: 1024, line: 1024, bytes: 1 << 20 });
        let texts = (0..lines).map(|number| number.to_string().into());
        texts.for_each(|text| ring.push(ConsoleLine { at: Timestamp(1), text }));
        ring
    }

    fn filled(ring: &Ring, cursor: u64) -> (String, u64) {
        let mut bytes = Vec::new();
        let cursor = fill(&mut bytes, ring, cursor);
        (String::from_utf8(bytes).unwrap(), cursor)
    }

    #[test]
    fn what_is_lost_is_noted_where_it_was() {
        assert_eq!(filled(&ring(0), 0), (String::new(), 0));
        assert_eq!(filled(&ring(3), 1), ("1\n2\n".into(), 3));
        let (text, cursor) = filled(&ring(1024 + 500), 0);
        assert!(text.starts_with("[albatross-deployer: 500 lines lost]\n500\n501\n"), "{text}");
        let last = text.lines().next_back().unwrap().parse::<u64>().unwrap();
        assert!(text.len() < CHUNK + 10 && cursor == last + 1, "{cursor}");
        assert!(filled(&ring(1024 + 12), 11).0.starts_with("[albatross-deployer: 1 line lost]\n12\n"));
        assert!(filled(&ring(1024 + 500), cursor).0.starts_with(&format!("{cursor}\n")));
    }
}
