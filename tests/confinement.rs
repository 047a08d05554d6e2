//! What a worker may, asked from inside: each kind of task is started as the service starts it, and tries what it has no
//! use for (`service/images/worker/probe.rs`). Landlock answers EACCES, the filter of system calls EPERM.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![cfg(feature = "fault-injection")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use albatross_deployer::images::{engine, registry};
use serde_json::{Value, json};

const DONE: i32 = 0;
const PERM: i32 = 1;
const ACCES: i32 = 13;
const NOSYS: i32 = 38;

/// What a worker could reach if it were let.
struct Host {
    directory: tempfile::TempDir,
    tcp: TcpListener,
    _unix: UnixListener,
    _abstract: UnixListener,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["granted", "input", "other"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        for file in ["input/blob", "state.redb"] {
            fs::write(directory.path().join(file), "secret").unwrap();
        }
        let _unix = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let name = SocketAddr::from_abstract_name(directory.path().as_os_str().as_encoded_bytes()).unwrap();
        let _abstract = UnixListener::bind_addr(&name).unwrap();
        Self { directory, tcp: TcpListener::bind("127.0.0.1:0").unwrap(), _unix, _abstract }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A short name for each attempt, and the attempt.
    fn attempts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("the ledger", format!("read={}", self.path("state.redb"))),
            ("shadow", "read=/etc/shadow".to_owned()),
            ("memory of init", "read=/proc/1/mem".to_owned()),
            ("its own memory", "read=/proc/self/mem".to_owned()),
            ("the root", "list=/".to_owned()),
            ("the input folder", format!("read={}", self.path("input/blob"))),
            ("another folder", format!("create={}", self.path("other/new"))),
            ("the granted folder", format!("create={}", self.path("granted/new"))),
            ("a program", "run=/bin/true".to_owned()),
            ("TCP", format!("connect={}", self.tcp.local_addr().unwrap())),
            ("listening", "listen=127.0.0.1:0".to_owned()),
            ("a socket", format!("socket={}", self.path("engine.sock"))),
            ("an abstract socket", format!("abstract={}", self.directory.path().display())),
            ("a signal", format!("signal={}", std::process::id())),
            ("another user", "become=12345".to_owned()),
            ("another root", "root=/tmp".to_owned()),
            ("the ledger's mode", format!("mode={}", self.path("state.redb"))),
            ("the ledger's owner", format!("owner={}", self.path("state.redb"))),
            ("an attribute of the ledger", format!("attribute={}", self.path("state.redb"))),
            ("no attribute of the ledger", format!("no-attribute={}", self.path("state.redb"))),
            // Without a file: the filter answers before anybody looks for one.
            ("fchmod", call(libc::SYS_fchmod)),
            ("fchmodat", call(libc::SYS_fchmodat)),
            ("fchmodat2", call(452)),
            ("fchown", call(libc::SYS_fchown)),
            ("fchownat", call(libc::SYS_fchownat)),
            ("setxattrat", call(463)),
            ("removexattrat", call(466)),
            ("truncate", call(libc::SYS_truncate)),
            ("a signal to one of its own", format!("call={},getppid,0", libc::SYS_kill)),
            ("a signal to its group", "signal-group".to_owned()),
            ("a signal to all", format!("call={},-1,0", libc::SYS_kill)),
            ("tkill", format!("call={},$$+0,0", libc::SYS_tkill)),
            ("tgkill", format!("call={},$$+0,$$+0,0", libc::SYS_tgkill)),
            ("signals of a descriptor", format!("call={},0,8,getppid", libc::SYS_fcntl)),
            ("signals of a descriptor's thread", format!("call={},0,15,0", libc::SYS_fcntl)),
            ("signals of a socket", format!("call={},2,0x8901,0", libc::SYS_ioctl)),
            ("its limits", format!("call={},0,7,0,0", libc::SYS_prlimit64)),
            ("another's limits", format!("call={},getppid,7,0,0", libc::SYS_prlimit64)),
            ("another's priority", format!("call={},0,getppid,0", libc::SYS_setpriority)),
            ("another group", format!("call={},0,0", libc::SYS_setpgid)),
            ("another session", format!("call={}", libc::SYS_setsid)),
            ("a namespace", format!("call={},0x10000000", libc::SYS_unshare)),
            ("clone in a namespace", format!("call={},0x10000011,0,0,0,0", libc::SYS_clone)),
            ("clone3", format!("call={},0,0", libc::SYS_clone3)),
        ]
    }

    /// What came of each attempt in a worker with this task.
    fn probe(&self, task: &Value) -> BTreeMap<&'static str, i32> {
        let attempts = self.attempts();
        let all: Vec<&str> = attempts.iter().map(|(_, attempt)| attempt.as_str()).collect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut worker = Command::new(env!("CARGO_BIN_EXE_albatross-deployer"))
            .arg("--worker")
            .env_clear()
            .env("ALBATROSS_DEPLOYER_PROBE", all.join(" "))
            .stdin(Stdio::from(File::open(self.path("input")).unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        writeln!(&ours, "{}", json!({"task": task, "caller": null})).unwrap();
        let mut came = BTreeMap::new();
        for line in BufReader::new(ours).lines() {
            let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let Some(heard) = said["Heard"]["Line"].as_str() else {
                assert_eq!(said["Failed"]["kind"], "Unwanted", "{said}");
                break;
            };
            let (attempt, number) = heard.rsplit_once(' ').unwrap();
            let (name, _) = attempts.iter().find(|(_, known)| known == attempt).unwrap();
            came.insert(*name, number.parse().unwrap());
        }
        worker.wait().unwrap();
        let _ = fs::remove_file(self.path("granted/new"));
        assert_eq!(came.len(), attempts.len(), "{came:?}");
        came
    }
}

