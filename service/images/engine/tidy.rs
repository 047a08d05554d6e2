//! Removes what this program has made in the engine, and what was not removed by who made it.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{ContainerSummary, ImageSummary};
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, RemoveContainerOptions, RemoveImageOptions};
use tokio::time::sleep;

use super::LABEL;
use super::client::Client;
use super::error::Error;

/// How often it is looked, and how long after another: an engine that has just been left in the middle of something may
/// come to the end of that first.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// Of which calls.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// The one with this label.
    Call(&'a str),
    /// All but those whose labels begin so.
    Others(&'a str),
}

/// Looks until twice there was nothing.
pub(super) async fn until_clean(client: &Client, of: Of<'_>) -> Result<(), Error> {
    let mut clean = 0;
    for _ in 0..LOOKS {
        clean = if once(client, of).await? { clean + 1 } else { 0 };
        if clean == 2 {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Returns whether there was nothing.
pub(super) async fn once(client: &Client, of: Of<'_>) -> Result<bool, Error> {
    let containers = containers(client, of).await?;
    let mut failed = None;
    for container in &containers {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        let removed = client.ask("remove a container", client.docker.remove_container(container, Some(options))).await;
        failed = removed.err().filter(|error| !error.is_absence()).or(failed);
    }
    let images = images(client, of).await?;
    for image in &images {
        let options = RemoveImageOptions { force: true, ..Default::default() };
        let removed = client.ask("remove an image", client.docker.remove_image(image, Some(options), None)).await;
        failed = removed.err().filter(|error| !error.is_absence()).or(failed);
    }
    failed.map_or(Ok(containers.is_empty() && images.is_empty()), Err)
}

fn filters(of: Of<'_>) -> Option<HashMap<String, Vec<String>>> {
    let label = match of {
        Of::Call(label) => format!("{LABEL}={label}"),
        Of::Others(_) => LABEL.to_owned(),
    };
    Some(HashMap::from([("label".to_owned(), vec![label])]))
}

/// Not all that engines list has what was asked for.
fn is_of(of: Of<'_>, labels: Option<&HashMap<String, String>>) -> bool {
    let value = labels.and_then(|labels| labels.get(LABEL));
    value.is_some_and(|value| match of {
        Of::Call(label) => value == label,
        Of::Others(instance) => !value.starts_with(instance),
    })
}

async fn containers(client: &Client, of: Of<'_>) -> Result<Vec<String>, Error> {
    let options = ListContainersOptions { all: true, filters: filters(of), ..Default::default() };
    let listed = client.ask("list its containers", client.docker.list_containers(Some(options))).await?;
    let ours = listed.into_iter().filter(|container: &ContainerSummary| is_of(of, container.labels.as_ref()));
    Ok(ours.filter_map(|container| container.id).collect())
}

async fn images(client: &Client, of: Of<'_>) -> Result<Vec<String>, Error> {
    let options = ListImagesOptions { all: true, filters: filters(of), ..Default::default() };
    let listed = client.ask("list its images", client.docker.list_images(Some(options))).await?;
    let ours = listed.into_iter().filter(|image: &ImageSummary| is_of(of, Some(&image.labels)));
    Ok(ours.map(|image| image.id).collect())
}
