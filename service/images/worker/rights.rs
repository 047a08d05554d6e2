//! What each task needs beyond the descriptors that it was handed.

use std::path::PathBuf;

use super::{Form, Saved, Task};
use crate::domain::GitTransport;
use crate::images::git::{self, Remote};

/// What a worker may, and how much. Nothing, unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rights {
    /// Files and folders that it may read; what is not there does not matter.
    pub read: Vec<PathBuf>,
    /// Folders in which it may do anything but run programs.
    pub write: Vec<PathBuf>,
    /// The folder that descriptor 0 is: to be read.
    pub folder: bool,
    /// May connect to other hosts.
    pub internet: bool,
    /// May connect to sockets of this host, and so to the engine.
    pub engine: bool,
    /// May run programs: git and what git runs.
    pub programs: bool,
    pub limits: Limits,
}

/// How much a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub processor: u64,
    pub descriptors: u64,
}

impl Default for Limits {
    /// The executable, the decoders' windows (8 MiB), buffers; 16 GiB unpack in less time.
    fn default() -> Self {
        Self { memory: 192 << 20, processor: 120, descriptors: 32 }
    }
}

/// Of one that speaks HTTP. Threads reserve much more address space than they use.
const CLIENT: Limits = Limits { memory: 1 << 30, processor: 600, descriptors: 64 };

/// What a resolver and TLS read.
const NETWORK: [&str; 16] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    // Not the whole folders: beside the authorities that are known, hosts keep their own keys.
    "/etc/ssl/certs",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/usr",
];

/// Where programs are, with what they are made of.
pub(super) const PROGRAMS: [&str; 4] = ["/bin", "/lib", "/lib64", "/usr"];

/// What a program reads besides.
const FOR_PROGRAMS: [&str; 4] = ["/etc/ld.so.cache", "/etc/alternatives", "/etc/passwd", "/dev/urandom"];

impl Rights {
    /// Whether what was handed over is all there is.
    pub(super) fn is_nothing(&self) -> bool {
        let Self { read, write, folder, internet, engine, programs, limits: _ } = self;
        read.is_empty() && write.is_empty() && !(*folder || *internet || *engine || *programs)
    }

    fn with(mut self, paths: &[&str]) -> Self {
        self.read.extend(paths.iter().map(PathBuf::from));
        self
    }

    /// Names of hosts, TLS, and connections.
    fn on_the_internet(self) -> Self {
        Self { internet: true, ..self }.with(&NETWORK)
    }

    fn running_programs(self) -> Self {
        // The largest pack is read into memory in part, by each of a few processes.
        let limits = Limits { memory: 4 << 30, processor: 1800, descriptors: 256 };
        // git opens it to write as well, to be sure that it has something to write to.
        let write = vec!["/dev/null".into()];
        Self { programs: true, write, limits, ..self }.with(&FOR_PROGRAMS)
    }
}

impl Task {
    pub(super) fn rights(&self) -> Rights {
        let nothing = Rights::default();
        match self {
            Self::Saved(Saved { form: Form::OciFolder, .. }) => Rights { folder: true, ..nothing },
            Self::Saved(_) | Self::Taken(_) | Self::Inspect => nothing,
            Self::Registry(request) => {
                Rights { write: vec![request.cache.clone()], limits: CLIENT, ..nothing }.on_the_internet()
            }
            Self::Engine(_) => Rights { engine: true, limits: CLIENT, ..nothing },
            Self::Git(request) => git(request),
        }
    }
}

fn git(request: &git::Request) -> Rights {
    let rights = Rights::default().running_programs();
    match request {
        git::Request::Serve { repository } => {
            Rights { read: [rights.read, vec![repository.clone()]].concat(), ..rights }
        }
        git::Request::Resolve(remote) | git::Request::Fetch { remote, .. } => {
            let write = [rights.write.clone(), vec![remote.directory.clone()]].concat();
            let read = rights.read.iter().cloned().chain(means(remote)).collect();
            let rights = Rights { read, write, ..rights };
            if remote.url.transport() == GitTransport::File { rights } else { rights.on_the_internet() }
        }
    }
}

/// Keys and certificates, where the way to the repository needs them.
fn means(Remote { url, access, .. }: &Remote) -> Vec<PathBuf> {
    let files = match url.transport() {
        GitTransport::File => Vec::new(),
        GitTransport::Https => vec![access.certificates.clone()],
        GitTransport::Ssh => {
            let hosts = Some("/etc/ssh/ssh_known_hosts".into());
            vec![access.ssh_key.clone(), access.known_hosts.clone(), hosts]
        }
    };
    files.into_iter().flatten().collect()
}
