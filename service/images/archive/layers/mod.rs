//! One file out of layers that lie on one another, wherever the layers come from.
//!
//! A layer is read to its end before anything of it is believed, and never held in memory or unpacked to a disk. The file
//! that is wanted most is written as it is met, and counts where the layer turns out to be good; any other, which may have
//! to give way to one that is met later, is read once more and compared with what was found.

mod scan;
mod view;

use std::io::{Read, Write};

use super::Found;
use super::digest::Digest;
use super::error::{Error, malformed, shown, unsupported};
use super::limits::Meter;
use super::path::ImagePath;
use scan::{Candidates, Scan, Scanned, Traced};
use view::{Node, Outcome, View};

/// Symbolic links and hard links on the way to one file, as the kernel has it.
const LINKS: usize = 40;

/// One layer, and what it must be.
#[derive(Debug, Clone)]
pub struct Layer {
    /// For messages, e.g. `layer 2 of 3`.
    pub name: String,
    /// Of the layer as it comes.
    pub digest: Option<Digest>,
    /// Bytes of the layer as it comes.
    pub size: Option<u64>,
    /// Of the layer unpacked.
    pub diff_id: Option<Digest>,
}

/// Where layers come from. The upper-most is asked for first and those below the file never, so a source may fetch a layer
/// when it is asked for it; it is asked for one again after a link, and for the one that has the file.
pub trait Open {
    /// The layer with this number from its first byte on, 0 being the lowest. It must be read through
    /// [`Meter::source`].
    ///
    /// # Errors
    /// Any; the search ends with it.
    fn open(&mut self, layer: usize) -> Result<Box<dyn Read + '_>, Error>;
}

/// Where a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    layer: usize,
    /// In the unpacked layer; nothing where the layer is the file.
    position: Option<u64>,
    size: u64,
}

/// A file that was read.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    place: Place,
    /// Nothing where it was written as it was read: nobody reads it again to compare it.
    digest: Option<Digest>,
}

/// Finds the first of `paths` that the image has, the lowest layer being the first of `layers`, and writes it to `output`.
/// What was written counts only when this is `Ok`.
///
/// # Errors
/// See [`Error`].
pub fn extract(
    layers: &[Layer],
    source: &mut dyn Open,
    paths: &[String],
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    check_count(layers.len(), meter)?;
    let mut early = Early { output, written: None };
    let search = Search { layers, source, meter, candidates: Candidates::new(), early: &mut early };
    let (path, seen) = search.run(paths)?;
    let place = seen.place;
    match (early.written, layers.get(place.layer)) {
        (Some(written), _) if written == place => {}
        // What was written cannot be taken back.
        (Some(_), _) => return malformed("the image shows one file and another at the same path"),
        (None, Some(layer)) => scan::copy(layer, source.open(place.layer)?, &seen, meter, early.output)?,
        (None, None) => {}
    }
    Ok(Found { path, size: place.size, image: None, signature: None })
}

/// Where the file goes, and what of it went there before the layer was read to its end.
struct Early<'o> {
    output: &'o mut dyn Write,
    written: Option<Place>,
}

/// Before anything is made of the list.
pub(super) fn check_count(count: usize, meter: &Meter<'_>) -> Result<(), Error> {
    let limit = meter.limits.layers;
    match count {
        0 => malformed("the image has no layers"),
        count if count > limit => {
            Err(Error::TooLarge(format!("the image has {count} layers, more than the limit of {limit}")))
        }
        _ => Ok(()),
    }
}

/// Layer 1 is the lowest.
pub(super) fn name(at: usize, count: usize) -> String {
    format!("layer {} of {count}", at + 1)
}

/// A path that is looked for, and how it came to be.
struct Query<'p> {
    wanted: &'p str,
    path: ImagePath,
    /// The upper-most layer that counts: a hard link is to what its own layer and those below had.
    from: usize,
    /// Names the links gone through, to notice a circle.
    passed: Vec<(ImagePath, usize)>,
    through_hard_link: bool,
}

struct Search<'s, 'o, 'm, 'a> {
    layers: &'s [Layer],
    source: &'s mut dyn Open,
    meter: &'m Meter<'a>,
    candidates: Candidates,
    early: &'s mut Early<'o>,
}

/// What the layers show.
enum Shown {
    /// The only layer is the file itself.
    Whole(Seen),
    At(Vec<Answer>),
}

