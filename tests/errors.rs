//! All that a caller can do wrong, on a real bus and a real kernel: the contract's errors by name, each with words that
//! say what to do, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use host::{MANAGER, Manager, NAME, Options, ROOT, TestHost, error_of, eventually, options};
use netns::{Namespace, isolated, sh};
use solo5_image::{Image, Target};
use zbus::Variant;

/// Neither unikernels nor leases, publications or images.
async fn assert_nothing_left(host: &TestHost, manager: &Manager) {
    assert_eq!(host.running(), Vec::<String>::new());
    assert_nothing_known(host, manager).await;
}

/// The same where Albatross cannot be asked.
async fn assert_nothing_known(host: &TestHost, manager: &Manager) {
    assert_eq!(manager.leases().await.unwrap(), []);
    assert_eq!(host.stored_images(), Vec::<String>::new());
    assert_eq!((host.elements("ports4"), manager.count("ServiceCount").await), (vec![], 0));
}

/// Asserts the error's name, and that its message has all of `words`.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(outcome: zbus::Result<T>, name: &str, words: &[&str]) {
    let (found, message) = error_of(outcome);
    assert_eq!(found, name, "{message}");
    for word in words {
        assert!(message.contains(word), "{name}: no {word:?} in {message:?}");
    }
    assert!(message.len() < 3000, "{name}: too long to be read: {message}");
}

fn with<'a>(key: &'a str, value: impl Into<Variant<'a>>) -> Options<'a> {
    let mut options = options("running");
    options.insert(key, value.into());
    options
}

#[test]
fn options_of_deploy_are_refused_by_name() {
    isolated("options_of_deploy_are_refused_by_name", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let long = "x".repeat(200_000);
        let cases: Vec<(&str, Variant, &[&str])> = vec![
            ("memroy", 32u64.into(), &["memroy", "memory", "ready"]),
            (&long, 1u64.into(), &["no option", "memory"]),
            ("network", 1u32.into(), &["network", "type u", "s ("]),
            ("network", "br7".into(), &["br7", "br0 (10.0.0.0/24)"]),
            ("network", "a/b".into(), &["a/b"]),
            ("network", "".into(), &["network"]),
            ("memory", 32u32.into(), &["memory", "type u", "t ("]),
            ("memory", 32i64.into(), &["memory", "type x"]),
            ("memory", 0u64.into(), &["memory is 0 MiB", "1 to"]),
            ("memory", u64::MAX.into(), &["memory", "1 to"]),
            ("cpu", 1u64.into(), &["cpu", "type t", "u ("]),
            ("cpu", (-1i32).into(), &["cpu", "type i"]),
            ("args", "--x".into(), &["args", "type s", "as ("]),
            ("args", vec!["--ipv4={adress}"].into(), &["args[0]", "{address}", "at byte 7"]),
            ("args", vec!["fine", "{"].into(), &["args[1]", "brace", "{{"]),
            ("args", vec!["}"].into(), &["args[0]", "}}"]),
            ("args", vec!["{{{"].into(), &["brace"]),
            ("args", vec![&long[..8192]].into(), &["8191", "args"]),
            ("args", vec![&*long].into(), &["args are 200000 bytes"]),
            ("args", vec!["x"; 1025].into(), &["args", "1025", "1024"]),
            ("prefix", "10.0.0.0".into(), &["prefix", "10.0.0.0/24"]),
            ("prefix", "10.0.1.0/25".into(), &["10.0.1.0/25", "not within 10.0.0.0/24 of network br0"]),
            ("prefix", "10.0.0.0/16".into(), &["not within"]),
            ("prefix", "10.0.0.4/32".into(), &["10.0.0.4/32", "/31"]),
            ("prefix", "fd00::/64".into(), &["fd00::/64"]),
            ("prefix", vec!["10.0.0.0/25"].into(), &["prefix", "type as"]),
            ("exclude", "10.0.0.2".into(), &["exclude", "type s", "as ("]),
            ("exclude", vec!["10.0.0.300"].into(), &["exclude", "10.0.0.300"]),
            ("exclude", vec!["10.0.0.9-10.0.0.3"].into(), &["exclude", "10.0.0.9"]),
            ("exclude", vec!["10.0.0.2"; 4097].into(), &["exclude", "4096"]),
            ("address", "10.0.0".into(), &["address", "10.0.0.7"]),
            ("address", "fd00::5".into(), &["fd00::5"]),
            ("address", "10.0.0.0".into(), &["network address of 10.0.0.0/24"]),
            ("address", "10.0.0.255".into(), &["broadcast address"]),
            ("address", "10.0.1.5".into(), &["not in 10.0.0.0/24"]),
            ("block-devices", vec!["data"].into(), &["block-devices", "a(ssu)"]),
            ("block-devices", vec![("data", "disk", 513u32)].into(), &["block-devices", "513", "512"]),
            ("block-devices", vec![("", "disk", 0u32)].into(), &["block-devices"]),
            ("block-devices", vec![("a", "disk", 0u32), ("a", "other", 0)].into(), &["\"a\" twice"]),
            ("restart", "always".into(), &["restart", "always", "never", "on-failure"]),
            ("restart", true.into(), &["restart", "type b"]),
            ("restart-exit-codes", vec![1u32].into(), &["restart-exit-codes", "ai ("]),
            ("restart-exit-codes", vec![256i32].into(), &["restart-exit-codes", "256", "0 to 255"]),
            ("restart-exit-codes", Vec::<i32>::new().into(), &["restart-exit-codes", "empty"]),
            ("ready", "soon".into(), &["soon", "tcp:"]),
            ("ready", "tcp:0".into(), &["tcp:0"]),
            ("ready", "tcp:65536".into(), &["65536"]),
            ("ready", (&*long).into(), &["readiness rule", "tcp:PORT"]),
            ("ready", "http:80/a b\r\nX: y".into(), &["http:80"]),
            ("timeout", 5u32.into(), &["timeout", "t ("]),
            ("timeout", 0u64.into(), &["timeout is 0"]),
            ("timeout", u64::MAX.into(), &["timeout"]),
            ("mirage", "4".into(), &["mirage", "git"]),
            ("image-path", "/x".into(), &["image-path", "docker"]),
        ];
        for (key, value, words) in cases {
            let deployed = manager.deploy("website", &image, with(key, value)).await;
            assert_refused(deployed, "InvalidArgument", words);
        }
        for bad in ["", "-a", ".a", "A", "a_b", "a/b", "ü", &"a".repeat(53), &long] {
            let deployed = manager.deploy(bad, &image, options("running")).await;
            assert_refused(deployed, "InvalidArgument", &["service name", "1 to 52"]);
        }
        for bad in ["", "website.hvt", "../x", "sha256:12", "ftp://x/y"] {
            assert_refused(manager.deploy("website", bad, options("running")).await, "InvalidArgument", &["sha256:"]);
        }
        let deployed = manager.deploy("website", &format!("/{long}"), options("running")).await;
        assert_refused(deployed, "InvalidArgument", &["image is 200001 bytes", "4096"]);
        for bad in
            ["docker-daemon:", "docker://web", "oci:x", "git+http://example.org/x", "git+https://u:p@example.org/x"]
        {
            assert_refused(manager.deploy("website", bad, options("running")).await, "InvalidArgument", &[]);
        }
        for unreachable in ["docker://127.0.0.1:9/web", "oci:/nowhere", "git+file:///nowhere"] {
            assert_refused(manager.deploy("website", unreachable, options("running")).await, "ImageUnavailable", &[]);
        }
        assert_nothing_left(&host, &manager).await;
        // The longest name there can be works.
        let longest = "a.b-".repeat(13);
        let (id, _) = manager.deploy(&longest, &image, options("running")).await.unwrap();
        assert_eq!(id.len(), 63);
        assert_eq!(host.running(), [id]);
    });
}

