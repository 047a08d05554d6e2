//! Keeps arguments, which can be secrets, out of what is shown of a console.

use std::collections::HashSet;

use super::template;
use crate::domain::Arguments;

/// Shorter pieces are words and numbers that stand in any line.
const SHORTEST: usize = 6;

/// A run of so many bytes of an argument is blotted out wherever it stands: a console cuts long lines anywhere.
const RUN: usize = 12;

/// What a person reads of a line, in characters.
const LINE: usize = 200;

const BLOT: &str = "[argument]";

/// `lines` with each argument of `arguments`, and the value behind its `=`, blotted out, and each line cut to what a
/// person reads of it. Templates are blotted out by their fixed parts: what was filled in is no secret.
pub fn without_arguments(lines: Vec<String>, arguments: &Arguments) -> Vec<String> {
    let mut pieces = arguments.0.iter().flat_map(|argument| pieces(argument)).collect::<Vec<_>>();
    // The longest first, or a part would leave the rest of the whole standing.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    pieces.dedup();
    let runs = arguments.0.iter().flat_map(|argument| argument.as_bytes().windows(RUN)).collect::<HashSet<_>>();
    let blotted = |line: String| {
        let line = pieces.iter().fold(line, |line, piece| line.replace(piece, BLOT));
        without_runs(&line, &runs).chars().take(LINE).collect()
    };
    lines.into_iter().map(blotted).collect()
}

fn pieces(argument: &str) -> impl Iterator<Item = &str> {
    let value = argument.split_once('=').map(|(_, value)| value);
    let texts = [Some(argument), value].into_iter().flatten();
    let quoting = |c: char| matches!(c, '{' | '}' | '"' | '\'' | '\\');
    // A console shows a line at a time, and a guest that quotes what it prints escapes all but plain letters.
    let whole = texts.clone().flat_map(move |text| text.split(move |c: char| quoting(c) || matches!(c, '\n' | '\r')));
    let plain = texts.flat_map(move |text| text.split(move |c: char| quoting(c) || !c.is_ascii_graphic()));
    whole.chain(plain).filter(|piece| piece.len() >= SHORTEST && !template::PLACEHOLDERS.contains(piece))
}

fn without_runs(line: &str, runs: &HashSet<&[u8]>) -> String {
    let mut secret_until = 0;
    let mut shown = String::with_capacity(line.len());
    for (at, character) in line.char_indices() {
        if line.as_bytes().get(at..at + RUN).is_some_and(|run| runs.contains(run)) {
            if secret_until <= at {
                shown.push_str(BLOT);
            }
            secret_until = at + RUN;
        }
        if secret_until <= at {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echoed_command_line_shows_nothing() {
        let arguments = Arguments(vec!["--password=hunter22".into(), "--ipv4={address}/24".into(), "-v".into()]);
        let lines = vec!["Command line is: '--password=hunter22 -v'".into(), "bad password hunter22".into()];
        let shown = without_arguments(lines, &arguments);
        assert_eq!(shown, ["Command line is: '[argument] -v'", "bad password [argument]"]);
    }

    #[test]
    fn names_of_placeholders_stay() {
        let arguments = Arguments(vec!["--ipv4={address}/24".into(), "--ipv4-gateway={gateway}".into()]);
        let lines = vec!["Solo5: Memory map: 32 MB addressable:".to_string(), "no gateway".to_string()];
        assert_eq!(without_arguments(lines.clone(), &arguments), lines);
    }

    #[test]
    fn nor_does_a_part_of_a_line_that_was_cut() {
        let secret = "0123456789abcdef".repeat(400);
        let arguments = Arguments(vec![format!("--key={secret}"), "--ipv4={address}/24".into()]);
        let lines = vec![secret[7..4000].to_string(), format!("ä{} Addresses: address", &secret[..30])];
        assert_eq!(without_arguments(lines, &arguments), ["[argument]", "ä[argument] Addresses: address"]);
        assert_eq!(without_arguments(vec!["x".repeat(5000)], &arguments)[0].len(), LINE);
    }

    #[test]
    fn neither_do_lines_and_quotes_of_it() {
        let arguments = Arguments(vec!["--key=BEGIN-KEY\nMIIEvQIBADAN secret\npässwörtlich\nEND-OF-KEY".into()]);
        let lines = ["MIIEvQIBADAN secret", r"BEGIN-KEY\nMIIEvQIBADAN", r"p\195\164ssw\195\182rtlich", "END-OF-KEY"];
        let shown = without_arguments(lines.map(str::to_string).to_vec(), &arguments);
        assert_eq!(shown, ["[argument]", r"[argument]\n[argument]", r"p\195\164ssw\195\182[argument]", "[argument]"]);
    }
}
