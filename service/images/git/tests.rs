//! Against real repositories: over file://, and over HTTPS where there is a server.
#![allow(clippy::print_stderr)] // Whoever runs the tests is to see what was skipped.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;

#[path = "../../../tests/support/git_servers.rs"]
mod git_servers;
mod https;

/// A repository, the folder in which it is, and nothing of who runs the tests.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    /// With one commit on main.
    fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        repository.git(&["init", "-q", "-b", "main", "."]);
        repository.write("config.ml", "let () = register \"web\" []\n");
        repository.commit();
        repository
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.org");
        }
        let output = git.current_dir(self.folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// All that is there, as a commit.
    fn commit(&self) -> String {
        self.git(&["add", "-A", "-f", "."]);
        self.git(&["commit", "-q", "--no-verify", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn url(&self) -> String {
        format!("file://{}", self.folder.path().display())
    }

    fn take(&self, reference: &str) -> Result<Taken, Error> {
        take(&self.url(), reference, &Wishes::default())
    }
}

struct Wishes {
    access: Access,
    limits: Limits,
    patience: Duration,
    stop: AtomicBool,
}

impl Default for Wishes {
    fn default() -> Self {
        let limits = Limits { disk: 8 << 20, tree: 8 << 20, entries: 100 };
        Self { access: Access::default(), limits, patience: Duration::from_secs(30), stop: AtomicBool::new(false) }
    }
}

/// What came of a fetch.
#[derive(Debug)]
struct Taken {
    commit: String,
    /// Kind, name and contents of every entry.
    files: Vec<(u8, String, Vec<u8>)>,
    said: Vec<String>,
}

impl Taken {
    fn names(&self) -> Vec<&str> {
        self.files.iter().map(|(_, name, _)| name.as_str()).collect()
    }

    fn file(&self, name: &str) -> &[u8] {
        &self.files.iter().find(|(_, found, _)| found == name).unwrap().2
    }
}

fn take(url: &str, reference: &str, wishes: &Wishes) -> Result<Taken, Error> {
    let directory = tempfile::tempdir().unwrap();
    let (url, reference) = (url.parse().unwrap(), (!reference.is_empty()).then(|| reference.parse().unwrap()));
    let mut said = Vec::new();
    let mut report = |report: Report<'_>| said.push(format!("{report:?}"));
    let mut fetch = Fetch {
        url: &url,
        reference: reference.as_ref(),
        directory: directory.path(),
        access: &wishes.access,
        connection: connection(&url),
        limits: wishes.limits,
        deadline: Instant::now() + wishes.patience,
        stop: &wishes.stop,
        report: &mut report,
    };
    let commit = fetch.resolve()?;
    fetch.connection = connection(&url);
    fetch.fetch(&commit)?;
    let mut tar = Vec::new();
    assert_eq!(fetch.archive(&commit, &mut tar)?, tar.len() as u64);
    Ok(Taken { commit: commit.to_string(), files: files(&tar), said })
}

/// To who reads a repository of this host.
fn connection(url: &GitUrl) -> Option<Connection> {
    let path = url.path()?.to_owned();
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve::serve(&path, std::os::fd::OwnedFd::from(theirs).into()));
    Some(Connection::new(ours).unwrap())
}

/// The entries of a tar stream with short names.
fn files(tar: &[u8]) -> Vec<(u8, String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut rest = tar;
    while let Some(header) = rest.get(..512).filter(|header| header[0] != 0) {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8(header[range].iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
        };
        let size = usize::from_str_radix(text(124..136).trim(), 8).unwrap();
        let contents = rest[512..512 + size].to_vec();
        files.push((header[156], text(0..100), if header[156] == b'2' { text(157..257).into() } else { contents }));
        rest = &rest[512 + size.div_ceil(512) * 512..];
    }
    files
}

#[test]
fn branches_tags_and_commits_are_taken() {
    let repository = Repository::new();
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "x", "v1.0"]);
    repository.write("src/unikernel.ml", "let start () = ()\n");
    let second = repository.commit();
    repository.git(&["branch", "release/1"]);
    for (reference, commit) in [
        ("", &second),
        ("HEAD", &second),
        ("main", &second),
        ("release/1", &second),
        ("refs/heads/main", &second),
        ("light", &first),
        ("v1.0", &first),
        ("refs/tags/v1.0", &first),
        (&first, &first),
        (&second, &second),
    ] {
        let taken = repository.take(reference).unwrap_or_else(|error| panic!("{reference}: {error}"));
        assert_eq!(&taken.commit, commit, "{reference}");
        let mut names = vec!["pax_global_header", "config.ml"];
        if commit == &second {
            names.extend(["src/", "src/unikernel.ml"]);
        }
        assert_eq!(taken.names(), names);
        assert_eq!(taken.file("config.ml"), b"let () = register \"web\" []\n");
        assert!(taken.said.iter().any(|said| said.contains("Received { percent: 100 }")), "{:?}", taken.said);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let repository = Repository::new();
    for (url, reference, words) in [
        (repository.url(), "absent", "no branch and no tag absent"),
        (repository.url(), "refs/heads/absent", "refs/heads/absent"),
        (repository.url(), "abcdef0", "all its 40 digits"),
        (repository.url(), &"0123456789".repeat(4), "no such commit"),
        (format!("{}/absent", repository.url()), "main", "git ls-remote failed"),
    ] {
        let error = take(&url, reference, &Wishes::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{reference}: {error}");
    }
    repository.git(&["tag", "main"]);
    assert!(matches!(repository.take("main"), Err(Error::Ambiguous(_))));
    let empty = tempfile::tempdir().unwrap();
    let empty = Repository { folder: empty };
    empty.git(&["init", "-q", "--bare", "."]);
    assert!(matches!(empty.take(""), Err(Error::Empty)));
}

#[test]
fn nothing_of_a_hostile_repository_is_run() {
    let repository = Repository::new();
    let marker = repository.path("was-run");
    let script = format!("#!/bin/sh\ntouch {}\n", marker.display());
    repository.write("x.txt", "$Format:%H$ $Id$\n");
    repository.write("left-out.txt", "x");
    repository
        .write(".gitattributes", "*.txt filter=evil export-subst ident text eol=crlf\nleft-out.txt export-ignore\n");
    repository.write(".gitmodules", "");
    repository.commit();
    repository.write(".git/evil", &script);
    fs::set_permissions(repository.path(".git/evil"), fs::Permissions::from_mode(0o755)).unwrap();
    for hook in [
        "post-checkout",
        "reference-transaction",
        "pre-receive",
        "post-upload-pack",
        "fsmonitor-watchman",
        "proc-receive",
    ] {
        fs::create_dir_all(repository.path(".git/hooks")).unwrap();
        fs::copy(repository.path(".git/evil"), repository.path(&format!(".git/hooks/{hook}"))).unwrap();
    }
    let evil = repository.path(".git/evil").display().to_string();
    for key in [
        "uploadpack.packObjectsHook",
        "core.fsmonitor",
        "core.sshCommand",
        "core.askPass",
        "core.gitProxy",
        "core.pager",
        "core.editor",
        "filter.evil.smudge",
        "filter.evil.process",
        "filter.evil.clean",
        "tar.tar.command",
        "diff.external",
        "credential.helper",
        "remote.origin.uploadpack",
        "gpg.program",
        "core.alternateRefsCommand",
    ] {
        repository.git(&["config", key, &evil]);
    }
    let taken = repository.take("main").unwrap();
    assert!(!marker.exists());
    // As they were committed, and all of them.
    assert_eq!(taken.file("x.txt"), b"$Format:%H$ $Id$\n");
    assert_eq!(taken.file("left-out.txt"), b"x");
}

#[test]
fn somebody_elses_repository_is_taken() {
    let repository = Repository::new();
    for entry in ["", ".git", ".git/config"] {
        if std::os::unix::fs::chown(repository.path(entry), Some(4321), None).is_err() {
            return eprintln!("SKIPPED: only root can give a repository to somebody else");
        }
    }
    assert!(repository.take("main").is_ok());
}

#[test]
fn links_stay_links_and_submodules_are_refused() {
    let repository = Repository::new();
    symlink("/etc/passwd", repository.path("outside")).unwrap();
    let head = repository.commit();
    let taken = repository.take("main").unwrap();
    let link = taken.files.iter().find(|(_, name, _)| name == "outside").unwrap();
    assert_eq!((link.0, link.2.as_slice()), (b'2', b"/etc/passwd".as_slice()));
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},vendor/tls")]);
    repository.git(&["commit", "-q", "-m", "x"]);
    let error = repository.take("main").unwrap_err();
    assert!(matches!(&error, Error::Submodule(path) if path == "vendor/tls"), "{error}");
}

#[test]
fn names_that_leave_the_tree_are_refused() {
    let repository = Repository::new();
    let blob = repository.git(&["rev-parse", "HEAD:config.ml"]);
    for name in ["..", ".git", "."] {
        // git itself makes no such tree: mode, name, a zero byte, and the object's 20 bytes.
        let object = (0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).unwrap());
        let tree: Vec<u8> = format!("100644 {name}\0").bytes().chain(object).collect();
        fs::write(repository.path("tree"), tree).unwrap();
        let tree = repository.git(&["hash-object", "-t", "tree", "-w", "--literally", "tree"]);
        let commit = repository.git(&["commit-tree", "-m", "x", &tree]);
        repository.git(&["update-ref", "refs/heads/hostile", &commit]);
        let error = repository.take("hostile").unwrap_err();
        assert!(matches!(&error, Error::Failed { what: "fetch", .. }), "{name}: {error:?}");
    }
}

