//! HTTP requests in an open loop: at a fixed rate, whatever becomes of the ones before, as long as the machine can do it.
//! On a machine that is too busy for the rate requests would only wait for each other: no more than one second's are under
//! way at a time, and the next begins when one of them has ended.
#![allow(dead_code, reason = "the program and the tests take of this module what they need")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

/// One request, from before its connection is opened.
#[derive(Debug, Clone)]
pub struct Asked {
    pub began: Instant,
    /// When its connection stood, where it ever did.
    pub connected: Option<Instant>,
    pub ended: Instant,
    /// The first word of each line of the answer, or why there is none.
    pub answer: Result<String, String>,
}

impl Asked {
    /// How long its connection took.
    pub fn set_up(&self) -> Option<Duration> {
        Some(self.connected? - self.began)
    }
}

/// Whom to ask, how often, and how long to wait for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub target: SocketAddr,
    pub path: &'static str,
    /// Connections a second.
    pub rate: f64,
    pub patience: Duration,
}

impl Load {
    /// Until `stop` says so; then those under way end. Each request is handed on when it has. How many had to wait
    /// because the machine is too busy for the rate.
    pub async fn run(self, stop: impl Fn() -> bool, mut each: impl FnMut(Asked)) -> usize {
        let (most, mut held_back) = (self.rate as usize, 0);
        let mut ticks = interval(Duration::from_secs_f64(1.0 / self.rate));
        // What was not sent in time is sent at once, not left out.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = JoinSet::new();
        while !stop() {
            ticks.tick().await;
            if requests.len() >= most {
                held_back += 1;
                requests.join_next().await.into_iter().flatten().for_each(&mut each);
            }
            requests.spawn(self.ask());
            while let Some(ended) = requests.try_join_next() {
                ended.into_iter().for_each(&mut each);
            }
        }
        while let Some(ended) = requests.join_next().await {
            ended.into_iter().for_each(&mut each);
        }
        held_back
    }

    async fn ask(self) -> Asked {
        let began = Instant::now();
        let mut connected = None;
        let exchange =
            timeout_at((began + self.patience).into(), exchange(self.target, self.path, &mut connected)).await;
        let answer = match exchange {
            Ok(Ok(answer)) => first_words(&answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", self.patience.as_secs_f64())),
        };
        Asked { began, connected, ended: Instant::now(), answer }
    }
}

async fn exchange(target: SocketAddr, path: &str, connected: &mut Option<Instant>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    *connected = Some(Instant::now());
    let request = format!("GET {path} HTTP/1.1\r\nHost: website\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn first_words(answer: &str) -> Result<String, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim()));
    }
    let words = body.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>();
    if words.is_empty() { Err("an empty answer".to_owned()) } else { Ok(words.join(" ")) }
}
