//! Which option a refusal is about.

use super::InvalidArgument;

/// Why an option was refused. In a call its text says all; a manifest shows the place as well.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) option: &'static str,
    /// Which entry of it, from 0 on, for a list of which one is wrong.
    pub(super) entry: Option<usize>,
    pub(super) reason: InvalidArgument,
}

impl From<Refusal> for InvalidArgument {
    fn from(refusal: Refusal) -> Self {
        refusal.reason
    }
}

/// Names the option that `result` is about.
pub(super) fn about<T>(option: &'static str, result: Result<T, InvalidArgument>) -> Result<T, Refusal> {
    result.map_err(|reason| Refusal { option, entry: None, reason })
}

/// Reads every entry of a list.
pub(super) fn each<T, U, C: FromIterator<U>>(
    option: &'static str,
    entries: impl IntoIterator<Item = T>,
    mut read: impl FnMut(T) -> Result<U, InvalidArgument>,
) -> Result<C, Refusal> {
    let refused = |entry| move |reason| Refusal { option, entry: Some(entry), reason };
    entries.into_iter().enumerate().map(|(at, entry)| read(entry).map_err(refused(at))).collect()
}
