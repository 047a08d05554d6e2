//! Waits until a unikernel's readiness rule holds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::context::Context;
use crate::albatross::{self, Client};
use crate::domain::{ConsolePattern, Readiness, Unikernel};

/// How long a unikernel may take to fail on its arguments. A small one boots in 6 ms, one of OCaml in 50.
const TIME_TO_FAIL: Duration = Duration::from_millis(250);

/// Pauses between two probes grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Pauses between two looks whether it still runs grow from the first to the second; a look takes Albatross 0.3 ms.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How long one probe may take: a target that accepts and says nothing is not ready.
const ONE_PROBE: Duration = Duration::from_secs(5);

/// How long one connection may take to come about. A SYN that arrives before the guest listens to its device is lost, and
/// the kernel sends the next one only after a second.
const CONNECT: Duration = Duration::from_millis(200);

/// The longest head of an HTTP answer that is read.
const LONGEST_HEAD: usize = 16 * 1024;

/// Returns once the rule holds; otherwise says why it does not.
pub async fn wait(context: &Context, unikernel: &Unikernel) -> Result<(), String> {
    let albatross = &context.albatross;
    let rule = async {
        match &unikernel.readiness {
            Readiness::Running => {
                sleep(TIME_TO_FAIL.min(unikernel.timeout)).await;
                still_there(albatross, unikernel).await
            }
            Readiness::Tcp { port } => {
                let target = SocketAddr::new(unikernel.address, *port);
                probe(unikernel.timeout, || accepts(target)).await
            }
            Readiness::Http { port, path } => {
                let target = SocketAddr::new(unikernel.address, *port);
                probe(unikernel.timeout, || answers(target, path)).await
            }
            Readiness::Console(pattern) => prints(context, unikernel, pattern).await,
        }
    };
    // A probe of one that has just died gets no answer at all: its end must not wait for that of the probe.
    tokio::select! {
        outcome = rule => outcome,
        how = end(albatross, unikernel) => Err(how),
    }
}

/// Waits for a line that the unikernel prints after this start of it.
async fn prints(context: &Context, unikernel: &Unikernel, pattern: &ConsolePattern) -> Result<(), String> {
    // It did when it was asked for; the ledger can be one of another version.
    let expression = pattern.compile().map_err(|error| format!("console:{pattern}: {error}"))?;
    let matches = |line: &[u8]| expression.is_match(line.strip_suffix(b"\r").unwrap_or(line));
    let line = context.consoles.wait_for(&unikernel.id, matches);
    let late = || format!("not within {} ms: no line of its console matches {pattern}", unikernel.timeout.as_millis());
    timeout(unikernel.timeout, line).await.map_err(|_| late())
}

async fn probe<F: Future<Output = Result<(), String>>>(
    patience: Duration,
    mut once: impl FnMut() -> F,
) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSES.0;
    loop {
        let limit = deadline.min(Instant::now() + ONE_PROBE);
        let why = match timeout_at(limit, once()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => "it accepts and does not answer".into(),
        };
        if Instant::now() + pause >= deadline {
            return Err(format!("not within {} ms: {why}", patience.as_millis()));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits until Albatross says that it has ended, and says how. Where Albatross does not answer, it may still run.
async fn end(albatross: &Client, unikernel: &Unikernel) -> String {
    let mut pause = LOOKS.0;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LOOKS.1);
        match ended(albatross, unikernel).await {
            Ok(Some(how)) => return how,
            Ok(None) => {}
            Err(error) => debug!(id = %unikernel.id, %error, "whether it runs is not known"),
        }
    }
}

async fn still_there(albatross: &Client, unikernel: &Unikernel) -> Result<(), String> {
    match ended(albatross, unikernel).await {
        Ok(None) => Ok(()),
        Ok(Some(how)) => Err(how),
        Err(error) => Err(format!("Albatross does not say whether it runs: {error}")),
    }
}

/// How it ended; `None` while it runs.
async fn ended(albatross: &Client, unikernel: &Unikernel) -> Result<Option<String>, albatross::Error> {
    Ok(match albatross.unikernel(&unikernel.id).await? {
        Some(running) if running.started == unikernel.started_at => None,
        Some(_) => Some("it ended and was started again by Albatross".into()),
        None => Some("it has exited".into()),
    })
}

async fn accepts(target: SocketAddr) -> Result<(), String> {
    connect(target).await.map(drop)
}

async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    match timeout(CONNECT, TcpStream::connect(target)).await {
        Ok(stream) => stream.map_err(|error| format!("{target}: {error}")),
        Err(_) => Err(format!("{target} does not answer")),
    }
}

async fn answers(target: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{target}: {error}");
    let mut stream = connect(target).await?;
    let host = host_header(target);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    let mut limited = stream.take(LONGEST_HEAD as u64);
    while !has_whole_head(&answer) {
        if limited.read_buf(&mut answer).await.map_err(failed)? == 0 {
            let what = if limited.limit() == 0 { "with a head that does not end" } else { "and not to the end" };
            return Err(format!("{target}{path} answers {what}"));
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("{target}{path} answers with status {code}")),
        None => Err(format!("{target}{path} does not answer in HTTP")),
    }
}

fn host_header(target: SocketAddr) -> String {
    match target.ip() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Whether the empty line has come that ends the head. Lines may end without a carriage return (RFC 9112, 2.2).
fn has_whole_head(answer: &[u8]) -> bool {
    answer.windows(4).any(|end| end == b"\r\n\r\n") || answer.windows(2).any(|end| end == b"\n\n")
}

/// The code of a status line such as `HTTP/1.1 204 No Content`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let code = rest.trim_end().split(' ').next()?;
    (version.starts_with("HTTP/1.") && code.len() == 3).then(|| code.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::{has_whole_head, status};

    #[test]
    fn heads() {
        for whole in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody", "HTTP/1.0 200 OK\n\n"] {
            assert!(has_whole_head(whole.as_bytes()), "{whole:?}");
        }
        for part in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n", "HTTP/1.1 200 OK\r\n\r"] {
            assert!(!has_whole_head(part.as_bytes()), "{part:?}");
        }
    }

    #[test]
    fn status_lines() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nX: y"), Some(200));
        assert_eq!(status(b"HTTP/1.0 302\r\n"), Some(302));
        for bad in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 20", b"SSH-2.0-x", b"HTTP/1.1 2000 x", b"\xff\xfe 200"] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
