//! Keeps arguments, which can be secrets, out of what is shown of a console.

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
    let texts = [Some(argument), value].into_iter().flatten();
    // A console shows a line at a time, and a guest that quotes what it prints escapes all but plain letters.
    let whole = texts.clone().flat_map(|text| text.split(['{', '}', '"', '\'', '\\', '\n', '\r']));
    let plain = texts
        .flat_map(|text| text.split(|c: char| !c.is_ascii_graphic() || matches!(c, '{' | '}' | '"' | '\'' | '\\')));
    whole.chain(plain).filter(|piece| piece.len() >= SHORTEST)
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
    fn neither_do_lines_and_quotes_of_it() {
        let arguments = Arguments(vec!["--key=BEGIN-KEY\nMIIEvQIBADAN secret\npässwörtlich\nEND-OF-KEY".into()]);
        let lines = ["MIIEvQIBADAN secret", r"BEGIN-KEY\nMIIEvQIBADAN", r"p\195\164ssw\195\182rtlich", "END-OF-KEY"];
        let shown = without_arguments(lines.map(str::to_string).to_vec(), &arguments);
        assert_eq!(shown, ["[argument]", r"[argument]\n[argument]", r"p\195\164ssw\195\182[argument]", "[argument]"]);
    }
}
