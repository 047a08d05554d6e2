//! Messages on a stream: four bytes of length, big-endian, and that many bytes.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire::Frame;

/// How much of an image is in memory at a time.
const CHUNK: usize = 256 * 1024;

/// Why a frame could not be sent.
#[derive(Debug)]
pub(super) enum SendError {
    /// The file of the image: it is shorter than was said, or cannot be read.
    Image(io::Error),
    Socket(io::Error),
}

/// Why no frame was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReceiveError {
    /// The peer closed without a byte: so Albatross meets what it does not understand.
    Closed,
    Broken(String),
}

/// Writes a whole frame, with the image from the start of its file. After an error, and when dropped before it ends,
/// the stream must be closed: a part of a frame keeps the daemon waiting for the rest.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
    image: Option<&Arc<File>>,
) -> Result<(), SendError> {
    stream.write_all(&frame.head).await.map_err(SendError::Socket)?;
    if frame.image_length > 0 {
        let image = image.ok_or_else(|| SendError::Image(ErrorKind::InvalidInput.into()))?;
        send_image(stream, image, frame.image_length).await?;
    }
    stream.write_all(&frame.tail).await.map_err(SendError::Socket)
}

async fn send_image(stream: &mut (impl AsyncWrite + Unpin), image: &Arc<File>, length: u64) -> Result<(), SendError> {
    let mut offset = 0;
    let mut chunk = Vec::new();
    while offset < length {
        // Fits: it is at most CHUNK.
        chunk.resize(usize::try_from(length - offset).unwrap_or(CHUNK).min(CHUNK), 0);
        chunk = read_at(image.clone(), chunk, offset).await.map_err(SendError::Image)?;
        stream.write_all(&chunk).await.map_err(SendError::Socket)?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

/// Fills `chunk` from `offset` on a thread that may block; the file's own position is left alone.
async fn read_at(file: Arc<File>, mut chunk: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
    let reading = tokio::task::spawn_blocking(move || file.read_exact_at(&mut chunk, offset).map(|()| chunk));
    reading.await.map_err(io::Error::other)?
}

/// Reads a frame of at most `limit` bytes. The buffer grows with what comes, not with what is announced.
pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin), limit: u32) -> Result<Vec<u8>, ReceiveError> {
    let length = receive_length(stream).await?;
    if length > limit {
        return Err(ReceiveError::Broken(format!("a message of {length} bytes, more than the {limit} that are read")));
    }
    let mut bytes = Vec::new();
    stream
        .take(length.into())
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| ReceiveError::Broken(error.to_string()))?;
    if bytes.len() as u64 != u64::from(length) {
        return Err(ReceiveError::Broken(format!("{} of {length} bytes, then the end", bytes.len())));
    }
    Ok(bytes)
}

async fn receive_length(stream: &mut (impl AsyncRead + Unpin)) -> Result<u32, ReceiveError> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match stream.read(&mut length[filled..]).await {
            Ok(0) if filled == 0 => return Err(ReceiveError::Closed),
            Ok(0) => return Err(ReceiveError::Broken("the end in the middle of a length".into())),
            Ok(read) => filled += read,
            // The peer closed with bytes of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && filled == 0 => {
                return Err(ReceiveError::Closed);
            }
            Err(error) => return Err(ReceiveError::Broken(error.to_string())),
        }
    }
    match i32::from_be_bytes(length) {
        // Albatross itself closes on such a length: it is a farewell, not a message.
        ..=0 => Err(ReceiveError::Closed),
        length => Ok(length.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn received(mut bytes: &[u8], limit: u32) -> Result<Vec<u8>, ReceiveError> {
        block_on(receive(&mut bytes, limit))
    }

    #[test]
    fn frames_are_received_within_their_limit() {
        assert_eq!(received(&[0, 0, 0, 2, 7, 8, 9], 2), Ok(vec![7, 8]));
        assert!(matches!(received(&[0, 0, 0, 3, 7, 8, 9], 2), Err(ReceiveError::Broken(_))));
        for closed in [&[][..], &[0, 0, 0, 0], &[0xff, 0xff, 0xff, 0xff, 1]] {
            assert_eq!(received(closed, 2), Err(ReceiveError::Closed), "{closed:?}");
        }
        for cut in [&[0, 0][..], &[0, 0, 0, 2], &[0, 0, 0, 2, 7]] {
            assert!(matches!(received(cut, 2), Err(ReceiveError::Broken(_))), "{cut:?}");
        }
    }

    fn sent(image_length: u64, image: &[u8]) -> Result<Vec<u8>, SendError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        let frame = Frame { head: b"head".to_vec(), image_length, tail: b"tail".to_vec() };
        let mut bytes = Vec::new();
        block_on(send(&mut bytes, &frame, Some(&Arc::new(file)))).map(|()| bytes)
    }

    #[test]
    fn an_image_is_sent_between_head_and_tail() {
        let image: Vec<u8> = (0..CHUNK * 2 + 77).map(|index| (index % 251) as u8).collect();
        assert_eq!(sent(image.len() as u64, &image).unwrap(), [b"head", &image[..], b"tail"].concat());
    }

    #[test]
    fn a_file_that_is_too_short_is_told_from_a_broken_socket() {
        let error = sent(10, b"short").unwrap_err();
        assert!(matches!(&error, SendError::Image(error) if error.kind() == ErrorKind::UnexpectedEof), "{error:?}");
    }
}
