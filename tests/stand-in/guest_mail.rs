//! The guest's mail server: greets as an SMTP server does, and takes nothing. Its greeting names the whole chain: with
//! `--relay=` it asks that one's port 25 first.

use crate::guest_options::GuestOptions;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

pub const PORT: u16 = 25;
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

pub async fn serve(listener: TcpListener, options: Rc<GuestOptions>, own: String) -> ! {
    loop {
        // Out of descriptors for the moment: the client waits in the queue.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        let (options, own) = (Rc::clone(&options), own.clone());
        spawn_local(async move {
            let _ = conversation(stream, &options, &own).await;
        });
    }
}

async fn conversation(stream: TcpStream, options: &GuestOptions, own: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut greeting = format!("220 version={} address={own}", options.version);
    if let Some(relay) = &options.relay {
        match tokio::time::timeout(PATIENCE, greeting_of(relay)).await? {
            Ok(next) => greeting += &format!(", relays to {}", next.trim_end().trim_start_matches("220 ")),
            Err(error) => greeting = format!("421 version={} cannot reach its relay {relay}: {error}", options.version),
        }
    }
    stream.get_mut().write_all(format!("{greeting}\r\n").as_bytes()).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let quits = line.trim().eq_ignore_ascii_case("quit");
        let answer: &[u8] = if quits { b"221 bye\r\n" } else { b"250 ok\r\n" };
        stream.get_mut().write_all(answer).await?;
        if quits {
            return stream.get_mut().shutdown().await;
        }
        line.clear();
    }
    Ok(())
}

async fn greeting_of(relay: &str) -> io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect((relay, PORT)).await?);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line)
}
