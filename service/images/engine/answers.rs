//! What the engine answers to a build: lines of JSON, of which each engine writes others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::error::clean;
use super::take::is_id;
use super::trace::{self, Word};

/// Lines that a failed build is reported with.
const LAST: usize = 20;

/// Steps of a build that are kept apart.
const STEPS: usize = 4096;

/// Bytes of a line that has not come to its end.
const LINE: usize = 4096;

#[derive(Debug, Deserialize)]
struct Answer {
    stream: Option<String>,
    error: Option<String>,
    status: Option<String>,
    id: Option<String>,
    #[serde(rename = "progressDetail")]
    progress: Option<Value>,
    aux: Option<Value>,
}

/// What a build has told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The engine's id of what was built.
    pub image: Option<String>,
    pub error: Option<String>,
    last: VecDeque<String>,
    begun: BTreeSet<String>,
    /// What stands in lines that have no end yet, by step.
    open: BTreeMap<String, Vec<u8>>,
}

impl Told {
    /// Hears one of the engine's lines, and returns those of the build. `None` where it is none of the engine's.
    pub fn hear(&mut self, json: &[u8]) -> Option<Vec<String>> {
        let answer: Answer = serde_json::from_slice(json).ok()?;
        let mut lines = Vec::new();
        if let Some(text) = answer.stream {
            self.print(String::new(), text.as_bytes(), &mut lines);
        }
        match (answer.id.as_deref(), answer.aux) {
            (Some("moby.buildkit.trace"), Some(Value::String(trace))) => self.trace(&trace, &mut lines)?,
            (_, Some(Value::Object(aux))) => self.made(aux.get("ID")),
            _ => {}
        }
        // A bar that moves is no line.
        if let Some(status) = answer.status.filter(|_| is_still(answer.progress.as_ref())) {
            let id = answer.id.map(|id| format!("{id}: ")).unwrap_or_default();
            lines.push(format!("{id}{status}"));
        }
        if let Some(error) = answer.error {
            self.error = Some(clean(&error));
        }
        for line in &lines {
            self.keep(line);
        }
        Some(lines)
    }

    fn made(&mut self, id: Option<&Value>) {
        if let Some(id) = id.and_then(Value::as_str).filter(|id| is_id(id)) {
            self.image = Some(id.to_owned());
        }
    }

    fn trace(&mut self, trace: &str, lines: &mut Vec<String>) -> Option<()> {
        for word in trace::read(&BASE64_STANDARD.decode(trace).ok()?)? {
            match word {
                Word::Step { digest, name, started, cached } if started || cached => {
                    if self.begun.len() < STEPS && self.begun.insert(digest) {
                        let cached = if cached { " (cached)" } else { "" };
                        lines.push(format!("{}{cached}", clean(&name)));
                    }
                }
                Word::Step { .. } => {}
                Word::Print { step, text } => self.print(step, &text, lines),
            }
        }
        Some(())
    }

    /// What comes in any pieces, as whole lines.
    fn print(&mut self, step: String, text: &[u8], lines: &mut Vec<String>) {
        if self.open.len() >= STEPS {
            self.open.clear();
        }
        let open = self.open.entry(step).or_default();
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            open.extend_from_slice(piece.get(..LINE.min(piece.len())).unwrap_or_default());
            if piece.ends_with(b"\n") || open.len() >= LINE {
                let line = String::from_utf8_lossy(open).trim_end().to_owned();
                open.clear();
                if !line.is_empty() {
                    lines.push(line);
                }
            }
        }
    }

    fn keep(&mut self, line: &str) {
        self.last.push_back(clean(line));
        if self.last.len() > LAST {
            self.last.pop_front();
        }
    }

    /// What the build failed with, and what it said last.
    pub fn failure(&mut self) -> String {
        let open: Vec<String> = self.open.values().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        for line in open.iter().filter(|line| !line.trim().is_empty()) {
            self.keep(line);
        }
        let why = self.error.take().unwrap_or_else(|| "the engine did not say why, and made no image".into());
        let last: String = self.last.iter().map(|line| format!("\n  {line}")).collect();
        format!("the build failed: {why}{last}")
    }
}

