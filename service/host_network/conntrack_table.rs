//! How full the table of tracked connections is.

use crate::domain::ConntrackFill;

const FOLDER: &str = "/proc/sys/net/netfilter";

/// As the kernel counts its connections now; `None` where none are tracked. Out of the kernel's memory: nothing to wait
/// for, and no walk of the table.
pub fn conntrack_fill() -> Option<ConntrackFill> {
    let number = |name: &str| std::fs::read_to_string(format!("{FOLDER}/{name}")).ok()?.trim().parse().ok();
    Some(ConntrackFill { entries: number("nf_conntrack_count")?, limit: number("nf_conntrack_max")? })
}
