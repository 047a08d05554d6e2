//! Everybody who uses the service from outside: requests in an open loop, downloads one after the other, and a UDP client
//! that keeps its source port.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::host::{HOST, TestHost};
use crate::open_loop::{Asked, Load};
use crate::pattern::first_wrong;

/// New connections a second.
pub const RATE: f64 = 400.0;
pub const PORT: u16 = 8080;

/// A download lasts 2.5 s, and one begins every 0.6 s.
const LANES: u32 = 4;
const DOWNLOAD: u64 = 500_000;
const DOWNLOAD_RATE: u64 = 200_000;
const STAGGER: Duration = Duration::from_millis(600);
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// Between an answer and the next datagram.
const DATAGRAMS: Duration = Duration::from_millis(4);
/// A datagram is not repeated by anybody: what is not answered by then is lost.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(2);

/// After this long a request is lost: longer than one takes on a machine that is busy, or whose packets are repeated.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub downloads: bool,
}

#[derive(Debug)]
pub struct Download {
    pub began: Instant,
    pub ended: Instant,
    pub outcome: Result<(), String>,
}

/// All that the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: Vec<Asked>,
    /// Of them, those that waited because the machine is too busy for the rate.
    pub held_back: usize,
    pub downloads: Vec<Download>,
    pub datagrams: Vec<Asked>,
}

pub struct Clients {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Clients {
    pub fn start(host: &TestHost, wanted: Wanted) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = host.client.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(wanted, &|| told.load(Ordering::Relaxed)))
        });
        Self { stop, thread: Some(thread) }
    }

    /// What they saw, once what is under way has ended.
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn run(wanted: Wanted, stop: &impl Fn() -> bool) -> Seen {
    let target: SocketAddr = format!("{HOST}:{PORT}").parse().unwrap();
    let seen = RefCell::new(Seen::default());
    let load = Load { target, path: "/", rate: RATE, patience: PATIENCE };
    let lanes =
        (0..if wanted.downloads { LANES } else { 0 }).map(|lane| download_on(target, STAGGER * lane, stop, &seen));
    let (held_back, ..) = tokio::join!(
        load.run(stop, |asked| seen.borrow_mut().requests.push(asked)),
        futures_util::future::join_all(lanes),
        send_datagrams(target, stop, &seen),
    );
    Seen { held_back, ..seen.into_inner() }
}

async fn download_on(target: SocketAddr, first: Duration, stop: &impl Fn() -> bool, seen: &RefCell<Seen>) {
    sleep(first).await;
    while !stop() {
        let began = Instant::now();
        let outcome = timeout(DOWNLOAD_PATIENCE, download(target)).await;
        let outcome = outcome.unwrap_or_else(|_| Err("it does not end".into()));
        seen.borrow_mut().downloads.push(Download { began, ended: Instant::now(), outcome });
    }
}

/// Checks every byte.
async fn download(target: SocketAddr) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(target).await.map_err(text)?;
    let path = format!("/download?bytes={DOWNLOAD}&rate={DOWNLOAD_RATE}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: website\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let (mut answer, mut position) = (Vec::new(), None);
    while stream.read_buf(&mut answer).await.map_err(text)? > 0 {
        if position.is_none() {
            let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
            answer.drain(..end + 4);
        }
        let at = position.unwrap_or(0);
        if let Some(wrong) = first_wrong(at, &answer) {
            return Err(format!("byte {wrong} is not what was served"));
        }
        position = Some(at + answer.len() as u64);
        answer.clear();
    }
    match position {
        Some(DOWNLOAD) => Ok(()),
        other => Err(format!("it ended after {other:?} of {DOWNLOAD} bytes")),
    }
}

/// One at a time: the next is sent after the answer to the one before.
async fn send_datagrams(target: SocketAddr, stop: &impl Fn() -> bool, seen: &RefCell<Seen>) {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let mut buffer = [0; 256];
    while !stop() {
        // A late answer is to a datagram that was counted as lost.
        while socket.try_recv_from(&mut buffer).is_ok() {}
        let began = Instant::now();
        let exchange = async {
            socket.send_to(b"?", target).await?;
            socket.recv(&mut buffer).await
        };
        let answer = match timeout(DATAGRAM_PATIENCE, exchange).await {
            Ok(Ok(length)) => {
                let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                Ok(answer.split_whitespace().next().unwrap_or_default().to_owned())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {DATAGRAM_PATIENCE:?}")),
        };
        seen.borrow_mut().datagrams.push(Asked { began, connected: None, ended: Instant::now(), answer });
        sleep(DATAGRAMS).await;
    }
}
