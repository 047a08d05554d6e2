//! TEMPORARY stand-in until the real module is merged.

/// Whose rights a path is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}