#[test]
fn an_option_that_is_there_twice_is_refused() {
    isolated("an_option_that_is_there_twice_is_refused", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let image = host.image("1", &[]);
        let mut command = Command::new("busctl");
        command.args([&format!("--address={}", host.bus.address), "call", "--", NAME, ROOT, MANAGER, "Deploy"]);
        command.args(["ssa{sv}", "website", &image, "2", "memory", "t", "32", "memory", "t", "64"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("memory") && said.contains("twice"), "{said}");
        assert_nothing_left(&host, &host.manager().await).await;
    });
}

#[test]
fn what_other_methods_are_given_is_refused_by_name() {
    isolated("what_other_methods_are_given_is_refused_by_name", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (id, address) = manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
        type Case<'a> = (&'a [(&'a str, u16, u16)], &'a [&'a str]);
        let ports: Vec<Case> = vec![
            (&[], &["ports is empty", "Unpublish"]),
            (&[("xyz", 80, 80)], &["xyz", "tcp, udp and any"]),
            (&[("tcp", 0, 80)], &["port 0"]),
            (&[("tcp", 80, 0)], &["port 0"]),
            (&[("any", 80, 80), ("udp", 80, 81)], &["80/udp", "twice"]),
        ];
        for (ports, words) in ports {
            assert_refused(manager.publish("website", ports, Options::new()).await, "InvalidArgument", words);
        }
        let too_many = (1..=4097).map(|port| ("tcp", port, 80)).collect::<Vec<_>>();
        let published = manager.publish("website", &too_many, Options::new()).await;
        assert_refused(published, "InvalidArgument", &["ports", "4096"]);
        let publish: Vec<(&str, Variant, &[&str])> = vec![
            ("unknown", 1u32.into(), &["unknown", "unikernel, addresses, sources, drain"]),
            ("unikernel", 1u32.into(), &["unikernel", "type u"]),
            ("unikernel", "website".into(), &["unikernel id"]),
            ("unikernel", "other.0123456789".into(), &["not of website"]),
            ("addresses", "192.0.2.1".into(), &["addresses", "as ("]),
            ("addresses", Vec::<&str>::new().into(), &["addresses is empty"]),
            ("addresses", vec!["192.0.2"].into(), &["addresses", "192.0.2"]),
            ("addresses", vec!["0.0.0.0"].into(), &["0.0.0.0"]),
            ("addresses", vec!["224.0.0.1"].into(), &["224.0.0.1"]),
            ("sources", 1u32.into(), &["sources"]),
            ("sources", Vec::<&str>::new().into(), &["sources is empty"]),
            ("sources", vec!["10.0.0.0/33"].into(), &["sources", "10.0.0.0/33"]),
            ("drain", 1u32.into(), &["drain", "type u", "t ("]),
            ("drain", 86_400_001u64.into(), &["drain", "86400000"]),
            ("drain", u64::MAX.into(), &["drain", "86400000"]),
        ];
        for (key, value, words) in publish {
            let published = manager.publish("website", &[("tcp", 80, 80)], Options::from([(key, value)])).await;
            assert_refused(published, "InvalidArgument", words);
        }
        let collect: Vec<(&str, Variant, &[&str])> = vec![
            ("unknown", true.into(), &["unknown", "dry-run, keep, force, keep-previous"]),
            ("dry-run", 1u32.into(), &["dry-run", "b ("]),
            ("keep", "website".into(), &["keep", "as ("]),
            ("keep", vec!["Website"].into(), &["service name"]),
            ("force", "yes".into(), &["force", "b ("]),
            ("keep-previous", 1u64.into(), &["keep-previous", "u ("]),
        ];
        for (key, value, words) in collect {
            assert_refused(manager.collect(Options::from([(key, value)])).await, "InvalidArgument", words);
        }
        let destroyed = manager.call("Destroy", &(&*id, Options::from([("forced", true.into())]))).await;
        assert_refused(destroyed, "InvalidArgument", &["forced", "force"]);
        let destroyed = manager.call("Destroy", &(&*id, Options::from([("force", 1u32.into())]))).await;
        assert_refused(destroyed, "InvalidArgument", &["force", "b ("]);
        let exclude = |text: &'static str| vec![text];
        for (tag, prefix, excluded, words) in [
            ("", "10.0.0.0/24", vec![], &["lease tag", "1 to 255"][..]),
            ("a\nb", "10.0.0.0/24", vec![], &["lease tag", "control"]),
            (&"x".repeat(256), "10.0.0.0/24", vec![], &["lease tag"]),
            ("tag", "10.0.0.0", vec![], &["prefix"]),
            ("tag", "fd00::/64", vec![], &["fd00::/64", "IPv4"]),
            ("tag", "10.0.0.0/7", vec![], &["/8 to /31"]),
            ("tag", "10.0.0.0/24", exclude("10.0.0"), &["exclude", "10.0.0"]),
        ] {
            let allocated = manager.call("AllocateAddress", &(tag, prefix, excluded)).await;
            assert_refused(allocated, "InvalidArgument", words);
        }
        // It is all as it was.
        assert_eq!((host.running(), host.elements("ports4")), (vec![id], vec![]));
        assert_eq!(manager.leases().await.unwrap()[0].1, address);
    });
}

#[test]
fn what_there_is_not_is_named() {
    isolated("what_there_is_not_is_named", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let (tcp, none) = ([("tcp", 80u16, 80u16)], Options::new);
        let ghost = "ghost.0123456789";
        for member in ["Unpublish", "Rollback"] {
            assert_refused(manager.call(member, &("ghost",)).await, "NoSuchService", &["ghost", "Deploy"]);
        }
        assert_refused(manager.publish("ghost", &tcp, none()).await, "NoSuchService", &["ghost"]);
        assert_refused(manager.call("Restart", &(ghost,)).await, "NoSuchUnikernel", &[ghost, "busctl tree"]);
        assert_refused(manager.call("Destroy", &(ghost, none())).await, "NoSuchUnikernel", &[ghost]);
        assert_refused(manager.call("ReleaseAddress", &("ghost",)).await, "NoSuchLease", &["ghost", "ListLeases"]);

        manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
        let other = Options::from([("unikernel", "website.0123456789".into())]);
        assert_refused(manager.publish("website", &tcp, other).await, "NoSuchUnikernel", &["website.0123456789"]);
        assert_refused(manager.call("Rollback", &("website",)).await, "NoSuchUnikernel", &["deploy"]);
        manager.publish("website", &tcp, none()).await.unwrap();
        assert_refused(manager.call("Rollback", &("website",)).await, "NoSuchUnikernel", &["no earlier"]);

        // The object of a job goes with the job: only who asks at that moment hears NoSuchJob.
        let (path, job) = ("/org/albatross/Deployer1/job/_1", "org.albatross.Deployer1.Job");
        let cancelled = manager.0.call_method(Some(NAME), path, Some(job), "Cancel", &()).await;
        assert!(matches!(cancelled, Err(zbus::Error::FDO(_))), "{cancelled:?}");
    });
}

#[test]
fn addresses_that_cannot_be_had() {
    isolated("addresses_that_cannot_be_had", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        sh("ip address add 10.0.0.77/24 dev br0");
        let neighbour = Namespace::create().unwrap();
        sh(&format!(
            "ip link add other type veth peer name eth0 netns {} && ip link set other master br0 up",
            neighbour.pid()
        ));
        neighbour.sh("ip address add 10.0.0.66/24 dev eth0 && ip link set eth0 up");
        let (_, leased) = manager.deploy("first", &image, options("running")).await.unwrap();
        // The host's new address is told by the kernel.
        eventually("the host's address is known", async || {
            let Ok((id, _)) = manager.deploy("website", &image, with("address", "10.0.0.77")).await else {
                return true;
            };
            manager.call("Destroy", &(id, Options::new())).await.unwrap();
            false
        })
        .await;
        for (address, words) in [
            ("10.0.0.1", &["gateway"][..]),
            ("10.0.0.77", &["host's own"]),
            ("10.0.0.66", &["10.0.0.66", "answers", "br0"]),
            (&leased, &["first.", "holds it"]),
        ] {
            let deployed = manager.deploy("website", &image, with("address", address)).await;
            assert_refused(deployed, "AddressInUse", words);
        }
        let mut excluded = with("address", "10.0.0.9");
        excluded.insert("exclude", vec!["10.0.0.8-10.0.0.10"].into());
        assert_refused(manager.deploy("website", &image, excluded).await, "AddressInUse", &["the call excludes it"]);
        let mut outside = with("address", "10.0.0.200");
        outside.insert("prefix", "10.0.0.0/25".into());
        assert_refused(manager.deploy("website", &image, outside).await, "InvalidArgument", &["10.0.0.0/25"]);

        // Who is told to free the address, and does, gets it.
        neighbour.sh("ip address del 10.0.0.66/24 dev eth0");
        let (_, freed) = manager.deploy("website", &image, with("address", "10.0.0.66")).await.unwrap();
        assert_eq!(freed, "10.0.0.66");
        // One that answers is passed over when any will do.
        neighbour.sh("ip address add 10.0.0.129/24 dev eth0");
        let (_, next) = manager.deploy("next", &image, with("prefix", "10.0.0.128/29")).await.unwrap();
        assert_eq!(next, "10.0.0.130");
    });
}

