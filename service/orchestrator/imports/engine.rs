//! Images of the local engine.

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::{Imported, wanted};
use crate::domain::{EngineImage, ImageOptions};
use crate::images::engine::{Request, Work};
use crate::images::worker::Task;

pub(super) async fn import(
    context: &Context,
    image: EngineImage,
    options: &ImageOptions,
    job: &Job,
) -> Result<Imported, Error> {
    let wanted = wanted(context, options);
    let work = Work::Take { image, paths: wanted.paths.clone(), signature: wanted.signature };
    let request = Request { socket: context.sources.engine.clone(), work, label: job.number().to_string() };
    let links = vec![Link::from(Task::Engine(request)), Link::unseen(Task::Taken(wanted))];
    through(context, None, links, job).await
}
