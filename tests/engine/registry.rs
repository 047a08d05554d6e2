//! A registry beside an engine, at two ports: one for everybody, and one that wants a token, which everybody gets.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::engines::Engine;

pub struct Registry {
    pub open: u16,
    pub guarded: u16,
    processes: Vec<Child>,
    directory: tempfile::TempDir,
}

const TOKENS: u16 = 5002;

impl Registry {
    pub fn start(engine: &Engine) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut registry = Self { open: 5000, guarded: 5001, processes: Vec::new(), directory };
        let listener = engine.namespace.run(|| TcpListener::bind(("127.0.0.1", TOKENS)).unwrap());
        std::thread::spawn(move || listener.incoming().for_each(|client| give_token(client.unwrap())));
        let guard = format!("auth:\n  silly: {{realm: 'http://127.0.0.1:{TOKENS}/token', service: test}}\n");
        registry.serve(engine, registry.open, "");
        registry.serve(engine, registry.guarded, &guard);
        registry
    }

    fn serve(&mut self, engine: &Engine, port: u16, more: &str) {
        let folder = self.directory.path();
        let file = folder.join(format!("{port}.yml"));
        let data = folder.join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n{more}http: {{addr: 127.0.0.1:{port}}}\n",
            data.display()
        );
        std::fs::write(&file, config).unwrap();
        let process = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", engine.namespace.pid()))
            .args(["docker-registry", "serve"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.processes.push(process.unwrap());
        let end = Instant::now() + Duration::from_secs(60);
        while engine.namespace.run(move || TcpStream::connect(("127.0.0.1", port))).is_err() {
            assert!(Instant::now() < end, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn give_token(mut client: TcpStream) {
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let token = r#"{"token":"t","access_token":"t","expires_in":300}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", token.len());
    let _ = write!(client, "{head}Connection: close\r\n\r\n{token}");
}