#[test]
fn a_pool_that_is_exhausted() {
    isolated("a_pool_that_is_exhausted", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let small = || with("prefix", "10.0.0.8/30");
        let (first, _) = manager.deploy("a", &image, small()).await.unwrap();
        manager.deploy("b", &image, small()).await.unwrap();
        let words = &["10.0.0.8/30", "collect", "release"];
        assert_refused(manager.deploy("c", &image, small()).await, "AddressPoolExhausted", words);
        let allocated = manager.call("AllocateAddress", &("c", "10.0.0.8/30", Vec::<&str>::new())).await;
        assert_refused(allocated, "AddressPoolExhausted", words);
        assert_eq!(host.running().len(), 2);
        manager.call("Destroy", &(first, Options::new())).await.unwrap();
        let (_, address) = manager.deploy("c", &image, small()).await.unwrap();
        assert_eq!(address, "10.0.0.9");
    });
}

#[test]
fn ports_of_other_services() {
    isolated("ports_of_other_services", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        for service in ["a", "b"] {
            manager.deploy(service, &image, options("tcp:80")).await.unwrap();
        }
        let on = |address: &'static str| Options::from([("addresses", vec![address].into())]);
        manager.publish("a", &[("tcp", 80, 80), ("udp", 53, 80)], Options::new()).await.unwrap();
        for (ports, options, words) in [
            (&[("tcp", 80, 80)][..], Options::new(), &["tcp port 80", "service a", "unpublish"][..]),
            (&[("tcp", 81, 80), ("any", 53, 80)], Options::new(), &["udp port 53", "service a"]),
            (&[("tcp", 80, 80)], on("192.0.2.1"), &["tcp port 80 on 192.0.2.1", "service a"]),
        ] {
            assert_refused(manager.publish("b", ports, options).await, "PortConflict", words);
        }
        assert!(host.get(81).is_err(), "a port of a refused call");
        manager.publish("b", &[("udp", 80, 80), ("tcp", 53, 80)], Options::new()).await.unwrap();

        // One on an address, the other on all: refused as well, in either order. Two addresses go together.
        manager.publish("a", &[("tcp", 80, 80)], on("192.0.2.1")).await.unwrap();
        let all = manager.publish("b", &[("tcp", 80, 80)], Options::new()).await;
        assert_refused(all, "PortConflict", &["tcp port 80", "service a"]);
        manager.publish("b", &[("tcp", 80, 80)], on("10.0.0.1")).await.unwrap();
        manager.call("Unpublish", &("a",)).await.unwrap();
        manager.publish("b", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        assert!(host.get(80).is_ok());
    });
}

