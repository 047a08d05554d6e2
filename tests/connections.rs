//! Connections follow what is live, whatever conntrack remembers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "connections/hanging.rs"]
mod hanging;
#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "connections/segments.rs"]
mod segments;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use host::{AT_ONCE, HOST, Manager, Options, PATIENCE, TestHost, error_of, eventually, options, version_over_udp};
use netns::{Namespace, ask_tcp, ask_udp_with, isolated, serve, sh, udp_socket};

const PORT: u16 = 8080;

/// The client's two addresses outside.
const CLIENT: &str = "192.0.2.2";
const OTHER_CLIENT: &str = "192.0.2.3";

fn udp(socket: &UdpSocket) -> Option<String> {
    version_over_udp(socket, PORT)
}

/// A connection that has been answered once, from one of the client's addresses.
fn connected(client: &Namespace, from: &'static str) -> TcpStream {
    let mut stream = client.run(move || connect(from).unwrap());
    assert!(ask(&mut stream).is_ok());
    stream
}

fn connect(from: &str) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let (from, to): (SocketAddr, SocketAddr) =
        (format!("{from}:0").parse().unwrap(), format!("{HOST}:{PORT}").parse().unwrap());
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &from)?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The version that answers over an open connection.
fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer)?;
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    let version = answer.split_whitespace().find(|word| word.starts_with("version="));
    Ok(version.unwrap_or(&answer).to_owned())
}

/// Sends over a connection until that is reset. How long that took from the first segment.
fn until_reset(stream: &mut TcpStream) -> Duration {
    let begin = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    loop {
        match ask(stream) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return begin.elapsed();
            }
            other => assert!(begin.elapsed() < PATIENCE, "no reset: {other:?}"),
        }
    }
}

async fn deploy(host: &TestHost, manager: &Manager, version: &str) -> (String, String) {
    let mut options = options("http:80/");
    options.insert("restart", "never".into());
    manager.deploy("website", &host.image(version, &[]), options).await.unwrap()
}

async fn publish(manager: &Manager, further: Options<'_>) {
    manager.publish("website", &[("any", PORT, 80)], further).await.unwrap();
}

fn drain(milliseconds: u64) -> Options<'static> {
    Options::from([("drain", milliseconds.into())])
}

/// Entries of conntrack that name an address.
fn flows_of(address: &str) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let (source, destination) = (format!("src={address} "), format!("dst={address} "));
    all.lines().filter(|line| line.contains(&source) || line.contains(&destination)).map(str::to_owned).collect()
}

async fn started(without_filter: bool) -> Option<(TestHost, Manager)> {
    let mut host = TestHost::without_service()?;
    if without_filter {
        host.environment.push(("ALBATROSS_DEPLOYER_CONNTRACK".into(), "list".into()));
    }
    host.start_service().await;
    host.client.sh(&format!("ip address add {OTHER_CLIENT}/24 dev eth0"));
    let manager = host.manager().await;
    Some((host, manager))
}

async fn udp_clients_from_before(without_filter: bool) {
    let Some((host, manager)) = started(without_filter).await else { return };
    let early = udp_socket(&host.client);
    let on_loopback = UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = || ask_udp_with(&on_loopback, &format!("127.0.0.1:{PORT}"));
    deploy(&host, &manager, "1").await;
    assert_eq!((udp(&early), local()), (None, None), "not published yet");
    publish(&manager, drain(0)).await;
    assert_eq!(udp(&early).as_deref(), Some("version=1"), "with the next packet after Publish");
    assert!(local().is_some(), "on localhost as well");
    manager.call("Unpublish", &("website",)).await.unwrap();
    assert_eq!(udp(&early), None);
    publish(&manager, drain(0)).await;
    assert_eq!(udp(&early).as_deref(), Some("version=1"), "between Unpublish and Publish");
    // Who was not admitted until now.
    let others = Options::from([("sources", vec![format!("{OTHER_CLIENT}/32")].into())]);
    publish(&manager, others).await;
    assert_eq!(udp(&early), None, "cut at once");
    publish(&manager, Options::new()).await;
    assert_eq!(udp(&early).as_deref(), Some("version=1"), "admitted again");
}

#[test]
fn a_udp_client_from_before_the_publication_is_redirected() {
    isolated("a_udp_client_from_before_the_publication_is_redirected", |_| udp_clients_from_before(false));
}

#[test]
fn a_udp_client_from_before_the_publication_is_redirected_on_older_kernels() {
    isolated("a_udp_client_from_before_the_publication_is_redirected_on_older_kernels", |_| {
        udp_clients_from_before(true)
    });
}

#[test]
fn a_udp_client_that_sent_while_the_table_was_gone_is_redirected() {
    isolated("a_udp_client_that_sent_while_the_table_was_gone_is_redirected", |_| async {
        let Some((mut host, manager)) = started(false).await else { return };
        deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        host.kill_service();
        sh("nft delete table inet albatross_deployer");
        let early = udp_socket(&host.client);
        assert_eq!(udp(&early), None);
        host.start_service().await;
        eventually("redirected", async || udp(&early).as_deref() == Some("version=1")).await;
    });
}

