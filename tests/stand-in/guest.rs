//! The process of a unikernel: tender and guest in one. It is born in its network namespace, with its devices there and down.

use crate::guest_http;
use crate::guest_mail;
use crate::guest_options::{GuestOptions, split};
use crate::network::Netlink;
use crate::solo5_image::MARKER;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

const BANNER: &str = "            |      ___|
  __|  _ \\  |  _ \\ __ \\
\\__ \\ (   | | (   |  ) |
____/\\___/ _|\\___/____/
Solo5: Bindings version v0.12.1-7-g469c1a8
";
const LONGEST_COMMAND_LINE: usize = 8191;
/// The text stands in the first bytes of an image, if it is one of ours.
const TEXT_WITHIN: usize = 1 << 16;

type Failure = Box<dyn std::error::Error>;

/// What the tender was told.
struct Tender {
    hvt: bool,
    memory: u64,
    devices: usize,
    image: String,
    command_line: String,
}

pub fn run(words: Vec<String>) -> Result<(), Failure> {
    let tender = Tender::parse(&words);
    let options = tender.boot()?;
    let up = configure_network(&options, tender.devices);
    if let Err(error) = &up {
        say(&format!("network: {error}"));
    }
    options.print.iter().for_each(|line| say(line));
    if options.print_invalid {
        let _ = io::stdout().write_all(b"caf\xc3\xa9 \xff\xfe\0bin\n");
    }
    if let Some(code) = options.exit {
        exit(code.into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, live(Rc::new(options), tender.hvt))
}

impl Tender {
    fn parse(words: &[String]) -> Self {
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let value = |prefix: &str| words[..end].iter().find_map(|word| word.strip_prefix(prefix));
        Self {
            hvt: value("--target=") == Some("hvt"),
            memory: value("--mem=").and_then(|memory| memory.parse().ok()).unwrap_or(512),
            devices: words[..end].iter().filter(|word| word.starts_with("--net:")).count(),
            image: words.get(end + 1).cloned().unwrap_or_default(),
            command_line: words.get(end + 2..).unwrap_or_default().join(" "),
        }
    }

    /// Prints what Solo5 prints and reads what the guest is to do.
    fn boot(&self) -> Result<GuestOptions, Failure> {
        if self.command_line.len() > LONGEST_COMMAND_LINE {
            say("solo5: Guest command line too long");
            std::process::exit(1);
        }
        let memory = self.memory << 20;
        let map = format!(
            "Solo5: Memory map: {} MB addressable:\nSolo5:       heap >= 0x107000 < stack < {memory:#x}",
            self.memory
        );
        let _ = io::stdout().write_all(BANNER.as_bytes());
        say(&map);
        let image = std::fs::read(&self.image)?;
        let (version, mut words, knows_name) = built_in(&image);
        words.extend(split(&self.command_line));
        match GuestOptions::parse(version, knows_name, &words) {
            Ok(options) => Ok(options),
            Err(error) => {
                say(&error);
                exit(64)
            }
        }
    }
}

/// The version and the arguments that stand in the image, and whether it knows `--name`.
fn built_in(image: &[u8]) -> (String, Vec<String>, bool) {
    let head = &image[..image.len().min(TEXT_WITHIN)];
    let start = head.windows(MARKER.len()).position(|window| window == MARKER.as_bytes());
    let text = start.and_then(|start| head[start + MARKER.len()..].split(|byte| *byte == 0).next());
    let text = String::from_utf8_lossy(text.unwrap_or_default());
    let version = text.lines().find_map(|line| line.strip_prefix("version=")).unwrap_or("unknown");
    let arguments = text.lines().filter_map(|line| line.strip_prefix("argument=")).map(str::to_owned).collect();
    (version.to_owned(), arguments, !text.lines().any(|line| line == "no-name-option"))
}

/// One line on the console. It waits for whoever reads it, and the guest with it.
pub fn say(line: &str) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// As `solo5_exit`.
pub fn exit(code: i32) -> ! {
    say(&format!("Solo5: solo5_exit({code}) called"));
    std::process::exit(code)
}

fn configure_network(options: &GuestOptions, devices: usize) -> io::Result<()> {
    // No IPv6 of its own accord, as MirageOS has it.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let netlink = Netlink::open()?;
    let links = netlink.links()?;
    for link in links.iter().filter(|link| link.name == "lo") {
        netlink.set_up(link.index, true)?;
    }
    for device in 0..devices {
        let Some(link) = links.iter().find(|link| link.name == format!("net{device}")) else { continue };
        if let (0, Some((address, length))) = (device, options.ipv4) {
            netlink.add_address(link.index, address, length)?;
        }
        netlink.set_up(link.index, !options.no_link)?;
    }
    match options.gateway {
        Some(gateway) => netlink.add_default_route(gateway),
        None => Ok(()),
    }
}

async fn live(options: Rc<GuestOptions>, hvt: bool) -> Result<(), Failure> {
    if hvt || options.stuck {
        let (mut terminated, stuck) = (signal(SignalKind::terminate())?, options.stuck);
        spawn_local(async move {
            while terminated.recv().await.is_some() {
                if !stuck {
                    // solo5-hvt ends with the code of its own errors; solo5-spt dies by the signal.
                    std::process::exit(1);
                }
            }
        });
    }
    if let Some((after, code)) = options.exit_after {
        spawn_local(async move {
            tokio::time::sleep(after).await;
            exit(code.into())
        });
    }
    if let Some(rate) = options.print_rate {
        spawn_local(print_on(rate));
    }
    spawn_local(announce());
    tokio::time::sleep(options.listen_after).await;
    let address = (Ipv4Addr::UNSPECIFIED, options.port);
    let (listener, udp) = (TcpListener::bind(address).await?, UdpSocket::bind(address).await?);
    let own = options.ipv4.map_or_else(|| "none".to_owned(), |(address, _)| address.to_string());
    say(&format!("version={} address={own} listening on {}", options.version, options.port));
    spawn_local(echo(Rc::new(udp), Rc::clone(&options), own.clone()));
    if options.mail {
        guest_mail::serve(listener, options, own).await;
    }
    guest_http::serve(listener, options, own).await
}

/// Announces the address until the bridge surely forwards. Not before the address works: the kernel's own announcement goes out
/// with the carrier, and a connection that waited for it is lost then.
async fn announce() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/conf/all/arp_notify", "1")?;
    let netlink = Netlink::open()?;
    for pause in [0, 1, 2, 5, 10, 20, 50, 100] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for link in netlink.links()?.iter().filter(|link| link.name.starts_with("net")) {
            netlink.set_mac(link.index, &link.mac)?;
        }
    }
    Ok(())
}

async fn print_on(rate: u64) {
    for line in 0_u64.. {
        say(&format!("line {line}"));
        match rate {
            0 => tokio::task::yield_now().await,
            rate => tokio::time::sleep(Duration::from_micros(1_000_000 / rate)).await,
        }
    }
}

async fn echo(socket: Rc<UdpSocket>, options: Rc<GuestOptions>, own: String) {
    let mut datagram = [0; 2048];
    while let Ok((_, client)) = socket.recv_from(&mut datagram).await {
        let answer = format!("version={} address={own} client={client}\n", options.version);
        let (socket, after) = (Rc::clone(&socket), options.echo_after);
        let answering = async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            // A client that is gone already is no reason to end.
            let _ = socket.send_to(answer.as_bytes(), client).await;
        };
        if after.is_zero() { answering.await } else { drop(spawn_local(answering)) }
    }
}
