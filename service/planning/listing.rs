//! Lists in messages for people.

/// The first `most` of `names` with commas between them, and how many more there are; `None` of none.
pub fn listed(names: impl Iterator<Item = impl ToString>, most: usize) -> Option<String> {
    let names = names.map(|name| name.to_string()).collect::<Vec<_>>();
    let (first, rest) = names.split_at(names.len().min(most));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    (!first.is_empty()).then(|| first.join(", ") + &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_says_how_many_are_left_out() {
        assert_eq!(listed(["a", "b"].iter(), 2).as_deref(), Some("a, b"));
        assert_eq!(listed(["a", "b", "c"].iter(), 2).as_deref(), Some("a, b and 1 more"));
        assert_eq!(listed(std::iter::empty::<&str>(), 2), None);
    }
}