#[test]
fn clients_of_one_that_is_collected_are_reset() {
    isolated("clients_of_one_that_is_collected_are_reset", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        let (first, address) = deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        let [mut writes, idle] = [(); 2].map(|()| connected(&host.client, CLIENT));
        deploy(&host, &manager, "2").await;
        publish(&manager, drain(100)).await;
        assert_eq!(ask(&mut writes).unwrap(), "version=1", "it drains");
        let removed =
            manager.collect(Options::from([("force", true.into()), ("keep-previous", 0_u32.into())])).await.unwrap();
        assert!(removed.contains(&("unikernel".into(), first)), "{removed:?}");
        let took = until_reset(&mut writes);
        println!("reset after {took:?}");
        assert!(took < AT_ONCE, "{took:?}");
        eventually("nothing of it is left", async || flows_of(&address).is_empty()).await;
        let mut idle = idle;
        assert!(until_reset(&mut idle) < AT_ONCE);
    });
}

#[test]
fn clients_of_one_that_is_destroyed_are_reset() {
    isolated("clients_of_one_that_is_destroyed_are_reset", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        let (first, address) = deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        let mut writes = connected(&host.client, CLIENT);
        manager.call("Destroy", &(first.as_str(), Options::from([("force", true.into())]))).await.unwrap();
        assert_eq!(flows_of(&address), Vec::<String>::new(), "once Destroy has answered");
        let took = until_reset(&mut writes);
        assert!(took < AT_ONCE, "{took:?}");
        // The next one that has the address begins without any of that.
        let mut exactly = options("http:80/");
        exactly.insert("address", address.as_str().into());
        let other = manager.deploy("other", &host.image("2", &[]), exactly).await.unwrap();
        assert_eq!(other.1, address);
        let of_clients = flows_of(&address).into_iter().filter(|flow| flow.contains(CLIENT)).collect::<Vec<_>>();
        assert_eq!(of_clients, Vec::<String>::new());
    });
}

#[test]
fn an_address_that_is_leased_anew_carries_no_flow_of_its_former_owner() {
    isolated("an_address_that_is_leased_anew_carries_no_flow_of_its_former_owner", |_| async {
        let Some((_host, manager)) = started(false).await else { return };
        // As somebody without a record of ours would leave them.
        sh("conntrack -I -p tcp -s 192.0.2.2 -d 10.0.0.7 --sport 7001 --dport 80 -t 600 --state ESTABLISHED && \
            conntrack -I -p udp -s 10.0.0.7 -d 192.0.2.2 --sport 7002 --dport 53 -t 600 && \
            conntrack -I -p udp -s 10.0.0.8 -d 192.0.2.2 --sport 7002 --dport 53 -t 600");
        assert_eq!((flows_of("10.0.0.7").len(), flows_of("10.0.0.8").len()), (2, 1));
        let lease = manager.call("AllocateAddress", &("mine", "10.0.0.6/31", vec!["10.0.0.6"])).await.unwrap();
        let lease: String = lease.deserialize().unwrap();
        assert_eq!(lease, "10.0.0.7");
        assert_eq!((flows_of("10.0.0.7"), flows_of("10.0.0.8").len()), (Vec::new(), 1), "others' stay");
    });
}

#[test]
fn clients_of_one_that_has_ended_are_refused_at_once() {
    isolated("clients_of_one_that_has_ended_are_refused_at_once", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        let (first, _) = deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        let mut writes = connected(&host.client, CLIENT);
        host.albatross.control(&format!("lose {first}"));
        eventually("exited", async || manager.told_of(&first, "State").await == "exited").await;
        eventually("refused", async || !host.elements("gone4").is_empty()).await;
        let took = until_reset(&mut writes);
        assert!(took < AT_ONCE, "who was connected: {took:?}");
        for who in ["outside", "localhost"] {
            let begin = Instant::now();
            let error = if who == "outside" {
                host.client.run(|| connect(CLIENT).map(drop).map_err(|error| error.kind()))
            } else {
                TcpStream::connect(("127.0.0.1", PORT)).map(drop).map_err(|error| error.kind())
            };
            assert_eq!(error, Err(ErrorKind::ConnectionRefused), "{who}");
            assert!(begin.elapsed() < AT_ONCE, "{who}: {:?}", begin.elapsed());
        }
        let socket = udp_socket(&host.client);
        host.client.run({
            let socket = socket.try_clone().unwrap();
            move || socket.connect((HOST, PORT)).unwrap()
        });
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"?").unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
        // It answers again as soon as it runs again, and nothing is left of that in the table.
        manager.call("Restart", &(first.as_str(),)).await.unwrap();
        assert_eq!(host.elements("gone4").len(), 0);
        assert_eq!(ask(&mut connected(&host.client, CLIENT)).unwrap(), "version=1");
    });
}

