//! A file out of an image, by a container that is never started.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use bollard::container::PathStatResponse;
use bollard::models::{ContainerCreateBody, HostConfig, ImageInspect};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, DownloadFromContainerOptions, RemoveContainerOptions,
};
use futures_util::StreamExt;

use super::client::Client;
use super::error::{Error, clean};
use super::{LABEL, left_behind};
use crate::domain::{EngineImage, ImagePath};
use crate::images::worker::Voice;

/// Symbolic links that are followed: as many as the kernel does.
const LINKS: usize = 40;

/// Bytes that are handed on at a time: what a pipe holds.
const PIECE: usize = 64 << 10;

/// Which file.
pub(super) struct Sought<'a> {
    pub paths: &'a [ImagePath],
    /// Also what signs it.
    pub signature: bool,
}

/// The engine's id of the image that `image` names.
pub(super) async fn look_up(client: &Client, image: &EngineImage) -> Result<String, Error> {
    let found = client.ask("look up the image", client.docker.inspect_image(&asked(image))).await;
    match found {
        Err(error) if error.is_absence() => Err(Error::NoImage { image: image.clone() }),
        found => checked(image, &found?),
    }
}

/// Where there is a digest the tag says nothing, and not all engines take both.
fn asked(image: &EngineImage) -> String {
    match image {
        EngineImage::Named(name) if name.digest.is_some() => {
            let mut name = name.clone();
            name.tag = None;
            name.to_string()
        }
        EngineImage::Named(name) => {
            let mut name = name.clone();
            let tag = name.tag().parse().ok();
            name.tag = tag;
            name.to_string()
        }
        EngineImage::Id(id) => id.to_string(),
    }
}

/// An engine may take what looks like an id for the beginning of one, or for a name.
fn checked(image: &EngineImage, found: &ImageInspect) -> Result<String, Error> {
    const DOING: &str = "look up the image";
    let Some(id) = found.id.as_deref().filter(|id| is_id(id)) else {
        return Err(Error::Nonsense { doing: DOING, why: "the image has no id".into() });
    };
    let names_it = match image {
        EngineImage::Id(wanted) => id == wanted.as_str(),
        EngineImage::Named(name) => name.digest.as_ref().is_none_or(|digest| {
            let has = |known: &String| known.rsplit_once('@').is_some_and(|(_, known)| known == digest.as_str());
            id == digest.as_str() || found.repo_digests.iter().flatten().any(has)
        }),
    };
    if names_it { Ok(id.to_owned()) } else { Err(Error::OtherImage { image: image.clone(), found: id.to_owned() }) }
}

pub(super) fn is_id(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Writes the engine's tar of the file to `output`, and that of what signs it.
pub(super) async fn take(
    client: &Client,
    id: &str,
    label: &str,
    sought: &Sought<'_>,
    output: File,
    voice: &mut Voice,
) -> Result<(), Error> {
    // It can be there also where the engine did not say so: it is removed by its name.
    let name = format!("albatross-deployer-{label}");
    let made = match create(client, id, label, &name).await {
        Ok(()) => copy(client, &name, sought, output, voice).await,
        Err(error) => Err(error),
    };
    let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
    let removed = client.ask("remove the container", client.docker.remove_container(&name, Some(options))).await;
    if let Some(error) = removed.err().filter(|error| !error.is_absence()) {
        // What was taken is taken.
        left_behind(voice, "the container that was made to look into the image", &error)?;
    }
    made
}

async fn create(client: &Client, id: &str, label: &str, name: &str) -> Result<(), Error> {
    let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
    let container = ContainerCreateBody {
        image: Some(id.to_owned()),
        // Never run. An image of a unikernel often names no command, and without one there is no container.
        cmd: Some(vec!["/unikernel".to_owned()]),
        labels: Some(HashMap::from([(LABEL.to_owned(), label.to_owned())])),
        network_disabled: Some(true),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..Default::default() }),
        ..Default::default()
    };
    client.ask("make a container of the image", client.docker.create_container(Some(options), container)).await?;
    Ok(())
}

