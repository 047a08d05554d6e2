//! Images that are built from a repository.

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::Imported;
use crate::domain::{Caller, GitSource, ImageOptions};
use crate::images;

pub(super) async fn import(
    context: &Context,
    source: GitSource,
    options: &ImageOptions,
    caller: &Caller,
    job: &Job,
) -> Result<Imported, Error> {
    let _ = (context, source, options, caller, job);
    Err(images::Error::Unavailable("git+ images cannot be built yet".into()).into())
}