#[test]
fn images_that_cannot_be_used() {
    isolated("images_that_cannot_be_used", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let directory = host.directory.path().to_owned();
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let good = Image::new(Target::Spt, "1").net(&["service"]).build();
        let block = Image::new(Target::Spt, "1").net(&["service"]).block(&["data"]).build();
        let mut future = Image::new(Target::Spt, "1").net(&["service"]);
        future.abi_version = 99;
        for (name, bytes, words) in [
            ("empty", &[][..], &["expected"][..]),
            ("text", b"#!/bin/sh\n", &["ELF"]),
            ("truncated", &good[..good.len() - 700], &["trunc"]),
            ("header-only", &good[..64], &[]),
            ("no-device", &Image::new(Target::Spt, "1").build(), &["no network device"]),
            ("two-devices", &Image::new(Target::Spt, "1").net(&["a", "b"]).build(), &["2 network devices", "a, b"]),
            ("abi", &future.build(), &["99"]),
            ("disk", &block, &["data", "block-devices"]),
        ] {
            let deployed = manager.deploy("website", &write(name, bytes), options("running")).await;
            assert_refused(deployed, "ImageInvalid", words);
            let handed = manager.deploy_image(memfd(bytes).into(), options("running")).await;
            assert_refused(handed, "ImageInvalid", words);
        }
        let devices = with("block-devices", vec![("data", "disk", 0u32)]);
        let unwanted = manager.deploy("website", &write("good", &good), devices).await;
        assert_refused(unwanted, "ImageInvalid", &["block devices are none", "gives data"]);

        for (path, words) in [
            ("/nonexistent/image", &["/nonexistent/image"][..]),
            ("/dev/zero", &["not a regular file"]),
            ("/proc/kcore", &["/proc"]),
            ("/proc/self/exe", &["/proc/self/exe"]),
            ("/etc", &["not a regular file"]),
        ] {
            assert_refused(manager.deploy("website", path, options("running")).await, "ImageUnavailable", words);
        }
        sh(&format!("cd {} && mkfifo fifo && ln -s loop loop", directory.display()));
        for name in ["fifo", "loop"] {
            let path = directory.join(name).display().to_string();
            assert_refused(manager.deploy("website", &path, options("running")).await, "ImageUnavailable", &[name]);
        }
        let unknown = format!("sha256:{}", "0".repeat(64));
        assert_refused(manager.deploy("website", &unknown, options("running")).await, "ImageUnavailable", &["store"]);

        let write_only: OwnedFd = File::create(directory.join("write-only")).unwrap().into();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        for (descriptor, words) in [
            (File::open("/etc").unwrap().into(), &["directory", "memfd"][..]),
            (write_only, &["not open for reading"]),
            (File::open("/dev/zero").unwrap().into(), &["device"]),
            (socket.into(), &["socket"]),
        ] {
            let handed = manager.deploy_image(descriptor, options("running")).await;
            assert_refused(handed, "ImageUnavailable", words);
        }
        assert_nothing_left(&host, &manager).await;

        // A file, a memfd whose offset is at its end, and a pipe give the same unikernel.
        let file = File::open(directory.join("good")).unwrap();
        let (id, _) = manager.deploy_image(file.into(), options("running")).await.unwrap();
        assert_eq!(manager.deploy_image(memfd(&good).into(), options("running")).await.unwrap().0, id);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let bytes = good.clone();
        std::thread::spawn(move || writer.write_all(&bytes));
        assert_eq!(manager.deploy_image(reader.into(), options("running")).await.unwrap().0, id);
    });
}

