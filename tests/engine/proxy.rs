//! Between the service and an engine: lets everything through, but holds back files when it is told to.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub struct Proxy {
    pub socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    holds: AtomicBool,
    /// Something is held back.
    held: AtomicBool,
    streams: Mutex<Vec<UnixStream>>,
}

impl Proxy {
    pub fn start(socket: PathBuf, engine: &Path) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared::default());
        let (theirs, engine) = (Arc::clone(&shared), engine.to_path_buf());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(engine) = UnixStream::connect(&engine) else { return };
                let mut streams = theirs.streams.lock().unwrap();
                streams.extend([client.try_clone().unwrap(), engine.try_clone().unwrap()]);
                drop(streams);
                let (from, to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                let shared = Arc::clone(&theirs);
                std::thread::spawn(move || shared.pass(from, to));
                let shared = Arc::clone(&theirs);
                std::thread::spawn(move || shared.pass(engine, client));
            }
        });
        Self { socket, shared }
    }

    pub fn hold(&self, holds: bool) {
        self.shared.holds.store(holds, Ordering::SeqCst);
        self.shared.held.store(false, Ordering::SeqCst);
    }

    pub fn holds_something(&self) -> bool {
        self.shared.held.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn pass(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let is_file =
                buffer[..count].starts_with(b"GET ") && buffer[..count].windows(9).any(|window| window == b"/archive?");
            if is_file && self.holds.load(Ordering::SeqCst) {
                self.held.store(true, Ordering::SeqCst);
                return;
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