fn is_still(progress: Option<&Value>) -> bool {
    progress.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
}

/// Of which step a line tells, and of how many: `STEP 3/14: …`, `[build 3/14] …`.
pub(super) fn step_of(line: &str) -> Option<(u64, u64)> {
    let step = line.strip_prefix("STEP ").or_else(|| line.strip_prefix("Step "));
    let fraction = match step {
        Some(rest) => rest.split([':', ' ']).next()?,
        None => line.strip_prefix('[')?.split_once(']')?.0.rsplit(' ').next()?,
    };
    let (this, all) = fraction.split_once('/')?;
    let (this, all) = (this.parse().ok()?, all.parse().ok()?);
    (this <= all && all > 0).then_some((this, all))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hear(told: &mut Told, json: &str) -> Vec<String> {
        told.hear(json.as_bytes()).unwrap()
    }

    #[test]
    fn podmans_lines() {
        let mut told = Told::default();
        assert_eq!(hear(&mut told, r#"{"stream":"STEP 1/3: FROM scratch\n"}"#), ["STEP 1/3: FROM scratch"]);
        assert_eq!(hear(&mut told, r#"{"stream":"one"}"#), [""; 0]);
        assert_eq!(hear(&mut told, r#"{"stream":"\ntwo\n"}"#), ["one", "two"]);
        let id = format!("sha256:{}", "5".repeat(64));
        assert_eq!(hear(&mut told, &format!(r#"{{"aux":{{"ID":"{id}"}}}}"#)), [""; 0]);
        assert_eq!(told.image, Some(id));
    }

    #[test]
    fn what_is_pulled() {
        let mut told = Told::default();
        assert_eq!(hear(&mut told, r#"{"status":"Pulling from base","id":"1"}"#), ["1: Pulling from base"]);
        let bar = r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"ab"}"#;
        assert_eq!(hear(&mut told, bar), [""; 0]);
    }

    #[test]
    fn a_failure_ends_with_the_last_lines() {
        let mut told = Told::default();
        for number in 0..30 {
            hear(&mut told, &format!(r#"{{"stream":"line {number}\n"}}"#));
        }
        hear(&mut told, r#"{"stream":"no end"}"#);
        hear(&mut told, r#"{"errorDetail":{"message":"exit code: 3"},"error":"exit code: 3"}"#);
        let failure = told.failure();
        assert!(failure.starts_with("the build failed: exit code: 3\n  line 11\n"), "{failure}");
        assert!(failure.ends_with("line 29\n  no end"), "{failure}");
    }

    #[test]
    fn an_id_is_one() {
        let mut told = Told::default();
        for id in [r#""x""#, "3", r#"{"ID":"--help"}"#, r#"{"ID":5}"#] {
            hear(&mut told, &format!(r#"{{"aux":{id}}}"#));
            assert_eq!(told.image, None);
        }
        assert_eq!(told.hear(b"no json"), None);
        assert_eq!(told.hear(br#"{"id":"moby.buildkit.trace","aux":"/w=="}"#), None);
    }

    #[test]
    fn steps_are_counted() {
        assert_eq!(step_of("STEP 3/14: RUN x"), Some((3, 14)));
        assert_eq!(step_of("Step 3/14 : RUN x"), Some((3, 14)));
        assert_eq!(step_of("[build 3/14] RUN x"), Some((3, 14)));
        assert_eq!(step_of("[3/14] RUN x"), Some((3, 14)));
        assert_eq!(step_of("[internal] load remote build context"), None);
        assert_eq!(step_of("[1/2] STEP 3/14: RUN"), Some((1, 2)));
        assert_eq!(step_of("STEP 5/3:"), None);
        assert_eq!(step_of("exporting layers"), None);
    }
}