fn memfd(bytes: &[u8]) -> File {
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(file);
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn an_image_that_is_too_large() {
    isolated("an_image_that_is_too_large", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        std::fs::write(host.config(), "[limits]\nimage-size = \"64 KiB\"\n").unwrap();
        host.start_service().await;
        let manager = host.manager().await;
        let mut image = Image::new(Target::Spt, "1").net(&["service"]);
        image.padding = 70_000;
        let words = &["65536 bytes", "limits.image-size"];
        let handed = manager.deploy_image(memfd(&image.build()).into(), options("running")).await;
        assert_refused(handed, "ImageTooLarge", words);
        // A pipe does not say how much will come, and this one never ends.
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::thread::spawn(move || while writer.write_all(&[0; 4096]).is_ok() {});
        let handed = manager.deploy_image(reader.into(), options("running")).await;
        assert_refused(handed, "ImageTooLarge", words);
        assert_nothing_left(&host, &manager).await;
        image.padding = 10_000;
        manager.deploy_image(memfd(&image.build()).into(), options("running")).await.unwrap();
    });
}

#[test]
fn what_albatross_says_and_what_does_not_become_ready() {
    isolated("what_albatross_says_and_what_does_not_become_ready", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        std::fs::write(host.config(), "[albatross]\ndeadline = 500\n").unwrap();
        host.start_service().await;
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let deployed = manager.deploy("website", &image, with("cpu", 77u32)).await;
        assert_refused(deployed, "AlbatrossRefused", &["CPUids 77 are not allowed by policy"]);
        let deployed = manager.deploy("website", &image, with("memory", 1u64 << 20)).await;
        assert_refused(deployed, "AlbatrossRefused", &["maximum allowed memory"]);
        host.albatross.control("refuse create 1 own words of the daemon");
        let deployed = manager.deploy("website", &image, options("running")).await;
        assert_refused(deployed, "AlbatrossRefused", &["own words of the daemon"]);

        let prints = host.image("exits", &["--print=cannot find its disk", "--exit=3"]);
        for ready in ["running", "tcp:80", "http:80/"] {
            let deployed = manager.deploy("website", &prints, options(ready)).await;
            assert_refused(deployed, "NotReady", &["website.", "cannot find its disk", "solo5_exit(3)"]);
        }
        let mut short = options("tcp:81");
        short.insert("timeout", 300u64.into());
        assert_refused(manager.deploy("website", &image, short).await, "NotReady", &["300 ms", ":81", "refused"]);
        for (how, says) in [
            ("silence", "does not answer"),
            ("garbage", "does not answer in HTTP"),
            ("endless", "a head that does not end"),
            ("drip", "does not answer"),
        ] {
            let image = host.image(how, &[&format!("--answer={how}")]);
            // On a busy machine it does not even listen in the first of them.
            let mut said = String::new();
            for time in [400u64, 1_000, 2_000] {
                let mut short = options("http:80/");
                short.insert("timeout", time.into());
                let began = Instant::now();
                let (kind, message) = error_of(manager.deploy("website", &image, short).await);
                assert!(kind == "NotReady" && message.contains(&format!("within {time} ms")), "{kind}: {message}");
                // The rule's own time ends the probe, not the 5 s that every probe may take.
                assert!(began.elapsed() < Duration::from_secs(5), "{how}: {:?}", began.elapsed());
                said = message;
                if said.contains(says) {
                    break;
                }
            }
            assert!(said.contains(says), "{how}: {said}");
        }
        let mut short = options("running");
        short.insert("timeout", 400u64.into());
        let unlinked = host.image("unlinked", &["--no-link"]);
        assert_refused(manager.deploy("website", &unlinked, short).await, "NotReady", &["no carrier"]);
        let mut short = options("http:80/status?code=500");
        short.insert("timeout", 300u64.into());
        assert_refused(manager.deploy("website", &image, short).await, "NotReady", &["status 500"]);
        assert_nothing_left(&host, &manager).await;

        host.albatross.control("delay 2000");
        let deployed = manager.deploy("website", &image, options("running")).await;
        assert_refused(deployed, "AlbatrossUnavailable", &["vmmd.sock"]);
        host.albatross.control("delay 0");
        eventually("what was begun is undone", async || {
            host.running().is_empty() && manager.leases().await.unwrap().is_empty() && host.stored_images().is_empty()
        })
        .await;
        host.albatross.terminate();
        for _ in 0..2 {
            let deployed = manager.deploy("website", &image, options("running")).await;
            assert_refused(deployed, "AlbatrossUnavailable", &["vmmd.sock", "systemctl"]);
            assert_nothing_known(&host, &manager).await;
        }
        eventually("the note", async || {
            let notes: Vec<String> = manager.property(ROOT, MANAGER, "Degraded").await.unwrap();
            notes.iter().any(|note| note.contains("Albatross gives no answer"))
        })
        .await;
        host.albatross.again();
        eventually("it works again", async || {
            manager.property::<Vec<String>>(ROOT, MANAGER, "Degraded").await.unwrap().is_empty()
        })
        .await;
        manager.deploy("website", &image, options("tcp:80")).await.unwrap();
    });
}