#[test]
fn references_that_look_like_options_are_references() {
    let repository = Repository::new();
    let head = repository.git(&["rev-parse", "HEAD"]);
    for name in ["--upload-pack=touch was-run", "--upload-pack=touch", "-x"] {
        assert!(name.parse::<GitRef>().is_err());
    }
    repository.git(&["update-ref", "refs/heads/--upload-pack=touch", &head]);
    assert_eq!(repository.take("refs/heads/--upload-pack=touch").unwrap().commit, head);
}

/// What no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    next.take(bytes).collect()
}

#[test]
fn what_is_too_large_is_refused() {
    let repository = Repository::new();
    repository.write("noise", noise(3 << 20));
    repository.commit();
    let limits = Limits { disk: 1 << 20, tree: 64 << 20, entries: 100 };
    let error = take(&repository.url(), "main", &Wishes { limits, ..Default::default() }).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 0x10_0000, .. }), "{error:?}");
    assert!(repository.take("main").is_ok());
    // A tree that is larger than its pack.
    repository.git(&["rm", "-q", "noise"]);
    repository.write("zeros", vec![0; 16 << 20]);
    repository.commit();
    let error = repository.take("main").unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "its files", .. }), "{error:?}");
    for number in 0..100 {
        repository.write(&format!("many/{number}"), "x");
    }
    repository.commit();
    assert!(matches!(repository.take("main"), Err(Error::TooMany { limit: 100 })));
}

