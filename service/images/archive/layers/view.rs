//! What layers on top of one another show at one path. Pure: fed with entries, from the upper-most layer down.
//!
//! Of a layer only what it says of the path and the folders above it is kept, so memory depends on the length of the path
//! and not on the size of the image.

use super::super::error::{Error, malformed};
use super::super::header::Kind;
use super::super::path::ImagePath;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of AUFS, which the format comes from.
const AUFS: &[u8] = b".wh..wh.";

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    /// Its place is kept elsewhere.
    File,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Other(Kind),
}

/// What one layer says of a path and the folders above it.
#[derive(Debug)]
pub(super) struct Trace {
    path: ImagePath,
    /// By depth; 0 is the root.
    mentions: Vec<Mention>,
}

#[derive(Debug, Clone, Default)]
struct Mention {
    node: Option<Node>,
    /// What lower layers have here is gone.
    removed: bool,
    /// What lower layers have in this folder is gone.
    emptied: bool,
}

impl Trace {
    pub fn new(path: &ImagePath) -> Self {
        Self { path: path.clone(), mentions: vec![Mention::default(); path.depth() + 1] }
    }

    /// Whether the entry is the path itself.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the layer contradicts itself on the way to the path.
    pub fn note(&mut self, path: &ImagePath, kind: Kind, link: &[u8]) -> Result<bool, Error> {
        let (shared, depth) = (self.path.common(path), path.depth());
        if let Some(name) = path.name()
            && name.starts_with(WHITEOUT)
        {
            self.whiteout(&path.ancestor(depth - 1), name)?;
            return Ok(false);
        }
        if shared < depth {
            self.folders(shared)?;
            return Ok(false);
        }
        self.folders(depth.saturating_sub(1))?;
        let node = match kind {
            Kind::File => Node::File,
            Kind::Directory => Node::Directory,
            Kind::Symlink => Node::Symlink(link.to_vec()),
            Kind::HardLink => Node::HardLink(link.to_vec()),
            other => Node::Other(other),
        };
        self.put(depth, node)?;
        Ok(depth + 1 == self.mentions.len())
    }

    fn whiteout(&mut self, folder: &ImagePath, name: &[u8]) -> Result<(), Error> {
        let shared = self.path.common(folder);
        self.folders(shared)?;
        if shared < folder.depth() || (name.starts_with(AUFS) && name != OPAQUE) {
            return Ok(());
        }
        let removed = name.get(WHITEOUT.len()..).unwrap_or_default();
        if removed.is_empty() {
            return malformed("the image has a whiteout that names nothing");
        }
        if name == OPAQUE {
            if let Some(mention) = self.mentions.get_mut(shared) {
                mention.emptied = true;
            }
        } else if self.path.parts().nth(shared) == Some(removed)
            && let Some(mention) = self.mentions.get_mut(shared + 1)
        {
            mention.removed = true;
        }
        Ok(())
    }

    /// What has something in it is a directory, also where the layer does not say so: a container's file system is
    /// made so, one layer on the other.
    fn folders(&mut self, depth: usize) -> Result<(), Error> {
        (1..=depth).try_for_each(|depth| self.put(depth, Node::Directory))
    }

    fn put(&mut self, depth: usize, node: Node) -> Result<(), Error> {
        let is_directory = node == Node::Directory;
        // The root is one anyway.
        let path = &self.path;
        let contradiction = || malformed(format!("a layer of the image has {} twice", path.ancestor(depth).shown()));
        if depth == 0 {
            return if is_directory { Ok(()) } else { contradiction() };
        }
        let Some(mention) = self.mentions.get_mut(depth) else { return Ok(()) };
        match &mention.node {
            None => mention.node = Some(node),
            // Said again, as some programs do of folders.
            Some(Node::Directory) if is_directory => {}
            Some(_) => return contradiction(),
        }
        Ok(())
    }
}

/// What all layers so far show at a path.
#[derive(Debug)]
pub(super) struct View {
    path: ImagePath,
    /// By depth, without the root.
    decided: Vec<Option<Decided>>,
}

#[derive(Debug, Clone)]
enum Decided {
    Absent,
    /// And the layer that has it.
    Present(Node, usize),
}

/// What a [`View`] comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Lower layers say.
    Undecided,
    Absent,
    /// At that depth of the path, in that layer.
    At {
        depth: usize,
        node: Node,
        layer: usize,
    },
}

impl View {
    pub fn new(path: ImagePath) -> Self {
        let decided = vec![None; path.depth()];
        Self { path, decided }
    }

    pub fn path(&self) -> &ImagePath {
        &self.path
    }

    /// Puts the next lower layer under those before.
    pub fn under(&mut self, trace: Trace, layer: usize) {
        let mut hidden = false;
        for (depth, mention) in trace.mentions.into_iter().enumerate() {
            // What a layer removes is of the layers below it, not of itself.
            let present = mention.node.clone().map(|node| Decided::Present(node, layer));
            hidden |= mention.removed;
            let slot = depth.checked_sub(1).and_then(|at| self.decided.get_mut(at));
            if let Some(slot @ None) = slot {
                *slot = present.or_else(|| hidden.then_some(Decided::Absent));
            }
            hidden |= mention.emptied || mention.node.is_some_and(|node| node != Node::Directory);
        }
    }

    /// The lowest layer was seen: what nobody has mentioned is not there.
    pub fn bottom(&mut self) {
        self.decided.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = Some(Decided::Absent));
    }

    pub fn outcome(&self) -> Outcome {
        for (at, decided) in self.decided.iter().enumerate() {
            let is_last = at + 1 == self.decided.len();
            match decided {
                None => return Outcome::Undecided,
                Some(Decided::Absent) => return Outcome::Absent,
                Some(Decided::Present(Node::Directory, _)) if !is_last => {}
                // A file where a folder was looked for.
                Some(Decided::Present(Node::File | Node::HardLink(_) | Node::Other(_), _)) if !is_last => {
                    return Outcome::Absent;
                }
                Some(Decided::Present(node, layer)) => {
                    return Outcome::At { depth: at + 1, node: node.clone(), layer: *layer };
                }
            }
        }
        Outcome::Absent
    }
}