#[test]
fn what_is_live_is_not_destroyed() {
    isolated("what_is_live_is_not_destroyed", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let (id, _) = manager.deploy("website", &image, options("tcp:80")).await.unwrap();
        manager.publish("website", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        let destroyed = manager.call("Destroy", &(&*id, Options::new())).await;
        assert_refused(destroyed, "InUse", &["is live", "unpublish", "force"]);
        assert_refused(manager.call("ReleaseAddress", &(&*id,)).await, "InUse", &["is a unikernel", "Destroy"]);
        // Nor can its address be moved away from it.
        let moved = manager.call("AllocateAddress", &(&*id, "10.0.0.128/25", Vec::<&str>::new())).await;
        assert_refused(moved, "InUse", &["is a unikernel"]);
        let kept = manager.call("AllocateAddress", &(&*id, "10.0.0.0/24", vec!["10.0.0.2"])).await;
        assert_refused(kept, "InUse", &["is a unikernel"]);
        assert_eq!(manager.leases().await.unwrap()[0].1, "10.0.0.2");
        assert!(host.get(80).is_ok());
        manager.call("Destroy", &(&*id, Options::from([("force", true.into())]))).await.unwrap();
        assert!(host.get(80).is_err());
        manager.collect(Options::new()).await.unwrap();
        assert_nothing_left(&host, &manager).await;
    });
}

