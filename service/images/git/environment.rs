//! What git is told: its environment, its configuration, and SSH's.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::{Connection, Error, storing};
use crate::domain::{GitTransport, GitUrl};

/// With what a repository is reached that is not everybody's. A path is absolute, without '"' and control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The private key for `git+ssh://`; none is tried without.
    pub ssh_key: Option<PathBuf>,
    /// Keys of SSH hosts, besides /etc/ssh/ssh_known_hosts. A host that is in neither is refused: there is nobody to
    /// ask, and a service that takes any host's word once takes it from the wrong one that once.
    pub known_hosts: Option<PathBuf>,
    /// The certificate authorities of `git+https://`; the system's without.
    pub certificates: Option<PathBuf>,
}

/// Where Debian and people's own installations have git and ssh.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The private folder, with the configuration in it.
pub(super) struct Environment {
    directory: PathBuf,
    protocol: &'static str,
    remote: String,
}

/// What git calls the protocol in which a repository is spoken with.
fn protocol(transport: GitTransport) -> &'static str {
    match transport {
        GitTransport::Https | GitTransport::Ssh => transport.scheme(),
        // Over a descriptor: who reads the repository is another, with the rights of who asked for it.
        GitTransport::File => "fd",
    }
}

impl Environment {
    /// `connection` leads to a repository of this host.
    pub(super) fn write(
        directory: &Path,
        url: &GitUrl,
        access: &Access,
        connection: Option<&Connection>,
    ) -> Result<Self, Error> {
        let remote = connection.map_or_else(|| url.as_str().into(), Connection::url);
        let environment = Self { directory: directory.into(), protocol: protocol(url.transport()), remote };
        let files = [
            (environment.git_configuration(), git_configuration(url.transport(), access)),
            (environment.ssh_configuration(), ssh_configuration(access)),
        ];
        for (path, text) in files {
            fs::write(&path, text).map_err(|error| storing("write", &path, error))?;
        }
        Ok(environment)
    }

    /// What git calls the repository.
    pub(super) fn remote(&self) -> &str {
        &self.remote
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.directory.join("repository")
    }

    fn git_configuration(&self) -> PathBuf {
        self.directory.join("gitconfig")
    }

    fn ssh_configuration(&self) -> PathBuf {
        self.directory.join("ssh_config")
    }

    /// `git`, which knows nothing of who runs it, asks nobody, and speaks one protocol.
    pub(super) fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.env_clear().current_dir(&self.directory);
        git.env("PATH", PATH).env("LC_ALL", "C").env("HOME", &self.directory).env("XDG_CONFIG_HOME", &self.directory);
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", self.git_configuration());
        git.env("GIT_ATTR_NOSYSTEM", "1").env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_NO_LAZY_FETCH", "1");
        git.env("GIT_ALLOW_PROTOCOL", self.protocol).env("GIT_PROTOCOL_FROM_USER", "0");
        git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "/bin/false").env("SSH_ASKPASS_REQUIRE", "never");
        // A shell reads it, in the private folder: no word of it is anybody's to choose.
        git.env("GIT_SSH_COMMAND", "ssh -F ./ssh_config").env("GIT_SSH_VARIANT", "ssh");
        git
    }

    /// `git`, in the repository that [`Self::repository`] names and in no other that it could find.
    pub(super) fn in_repository(&self) -> Command {
        let mut git = self.git();
        git.arg("--git-dir").arg(self.repository());
        git
    }

    /// Makes an empty repository. `git init` would change modes of files, which a worker must not.
    ///
    /// Its attributes make `git archive` leave files as they were committed: they outrank those of the tree, which could
    /// leave files out, write the date into them, or name a filter.
    pub(super) fn make_repository(&self) -> Result<(), Error> {
        let repository = self.repository();
        for folder in ["objects", "refs", "info"] {
            let folder = repository.join(folder);
            fs::create_dir_all(&folder).map_err(|error| storing("make", &folder, error))?;
        }
        let attributes = "* -export-ignore -export-subst -text -eol -ident -filter -working-tree-encoding\n";
        for (file, text) in [
            ("HEAD", "ref: refs/heads/main\n"),
            ("config", "[core]\n\trepositoryFormatVersion = 0\n\tbare = true\n"),
            ("info/attributes", attributes),
        ] {
            let file = repository.join(file);
            fs::write(&file, text).map_err(|error| storing("write", &file, error))?;
        }
        Ok(())
    }
}

fn git_configuration(transport: GitTransport, access: &Access) -> String {
    let mut text = String::from(
        "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\taskPass = /bin/false\n\tbigFileThreshold = 1m\n\
         [credential]\n\thelper =\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[submodule]\n\trecurse = false\n\
         [pack]\n\tthreads = 1\n[transfer]\n\tfsckObjects = true\n\tbundleURI = false\n\
         [fetch]\n\tunpackLimit = 1\n\trecurseSubmodules = false\n[tar]\n\tumask = 0022\n\
         [http]\n\tsslVerify = true\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n[protocol]\n\tversion = 2\n\tallow = never\n",
    );
    // Writing to a String cannot fail. Mistakes of old programs that mean nothing are no reason to refuse a commit.
    for harmless in ["zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate", "missingTaggerEntry"] {
        let _ = writeln!(text, "[fetch \"fsck\"]\n\t{harmless} = ignore");
    }
    let _ = writeln!(text, "[protocol \"{}\"]\n\tallow = always", protocol(transport));
    if let Some(path) = &access.certificates {
        let _ = writeln!(text, "[http]\n\tsslCAInfo = \"{}\"", path.display());
    }
    text
}

fn ssh_configuration(access: &Access) -> String {
    let mut text = String::from(
        "BatchMode yes\nStrictHostKeyChecking yes\nUpdateHostKeys no\nConnectTimeout 30\nServerAliveInterval 30\n\
         IdentitiesOnly yes\nIdentityAgent none\nForwardAgent no\nForwardX11 no\nClearAllForwardings yes\n\
         PermitLocalCommand no\nProxyCommand none\nControlMaster no\nControlPath none\n\
         GlobalKnownHostsFile /etc/ssh/ssh_known_hosts\n",
    );
    let file = |path: &Option<PathBuf>| path.as_ref().map_or("none".into(), |path| format!("\"{}\"", path.display()));
    let _ = writeln!(text, "UserKnownHostsFile {}", file(&access.known_hosts));
    let _ = writeln!(text, "IdentityFile {}", file(&access.ssh_key));
    text
}
