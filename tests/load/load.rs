//! An open-loop HTTP client: opens connections at a fixed rate, whatever becomes of the ones before, until a file
//! appears; then prints how many were answered, by what, and how many were lost.
//!
//! `load http://ADDRESS:PORT/ STOP-FILE [RATE]`, RATE in connections a second (300).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test tool that talks to its terminal")]

mod open_loop;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use open_loop::{Asked, Load};

/// After this long a request is lost.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Tally {
    answers: BTreeMap<String, u64>,
    losses: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Tally {
    fn count(&mut self, asked: Asked) {
        match asked.answer {
            Ok(answer) => {
                *self.answers.entry(answer).or_default() += 1;
                self.slowest = self.slowest.max(asked.ended - asked.began);
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
    let target = url.trim_start_matches("http://").trim_end_matches('/').parse()?;
    let rate = rate.first().map_or(Ok(300.0), |rate| rate.parse())?;
    let stop = PathBuf::from(stop);
    let mut tally = Tally::default();
    Load { target, path: "/", rate, patience: PATIENCE }.run(|| stop.exists(), |asked| tally.count(asked)).await;
    print!("{}", tally.report());
    Ok(())
}
