//! The configuration file and its fragments, as validated settings.
//!
//! `config.toml` comes first, then `config.toml.d/*.toml` sorted by name; a key of a later file replaces the same key
//! of an earlier one (a list as a whole, a network key by key). What is left out has its default. Anything that is not
//! understood stops the start, and a reload is refused for it: a setting that is ignored in silence is worse than a service
//! that says why it is down.

mod networks;
mod places;
mod reading;
mod sections;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::networks::NetworkDrafts;
use crate::domain::{Network, NetworkName, PortRange, PortRanges};
use crate::images::recipe::BaseImages;
use crate::images::signature::Key;

pub use self::places::Places;

/// More than any configuration that a person writes.
const MOST_BYTES: u64 = 1024 * 1024;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What Deploy takes without `network`: as configured, or the only network of [`networks`](Self::networks).
    pub default_network: Option<NetworkName>,
    /// Sorted by name; empty: the host's bridges that have an address. A gateway that is not configured is `None` here.
    pub networks: Vec<Network>,
    /// Those of `networks` whose bridge, address and forwarding the service is to make.
    pub managed: BTreeSet<NetworkName>,
    pub publish: Publish,
    pub collect: Collect,
    pub limits: Limits,
    pub images: Images,
    pub git: Git,
    pub build: Build,
    pub albatross: Albatross,
    pub access: Access,
}

impl Config {
    /// Says in the log what has no effect yet.
    pub fn warn_of_ignored(&self) {
        if !self.managed.is_empty() {
            tracing::warn!("manage of a network is not acted on by this version: make the bridge");
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// How long a unikernel that was live may take to finish its connections.
    pub drain: Duration,
    /// Published ports are reachable as localhost on the host.
    pub loopback: bool,
    /// When what is live ends and the one before still runs, that one is put live again.
    pub fall_back: bool,
    /// What callers other than root may publish.
    pub ports: PortRanges,
    /// What may be published though a process of the host listens there.
    pub take_over: PortRanges,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collect {
    /// How many earlier unikernels of a service stay for a rollback.
    pub keep_previous: u32,
    /// Collect what has drained without being asked.
    pub automatic: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub image_size: u64,
    /// Bytes of all images together.
    pub store_size: u64,
    pub concurrent_deploys: usize,
    /// How many finished jobs stay to be looked at.
    pub job_history: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub docker_socket: PathBuf,
    /// `HOST:PORT` of registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Docker's and Podman's `auth.json`.
    pub auth_file: Option<PathBuf>,
    /// When there are any, an image needs a signature by one of them.
    pub keys: Vec<Key>,
    /// Bytes.
    pub cache_size: u64,
}

/// With what repositories are reached that are not everybody's. Every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Git {
    /// The private key for git+ssh://.
    pub ssh_key: Option<PathBuf>,
    /// Keys of SSH hosts, besides those of the host.
    pub known_hosts: Option<PathBuf>,
    /// The certificate authorities of git+https://; the host's without.
    pub certificates: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The images in which unikernels are built.
    pub bases: BaseImages,
    /// For one build, with what the engine fetches for it.
    pub deadline: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Albatross {
    /// Labels with `:` between them, in lower case; empty: the root.
    pub path: String,
    /// For one answer.
    pub deadline: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who besides root may call what changes something.
    pub group: String,
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            loopback: true,
            fall_back: false,
            ports: PortRanges(vec![PortRange::ALL]),
            take_over: PortRanges::default(),
        }
    }
}

impl Default for Collect {
    fn default() -> Self {
        Self { keep_previous: 1, automatic: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { image_size: 256 << 20, store_size: 16 << 30, concurrent_deploys: 4, job_history: 64 }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self {
            docker_socket: "/run/docker.sock".into(),
            insecure_registries: Vec::new(),
            auth_file: None,
            keys: Vec::new(),
            cache_size: 2 << 30,
        }
    }
}

impl Default for Build {
    fn default() -> Self {
        Self { bases: BaseImages::default(), deadline: Duration::from_secs(2 * 60 * 60) }
    }
}

impl Default for Albatross {
    fn default() -> Self {
        Self { path: String::new(), deadline: Duration::from_secs(10) }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self { group: "albatross".into() }
    }
}

/// Why there are no settings. The message begins as compilers' do: file, line, key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{}:{line}: {}{message}", file.display(), key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Invalid {
        file: PathBuf,
        /// From 1 on.
        line: usize,
        /// With the tables it stands in, e.g. `network.br0.gateway`; `None` where the text is no TOML.
        key: Option<String>,
        message: String,
    },
    /// A key that no file has, and whose default cannot be.
    #[error("{}: {key}: {message}", file.display())]
    Absent { file: PathBuf, key: String, message: String },
}

/// Reads `file` and the fragments of the folder that has its name with `.d` appended. Neither has to exist.
///
/// Blocks on the file system.
pub fn load(file: &Path) -> Result<Config, Error> {
    load_with_places(file).map(|(config, _)| config)
}

/// As [`load`], with the line of each key.
pub fn load_with_places(file: &Path) -> Result<(Config, Places), Error> {
    let mut draft = Draft { places: Places::new(file), ..Draft::default() };
    for file in std::iter::once(file.to_owned()).chain(fragments(file)?) {
        if let Some(text) = read(&file)? {
            sections::read(&mut draft, &file, &text)?;
        }
    }
    draft.finish()
}

/// The settings while files are read; what concerns several keys is judged when all are.
#[derive(Debug, Default)]
struct Draft {
    config: Config,
    default_network: Option<(NetworkName, reading::Place)>,
    networks: NetworkDrafts,
    places: Places,
}

impl Draft {
    fn finish(self) -> Result<(Config, Places), Error> {
        let Self { mut config, default_network, networks, places } = self;
        (config.networks, config.managed) = networks.finish()?;
        if let Some((name, place)) = default_network {
            let known = config.networks.is_empty() || config.networks.iter().any(|network| network.name == name);
            if !known {
                let tables = networks::names(&config.networks);
                let message = format!("there is no table [network.{name}]: add it, or name one of {tables}");
                return Err(place.invalid(message));
            }
            config.default_network = Some(name);
        } else if let [only] = &config.networks[..] {
            config.default_network = Some(only.name.clone());
        }
        Ok((config, places))
    }
}

/// `FILE.d/*.toml` sorted by name, without hidden ones.
fn fragments(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let unreadable = |source| Error::Unreadable { file: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file; `None` where there is no such file.
fn read(file: &Path) -> Result<Option<String>, Error> {
    let unreadable = |source| Error::Unreadable { file: file.to_owned(), source };
    let opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    opened.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(unreadable(io::Error::other("it is longer than 1 MiB")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::Invalid { file: file.to_owned(), line, key: None, message: "expected text in UTF-8".into() }
    })
}

#[cfg(test)]
mod tests;
