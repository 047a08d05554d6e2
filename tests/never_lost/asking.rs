//! A client outside that asks all the while.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::{HOST, TestHost};

const PAUSE: Duration = Duration::from_millis(5);
/// A client's patience: retransmissions of a lost SYN and a machine that is busy do not use it up.
const LIMIT: Duration = Duration::from_secs(20);

/// Asks a port every 5 ms until it is told to stop.
pub struct Asking {
    stop: Arc<AtomicBool>,
    /// The fault that is tried at the moment.
    meanwhile: Arc<Mutex<String>>,
    thread: Option<JoinHandle<(usize, Vec<String>)>>,
}

impl Asking {
    pub fn start(host: &TestHost, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let meanwhile = Arc::new(Mutex::new("no fault".to_owned()));
        let done = Arc::clone(&meanwhile);
        let target: SocketAddr = format!("{HOST}:{port}").parse().unwrap();
        let thread = host.client.spawn(move || {
            let (mut asked, mut lost) = (0, Vec::new());
            while !told.load(Ordering::Relaxed) {
                asked += 1;
                let during = done.lock().unwrap().clone();
                lost.extend(ask(target).err().map(|error| format!("{error}, begun during {during}")));
                std::thread::sleep(PAUSE);
            }
            (asked, lost)
        });
        Self { stop, meanwhile, thread: Some(thread) }
    }

    /// The fault that requests which begin from now on, and are lost, are said to have begun during.
    pub fn during(&self, fault: &str) {
        fault.clone_into(&mut self.meanwhile.lock().unwrap());
    }

    /// How often it has asked; none may have been without an answer.
    pub fn nothing_lost(mut self) -> usize {
        let (asked, lost) = self.end();
        assert!(asked > 0);
        assert!(lost.is_empty(), "{} of {asked} requests were lost: {:?}", lost.len(), &lost[..lost.len().min(3)]);
        asked
    }

    fn end(&mut self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One request on a connection of its own.
pub fn ask(target: SocketAddr) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&target, LIMIT).map_err(text)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(text)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    if answer.contains("version=") { Ok(()) } else { Err(format!("answered {answer:?}")) }
}