/// A server that takes a connection and says nothing, and what asks it.
fn silent() -> (TcpListener, String) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/x", server.local_addr().unwrap());
    (server, url)
}

/// What was killed takes a moment to be gone; what it has started ends with its connection, or with the worker's group.
fn assert_nothing_runs(of: &str) {
    let running = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        let mut commands = commands.map(|command| String::from_utf8_lossy(&command).into_owned());
        commands.find(|command| command.contains("git") && command.contains(of))
    };
    let until = Instant::now() + Duration::from_secs(60);
    while let Some(command) = running() {
        assert!(Instant::now() < until, "{command} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_silent_server_is_not_waited_for() {
    let (server, url) = silent();
    let began = Instant::now();
    let error = take(&url, "main", &Wishes { patience: Duration::from_secs(1), ..Default::default() }).unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: "ls-remote" }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(server);
    assert_nothing_runs(&url);
}

#[test]
fn a_fetch_is_stopped_at_once() {
    let (server, url) = silent();
    let wishes = Wishes::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _asked = server.accept().unwrap();
            wishes.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(1));
        });
        let error = take(&url, "main", &wishes).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error:?}");
    });
    drop(server);
    assert_nothing_runs(&url);
}

#[test]
fn ssh_understands_its_configuration() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ssh://git@{}/x", server.local_addr().unwrap());
    drop(server);
    let access =
        Access { ssh_key: Some("/a b/key".into()), known_hosts: Some("/a b/hosts".into()), certificates: None };
    let error = take(&url, "main", &Wishes { access, ..Default::default() }).unwrap_err().to_string();
    assert!(error.contains("Connection refused") && !error.contains("onfiguration"), "{error}");
}

#[test]
fn a_reader_that_goes_ends_it() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (repository, directory) = (Repository::new(), tempfile::tempdir().unwrap());
    let (url, wishes) = (repository.url().parse().unwrap(), Wishes::default());
    let mut fetch = Fetch {
        url: &url,
        reference: None,
        directory: directory.path(),
        access: &wishes.access,
        connection: None,
        limits: wishes.limits,
        deadline: Instant::now() + wishes.patience,
        stop: &wishes.stop,
        report: &mut |_| {},
    };
    let commit = repository.git(&["rev-parse", "HEAD"]).parse().unwrap();
    fetch.connection = connection(&url);
    fetch.fetch(&commit).unwrap();
    assert!(matches!(fetch.archive(&commit, &mut Gone), Err(Error::Reader(_))));
}
