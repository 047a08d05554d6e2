//! Waits until a unikernel's readiness rule holds.

pub mod probe;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::context::Context;
use crate::albatross::{self, Client};
use crate::domain::{ConsolePattern, Readiness, Unikernel};

/// How long a unikernel may take to fail on its arguments. A small one boots in 6 ms, one of OCaml in 50.
const TIME_TO_FAIL: Duration = Duration::from_millis(250);

/// Pauses between two probes grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Pauses between two looks whether it still runs grow from the first to the second; a look takes Albatross 0.3 ms.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How long one probe may take: a target that accepts and says nothing is not ready.
pub const ONE_PROBE: Duration = Duration::from_secs(5);

/// How long one connection may take to come about. A SYN that arrives before the guest listens to its device is lost, and
/// the kernel sends the next one only after a second.
const CONNECT: Duration = Duration::from_millis(200);

const SILENT: &str = "it accepts and does not answer";

/// Returns once the rule holds; otherwise says why it does not.
pub async fn wait(context: &Context, unikernel: &Unikernel) -> Result<(), String> {
    let albatross = &context.albatross;
    let rule = async {
        match &unikernel.readiness {
            Readiness::Running => {
                sleep(TIME_TO_FAIL.min(unikernel.timeout)).await;
                still_there(albatross, unikernel).await
            }
            Readiness::Tcp { port } => {
                let target = SocketAddr::new(unikernel.address, *port);
                repeat(unikernel.timeout, || probe::tcp(target, CONNECT)).await
            }
            Readiness::Http(rule) => repeat(unikernel.timeout, || probe::http(unikernel.address, rule, CONNECT)).await,
            Readiness::Console(pattern) => prints(context, unikernel, pattern).await,
        }
    };
    // A probe of one that has just died gets no answer at all: its end must not wait for that of the probe.
    tokio::select! {
        outcome = rule => outcome,
        how = end(albatross, unikernel) => Err(how),
    }
}

/// Asks once whether a rule holds that can be asked at any time. A connection has all of the time: of a guest that is up
/// a lost SYN is repeated.
pub async fn check(address: IpAddr, readiness: &Readiness) -> Result<(), String> {
    let once = async {
        match readiness {
            Readiness::Tcp { port } => probe::tcp(SocketAddr::new(address, *port), ONE_PROBE).await,
            Readiness::Http(rule) => probe::http(address, rule, ONE_PROBE).await,
            Readiness::Running | Readiness::Console(_) => Ok(()),
        }
    };
    timeout(ONE_PROBE, once).await.unwrap_or_else(|_| Err(SILENT.into()))
}

/// Waits for a line that the unikernel prints after this start of it.
async fn prints(context: &Context, unikernel: &Unikernel, pattern: &ConsolePattern) -> Result<(), String> {
    // It did when it was asked for; the ledger can be one of another version.
    let expression = pattern.compile().map_err(|error| format!("console:{pattern}: {error}"))?;
    let matches = |line: &[u8]| expression.is_match(line.strip_suffix(b"\r").unwrap_or(line));
    let line = context.consoles.wait_for(&unikernel.id, matches);
    let late = || format!("not within {} ms: no line of its console matches {pattern}", unikernel.timeout.as_millis());
    timeout(unikernel.timeout, line).await.map_err(|_| late())
}

async fn repeat<F: Future<Output = Result<(), String>>>(
    patience: Duration,
    mut once: impl FnMut() -> F,
) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSES.0;
    let mut answer = None;
    loop {
        let began = Instant::now();
        let limit = deadline.min(began + ONE_PROBE);
        match timeout_at(limit, once()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => answer = Some(why),
            // The last probe may have had no time to connect: what was answered before says more.
            Err(_) if limit < began + CONNECT && answer.is_some() => {}
            Err(_) => answer = Some(SILENT.into()),
        }
        if Instant::now() + pause >= deadline {
            let why = answer.as_deref().unwrap_or(SILENT);
            return Err(format!("not within {} ms: {why}", patience.as_millis()));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits until Albatross says that it has ended, and says how. Where Albatross does not answer, it may still run.
async fn end(albatross: &Client, unikernel: &Unikernel) -> String {
    let mut pause = LOOKS.0;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LOOKS.1);
        match ended(albatross, unikernel).await {
            Ok(Some(how)) => return how,
            Ok(None) => {}
            Err(error) => debug!(id = %unikernel.id, %error, "whether it runs is not known"),
        }
    }
}

async fn still_there(albatross: &Client, unikernel: &Unikernel) -> Result<(), String> {
    match ended(albatross, unikernel).await {
        Ok(None) => Ok(()),
        Ok(Some(how)) => Err(how),
        Err(error) => Err(format!("Albatross does not say whether it runs: {error}")),
    }
}

/// How it ended; `None` while it runs.
async fn ended(albatross: &Client, unikernel: &Unikernel) -> Result<Option<String>, albatross::Error> {
    Ok(match albatross.unikernel(&unikernel.id).await? {
        Some(running) if running.started == unikernel.started_at => None,
        Some(_) => Some("it ended and was started again by Albatross".into()),
        None => Some("it has exited".into()),
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// The error of probes that are refused for the time `refused` of two seconds, and then get no answer.
    async fn said_after(refused: Duration) -> String {
        let began = Instant::now();
        let probe = || async move {
            if began.elapsed() < refused { Err("connection refused".to_owned()) } else { pending().await }
        };
        repeat(Duration::from_secs(2), probe).await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_probe_that_had_time_is_told_of() {
        let silent = format!("not within 2000 ms: {SILENT}");
        assert_eq!(said_after(Duration::ZERO).await, silent);
        assert_eq!(said_after(Duration::from_secs(1)).await, silent);
        assert_eq!(said_after(Duration::from_millis(1_900)).await, "not within 2000 ms: connection refused");
    }
}