impl Search<'_, '_, '_, '_> {
    fn run(mut self, paths: &[String]) -> Result<(Option<String>, Seen), Error> {
        let top = self.layers.len() - 1;
        let mut queries = Vec::new();
        for wanted in paths.iter().rev() {
            if wanted.len() > self.meter.limits.path {
                return Err(Error::TooLarge(format!("the path is too long: {}", shown(wanted))));
            }
            let path = ImagePath::absolute(wanted.as_bytes())?;
            let passed = Vec::new();
            queries.push(Query { wanted, path, from: top, passed, through_hard_link: false });
        }
        // The last is the one that is wanted most.
        while !queries.is_empty() {
            let answers = match self.descend(&queries)? {
                Shown::Whole(seen) => return Ok((None, seen)),
                Shown::At(answers) => answers,
            };
            for answer in answers.into_iter().rev() {
                let Some(query) = queries.pop() else { break };
                match (answer.view.outcome(), answer.file) {
                    (Outcome::At { node: Node::File, .. }, Some(file)) => {
                        return Ok((Some(query.wanted.to_owned()), file));
                    }
                    (Outcome::At { depth, node, layer }, _) => {
                        queries.push(query.follow(depth, &node, layer)?);
                        break;
                    }
                    _ if query.passed.is_empty() => {}
                    _ => {
                        return self.not_found(&format!(
                            "{} leads to {}, which is",
                            shown(query.wanted),
                            query.path.shown()
                        ));
                    }
                }
            }
        }
        let wanted: Vec<String> = paths.iter().map(shown).collect();
        self.not_found(&format!("{} is", wanted.join(" or ")))
    }

    /// Goes down the layers until it is known what the most wanted path has that is there at all.
    fn descend(&mut self, queries: &[Query<'_>]) -> Result<Shown, Error> {
        let mut answers: Vec<Answer> =
            queries.iter().map(|query| Answer { view: View::new(query.path.clone()), file: None }).collect();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            if is_known(&answers) {
                break;
            }
            // Asked for, it is the last of those that are.
            let leading = leading(&answers).and_then(|at| queries.get(at)).is_some_and(|query| index <= query.from);
            let mut asked: Vec<&mut Answer> = answers
                .iter_mut()
                .zip(queries)
                .filter(|(answer, query)| index <= query.from && answer.view.outcome() == Outcome::Undecided)
                .map(|(answer, _)| answer)
                .collect();
            if asked.is_empty() {
                continue;
            }
            let paths: Vec<ImagePath> = asked.iter().map(|answer| answer.view.path().clone()).collect();
            let paths: Vec<&ImagePath> = paths.iter().collect();
            let reader = self.source.open(index)?;
            let mut scan = Scan {
                layer,
                index,
                is_only: self.layers.len() == 1,
                paths: &paths,
                leading,
                candidates: &mut self.candidates,
                early: self.early,
                meter: self.meter,
            };
            let traced = match scan.run(reader)? {
                Scanned::Whole(seen) => return Ok(Shown::Whole(seen)),
                Scanned::Tar(traced) => traced,
            };
            for (answer, Traced { trace, file }) in asked.iter_mut().zip(traced) {
                answer.view.under(trace, index);
                answer.file = answer.file.take().or(file);
            }
        }
        if !is_known(&answers) {
            answers.iter_mut().for_each(|answer| answer.view.bottom());
        }
        Ok(Shown::At(answers))
    }

    fn not_found<T>(&self, what: &str) -> Result<T, Error> {
        let listed: Vec<&str> = self.candidates.iter().map(String::as_str).collect();
        let hint = match listed.as_slice() {
            [] => "and nothing else in it looks like a unikernel".to_owned(),
            listed => format!("give image-path one of what looks like a unikernel: {}", listed.join(", ")),
        };
        Err(Error::NotFound(format!("{what} not in the image; {hint}")))
    }
}

struct Answer {
    view: View,
    file: Option<Seen>,
}

/// The most wanted is the last; those that are absent are out of the way.
fn leading(answers: &[Answer]) -> Option<usize> {
    answers.iter().rposition(|answer| answer.view.outcome() != Outcome::Absent)
}

fn is_known(answers: &[Answer]) -> bool {
    let leading = leading(answers).and_then(|at| answers.get(at));
    leading.is_none_or(|answer| answer.view.outcome() != Outcome::Undecided)
}

impl Query<'_> {
    /// What to look for instead.
    fn follow(mut self, depth: usize, node: &Node, layer: usize) -> Result<Self, Error> {
        let wanted = shown(self.wanted);
        self.passed.push((self.path.clone(), self.from));
        let path = match node {
            Node::Symlink(_) if self.through_hard_link && depth == self.path.depth() => {
                return unsupported(format!(
                    "{} is a hard link to a symbolic link, which is not followed",
                    self.wanted
                ));
            }
            Node::Symlink(target) => self.path.ancestor(depth - 1).follow(target, self.path.parts().skip(depth))?,
            Node::HardLink(target) => {
                self.from = layer;
                self.through_hard_link = true;
                ImagePath::absolute(target)?
            }
            Node::Directory => return unsupported(format!("{} is a directory in the image", wanted)),
            Node::File => return malformed(format!("{} has no content", wanted)),
            Node::Other(kind) => return unsupported(format!("{} is {} in the image", wanted, kind.words())),
        };
        let is_circle = self.passed.iter().any(|(passed, from)| *passed == path && *from == self.from);
        if is_circle || self.passed.len() > LINKS {
            return malformed(format!("{} leads through a circle of links, or more than {LINKS}", wanted));
        }
        if path.depth() == 0 {
            return unsupported(format!("{} is a directory in the image", wanted));
        }
        Ok(Self { path, ..self })
    }
}