#[test]
fn a_restart_that_fails_leaves_what_was_there() {
    isolated("a_restart_that_fails_leaves_what_was_there", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        std::fs::write(host.config(), "[albatross]\ndeadline = 500\n").unwrap();
        host.start_service().await;
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let (id, address) = manager.deploy("website", &image, options("tcp:80")).await.unwrap();
        let path = format!("{ROOT}/unikernel/{}", id.replace('.', "_2e"));
        let state = async || manager.property::<String>(&path, "org.albatross.Deployer1.Unikernel", "State").await;
        let exited = async || state().await.as_deref() == Some("exited");
        host.albatross.control(&format!("lose {id}"));
        eventually("it has exited", exited).await;
        host.albatross.control("refuse create 1 not now");
        assert_refused(manager.call("Restart", &(&*id,)).await, "AlbatrossRefused", &["not now"]);
        assert!(exited().await, "{:?}", state().await);
        manager.call("Restart", &(&*id,)).await.unwrap();

        // The same with one that is live, and with an Albatross that says nothing.
        manager.publish("website", &[("tcp", 80, 80)], Options::new()).await.unwrap();
        host.albatross.control(&format!("lose {id}"));
        eventually("it has exited", exited).await;
        host.albatross.signal(rustix::process::Signal::STOP);
        assert_refused(manager.call("Restart", &(&*id,)).await, "AlbatrossUnavailable", &["vmmd.sock"]);
        // Until Albatross says that it does not have it, it stays half-made, with its lease and its ports.
        let left = state().await;
        assert!(["creating", "exited"].map(Some).contains(&left.as_deref()), "{left:?}");
        assert_eq!(manager.leases().await.unwrap()[0].1, address);
        assert_eq!(host.elements("ports4").len(), 1);
        host.albatross.signal(rustix::process::Signal::CONT);
        eventually("it can be started", async || {
            state().await.as_deref() == Some("live") || manager.call("Restart", &(&*id,)).await.is_ok()
        })
        .await;
        eventually("it answers", async || host.get(80).is_ok()).await;
        assert_eq!(host.running(), [id.as_str()]);
    });
}

#[test]
fn a_kernel_that_refuses() {
    isolated("a_kernel_that_refuses", |_| async {
        let Some(mut host) = TestHost::without_service() else { return };
        // A table that another process owns can be changed by that process alone.
        let owner = Owner::take_the_table();
        host.start_service().await;
        let manager = host.manager().await;
        // A network that nobody has configured gets its rules with its first lease, or no lease.
        let deployed = manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await;
        assert_refused(deployed, "KernelRefused", &["another process", "nft list table"]);
        assert!(manager.leases().await.unwrap().is_empty());
        host.stop_service();
        std::fs::write(host.config(), "[network.br0]\nprefix = \"10.0.0.0/24\"\n").unwrap();
        host.start_service().await;
        let manager = host.manager().await;
        manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
        let published = manager.publish("website", &[("tcp", 80, 80)], Options::new()).await;
        assert_refused(published, "KernelRefused", &["another process", "nft list table"]);
        let publications = manager.call("ListPublications", &()).await.unwrap();
        let publications: Vec<(String, String, String, String, u16, String, u16)> = publications.deserialize().unwrap();
        assert!(publications.is_empty(), "{publications:?}");
        drop(owner);
        eventually("it can be published", async || {
            manager.publish("website", &[("tcp", 80, 80)], Options::new()).await.is_ok()
        })
        .await;
        assert!(host.get(80).is_ok());
    });
}

/// An `nft` that owns the service's table.
struct Owner(std::process::Child);

