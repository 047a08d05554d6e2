//! Which commit a reference is: what `git ls-remote` is asked, and what it answers.

use super::Error;
use crate::domain::{CommitId, GitRef};

/// The whole names that `reference` can stand for.
pub(super) fn asked(reference: Option<&GitRef>) -> Vec<String> {
    match reference.map(GitRef::as_str) {
        None | Some("HEAD") => vec!["HEAD".into()],
        // With ^{}: the commit of a tag that is an object of its own.
        Some(whole) if whole.starts_with("refs/") => vec![whole.into(), format!("{whole}^{{}}")],
        Some(name) => {
            vec![format!("refs/heads/{name}"), format!("refs/tags/{name}"), format!("refs/tags/{name}^{{}}")]
        }
    }
}

/// The commit in `answer`, lines of a commit, a tab and a name. There are others in it: git takes a name for the end of
/// a longer one.
pub(super) fn chosen(answer: &[u8], reference: Option<&GitRef>) -> Result<CommitId, Error> {
    let unreadable = || Error::Answer { what: "ls-remote" };
    let answer = std::str::from_utf8(answer).map_err(|_| unreadable())?;
    let asked = asked(reference);
    let found = |name: &String| {
        let mut lines = answer.lines().filter_map(|line| line.split_once('\t'));
        lines.find_map(|(commit, found)| (found == name).then_some(commit))
    };
    let found: Vec<_> = asked.iter().map(found).collect();
    let commit = match (found.as_slice(), reference) {
        ([Some(_), tag, peeled], Some(reference)) if tag.or(*peeled).is_some() => {
            return Err(Error::Ambiguous(reference.clone()));
        }
        // What a tag stands for comes last.
        (found, _) => found.iter().rev().find_map(|found| *found),
    };
    let absent = || reference.map_or(Error::Empty, |reference| Error::NoReference(reference.clone()));
    commit.ok_or_else(absent)?.parse().map_err(|_| unreadable())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn choose(answer: &str, reference: &str) -> Result<String, Error> {
        let reference = (!reference.is_empty()).then(|| reference.parse().unwrap());
        chosen(answer.as_bytes(), reference.as_ref()).map(String::from)
    }

    #[test]
    fn branches_tags_and_head_are_chosen() {
        let answer = format!("{A}\trefs/heads/other/main\n{B}\trefs/heads/main\n");
        assert_eq!(choose(&answer, "main").unwrap(), B);
        assert_eq!(choose(&answer, "refs/heads/main").unwrap(), B);
        let answer = format!("{A}\trefs/tags/v1\n{B}\trefs/tags/v1^{{}}\n");
        assert_eq!(choose(&answer, "v1").unwrap(), B);
        assert_eq!(choose(&answer, "refs/tags/v1").unwrap(), B);
        assert_eq!(choose(&format!("{A}\trefs/tags/v1\n"), "v1").unwrap(), A);
        assert_eq!(choose(&format!("{A}\tHEAD\n{B}\trefs/remotes/x/HEAD\n"), "").unwrap(), A);
        assert_eq!(choose(&format!("{A}\tHEAD\n"), "HEAD").unwrap(), A);
    }

    #[test]
    fn what_is_not_there_or_not_clear_is_said() {
        assert!(matches!(choose("", ""), Err(Error::Empty)));
        assert!(matches!(choose("", "main"), Err(Error::NoReference(_))));
        assert!(matches!(choose(&format!("{A}\trefs/heads/x/main\n"), "main"), Err(Error::NoReference(_))));
        let both = format!("{A}\trefs/heads/v1\n{B}\trefs/tags/v1\n");
        assert!(choose(&both, "v1").unwrap_err().to_string().contains("refs/tags/v1"));
        assert_eq!(choose(&both, "refs/heads/v1").unwrap(), A);
        for answer in
            ["x\trefs/heads/main\n".into(), format!("{A}{A}\trefs/heads/main\n"), "--x\trefs/heads/main".into()]
        {
            assert!(matches!(choose(&answer, "main"), Err(Error::Answer { .. })));
        }
        assert!(matches!(chosen(b"\xff\n", None), Err(Error::Answer { .. })));
    }
}
