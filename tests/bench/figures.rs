//! Samples, their medians, and figures beside their limits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::netns::isolated;

static OVER: AtomicBool = AtomicBool::new(false);

pub fn any_over() -> bool {
    OVER.load(Ordering::Relaxed)
}

/// What `body` measures as the host of a fresh network namespace; `None` where it was skipped.
pub fn measured<F: Future<Output = Option<Duration>>>(
    part: &str,
    body: impl FnOnce() -> F + Send + 'static,
) -> Option<Duration> {
    let (sender, receiver) = std::sync::mpsc::channel();
    isolated(part, move |_| async move { sender.send(body().await).unwrap() });
    receiver.recv().ok().flatten()
}

#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub async fn time<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let value = work.await;
        self.push(begun.elapsed());
        value
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// For a person: median, and how far the samples lie apart.
    pub fn summary(&self) -> String {
        let (median, tenth, worst) = (self.median(), self.quantile(0.1), self.quantile(0.9));
        format!("{} median of {} (10 %: {}, 90 %: {})", ms(median), self.0.len(), ms(tenth), ms(worst))
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn longest(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    pub fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) as f64 * part).round() as usize]
    }
}

pub fn ms(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

/// A line that is no figure with a limit.
pub fn note(text: &str) {
    println!("         {text}");
}

/// A figure that may be at most `factor` times what it is compared with.
pub fn at_most(what: &str, figure: Duration, factor: f64, against: &str, reference: Duration) {
    let ratio = figure.as_secs_f64() / reference.as_secs_f64();
    let text = format!("{what}: {} is {ratio:.2} times {against} ({})", ms(figure), ms(reference));
    verdict(ratio <= factor, &format!("{text}; limit {factor} times"));
}

/// A figure that must be `factor` times smaller than what it is compared with.
pub fn faster(what: &str, figure: Duration, factor: f64, against: &str, reference: Duration) {
    let ratio = reference.as_secs_f64() / figure.as_secs_f64();
    let text = format!("{what}: {} is {ratio:.1} times faster than {against} ({})", ms(figure), ms(reference));
    verdict(ratio >= factor, &format!("{text}; limit {factor} times"));
}

pub fn within(what: &str, figure: Duration, limit: Duration) {
    verdict(figure <= limit, &format!("{what}: {}; limit {}", ms(figure), ms(limit)));
}

/// How often something may happen.
pub fn at_most_times(what: &str, count: usize, limit: usize) {
    verdict(count <= limit, &format!("{what}: {count}; limit {limit}"));
}

/// KiB, printed as MiB.
pub fn within_memory(what: &str, figure: u64, limit: u64) {
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    verdict(figure <= limit, &format!("{what}: {}; limit {}", mib(figure), mib(limit)));
}

fn verdict(holds: bool, text: &str) {
    println!("  {}   {text}", if holds { "PASS" } else { "OVER" });
    if !holds {
        OVER.store(true, Ordering::Relaxed);
    }
}