impl Owner {
    fn take_the_table() -> Self {
        let nft = Command::new("nft").arg("-i").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut owner = Self(nft);
        // Until its table is there.
        for _ in 0..200 {
            let take = b"delete table inet albatross_deployer\nadd table inet albatross_deployer { flags owner; }\n";
            owner.0.stdin.as_mut().unwrap().write_all(take).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            if sh("nft list table inet albatross_deployer || true").contains("flags owner") {
                return owner;
            }
        }
        panic!("the table could not be taken");
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `busctl` says when somebody else calls.
async fn busctl_as(host: &TestHost, uid: u32, gid: u32, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into(), "busctl".into()]);
    command.args([&format!("--address={}", host.bus.address), "call", "--", NAME, ROOT, MANAGER]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn who_may_not_changes_nothing_and_opens_nothing() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: who_may_not_changes_nothing_and_opens_nothing: only root can call as somebody else");
    }
    isolated("who_may_not_changes_nothing_and_opens_nothing", |_| async {
        // Without the policy that ships the service itself decides.
        let Some(mut host) = TestHost::without_service_on(private_bus::OPEN, None) else { return };
        std::fs::write(host.config(), "[access]\ngroup = \"daemon\"\n").unwrap();
        host.start_service().await;
        let (manager, image) = (host.manager().await, host.image("1", &[]));
        let (id, _) = manager.deploy("website", &image, options("tcp:80")).await.unwrap();
        let daemon = uzers::get_group_by_name("daemon").unwrap().gid();
        for call in [
            &["Deploy", "ssa{sv}", "website", &image, "0"][..],
            &["Publish", "sa(sqq)a{sv}", "website", "1", "tcp", "80", "80", "0"],
            &["Unpublish", "s", "website"],
            &["Rollback", "s", "website"],
            &["Collect", "a{sv}", "0"],
            &["Collect", "a{sv}", "1", "dry-run", "b", "true"],
            &["Restart", "s", &id],
            &["Destroy", "sa{sv}", &id, "1", "force", "b", "true"],
            &["AllocateAddress", "ssas", "tag", "10.0.0.0/24", "0"],
            &["ReleaseAddress", "s", &id],
            &["Apply", "sa{sv}", "", "0"],
            &["Activate", "s", "mail"],
            &["RollbackStack", "s", "mail"],
            &["RemoveStack", "s", "mail"],
        ] {
            let refused = busctl_as(&host, 65534, 65534, call).await.unwrap_err();
            for word in ["may not call", call[0], "group daemon", "usermod -aG daemon"] {
                assert!(refused.contains(word), "{call:?}: {refused}");
            }
        }
        for call in [&["ListLeases"][..], &["ListPublications"], &["ListJobs"], &["ExportRuleset"]] {
            busctl_as(&host, 65534, 65534, call).await.unwrap();
        }
        assert_eq!(host.running(), [id]);

        // A member of the group may, with its own rights to files and no others.
        busctl_as(&host, 65534, daemon, &["AllocateAddress", "ssas", "tag", "10.0.0.0/24", "0"]).await.unwrap();
        let deploy = ["Deploy", "ssa{sv}", "other", &image, "0"];
        std::fs::set_permissions(host.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let refused = busctl_as(&host, 65534, daemon, &deploy).await.unwrap_err();
        for word in [&image, "uid 65534", "ermission denied"] {
            assert!(refused.contains(word), "{refused}");
        }
        std::fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&image, None, Some(daemon)).unwrap();
        busctl_as(&host, 65534, daemon, &deploy).await.unwrap();
    });
}

#[test]
fn a_job_that_is_cancelled_leaves_nothing() {
    isolated("a_job_that_is_cancelled_leaves_nothing", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        // While the image comes, out of a pipe that says nothing.
        let (reader, writer) = std::io::pipe().unwrap();
        let importing = {
            let manager = manager.clone();
            tokio::spawn(async move { manager.deploy_image(reader.into(), options("running")).await })
        };
        manager.cancel("importing").await;
        assert_refused(importing.await.unwrap(), "Cancelled", &["cancelled"]);
        drop(writer);
        // While it does not become ready.
        let image = host.image("late", &["--listen-after=60000"]);
        let starting = {
            let manager = manager.clone();
            tokio::spawn(async move { manager.deploy("website", &image, options("tcp:80")).await })
        };
        manager.cancel("waiting").await;
        assert_refused(starting.await.unwrap(), "Cancelled", &["cancelled"]);
        // While Albatross takes its time.
        host.albatross.control("delay 1500 create");
        let image = host.image("slow", &[]);
        let creating = {
            let manager = manager.clone();
            tokio::spawn(async move { manager.deploy("website", &image, options("tcp:80")).await })
        };
        manager.cancel("creating").await;
        assert_refused(creating.await.unwrap(), "Cancelled", &["cancelled"]);
        host.albatross.control("delay 0 create");
        eventually("nothing is left", async || {
            host.running().is_empty() && manager.leases().await.unwrap().is_empty() && host.stored_images().is_empty()
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
        eventually("nor later", async || host.running().is_empty()).await;
        assert_nothing_left(&host, &manager).await;
    });
}

/// Calls that only this file makes.
trait MoreCalls {
    async fn deploy_image(&self, image: OwnedFd, options: Options<'_>) -> zbus::Result<(String, String)>;
    async fn count(&self, property: &str) -> u32;
}

impl MoreCalls for Manager {
    async fn deploy_image(&self, image: OwnedFd, options: Options<'_>) -> zbus::Result<(String, String)> {
        let body = self.call("DeployImage", &("website", zbus::Fd::from(image.as_fd()), options)).await?;
        let (_, id, address): (zbus::OwnedObjectPath, String, String) = body.deserialize()?;
        Ok((id, address))
    }

    async fn count(&self, property: &str) -> u32 {
        self.property(ROOT, MANAGER, property).await.unwrap()
    }
}
