//! Collect.

use super::options::Known;
use super::{InvalidArgument, MAX_ITEMS, Options, RawOptions, at_most, service};
use crate::orchestrator::CollectRequest;

const KNOWN: &[Known] = &[("dry-run", "b"), ("keep", "as"), ("force", "b"), ("keep-previous", "u")];

/// A collection. An empty `keep` is not an absent one: it keeps no publication.
pub fn collect(values: RawOptions) -> Result<CollectRequest, InvalidArgument> {
    let mut options = Options::check("Collect", values, KNOWN)?;
    let keep = options.take::<Vec<String>>("keep")?;
    at_most("keep", keep.as_ref().map_or(0, Vec::len), MAX_ITEMS)?;
    Ok(CollectRequest {
        dry_run: options.take("dry-run")?.unwrap_or(false),
        keep: keep.map(|names| names.iter().map(|name| service(name)).collect()).transpose()?,
        force: options.take("force")?.unwrap_or(false),
        keep_previous: options.take("keep-previous")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::sent;
    use super::*;

    #[test]
    fn an_absent_keep_keeps_all_and_an_empty_one_none() {
        assert_eq!(collect(sent([])).unwrap().keep, None);
        assert!(collect(sent([("keep", Vec::<&str>::new().into())])).unwrap().keep.unwrap().is_empty());
    }

    #[test]
    fn options_arrive_or_are_refused() {
        let request = collect(sent([
            ("dry-run", true.into()),
            ("keep", vec!["a", "b", "a"].into()),
            ("force", true.into()),
            ("keep-previous", 0u32.into()),
        ]))
        .unwrap();
        assert!(request.dry_run && request.force);
        assert_eq!((request.keep.unwrap().len(), request.keep_previous), (2, Some(0)));
        for bad in [("keep", vec!["A"].into()), ("dry-run", 1u32.into()), ("keep-previous", 1u64.into())] {
            assert!(collect(sent([bad])).is_err());
        }
    }
}