#[test]
fn who_was_refused_gets_to_the_next() {
    isolated("who_was_refused_gets_to_the_next", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        let (first, _) = deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        let (second, _) = deploy(&host, &manager, "2").await;
        host.albatross.control(&format!("lose {first}"));
        eventually("refused", async || !host.elements("gone4").is_empty()).await;
        publish(&manager, Options::from([("unikernel", second.as_str().into())])).await;
        assert_eq!(ask(&mut connected(&host.client, CLIENT)).unwrap(), "version=2");
        // A name that is not there is no less an error for that.
        let (name, _) = error_of(manager.call("Destroy", &("website.0000000000", Options::new())).await);
        assert_eq!(name, "NoSuchUnikernel");
        manager.call("Destroy", &(first.as_str(), Options::new())).await.unwrap();
        assert_eq!(host.elements("gone4").len(), 0, "the address is free");
    });
}

/// Milliseconds that those have who may not connect any more: until they are asked once.
const DRAIN: u64 = 6_000;

#[test]
fn sources_that_are_narrowed_cut_udp_at_once_and_tcp_after_the_drain() {
    isolated("sources_that_are_narrowed_cut_udp_at_once_and_tcp_after_the_drain", |_| async {
        let Some((mut host, manager)) = started(false).await else { return };
        deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        let [mut forbidden, mut allowed] = [CLIENT, OTHER_CLIENT].map(|from| connected(&host.client, from));
        let [udp_forbidden, udp_allowed] =
            [CLIENT, OTHER_CLIENT].map(|from| host.client.run(move || UdpSocket::bind((from, 0)).unwrap()));
        assert!(udp(&udp_forbidden).is_some() && udp(&udp_allowed).is_some());
        let narrow = |drain: u64| {
            Options::from([("sources", vec![format!("{OTHER_CLIENT}/32")].into()), ("drain", drain.into())])
        };
        let narrowed = Instant::now();
        publish(&manager, narrow(DRAIN)).await;
        let answer = ask(&mut forbidden);
        // On a machine that stood still meanwhile the time may be over, and nothing is said.
        if narrowed.elapsed() < Duration::from_millis(DRAIN) {
            assert_eq!(answer.unwrap(), "version=1", "TCP has its time");
        }
        assert_eq!((udp(&udp_forbidden), udp(&udp_allowed).is_some()), (None, true), "UDP at once");
        // Somebody else's time is not over because the service was killed.
        host.kill_service();
        host.start_service().await;
        eventually("its time is over", async || !host.elements("enforced4").is_empty()).await;
        assert!(narrowed.elapsed() >= Duration::from_millis(DRAIN), "{:?}", narrowed.elapsed());
        let took = until_reset(&mut forbidden);
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(ask(&mut allowed).unwrap(), "version=1", "who may connect goes on");
        assert!(host.client.run(|| connect(CLIENT)).is_err(), "and nobody new");
        // Without time to finish, at once; and on one address of the host as on all.
        manager.call("Unpublish", &("website",)).await.unwrap();
        let on_address = |mut options: Options<'static>| {
            options.insert("addresses", vec![HOST].into());
            options
        };
        publish(&manager, on_address(Options::new())).await;
        let [mut forbidden, mut allowed] = [CLIENT, OTHER_CLIENT].map(|from| connected(&host.client, from));
        publish(&manager, on_address(narrow(0))).await;
        let took = until_reset(&mut forbidden);
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(ask(&mut allowed).unwrap(), "version=1");
    });
}

#[test]
fn what_others_translate_is_not_judged_by_sources() {
    isolated("what_others_translate_is_not_judged_by_sources", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        // As kube-proxy or Docker would: an address behind the host, and the same port.
        let other = Namespace::create().unwrap();
        sh(&format!(
            "ip link add elsewhere type veth peer name eth0 netns {}; ip address add 172.18.0.1/24 dev elsewhere; \
             ip link set elsewhere up; nft 'table ip proxy {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
             ip daddr 10.96.0.5 tcp dport {PORT} dnat to 172.18.0.2:9443; }}; }}'",
            other.pid()
        ));
        other.sh("ip address add 172.18.0.2/24 dev eth0; ip link set eth0 up; ip link set lo up; \
             ip route add default via 172.18.0.1");
        host.client.sh("ip route add 10.96.0.5 via 192.0.2.1");
        serve(&other, "other", 9443);
        let ask_other = || ask_tcp(&host.client, &format!("10.96.0.5:{PORT}"));
        deploy(&host, &manager, "1").await;
        assert!(ask_other().is_some_and(|answer| answer.starts_with("other")), "without a publication");
        let others = Options::from([("sources", vec![format!("{OTHER_CLIENT}/32")].into())]);
        publish(&manager, others).await;
        assert_eq!(host.elements("enforced4").len(), 1);
        assert!(ask_other().is_some_and(|answer| answer.starts_with("other")), "it is none of ours");
        assert!(host.client.run(|| connect(CLIENT)).is_err());
        assert_eq!(ask(&mut connected(&host.client, OTHER_CLIENT)).unwrap(), "version=1");
    });
}
