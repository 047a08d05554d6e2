//! An engine that answers as it is told to, good or bad.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// Answers a request by its first line, and says whether it did.
pub type Answers = dyn Fn(&str, &mut UnixStream) -> bool + Send + Sync;

pub struct Fake {
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Fake {
    /// Answers well what `answers` does not. The file in its image is `tar`.
    pub fn start(tar: Vec<u8>, answers: Arc<Answers>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let tar = Arc::new(tar);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (tar, answers) = (Arc::clone(&tar), Arc::clone(&answers));
                std::thread::spawn(move || serve(stream.unwrap(), &tar, &*answers));
            }
        });
        Self { socket, _directory: directory }
    }
}

fn serve(mut stream: UnixStream, tar: &[u8], answers: &Answers) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap();
    if !answers(line, &mut stream) {
        let _ = stream.write_all(&good(line, tar));
    }
    // What is left of the request, so that the answer is not lost with it.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

fn good(line: &str, tar: &[u8]) -> Vec<u8> {
    let size = tar.len().saturating_sub(1536);
    let stat = |size| {
        BASE64_STANDARD.encode(format!(
            r#"{{"name":"u","size":{size},"mode":420,"mtime":"2026-01-01T00:00:00Z","linkTarget":""}}"#
        ))
    };
    match line {
        line if line.contains("/_ping") => pong("1.41", "Libpod-Api-Version: 5.0.0\r\n"),
        line if line.contains("minisig") => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        line if line.starts_with("HEAD ") => stated(&stat(size)),
        line if line.contains("/archive?") => [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", tar].concat(),
        line if line.starts_with("DELETE ") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        line if line.contains("/create") => json(r#"{"Id":"c","Warnings":[]}"#),
        line if line.contains("/images/web:1/json") || line.contains(ID) => json(&format!(r#"{{"Id":"{ID}"}}"#)),
        line if line.contains("/json?") => json("[]"),
        line => panic!("the service asks {line}"),
    }
}

pub fn json(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What an engine of that version says of itself.
pub fn pong(version: &str, more: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nApi-Version: {version}\r\n{more}Content-Length: 2\r\n\r\nOK").into_bytes()
}

/// The answer to a question for a file's state.
pub fn stated(header: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: {header}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}