async fn copy(
    client: &Client,
    container: &str,
    sought: &Sought<'_>,
    output: File,
    voice: &mut Voice,
) -> Result<(), Error> {
    // Podman sends it in small pieces.
    let mut output = BufWriter::with_capacity(PIECE, output);
    for path in sought.paths {
        let Some((place, size)) = find(client, container, path.as_path()).await? else { continue };
        voice.step("extracting")?;
        // A tar is more than what is in it.
        let mut tell = |done: u64| voice.progress(done.min(size), Some(size));
        stream(client, container, &place, &mut output, &mut tell).await?;
        if sought.signature {
            let beside = format!("{path}.minisig");
            if let Some((place, _)) = find(client, container, Path::new(&beside)).await? {
                stream(client, container, &place, &mut output, &mut |_| Ok(())).await?;
            }
        }
        return output.flush().map_err(Error::Output);
    }
    let paths: Vec<String> = sought.paths.iter().map(ToString::to_string).collect();
    Err(Error::NoFile { paths: paths.join(" and no ") })
}

/// Where the file of that name is, behind links, and its size. The engine follows links in the container's own folders.
async fn find(client: &Client, container: &str, wanted: &Path) -> Result<Option<(String, u64)>, Error> {
    let mut path = wanted.to_path_buf();
    for _ in 0..=LINKS {
        let shown = path.display().to_string();
        let options = ContainerArchiveInfoOptions { path: shown.clone() };
        let looked = client.docker.get_container_archive_info(container, Some(options));
        let stat = match client.ask("look into the image", looked).await {
            Err(error) if error.is_absence() => return Ok(None),
            // Docker's answer to a path that leads nowhere; without a word, as to every request for a head only.
            Err(Error::Said { status: 500, message, .. }) if message.is_empty() => {
                return Err(Error::Nowhere { path: shown });
            }
            stat => stat?,
        };
        match what(&stat) {
            What::File => return Ok(Some((shown, u64::try_from(stat.size).unwrap_or_default()))),
            What::Link => path = behind(&path, &stat.link_target)?,
            What::Other(what) => return Err(Error::NotAFile { path: shown, what }),
        }
    }
    Err(Error::Links { path: wanted.display().to_string(), limit: LINKS })
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    File,
    Link,
    Other(&'static str),
}

/// By the bits of Go's `os.FileMode`, which are not the kernel's.
fn what(stat: &PathStatResponse) -> What {
    let has = |bit: u32| stat.file_mode & (1 << bit) != 0;
    match () {
        () if has(31) => What::Other("a directory"),
        () if has(27) => What::Link,
        () if has(26) || has(21) => What::Other("a device"),
        () if has(25) => What::Other("a fifo"),
        () if has(24) => What::Other("a socket"),
        () if has(19) => What::Other("of an unknown kind"),
        () => What::File,
    }
}

/// Where a link leads, from the image's root on.
fn behind(link: &Path, target: &str) -> Result<PathBuf, Error> {
    if target.is_empty() || target.len() > 4096 || target.contains('\0') {
        let why = format!("{} leads to {:?}", link.display(), clean(target));
        return Err(Error::Nonsense { doing: "look into the image", why });
    }
    let mut path = link.parent().map(Path::to_path_buf).unwrap_or_default();
    for part in Path::new(target).components() {
        match part {
            Component::RootDir => path = PathBuf::from("/"),
            // At the root it stays there.
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}

/// Copies the engine's tar of `path` as it comes.
async fn stream(
    client: &Client,
    container: &str,
    path: &str,
    output: &mut BufWriter<File>,
    tell: &mut (dyn FnMut(u64) -> Result<(), crate::images::worker::Gone> + Send),
) -> Result<(), Error> {
    const DOING: &str = "copy the file out of the image";
    let options = DownloadFromContainerOptions { path: path.to_owned() };
    let mut tar = std::pin::pin!(client.docker.download_from_container(container, Some(options)));
    let mut done = 0;
    // The connection has a deadline for each piece.
    while let Some(piece) = tar.next().await {
        let piece = piece.map_err(|error| Error::of(DOING, &error))?;
        output.write_all(&piece).map_err(Error::Output)?;
        done += piece.len() as u64;
        tell(done)?;
    }
    Ok(())
}
