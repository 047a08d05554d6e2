//! A registry of the test's own: it has one good image, and behaves as badly as it is told.

#![allow(dead_code, missing_debug_implementations, reason = "each test takes of this module what it needs")]
#![allow(clippy::unwrap_used, reason = "for tests, which may end where they are wrong")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::saved_image::{Files, OCI_MANIFEST, digest};

/// One question, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    /// With names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }

    /// The first byte that is wanted.
    pub fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }

    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// What is answered, where it is other than a good registry answers. `number`: how often was asked for the same before.
pub type Behaviour = dyn Fn(&Asked, usize, &mut TcpStream) -> bool + Send + Sync;

pub struct Hostile {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Hostile {
    /// In the namespace of this thread, until the process ends. Port 0: one that is free.
    pub fn start(port: u16, image: (Files, Vec<u8>), behaviour: Box<Behaviour>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, image, behaviour) = (asked.clone(), Arc::new(image), Arc::new(behaviour));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, image, behaviour) = (heard.clone(), image.clone(), behaviour.clone());
                thread::spawn(move || serve(stream, &heard, &image, &behaviour));
            }
        });
        Self { host, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    heard: &Mutex<Vec<Asked>>,
    image: &(Files, Vec<u8>),
    behaviour: &Arc<Box<Behaviour>>,
) -> Option<()> {
    let asked = read(&stream)?;
    let number = {
        let mut heard = heard.lock().unwrap();
        heard.push(asked.clone());
        heard.iter().filter(|before| before.path == asked.path).count() - 1
    };
    if !behaviour(&asked, number, &mut stream) {
        answer_well(&asked, image, &mut stream);
    }
    Some(())
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

pub fn answer_well(asked: &Asked, (blobs, manifest): &(Files, Vec<u8>), stream: &mut TcpStream) {
    let wanted = asked.path.split('?').next().unwrap().rsplit('/').next().unwrap();
    if asked.is_manifest() && (!wanted.starts_with("sha256:") || wanted == digest(manifest)) {
        return send(stream, "200 OK", &format!("Content-Type: {OCI_MANIFEST}\r\n"), manifest);
    }
    match blobs.iter().find(|(_, content)| digest(content) == wanted) {
        Some((_, content)) => send_part(stream, content, asked.from()),
        None => send(stream, "404 Not Found", "", b""),
    }
}

/// The rest from `from` on, as it was asked for.
pub fn send_part(stream: &mut TcpStream, content: &[u8], from: usize) {
    let all = content.len();
    match from {
        0 => send(stream, "200 OK", "", content),
        _ => {
            let range = format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1);
            send(stream, "206 Partial Content", &range, &content[from..]);
        }
    }
}

/// A whole answer. Whoever asked may be gone already.
pub fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    head(stream, status, &format!("Content-Length: {}\r\n{headers}", body.len()));
    let _ = stream.write_all(body);
    // What was sent is lost to who asked where something unread is thrown away with the connection.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = stream.read(&mut [0; 64]);
}

/// The beginning of an answer.
pub fn head(stream: &mut TcpStream, status: &str, headers: &str) {
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes());
}

/// A piece of a body that does not say how long it is.
pub fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let piece = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    stream.write_all(&piece).is_ok()
}

/// Until nobody reads any more.
pub fn without_end(stream: &mut TcpStream, bytes: &[u8], pause: Duration) {
    while chunk(stream, bytes) {
        thread::sleep(pause);
    }
}
