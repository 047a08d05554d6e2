//! What the clients saw against what they had to see.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::clients::Seen;
use crate::open_loop::Asked;
use crate::timeline::Timeline;

/// A unikernel that was killed.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    pub began: Instant,
    /// From here on it surely answered nothing.
    pub ended: Instant,
}

impl Crash {
    /// Whether the connection stood when it died and was without its answer: nobody can save it. A dead one completes no
    /// connection, so that one that stands and has begun before stood before.
    fn had(&self, asked: &Asked) -> bool {
        asked.connected.is_some() && asked.began <= self.ended && asked.ended >= self.began
    }

    /// The time in which a dead one may have been live: until the next switch has ended.
    fn dead(&self, timeline: &Timeline) -> (Instant, Instant) {
        let switched = timeline.switches.iter().map(|switch| switch.ended).find(|ended| *ended >= self.began);
        (self.began, switched.map_or(self.ended, |switched| switched.max(self.ended)))
    }

    /// Whether it was refused while nobody else was live: on a busy machine the service knows of the death before it can
    /// do the switch, and has clients told so at once.
    fn refused(&self, asked: &Asked, timeline: &Timeline) -> bool {
        let (began, ended) = self.dead(timeline);
        let refused = asked.answer.as_ref().is_err_and(|error| error.starts_with("Connection refused"));
        refused && asked.connected.is_none() && asked.began <= ended && asked.ended >= began
    }
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub lost: Vec<String>,
    /// Answered by a version that was not live.
    pub wrong: Vec<String>,
    pub in_flight: usize,
    pub in_the_hands: usize,
    /// Refused between a crash and the end of the switch.
    pub refused: usize,
    pub datagrams_lost: Vec<String>,
    /// Without an answer, and sent before a switch or a crash was over.
    pub datagrams_on_the_way: usize,
    pub broken_downloads: Vec<String>,
    pub set_ups: Vec<Duration>,
    /// The time within which all requests began.
    pub over: Duration,
    /// Requests that waited because the machine is too busy for the rate.
    pub held_back: usize,
    seen: [usize; 3],
}

pub fn judge(timeline: &Timeline, seen: &Seen, crashes: &[Crash]) -> Verdict {
    let mut verdict = Verdict::default();
    let start = seen.requests.iter().map(|asked| asked.began).min().unwrap();
    let end = seen.requests.iter().map(|asked| asked.began).max().unwrap();
    verdict.over = end - start;
    verdict.held_back = seen.held_back;
    verdict.seen = [seen.requests.len(), seen.downloads.len(), seen.datagrams.len()];
    let wrong = |asked: &Asked| {
        let answer = asked.answer.as_ref().ok()?;
        (!timeline.may_answer(answer, asked.began, asked.ended)).then(|| told(start, asked))
    };
    for asked in &seen.requests {
        let in_flight = crashes.iter().any(|crash| crash.had(asked));
        verdict.in_flight += usize::from(in_flight);
        if asked.answer.is_err() {
            if in_flight {
                verdict.in_the_hands += 1;
            } else if crashes.iter().any(|crash| crash.refused(asked, timeline)) {
                verdict.refused += 1;
            } else {
                verdict.lost.push(told(start, asked));
            }
        }
        verdict.wrong.extend(wrong(asked));
        verdict.set_ups.extend(asked.set_up());
    }
    for asked in &seen.datagrams {
        verdict.wrong.extend(wrong(asked).map(|text| format!("UDP {text}")));
        if asked.answer.is_err() {
            if on_the_way(asked, timeline, crashes) {
                verdict.datagrams_on_the_way += 1;
            } else {
                verdict.datagrams_lost.push(told(start, asked));
            }
        }
    }
    for download in &seen.downloads {
        if let Err(error) = &download.outcome {
            verdict.broken_downloads.push(format!(
                "{:?} to {:?}: {error}",
                download.began - start,
                download.ended - start
            ));
        }
    }
    verdict.set_ups.sort_unstable();
    verdict
}

/// Whether a datagram was sent while its flow was deleted, so that its answer finds no way back, or while it still led to
/// one that was dead. What is sent after a switch has no such excuse.
fn on_the_way(datagram: &Asked, timeline: &Timeline, crashes: &[Crash]) -> bool {
    let switches = timeline.switches.iter().map(|switch| (switch.began, switch.ended));
    let crashed = crashes.iter().map(|crash| crash.dead(timeline));
    switches.chain(crashed).any(|(began, ended)| datagram.began <= ended && datagram.ended >= began)
}

/// Times since the beginning, for whoever looks for the reason.
fn told(start: Instant, asked: &Asked) -> String {
    let connected = asked.connected.map(|connected| connected - start);
    format!(
        "began {:?}, connected {connected:?}, ended {:?}: {:?}",
        asked.began - start,
        asked.ended - start,
        asked.answer
    )
}

impl Verdict {
    /// Requests that began, a second.
    pub fn rate(&self) -> f64 {
        self.seen[0] as f64 / self.over.as_secs_f64()
    }

    pub fn requests(&self) -> usize {
        self.seen[0]
    }

    pub fn figures(&self, timeline: &Timeline, rollbacks: usize) -> String {
        let [requests, downloads, datagrams] = self.seen;
        let mut switches = timeline.switches.iter().map(|switch| switch.ended - switch.began).collect::<Vec<_>>();
        switches.sort_unstable();
        let set_up = |part: f64| self.set_ups[((self.set_ups.len() - 1) as f64 * part) as usize];
        let mut text = format!(
            "{requests} requests ({:.0} a second; {} waited for the machine), {} switches ({rollbacks} of them Rollback; {:.1} ms median, {:.1} ms slowest)\n  \
             {} lost, {} answered by one that was not live\n",
            self.rate(),
            self.held_back,
            timeline.switches.len(),
            ms(switches[switches.len() / 2]),
            ms(switches[switches.len() - 1]),
            self.lost.len(),
            self.wrong.len(),
        );
        if self.in_flight > 0 {
            let (hands, flight) = (self.in_the_hands, self.in_flight);
            let refused = self.refused;
            let _ = writeln!(
                text,
                "  {hands} in the hands of the one that crashed, which had {flight}; {refused} refused until the switch"
            );
        }
        let _ = writeln!(
            text,
            "  connections stood after {:.2} ms (median), {:.2} ms (99.9 %), {:.1} ms (slowest)",
            ms(set_up(0.5)),
            ms(set_up(0.999)),
            ms(set_up(1.0))
        );
        let _ = write!(
            text,
            "  {downloads} downloads, {} of them broken; {datagrams} datagrams from one port, {} lost, {} on the way at a switch",
            self.broken_downloads.len(),
            self.datagrams_lost.len(),
            self.datagrams_on_the_way
        );
        for (what, list) in self.defects() {
            text.extend(list.iter().take(5).map(|one| format!("\n  {what}: {one}")));
        }
        text
    }

    fn defects(&self) -> [(&'static str, &[String]); 4] {
        [
            ("lost", &self.lost),
            ("not live", &self.wrong),
            ("datagram lost", &self.datagrams_lost),
            ("broken download", &self.broken_downloads),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.defects().iter().all(|(_, list)| list.is_empty())
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
