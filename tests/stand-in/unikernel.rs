//! Starts a unikernel as a host of its own: a process in a network namespace, with a link to each of its bridges.

use crate::config::{Bridge, Config};
use crate::elf::Target;
use crate::name::Name;
use crate::network::{self, Netlink};
use crate::time::{self, Millis};
use md5::{Digest, Md5};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the real daemon takes from the exit of a unikernel to the end of its tap.
const TAP_OUTLIVES: Duration = Duration::from_millis(2);

/// The host's end of a network device.
#[derive(Debug, Clone)]
pub struct Tap {
    pub name: String,
    pub index: u32,
    pub bridge: String,
    pub mac: [u8; 6],
    pub host_mac: Vec<u8>,
}

/// One that runs.
#[derive(Debug)]
pub struct Unikernel {
    pub config: Config,
    pub digest: Vec<u8>,
    pub started: Millis,
    pub pid: Pid,
    pub taps: Vec<Tap>,
    pub image_file: PathBuf,
    namespace: Netlink,
}

/// What a start needs besides its configuration.
#[derive(Debug)]
pub struct Launch<'a> {
    pub name: &'a Name,
    pub config: &'a Config,
    pub target: Target,
    pub digest: Vec<u8>,
    pub image_file: PathBuf,
    pub console_works: bool,
}

/// What runs, the process to wait for, and what it prints.
pub type Started = (Unikernel, Child, PipeReader);

/// The address a device has unless one is given.
pub fn mac(device: &str, name: &Name) -> [u8; 6] {
    let hash = Md5::digest(format!("{device}{name}"));
    [0x00, 0x80, 0x41, hash[0], hash[1], hash[2]]
}

impl Launch<'_> {
    /// Makes the taps, then starts the process. All of it on a thread that leaves the host's network namespace: a process is born
    /// where the thread is that starts it.
    pub fn run(self, host: &Netlink) -> Result<Started, String> {
        std::thread::scope(|scope| match scope.spawn(|| self.run_apart(host)).join() {
            Ok(started) => started,
            Err(_) => Err("starting it panicked".into()),
        })
    }

    fn run_apart(self, host: &Netlink) -> Result<Started, String> {
        let words = |error: io::Error| error.to_string();
        // SAFETY: leaving a network namespace changes no file descriptor and no memory, which is what the function warns of.
        #[allow(unsafe_code)]
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| words(error.into()))?;
        let namespace = Netlink::open().map_err(words)?;
        let mut taps = Vec::new();
        for (position, bridge) in self.config.arguments.bridges.iter().enumerate() {
            match self.add_tap(host, position, bridge) {
                Ok(tap) => taps.push(tap),
                Err(error) => {
                    delete_taps(host, &taps);
                    return Err(error.to_string());
                }
            }
        }
        if !self.console_works {
            delete_taps(host, &taps);
            return Err("could not create unikernel: console failed".into());
        }
        match self.spawn(&taps) {
            Ok((child, console)) => self.started(child, console, taps, namespace),
            Err(error) => {
                delete_taps(host, &taps);
                Err(error.to_string())
            }
        }
    }

    fn add_tap(&self, host: &Netlink, position: usize, bridge: &Bridge) -> io::Result<Tap> {
        let here = File::open("/proc/thread-self/ns/net")?;
        let links = host.links()?;
        let missing = || io::Error::other(format!("interface {} does not exist", bridge.host_device()));
        let master = links.iter().find(|link| link.name == bridge.host_device()).ok_or_else(missing)?;
        let mac = bridge.mac.unwrap_or_else(|| mac(&bridge.netif, self.name));
        let link = host.add_pair(&network::free_tap_name(&links), &guest_device(position), mac, here.as_fd())?;
        host.set_up(link.index, true)?;
        host.enslave(link.index, master.index)?;
        Ok(Tap { name: link.name, index: link.index, bridge: master.name.clone(), mac, host_mac: link.mac })
    }

    fn spawn(&self, taps: &[Tap]) -> io::Result<(Child, PipeReader)> {
        let (console, output) = io::pipe()?;
        let arguments = &self.config.arguments;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("guest").arg(format!("--target={}", self.target.word())).arg(format!("--mem={}", arguments.memory));
        for (position, (bridge, tap)) in arguments.bridges.iter().zip(taps).enumerate() {
            command.arg(format!("--net:{}={}={}", bridge.netif, tap.name, guest_device(position)));
        }
        command.arg("--").arg(&self.image_file);
        if arguments.add_name {
            command.arg(format!("--name={}", self.name.label.as_deref().unwrap_or_default()));
        }
        command.args(arguments.arguments.iter().flatten());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok((command.spawn()?, console))
    }

    fn started(self, child: Child, console: PipeReader, taps: Vec<Tap>, namespace: Netlink) -> Result<Started, String> {
        let pid = Pid::from_child(&child);
        let Launch { config, digest, image_file, .. } = self;
        let started = time::now();
        Ok((Unikernel { config: config.clone(), digest, started, pid, taps, image_file, namespace }, child, console))
    }
}

fn guest_device(position: usize) -> String {
    format!("net{position}")
}

fn delete_taps(host: &Netlink, taps: &[Tap]) {
    for tap in taps {
        // Somebody else may have deleted it, or the bridge with it: then there is nothing left to do.
        let _ = host.delete(tap.index);
    }
}

impl Unikernel {
    /// SIGTERM, and nothing harder: one that ignores it stays.
    pub fn terminate(&self) {
        let _ = kill_process(self.pid, Signal::TERM);
    }

    /// Its link goes first: a unikernel that dies says nothing more, but the kernel would close this one's connections
    /// and refuse new ones for as long as its namespace has a link.
    pub fn kill(&self) {
        self.cut_off();
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// After its exit: the carrier drops first, the taps go a little later.
    pub fn clean_up(&self, host: &Netlink) {
        self.cut_off();
        if !self.taps.is_empty() {
            std::thread::sleep(TAP_OUTLIVES);
        }
        delete_taps(host, &self.taps);
        let _ = std::fs::remove_file(&self.image_file);
    }
    /// The carrier of its taps drops.
    fn cut_off(&self) {
        for position in 0..self.taps.len() {
            if let Ok(Some(link)) = self.namespace.link(&guest_device(position)) {
                let _ = self.namespace.set_up(link.index, false);
            }
        }
    }
}
