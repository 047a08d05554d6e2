//! Whose the table is.
//!
//! A table with the flag *owner* belongs to the netlink socket that made it: `nft flush ruleset` of others passes it
//! over, and every other change by others gets EPERM. With *persist* besides, it stays when that socket goes (the
//! service ends, or is killed) as an orphan, which has this flag alone: packets do not notice, anybody may change it, and
//! whoever names both flags takes it over as it is. A table without flags cannot be given any; it has to be made anew.

use super::super::kernel;

/// `nft flush ruleset` passes it over.
const OWNER: u32 = 2;
/// It stays when its owner goes.
const PERSIST: u32 = 4;

/// Whether the table is to belong to the service alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Others cannot change the table while the service runs.
    Owned,
    /// Anybody may change the table; what they do is put right.
    Shared,
}

impl Ownership {
    /// What this kernel can do. With the feature `fault-injection`, `ALBATROSS_DEPLOYER_TABLE=shared` says otherwise.
    pub fn here() -> Self {
        if wanted_shared() {
            return Self::Shared;
        }
        // *persist* came with 6.9. A batch that tries it would fail before, and a failed batch makes those after it slow on
        // some kernels.
        if kernel::is_at_least(6, 9) { Self::Owned } else { Self::Shared }
    }

    /// NFTA_TABLE_FLAGS of a table that is made. `None`: without the attribute.
    pub(super) fn flags(self) -> Option<u32> {
        (self == Self::Owned).then_some(OWNER | PERSIST)
    }

    /// What has to come before a change of a table with these flags and this owner, by the socket of `own_port`.
    pub(super) fn claim(self, flags: u32, owner: Option<u32>, own_port: u32) -> Claim {
        match (self, owner) {
            (_, Some(port)) if port != own_port => Claim::Wait { port },
            (Self::Owned, None) if flags & PERSIST == 0 => Claim::Rebuild,
            (Self::Owned, None) => Claim::Adopt,
            (Self::Owned, Some(_)) | (Self::Shared, _) => Claim::Keep,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is held as it should be.
    Keep,
    /// It is an orphan. In a batch of its own: the kernel takes no change of a base chain in the batch that adopts.
    Adopt,
    /// It can belong to nobody.
    Rebuild,
    /// It belongs to this netlink port until that closes.
    Wait { port: u32 },
}

#[cfg(feature = "fault-injection")]
fn wanted_shared() -> bool {
    std::env::var_os("ALBATROSS_DEPLOYER_TABLE").is_some_and(|table| table == "shared")
}

#[cfg(not(feature = "fault-injection"))]
fn wanted_shared() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_claimed_by_whose_it_is() {
        use Ownership::{Owned, Shared};
        for (ownership, flags, owner, claim) in [
            (Owned, OWNER | PERSIST, Some(7), Claim::Keep),
            (Owned, PERSIST, None, Claim::Adopt),
            (Owned, PERSIST | 1, None, Claim::Adopt),
            (Owned, 0, None, Claim::Rebuild),
            (Owned, OWNER | PERSIST, Some(8), Claim::Wait { port: 8 }),
            (Owned, OWNER, Some(8), Claim::Wait { port: 8 }),
            (Shared, 0, None, Claim::Keep),
            (Shared, PERSIST, None, Claim::Keep),
            (Shared, OWNER, Some(8), Claim::Wait { port: 8 }),
        ] {
            assert_eq!(ownership.claim(flags, owner, 7), claim, "{ownership:?} {flags} {owner:?}");
        }
    }
}
