//! The ledger on real file systems: killed at any instant, full, and measured.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it has to be")]
#![allow(clippy::print_stdout, reason = "the reason of a skipped test is for whoever runs it")]

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use albatross_deployer::domain::{
    Change, Lease, PortMapping, PortProtocol, Publication, Service, ServiceName, Timestamp, UnikernelId,
};
use albatross_deployer::ledger::{Contents, Error, Ledger};

fn commit(ledger: &Ledger, changes: Vec<Change>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ledger.commit(changes))
}

/// Opens a ledger whose former handle was just dropped: its thread may need a moment to close the file.
fn reopen(path: &Path) -> (Ledger, Contents) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Ledger::open(path) {
            Err(Error::InUse { .. }) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            outcome => return outcome.unwrap(),
        }
    }
}

fn lease(number: u32, since: i64) -> Lease {
    Lease {
        tag: format!("website.{number:010x}").parse().unwrap(),
        address: IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + number)),
        prefix: "10.0.0.0/16".parse().unwrap(),
        since: Timestamp(since),
    }
}

fn service(name: &str, ports: u16) -> Service {
    let name: ServiceName = name.parse().unwrap();
    let mapping = |port| PortMapping { protocol: PortProtocol::Tcp, host: port, unikernel: port };
    Service {
        publication: Some(std::sync::Arc::new(Publication {
            unikernel: UnikernelId::new(&name, &[1; 32]),
            target: Ipv4Addr::new(10, 0, 0, 2).into(),
            ports: (1..=ports).map(mapping).collect(),
            addresses: Default::default(),
            sources: vec![],
            drain: 30_000,
            tolerates_until: None,
        })),
        name,
        staged: None,
        previous: None,
        draining: vec![],
        fell_back_from: None,
    }
}

const CHILD: &str = "ALBATROSS_LEDGER_OF_CHILD";
/// Leases that each transaction of the child renews.
const TOGETHER: u32 = 30;

/// No test of its own: what `a_killed_process_leaves_whole_transactions` starts and kills.
#[test]
#[ignore = "runs in the process that another test starts"]
fn child() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let (ledger, contents) = reopen(&path);
    let first = contents.leases.first().map_or(0, |lease| lease.since.0);
    for round in first + 1.. {
        commit(&ledger, (0..TOGETHER).map(|number| Change::PutLease(lease(number, round))).collect()).unwrap();
        // Only now may anybody rely on it.
        writeln!(io::stdout(), "\ncommitted {round}").unwrap();
    }
}

#[test]
fn a_killed_process_leaves_whole_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut found = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut committed = lines.filter_map(|line| line.strip_prefix("committed ")?.parse::<i64>().ok());
        let mut acknowledged = committed.next().expect("the child commits");
        std::thread::sleep(Duration::from_micros(round * 3_700));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = committed.last().unwrap_or(acknowledged);

        let (ledger, contents) = reopen(&path);
        assert_eq!(contents.leases.len(), TOGETHER as usize);
        found = contents.leases[0].since.0;
        assert!(contents.leases.iter().all(|lease| lease.since.0 == found), "a part of a transaction");
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{acknowledged} acknowledged, {found} found");
        drop(ledger);
        drop(reopen(&path));
    }
    assert!(found > 12);
}

/// A small file system of its own; unmounted in the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "albatross-test"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self(folder)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the ledger's thread may still have the file open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_until_there_is_space() {
    let disk = match SmallDisk::mount("size=8m") {
        Ok(disk) => disk,
        Err(reason) => {
            return println!("SKIPPED: cannot mount a small file system: {reason}");
        }
    };
    let path = disk.0.path().join("state.redb");
    let (ledger, _) = Ledger::open(&path).unwrap();
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);

    let mut number = 0;
    let change = |number: u32| vec![Change::PutService(Box::new(service(&format!("s{number}"), 500)))];
    let error = loop {
        match commit(&ledger, change(number)) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().ends_with("free space on its file system, then try again"), "{error}");
    for _ in 0..3 {
        commit(&ledger, change(number)).unwrap_err();
    }
    std::fs::remove_file(&ballast).unwrap();
    commit(&ledger, vec![Change::PutLease(lease(1, 1))]).unwrap();
    drop(ledger);
    let (_, contents) = reopen(&path);
    assert_eq!((contents.services.len(), contents.leases.len()), (number as usize, 1));
}

/// Figures, not a verdict: `cargo test --release --test ledger -- --ignored --nocapture measured`. `TMPDIR` says which
/// disk.
#[test]
#[ignore = "measures"]
fn measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let show = |what: &str, since: Instant, times: u32| {
        writeln!(io::stdout(), "{what}: {:?}", since.elapsed() / times).unwrap();
    };
    let start = Instant::now();
    let (ledger, _) = Ledger::open(&path).unwrap();
    show("create", start, 1);
    let start = Instant::now();
    commit(&ledger, (0..10_000).map(|number| Change::PutLease(lease(number, 1))).collect()).unwrap();
    show("commit of 10,000 leases", start, 1);
    let start = Instant::now();
    commit(&ledger, vec![Change::PutService(Box::new(service("wide", 10_000)))]).unwrap();
    show("commit of a service with 10,000 ports", start, 1);
    let start = Instant::now();
    for number in 0..200 {
        commit(&ledger, vec![Change::PutLease(lease(10_000 + number, 1))]).unwrap();
    }
    show("commit of one lease, average of 200", start, 200);
    let size = std::fs::metadata(&path).unwrap().len();
    writeln!(io::stdout(), "file: {} KiB", size / 1024).unwrap();

    // A copy is as after a crash: the original is open.
    let crashed = folder.path().join("crashed.redb");
    std::fs::copy(&path, &crashed).unwrap();
    let start = Instant::now();
    let (_crashed, contents) = Ledger::open(&crashed).unwrap();
    show("open after a crash", start, 1);
    assert_eq!(contents.leases.len(), 10_200);
    drop(ledger);
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        let start = Instant::now();
        let (ledger, contents) = Ledger::open(&path).unwrap();
        show("open", start, 1);
        assert_eq!(contents.leases.len(), 10_200);
        drop(ledger);
        std::thread::sleep(Duration::from_millis(300));
    }
    writeln!(io::stdout(), "{}", resident()).unwrap();
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect::<Vec<_>>().join(", ")
}
