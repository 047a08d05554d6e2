//! An open-loop HTTP client: opens connections at a fixed rate, whatever becomes of the ones before, until a file
//! appears; then prints how many were answered, by what, and how many were lost.
//!
//! `load http://ADDRESS:PORT/ STOP-FILE [RATE]`, RATE in connections a second (300).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test tool that talks to its terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// After this long a request is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of one request: the answer's first word, and how long it took.
type Outcome = Result<(String, Duration), String>;

#[derive(Default)]
struct Tally {
    answers: BTreeMap<String, u64>,
    losses: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Ok((answer, took)) => {
                *self.answers.entry(answer).or_default() += 1;
                self.slowest = self.slowest.max(took);
            }
            Err(error) => *self.losses.entry(error).or_default() += 1,
        }
    }

    fn report(&self) -> String {
        let answered: u64 = self.answers.values().sum();
        let lost: u64 = self.losses.values().sum();
        let by = self.answers.iter().map(|(answer, count)| format!("{count} by {answer}"));
        let mut report = format!(
            "{answered} requests answered ({}), {lost} lost, slowest {:.1} ms\n",
            by.collect::<Vec<_>>().join(", "),
            self.slowest.as_secs_f64() * 1e3
        );
        self.losses.iter().for_each(|(error, count)| report += &format!("{count} times: {error}\n"));
        report
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [url, stop, rate @ ..] = arguments.as_slice() else {
        return Err("usage: load http://ADDRESS:PORT/ STOP-FILE [RATE]".into());
    };
    let target: SocketAddr = url.trim_start_matches("http://").trim_end_matches('/').parse()?;
    let rate: f64 = rate.first().map_or(Ok(300.0), |rate| rate.parse())?;
    let stop = PathBuf::from(stop);
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    // Open loop: what was not sent in time is sent at once, not left out.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut requests, mut tally) = (JoinSet::new(), Tally::default());
    while !stop.exists() {
        ticks.tick().await;
        requests.spawn(request(target));
        while let Some(ended) = requests.try_join_next() {
            tally.count(ended?);
        }
    }
    while let Some(ended) = requests.join_next().await {
        tally.count(ended?);
    }
    print!("{}", tally.report());
    Ok(())
}

async fn request(target: SocketAddr) -> Outcome {
    let began = Instant::now();
    let answer = timeout(PATIENCE, exchange(target)).await.map_err(|_| "no answer within 5 s".to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).ok_or("no HTTP answer")?;
    let first = body.split_whitespace().next().ok_or("an empty answer")?;
    Ok((first.to_string(), began.elapsed()))
}

async fn exchange(target: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: website\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
