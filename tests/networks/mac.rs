//! A bridge whose MAC address nobody has set takes the lowest one of its ports, and the answers of unikernels that know the
//! one before are lost.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::{HOST, Options, PATIENCE, TestHost, eventually, options};
use crate::netns::{isolated, sh};
use crate::open_loop::{Asked, Load};
use crate::{destroy, mac};

/// Attaches a port with the lowest address there is: `br0` takes it unless it has one of its own.
fn add_lowest_port(name: &str, last: u8) {
    let mac = format!("00:00:00:00:00:{last:02x}");
    sh(&format!("ip link add {name} address {mac} type veth peer name peer-{name} && ip link set {name} master br0"));
}

#[test]
fn a_bridge_with_unikernels_keeps_its_mac_address() {
    isolated("a_bridge_with_unikernels_keeps_its_mac_address", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        // As long as nobody is on it, it is left alone.
        add_lowest_port("before", 9);
        let before = mac("br0");
        assert_eq!(before, "00:00:00:00:00:09");
        let (id, _) = manager.deploy("website", &host.image("1", &[]), options("tcp:80")).await.unwrap();
        sh("ip link del before");
        assert_eq!(mac("br0"), before);
        // Over a restart of the service, and while it is away.
        host.stop_service();
        add_lowest_port("meanwhile", 8);
        host.start_service().await;
        let manager = host.manager().await;
        manager.deploy("website", &host.image("2", &[]), options("tcp:80")).await.unwrap();
        add_lowest_port("after", 7);
        assert_eq!(mac("br0"), before);
        destroy(&manager, &id).await;
        assert_eq!(mac("br0"), before);

        // A bridge that is made anew is another one, with unikernels already.
        sh("ip link del br0; ip link add br0 type bridge; ip address add 10.0.0.1/24 dev br0; ip link set br0 up");
        let mut last = 7;
        eventually("the new bridge keeps its address", async || {
            last -= 1;
            let (before, name) = (mac("br0"), format!("new{last}"));
            add_lowest_port(&name, last);
            let same = mac("br0") == before;
            sh(&format!("ip link del {name}"));
            last = if last == 1 { 7 } else { last };
            same
        })
        .await;
    });
}

/// Set after its first tap, it would be that one's.
#[test]
fn a_bridge_keeps_the_mac_address_that_it_had_before_its_first_unikernel() {
    isolated("a_bridge_keeps_the_mac_address_that_it_had_before_its_first_unikernel", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let before = mac("br0");
        for version in ["1", "2"] {
            manager.deploy("website", &host.image(version, &[]), options("tcp:80")).await.unwrap();
            assert_eq!(mac("br0"), before);
        }
    });
}

/// Times that a port with a lower address than all others comes and goes.
const CHANGES: usize = 40;
/// Clients, each of which waits for an answer before it asks again: more would fill the buffer of a guest that has to wait
/// for a processor.
const CLIENTS: usize = 8;

#[test]
fn answers_on_their_way_are_not_lost_when_ports_come_and_go() {
    isolated("answers_on_their_way_are_not_lost_when_ports_come_and_go", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        // Several are on their way at any time.
        let image = host.image("1", &["--echo-after=20"]);
        manager.deploy("website", &image, options("tcp:80")).await.unwrap();
        manager.publish("website", &[("udp", 8080, 80)], Options::new()).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ask = |stop: Arc<AtomicBool>| host.client.spawn(move || ask_until(&stop));
        let clients = (0..CLIENTS).map(|_| ask(Arc::clone(&stop))).collect::<Vec<_>>();
        for change in 0..CHANGES {
            add_lowest_port(&format!("port{change}"), 1);
            tokio::time::sleep(Duration::from_millis(15)).await;
            sh(&format!("ip link del port{change}"));
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let (answered, lost) = clients.into_iter().map(|client| client.join().unwrap()).fold((0, 0), |all, one| {
            let (answered, lost) = one;
            (all.0 + answered, all.1 + lost)
        });
        println!("{answered} datagrams were answered, {lost} were not");
        assert_eq!(lost, 0);
        assert!(answered > CHANGES);
    });
}

/// Datagrams that were answered, and that were not.
fn ask_until(stop: &AtomicBool) -> (usize, usize) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(format!("{HOST}:8080")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut answered, mut lost) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        socket.send(b"?").unwrap();
        match socket.recv(&mut [0; 256]) {
            Ok(_) => answered += 1,
            Err(_) => lost += 1,
        }
    }
    (answered, lost)
}

const UPDATES: usize = 15;

#[test]
fn updates_with_collect_lose_no_connection() {
    isolated("updates_with_collect_lose_no_connection", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let deploy = async |version: usize| {
            let image = host.image(&version.to_string(), &[]);
            manager.deploy("website", &image, options("http:80/")).await.unwrap();
            manager.publish("website", &[("tcp", 8080, 80)], Options::from([("drain", 300_u64.into())])).await.unwrap();
        };
        deploy(0).await;
        let before = mac("br0");
        let clients = Clients::start(&host);
        for version in 1..=UPDATES {
            deploy(version).await;
            let collected = manager.collect(Options::from([("keep-previous", 0_u32.into())])).await.unwrap();
            assert!(!collected.is_empty());
        }
        let asked = clients.stop();
        assert_eq!(mac("br0"), before);
        let lost = asked.iter().filter(|asked| asked.answer.is_err()).collect::<Vec<_>>();
        println!("{} connections over {UPDATES} updates, {} lost", asked.len(), lost.len());
        assert!(lost.is_empty(), "{lost:?}");
        assert!(asked.len() > 10 * UPDATES);
    });
}

struct Clients {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Asked>>,
}

impl Clients {
    fn start(host: &TestHost) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = host.client.spawn(move || {
            let target = format!("{HOST}:8080").parse().unwrap();
            let load = Load { target, path: "/", rate: 200.0, patience: PATIENCE };
            let mut seen = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(load.run(|| told.load(Ordering::Relaxed), |asked| seen.push(asked)));
            seen
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
