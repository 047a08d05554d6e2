//! Keeps the capabilities that the service has a use for, and drops the rest.

use caps::{CapSet, Capability, CapsHashSet};
use tracing::{debug, warn};

/// - `CAP_NET_ADMIN`: nftables, conntrack, neighbours and devices. The only one without which nothing works.
/// - `CAP_SETUID`, `CAP_SETGID`: to open an image as its caller could. Without them callers hand over descriptors.
/// - `CAP_DAC_OVERRIDE`: for who starts it by hand as root, who expects to reach Albatross's sockets and every image.
///   The unit does not give it: there the sockets' group does the one, and the other is refused with a way out.
const USEFUL: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_DAC_OVERRIDE];

/// Before any thread starts, since capabilities belong to threads.
pub fn keep_what_is_useful() {
    let held = match caps::read(None, CapSet::Permitted) {
        Ok(held) => held,
        Err(error) => {
            return warn!(%error, "the capabilities of this process cannot be read, so none is dropped: {error}");
        }
    };
    if !held.contains(&Capability::CAP_NET_ADMIN) {
        warn!(
            "without CAP_NET_ADMIN nothing can be published: run as root, or give the unit AmbientCapabilities=CAP_NET_ADMIN"
        );
    }
    let kept: CapsHashSet = USEFUL.into_iter().filter(|capability| held.contains(capability)).collect();
    // Effective before permitted: what is not permitted cannot be effective.
    for (set, wanted) in
        [(CapSet::Inheritable, &CapsHashSet::new()), (CapSet::Effective, &kept), (CapSet::Permitted, &kept)]
    {
        if let Err(error) = caps::set(None, set, wanted) {
            debug!(?set, %error, "capabilities stay as they are");
        }
    }
}
