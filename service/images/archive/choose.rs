//! Which of several images is meant. Pure.

use std::collections::BTreeSet;

use super::error::{Error, shown};
use super::manifest::{Descriptor, Platform, Saved};

/// Names listed in a message.
const LISTED: usize = 16;

/// The image of an index that is meant: by tag, where one is given, and by platform. `only` demands that there be one
/// image alone; otherwise the first that fits is taken, one for every variant of the processor before the others.
///
/// # Errors
/// [`Error::Choice`] with what there is.
pub(super) fn of_index<'d>(
    manifests: &'d [Descriptor],
    tag: Option<&str>,
    platform: &Platform,
    only: bool,
) -> Result<&'d Descriptor, Error> {
    let tagged: Vec<&Descriptor> =
        manifests.iter().filter(|one| is_image(one) && tag.is_none_or(|tag| has_tag(one, tag))).collect();
    if let (true, Some(tag)) = (tagged.is_empty(), tag) {
        return Err(missing(tag, manifests.iter().flat_map(tags)));
    }
    let mut fitting: Vec<&Descriptor> =
        tagged.iter().filter(|one| one.platform.as_ref().is_none_or(|its| its.fits(platform))).copied().collect();
    // Those that say what they are for go before those that do not.
    fitting.sort_by_key(|one| one.platform.as_ref().map_or(2, |its| u8::from(its.variant.is_some())));
    let Some(first) = fitting.first() else {
        let platforms = tagged.iter().filter_map(|one| one.platform.as_ref()).map(ToString::to_string);
        return Err(Error::Choice(format!("there is no image for {platform}, only for: {}", listed(platforms))));
    };
    // One image with two tags stands there twice.
    if only && fitting.iter().any(|one| one.digest != first.digest) {
        return Err(several_images(fitting.iter().copied().flat_map(tags)));
    }
    Ok(first)
}

/// The image of `docker save` that is meant.
///
/// # Errors
/// [`Error::Choice`] with the tags that there are.
pub(super) fn of_saved(images: Vec<Saved>, tag: Option<&str>) -> Result<Saved, Error> {
    let tags: Vec<String> = images.iter().flat_map(|image| image.repo_tags.0.clone()).collect();
    let mut matching = images
        .into_iter()
        .filter(|image| tag.is_none_or(|tag| image.repo_tags.0.iter().any(|its| familiar(its) == familiar(tag))));
    match (matching.next(), matching.next(), tag) {
        (Some(image), None, _) => Ok(image),
        (None, _, Some(tag)) => Err(missing(tag, tags.into_iter())),
        (None, _, None) => Err(Error::Choice("the archive has no image".to_owned())),
        (Some(_), Some(_), _) => Err(several_images(tags.into_iter())),
    }
}

/// BuildKit and cosign put statements about images in an index, as if they were images.
fn is_image(descriptor: &Descriptor) -> bool {
    let is_statement = descriptor.annotations.as_ref().is_some_and(|its| its.reference_type.is_some());
    let is_of_nothing = descriptor.platform.as_ref().is_some_and(|its| its.os == "unknown");
    !is_statement && !is_of_nothing
}

fn has_tag(descriptor: &Descriptor, tag: &str) -> bool {
    let Some(annotations) = &descriptor.annotations else { return false };
    annotations.ref_name.as_deref() == Some(tag)
        || annotations.image_name.as_deref().is_some_and(|its| familiar(its) == familiar(tag))
}

fn tags(descriptor: &Descriptor) -> impl Iterator<Item = String> {
    let annotations = descriptor.annotations.as_ref();
    let name = annotations.and_then(|its| its.image_name.as_deref().map(familiar).or(its.ref_name.clone()));
    name.into_iter()
}

/// `docker.io/library/NAME` is `NAME:latest` to those who write it.
fn familiar(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains(':') { short.to_owned() } else { format!("{short}:latest") }
}

fn missing(tag: &str, tags: impl Iterator<Item = String>) -> Error {
    Error::Choice(format!("the archive has no image {}, only: {}", shown(tag), listed(tags)))
}

fn several_images(tags: impl Iterator<Item = String>) -> Error {
    Error::Choice(format!("the archive has several images, name one by its tag: {}", listed(tags)))
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: BTreeSet<String> = names.map(shown).collect();
    let all = names.len();
    while names.len() > LISTED {
        names.pop_last();
    }
    let list = names.into_iter().collect::<Vec<_>>().join(", ");
    match all {
        0 => "(none has a name)".to_owned(),
        all if all > LISTED => format!("{list} and {} more", all - LISTED),
        _ => list,
    }
}
