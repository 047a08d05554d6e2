//! The keys that there are, and what each one takes.

use std::path::Path;

use super::reading::{self, Setting, Source};
use super::{Access, Albatross, Build, Collect, Draft, Error, Git, Images, Limits, Publish};
use crate::domain::PortRanges;

/// A day: longer than any connection is worth waiting for.
const LONGEST_DRAIN: u64 = 86_400_000;
/// Ten minutes.
const LONGEST_DEADLINE: u64 = 600_000;
/// A day.
const LONGEST_BUILD: u64 = 86_400_000;

/// Takes over what one file sets.
pub(super) fn read(draft: &mut Draft, file: &Path, text: &str) -> Result<(), Error> {
    let source = Source { file, text };
    let document = source.parse()?;
    for setting in reading::settings(source, "", document.get_ref()) {
        draft.places.add(&setting);
        match setting.name {
            "default-network" => {
                draft.default_network = Some((setting.parsed("a bridge's name")?, setting.place()));
            }
            "network" => draft.networks.read(&setting)?,
            "publish" => publish(&mut draft.config.publish, &setting)?,
            "collect" => collect(&mut draft.config.collect, &setting)?,
            "limits" => limits(&mut draft.config.limits, &setting)?,
            "images" => images(&mut draft.config.images, &setting)?,
            "git" => git(&mut draft.config.git, &setting)?,
            "build" => build(&mut draft.config.build, &setting)?,
            "albatross" => albatross(&mut draft.config.albatross, &setting)?,
            "access" => access(&mut draft.config.access, &setting)?,
            _ => {
                return Err(setting.unknown(&[
                    "default-network",
                    "network",
                    "publish",
                    "collect",
                    "limits",
                    "images",
                    "git",
                    "build",
                    "albatross",
                    "access",
                ]));
            }
        }
    }
    Ok(())
}

fn publish(publish: &mut Publish, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "drain" => publish.drain = setting.milliseconds(0..=LONGEST_DRAIN)?,
            "loopback" => publish.loopback = setting.boolean()?,
            "fall-back" => publish.fall_back = setting.boolean()?,
            "ports" => publish.ports = port_ranges(&setting)?,
            "take-over" => publish.take_over = port_ranges(&setting)?,
            _ => return Err(setting.unknown(&["drain", "loopback", "fall-back", "ports", "take-over"])),
        }
    }
    Ok(())
}

fn port_ranges(setting: &Setting) -> Result<PortRanges, Error> {
    setting
        .list("ports such as \"443\" or \"1024-65535/tcp\"", |one| one.parsed("ports such as \"443\""))
        .map(PortRanges)
}

fn collect(collect: &mut Collect, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "keep-previous" => collect.keep_previous = count(&setting, 0..=1000)?,
            "automatic" => collect.automatic = setting.boolean()?,
            _ => return Err(setting.unknown(&["keep-previous", "automatic"])),
        }
    }
    Ok(())
}

fn limits(limits: &mut Limits, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "image-size" => limits.image_size = setting.size()?,
            "store-size" => limits.store_size = setting.size()?,
            "concurrent-deploys" => limits.concurrent_deploys = count(&setting, 1..=1000)?,
            "job-history" => limits.job_history = count(&setting, 0..=10_000)?,
            _ => return Err(setting.unknown(&["image-size", "store-size", "concurrent-deploys", "job-history"])),
        }
    }
    Ok(())
}

fn images(images: &mut Images, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "docker-socket" => images.docker_socket = setting.checked("an absolute path", is_absolute)?.into(),
            "insecure-registries" => {
                images.insecure_registries = setting.list("registries", |one| {
                    Ok(one.checked("a registry as HOST or HOST:PORT", is_registry)?.to_owned())
                })?;
            }
            "auth-file" => {
                let path = setting
                    .checked("an absolute path, or \"\" for none", |text| text.is_empty() || is_absolute(text))?;
                images.auth_file = (!path.is_empty()).then(|| path.into());
            }
            "keys" => {
                images.keys = setting.list("minisign's public keys", |one| one.parsed("a minisign public key"))?
            }
            "cache-size" => images.cache_size = setting.size()?,
            _ => {
                return Err(setting.unknown(&[
                    "docker-socket",
                    "insecure-registries",
                    "auth-file",
                    "keys",
                    "cache-size",
                ]));
            }
        }
    }
    Ok(())
}

fn git(git: &mut Git, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        // All three end up in configurations of other programs.
        let path = || {
            let what = "an absolute path without '\"', '\\' and control characters, or \"\" for none";
            let path = setting.checked(what, |text| text.is_empty() || is_absolute_and_plain(text))?;
            Ok((!path.is_empty()).then(|| path.into()))
        };
        match setting.name {
            "ssh-key" => git.ssh_key = path()?,
            "known-hosts" => git.known_hosts = path()?,
            "certificates" => git.certificates = path()?,
            _ => return Err(setting.unknown(&["ssh-key", "known-hosts", "certificates"])),
        }
    }
    Ok(())
}

fn build(build: &mut Build, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "mirage-3" => build.bases.mirage_3 = Some(setting.parsed("an image as REGISTRY/NAME:TAG")?),
            "mirage-4" => build.bases.mirage_4 = Some(setting.parsed("an image as REGISTRY/NAME:TAG")?),
            "deadline" => build.deadline = setting.milliseconds(1..=LONGEST_BUILD)?,
            _ => return Err(setting.unknown(&["mirage-3", "mirage-4", "deadline"])),
        }
    }
    Ok(())
}

fn albatross(albatross: &mut Albatross, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "path" => {
                let what = "labels of 1 to 63 letters, digits, '-' and '.' with ':' between them, or \"\" for the root";
                // Albatross keeps labels in lower case and answers with them so.
                albatross.path = setting.checked(what, is_albatross_path)?.to_ascii_lowercase();
            }
            "deadline" => albatross.deadline = setting.milliseconds(1..=LONGEST_DEADLINE)?,
            _ => return Err(setting.unknown(&["path", "deadline"])),
        }
    }
    Ok(())
}

fn access(access: &mut Access, section: &Setting) -> Result<(), Error> {
    for setting in section.table()? {
        match setting.name {
            "group" => access.group = setting.checked("a group's name", is_group)?.to_owned(),
            _ => return Err(setting.unknown(&["group"])),
        }
    }
    Ok(())
}

/// A number that is small enough for any type that counts.
fn count<T: From<u16>>(setting: &Setting, range: std::ops::RangeInclusive<u16>) -> Result<T, Error> {
    let wide = u64::from(*range.start())..=u64::from(*range.end());
    let number = setting.number("a whole number", wide)?;
    Ok(T::from(u16::try_from(number).unwrap_or(*range.end())))
}

fn is_absolute(text: &str) -> bool {
    text.starts_with('/') && !text.contains('\0')
}

fn is_absolute_and_plain(text: &str) -> bool {
    is_absolute(text) && !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\'))
}

fn is_registry(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

fn is_albatross_path(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
    };
    text.is_empty() || text.split(':').all(label)
}

fn is_group(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
