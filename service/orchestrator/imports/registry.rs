//! Images of registries.

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::{Imported, wanted};
use crate::domain::{ImageName, ImageOptions};
use crate::images::registry::Request;
use crate::images::worker::Task;

pub(super) async fn import(
    context: &Context,
    image: ImageName,
    options: &ImageOptions,
    job: &Job,
) -> Result<Imported, Error> {
    let sources = &context.sources;
    let registry = image.registry.as_ref().map(ToString::to_string).unwrap_or_default();
    let request = Request {
        insecure: sources.insecure_registries.contains(&registry),
        image,
        credential: None,
        cache: sources.cache.clone(),
        cache_limit: sources.cache_limit,
        wanted: wanted(context, options),
    };
    through(context, None, vec![Link::from(Task::Registry(request))], job).await
}
