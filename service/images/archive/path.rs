//! Names within an image: relative to its root, and never out of it.

use super::error::{Error, malformed, shown};

/// `a/b/c`; the empty one is the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct ImagePath(Vec<u8>);

impl ImagePath {
    /// The name of an entry. `./` in front and `/` behind, as most programs write them, are the same name.
    ///
    /// # Errors
    /// [`Error::Malformed`] for absolute names, those with `..` or NUL, and the empty one.
    pub fn entry(name: &[u8]) -> Result<Self, Error> {
        if name.is_empty() {
            return malformed("the image has an entry without a name");
        }
        if name.starts_with(b"/") {
            return malformed(format!("the image has an entry with an absolute name: {}", shown(name)));
        }
        Self::below_root(name)
    }

    /// A path that a person wrote, or the target of a hard link: from the root on, with or without `/` in front.
    ///
    /// # Errors
    /// [`Error::Malformed`] for `..`, NUL and the root itself.
    pub fn absolute(name: &[u8]) -> Result<Self, Error> {
        let path = Self::below_root(name)?;
        if path.0.is_empty() {
            return malformed(format!("{:?} names no file in an image", shown(name)));
        }
        Ok(path)
    }

    fn below_root(name: &[u8]) -> Result<Self, Error> {
        let mut path = Vec::with_capacity(name.len());
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return malformed(format!("the image has a name that leads upwards: {}", shown(name))),
                part if part.contains(&0) => return malformed("the image has a name with a NUL in it"),
                part => push(&mut path, part),
            }
        }
        Ok(Self(path))
    }

    /// Where a symbolic link in the folder `self` leads, and from there on `rest`. `..` at the root stays there, as the
    /// kernel has it.
    ///
    /// # Errors
    /// [`Error::Malformed`] for `..` behind a name: what that is depends on whether the name is a link itself.
    pub fn follow<'a>(&self, target: &[u8], rest: impl Iterator<Item = &'a [u8]>) -> Result<Self, Error> {
        let mut path = if target.starts_with(b"/") { Vec::new() } else { self.0.clone() };
        let mut named = false;
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." if named => {
                    return malformed(format!(
                        "a link leads back up behind a name, which is not followed: {}",
                        shown(target)
                    ));
                }
                b".." => path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                part => {
                    named = true;
                    push(&mut path, part);
                }
            }
        }
        rest.for_each(|part| push(&mut path, part));
        Ok(Self(path))
    }

    /// Its names, from the root on.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    pub fn depth(&self) -> usize {
        self.parts().count()
    }

    /// Its first `depth` names.
    pub fn ancestor(&self, depth: usize) -> Self {
        let mut path = Vec::new();
        self.parts().take(depth).for_each(|part| push(&mut path, part));
        Self(path)
    }

    /// How many names two have in common from the root on.
    pub fn common(&self, other: &Self) -> usize {
        self.parts().zip(other.parts()).take_while(|(ours, theirs)| ours == theirs).count()
    }

    /// The last of its names. The root has none.
    pub fn name(&self) -> Option<&[u8]> {
        self.parts().next_back()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `/a/b`, for messages.
    pub fn shown(&self) -> String {
        format!("/{}", shown(&self.0))
    }
}

fn push(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}
