//! No line of the log may leave to its fields what an operator has to know: `journalctl` shows the message alone.

use std::fs;
use std::path::{Path, PathBuf};

/// Fields whose value the message has in other words: the note of what is degraded (`subject`), `call` (`method` and
/// `subject`), a switch (`from` and `to`). `causes` are for the service's developers.
const IN_OTHER_WORDS: [&str; 5] = ["subject", "method", "from", "to", "causes"];

#[test]
fn every_message_names_what_its_fields_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("service");
    let mut found = 0;
    let mut faults = Vec::new();
    for file in rust_files(&root) {
        let source = fs::read_to_string(&file).unwrap();
        for (line, arguments) in log_macros(&source) {
            found += 1;
            let missing = unnamed_fields(&arguments);
            if !missing.is_empty() {
                let place = file.strip_prefix(&root).unwrap().display();
                faults.push(format!("service/{place}:{line}: the message lacks {}: {arguments}", missing.join(", ")));
            }
        }
    }
    assert!(found > 60, "only {found} lines of the log were found: are they written otherwise now?");
    assert!(
        faults.is_empty(),
        "write a sentence with {{FIELD}} for each field, as in warn!(%error, %service, \"service {{service}}: {{error}}\"):\n{}",
        faults.join("\n")
    );
}

#[test]
fn fields_that_no_message_names_are_found() {
    let source = r#"info!(%id, "deployed"); warn!(%error, stack = %self.name, "stack {stack}: {error}"); debug!(%error, "no");
        error!(?half_done, "not {yet}", yet = "yet"); info!(a = f(", {a}"), "{a:?}"); info!("plain (really)"); info!(%id);"#;
    let missing = log_macros(source).into_iter().map(|(_, arguments)| unnamed_fields(&arguments)).collect::<Vec<_>>();
    let none: Vec<String> = Vec::new();
    let only = |field: &str| vec![field.to_string()];
    assert_eq!(missing, [only("id"), none.clone(), only("half_done"), none.clone(), none, only("id")]);
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The line number and the arguments of each `info!`, `warn!` and `error!`.
fn log_macros(source: &str) -> Vec<(usize, String)> {
    let mut macros = ["info!(", "warn!(", "error!("]
        .iter()
        .flat_map(|name| source.match_indices(name).map(|(at, _)| (at, at + name.len())))
        .filter(|(at, _)| !source[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
        .collect::<Vec<_>>();
    macros.sort_unstable();
    let line = |at: usize| source[..at].lines().count().max(1);
    macros.into_iter().map(|(at, begin)| (line(at), split(&source[begin..]).join(", "))).collect()
}

fn unnamed_fields(arguments: &str) -> Vec<String> {
    let arguments = split(arguments);
    let is_message = |argument: &String| argument.starts_with('"');
    let message = arguments.iter().find(|argument| is_message(argument)).cloned().unwrap_or_default();
    let fields = arguments.iter().take_while(|argument| !is_message(argument));
    let names = fields.map(|field| field.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']));
    let named = |name: &str| message.contains(&format!("{{{name}}}")) || message.contains(&format!("{{{name}:"));
    names.filter(|name| !IN_OTHER_WORDS.contains(name) && !named(name)).map(String::from).collect()
}

/// Splits at commas up to the parenthesis that closes, not within strings and inner parentheses.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth, mut quoted) = (Vec::new(), String::new(), 0_usize, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => {
                part.push(character);
                part.extend(characters.next());
                continue;
            }
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(std::mem::take(&mut part).trim().to_string());
                continue;
            }
            _ => {}
        }
        part.push(character);
    }
    parts.push(part.trim().to_string());
    parts.retain(|part| !part.is_empty());
    parts
}
