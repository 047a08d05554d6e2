//! A download that goes on until the test has it end, however fast or slow the machine is.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::host::{HOST, PATIENCE, TestHost};

/// More than the sockets of both sides hold: the server is in the midst of it as long as nobody reads.
const BYTES: usize = 16 << 20;

/// A connection whose answer has begun.
pub struct HeldDownload(TcpStream);

impl HeldDownload {
    /// From `port` of the host, as a client outside.
    pub fn begin(host: &TestHost, port: u16) -> Self {
        Self(host.client.run(move || {
            let mut stream = TcpStream::connect((HOST, port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = format!("GET /download?bytes={BYTES} HTTP/1.1\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut first = [0; 1];
            stream.read_exact(&mut first).unwrap();
            stream
        }))
    }

    /// Reads all the rest; every byte must come.
    pub async fn finish(self) {
        let mut stream = self.0;
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).map(|_| rest)
        });
        let rest = rest.await.unwrap().expect("the connection is not cut");
        let head = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        assert_eq!(rest.len() - head - 4, BYTES, "the download ended early");
    }
}
