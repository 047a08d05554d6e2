//! Images that were saved on this host.

use std::path::PathBuf;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::{Imported, wanted};
use crate::domain::{Caller, ImageOptions, LayoutName, SavedImage};
use crate::images;
use crate::images::worker::{Assignment, Form, Saved, Task};

/// Out of an archive, opened as the caller could.
pub(super) async fn from_file(
    context: &Context,
    path: PathBuf,
    form: Form,
    name: Option<String>,
    options: &ImageOptions,
    caller: &Caller,
    job: &Job,
) -> Result<Imported, Error> {
    let archive = images::open_as(path, caller).await?;
    let task = Task::Saved(Saved { form, name, wanted: wanted(context, options) });
    through(context, &context.sources.near, Some(archive.into()), vec![Link::from(task)], job).await
}

/// Out of a folder: the files in it are opened by a worker that has the caller's rights.
pub(super) async fn from_folder(
    context: &Context,
    SavedImage { path, name }: SavedImage<LayoutName>,
    options: &ImageOptions,
    caller: &Caller,
    job: &Job,
) -> Result<Imported, Error> {
    let folder = images::open_folder_as(path, caller).await?;
    let name = name.map(|name| name.to_string());
    let task = Task::Saved(Saved { form: Form::OciFolder, name, wanted: wanted(context, options) });
    let link = Link::from(Assignment { task, caller: Some(caller.clone()) });
    through(context, &context.sources.near, Some(folder.into()), vec![link], job).await
}