/// Only what may run programs can ask for it.
fn call(number: i64) -> String {
    format!("call={number},-1,0,0,0,0,0")
}

fn wanted() -> Value {
    json!({"paths": ["/unikernel.hvt"], "named": false, "limit": 1000, "signature": false})
}

/// `allowed` come off. What is `other` than refused by the filter of system calls is refused by Landlock.
#[track_caller]
fn may(host: &Host, task: &Value, allowed: &[&str], by_landlock: &[&str]) {
    for (attempt, came) in host.probe(task) {
        if is_up_to_a_newer_kernel(attempt) {
            println!("SKIPPED: {attempt} of a worker: Landlock refuses it from Linux 6.12 on");
            continue;
        }
        let expected = match attempt {
            attempt if allowed.contains(&attempt) => DONE,
            attempt if by_landlock.contains(&attempt) => ACCES,
            "clone3" if allowed.contains(&"a program") => NOSYS,
            _ => PERM,
        };
        assert_eq!(came, expected, "{attempt} of {task}");
    }
}

/// Of workers whose filter of system calls must let it pass.
fn is_up_to_a_newer_kernel(attempt: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ["an abstract socket", "listening"].contains(&attempt) && version < (6, 12)
}

const FILES: [&str; 7] =
    ["the ledger", "shadow", "memory of init", "its own memory", "the root", "the input folder", "another folder"];

#[test]
fn what_reads_foreign_bytes_may_nothing() {
    let host = Host::new();
    for form in ["Docker", "OciArchive"] {
        may(&host, &json!({"Saved": {"form": form, "name": null, "wanted": wanted()}}), &[], &[]);
    }
    may(&host, &json!({"Taken": wanted()}), &[], &[]);
    may(&host, &json!("Inspect"), &[], &[]);
}

#[test]
fn what_reads_a_folder_may_that() {
    let host = Host::new();
    let files: Vec<&str> =
        FILES.into_iter().filter(|name| *name != "the input folder").chain(["the granted folder"]).collect();
    let task = json!({"Saved": {"form": "OciFolder", "name": null, "wanted": wanted()}});
    may(&host, &task, &["the input folder"], &files);
}

#[test]
fn what_asks_a_registry_may_connect_and_write_its_cache() {
    let host = Host::new();
    let task = json!({"Registry": {
        "image": "registry.test/a:1", "insecure": [], "access": "Anyone",
        "cache": host.path("granted"), "cache_limit": 1000, "wanted": wanted(),
        "patience": registry::Patience::default(),
    }});
    may(&host, &task, &["TCP", "the granted folder"], &[&FILES[..], &["listening"]].concat());
}

#[test]
fn what_asks_the_engine_may_connect_to_that() {
    let host = Host::new();
    let task = json!({"Engine": {"socket": host.path("engine.sock"), "work": "Tidy", "label": "x",
        "patience": engine::Patience::default()}});
    may(&host, &task, &["a socket"], &[&FILES[..], &["the granted folder"]].concat());
}

#[test]
fn what_runs_git_may_run_programs_and_write_its_folder() {
    let host = Host::new();
    let task = |url: &str| {
        json!({"Git": {"Resolve": {
            "url": url, "reference": null, "directory": host.path("granted"),
            "access": {"ssh_key": null, "known_hosts": null, "certificates": null},
        }}})
    };
    let files = [&FILES[..], &["listening"]].concat();
    let allowed = ["a program", "the granted folder", "a signal to its group", "its limits"];
    may(&host, &task("https://git.test/a.git"), &[&["TCP"], &allowed[..]].concat(), &files);
    may(&host, &task("file:///srv/a"), &allowed, &FILES);
}
