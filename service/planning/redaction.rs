//! Keeps arguments, which can be secrets, out of what is shown of a console.

use super::template;
use crate::domain::Arguments;

/// Shorter pieces are words and numbers that stand in any line.
const SHORTEST: usize = 6;

/// `lines` with each argument of `arguments`, and the value behind its `=`, blotted out. Templates are blotted out by
/// their fixed beginning: what was filled in is no secret.
pub fn without_arguments(lines: Vec<String>, arguments: &Arguments) -> Vec<String> {
    let mut pieces = arguments.0.iter().flat_map(|argument| pieces(argument)).collect::<Vec<_>>();
    // The longest first, or a part would leave the rest of the whole standing.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    let blotted = |line: String| pieces.iter().fold(line, |line, piece| line.replace(piece, "[argument]"));
    lines.into_iter().map(blotted).collect()
}

fn pieces(argument: &str) -> impl Iterator<Item = &str> {
    let value = argument.split_once('=').map(|(_, value)| value);
    let parts = [Some(argument), value].into_iter().flatten().flat_map(|text| text.split(['{', '}', '"', '\'']));
    // The name of a placeholder is no secret, and a word like any other.
    parts.filter(|part| part.len() >= SHORTEST && !template::NAMES.contains(part))
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
}
