//! The guest's web server.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` and any other | `version=V address=A client=C` |
//! | `/download?bytes=N&rate=R`, `/slow?…` | N bytes that depend on where they stand, R a second (0: at once) |
//! | `/status?code=503` | that status |
//! | `/answer?path=/a&code=503` | its own line; from then on `/a` has that status |
//! | `/hang` | its own line; from then on nothing is answered any more |
//! | `/relay` | what the one given by `--relay=` answers, after its own line |
//! | `/chain` | its own line, then what the one given by `--relay=` answers to the same: all lines of the chain |
//! | `/print?text=…` | prints a line on the console |
//! | `/exit?code=N` | ends the guest |

use crate::guest::{exit, say};
use crate::guest_options::{GuestOptions, Misbehaviour};
use crate::pattern;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

const LONGEST_HEAD: usize = 16 * 1024;
const TICK: Duration = Duration::from_millis(20);
const RELAY_PATIENCE: Duration = Duration::from_secs(5);

/// The status of a request for another host (RFC 9110).
const MISDIRECTED: u16 = 421;

/// What requests have made of the server.
#[derive(Default)]
struct Mood {
    hangs: Cell<bool>,
    /// By path.
    statuses: RefCell<BTreeMap<String, u16>>,
}

struct Request {
    path: String,
    host: String,
    query: Vec<(String, String)>,
    keep_alive: bool,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (_, target, version) = (first.next()?, first.next()?, first.next()?);
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(key, value)| (key.to_ascii_lowercase(), value.trim())).collect::<BTreeMap<_, _>>();
        let connection = headers.get("connection").map(|value| value.to_ascii_lowercase());
        let keep_alive = match connection.as_deref() {
            Some("close") => false,
            Some("keep-alive") => true,
            _ => version == "HTTP/1.1",
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (key.to_owned(), decode(value))
        };
        let host = headers.get("host").copied().unwrap_or_default().to_owned();
        Some(Self { path: path.to_owned(), host, query: query.split('&').map(pair).collect(), keep_alive })
    }

    fn value<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.query.iter().find(|(name, _)| name == key)?.1.parse().ok()
    }
}

/// `+` and `%20`.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub async fn serve(
    listener: TcpListener,
    options: Rc<GuestOptions>,
    own: String,
) -> Result<(), Box<dyn std::error::Error>> {
    let mood = Rc::new(Mood::default());
    loop {
        // Out of descriptors for the moment: the client waits in the queue.
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        let (options, own, mood) = (Rc::clone(&options), own.clone(), Rc::clone(&mood));
        spawn_local(async move {
            if let Some(how) = options.answer {
                let _ = misbehave(stream, how).await;
                return;
            }
            let _ = connection(stream, client, &options, &own, &mood).await;
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    options: &GuestOptions,
    own: &str,
    mood: &Mood,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some(end) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let Some(request) = Request::parse(&String::from_utf8_lossy(&buffer[..end])) else { return Ok(()) };
        buffer.drain(..end + 4);
        let line = format!("version={} address={own} client={client}\n", options.version);
        if mood.hangs.get() {
            return misbehave(stream, Misbehaviour::Silence).await;
        }
        answer(&mut stream, &request, options, mood, line).await?;
        if !request.keep_alive {
            return stream.shutdown().await;
        }
    }
}

async fn misbehave(mut stream: TcpStream, how: Misbehaviour) -> io::Result<()> {
    match how {
        Misbehaviour::Silence => stream.read_to_end(&mut Vec::new()).await.map(drop),
        Misbehaviour::Garbage => stream.write_all(b"SSH-2.0-nothing\r\n\xff\0\r\n\r\n").await,
        Misbehaviour::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await?;
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
        Misbehaviour::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(TICK).await;
            }
            Ok(())
        }
    }
}

/// Reads until the empty line; where it begins, or `None` at the end of the connection.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(end));
        }
        if buffer.len() > LONGEST_HEAD || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(
    stream: &mut TcpStream,
    request: &Request,
    options: &GuestOptions,
    mood: &Mood,
    line: String,
) -> io::Result<()> {
    if options.virtual_host.as_ref().is_some_and(|host| *host != request.host) {
        return respond(stream, request, MISDIRECTED, &format!("{line}host={}\n", request.host)).await;
    }
    let changed = mood.statuses.borrow().get(&request.path).copied();
    if let Some(status) = changed {
        return respond(stream, request, status, &line).await;
    }
    match request.path.as_str() {
        "/answer" => {
            let (path, code) = (request.value("path").unwrap_or_default(), request.value("code").unwrap_or(200));
            mood.statuses.borrow_mut().insert(path, code);
            respond(stream, request, 200, &line).await
        }
        "/hang" => {
            mood.hangs.set(true);
            respond(stream, request, 200, &line).await
        }
        "/download" | "/slow" => return download(stream, request).await,
        "/exit" => {
            respond(stream, request, 200, &line).await?;
            exit(request.value("code").unwrap_or(0));
        }
        "/status" => respond(stream, request, request.value("code").unwrap_or(200), &line).await,
        "/print" => {
            say(&request.value::<String>("text").unwrap_or_default());
            respond(stream, request, 200, &line).await
        }
        // The last of a chain has nobody to ask.
        "/chain" if options.relay.is_none() => respond(stream, request, 200, &line).await,
        "/relay" | "/chain" => {
            let path = if request.path == "/chain" { "/chain" } else { "/" };
            match relayed(options, path).await {
                Ok(more) => respond(stream, request, 200, &(line + &more)).await,
                Err(error) => respond(stream, request, 502, &format!("{line}relay: {error}\n")).await,
            }
        }
        _ => respond(stream, request, 200, &line).await,
    }
}

fn head(request: &Request, status: u16, length: u64) -> String {
    let connection = if request.keep_alive { "keep-alive" } else { "close" };
    let reason = if status == 200 { "OK" } else { "Status" };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n"
    )
}

async fn respond(stream: &mut TcpStream, request: &Request, status: u16, body: &str) -> io::Result<()> {
    stream.write_all((head(request, status, body.len() as u64) + body).as_bytes()).await
}

async fn download(stream: &mut TcpStream, request: &Request) -> io::Result<()> {
    let length: u64 = request.value("bytes").unwrap_or(1 << 20);
    let rate: u64 = request.value("rate").unwrap_or(0);
    stream.write_all(head(request, 200, length).as_bytes()).await?;
    let chunk = if rate == 0 { 1 << 16 } else { (rate * TICK.as_millis() as u64 / 1000).max(1) };
    let mut tick = tokio::time::interval(TICK);
    let mut position = 0;
    while position < length {
        if rate > 0 {
            tick.tick().await;
        }
        let size = (length - position).min(chunk);
        stream.write_all(&pattern::bytes_from(position, size as usize)).await?;
        position += size;
    }
    Ok(())
}

async fn relayed(options: &GuestOptions, path: &str) -> io::Result<String> {
    let relay = options.relay.as_deref().ok_or_else(|| io::Error::other("no --relay= given"))?;
    let address = if relay.contains(':') { relay.to_owned() } else { format!("{relay}:80") };
    let fetch = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    };
    tokio::time::timeout(RELAY_PATIENCE, fetch).await?
}
