//! Segments that fit the way between a guest and its peers.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::host::{HOST, Options, TestHost, eventually};
use crate::netns::{isolated, run_beside, serve, sh};
use crate::{CLIENT, PORT, connect, connected, deploy, publish, started};

/// What lists the established connections of a port, and what they may send.
fn established(port: u16) -> String {
    format!("ss -tinH state established '( sport = :{port} or dport = :{port} )'")
}

/// How large the segments are that a connection may send.
fn segment_size(all: &str) -> u32 {
    let size = all.split_whitespace().find_map(|word| word.strip_prefix("mss:"));
    size.unwrap_or_else(|| panic!("{all}")).parse().unwrap()
}

/// The process of the only guest there is.
fn guest(host: &TestHost) -> u32 {
    host.albatross.dump()["unikernels"][0]["pid"].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn segments_of_a_guest_that_connects_fit_a_smaller_mtu() {
    isolated("segments::segments_of_a_guest_that_connects_fit_a_smaller_mtu", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        deploy(&host, &manager, "1").await;
        let guest = guest(&host);
        serve(&host.client, "outside", PORT);
        // Sizes that both may send: the guest, and the server that it has connected to.
        let sizes = || {
            let connected = run_beside(guest, || {
                let mut stream = TcpStream::connect((CLIENT, PORT)).unwrap();
                let mut said = [0; 64];
                let length = stream.read(&mut said).unwrap();
                assert_eq!(String::from_utf8_lossy(&said[..length]), format!("outside {HOST}"), "masqueraded");
                stream
            });
            let sizes = [run_beside(guest, || sh(&established(PORT))), host.client.sh(&established(PORT))];
            drop(connected);
            sizes.map(|shown| segment_size(&shown))
        };
        let whole = sizes();
        let none = || run_beside(guest, || sh(&established(PORT))) + &host.client.sh(&established(PORT));
        eventually("no connection is left", async || none().is_empty()).await;
        sh("ip link set outside mtu 1400");
        assert_eq!(sizes(), whole.map(|size| size - 100));
    });
}

#[test]
fn segments_fit_a_smaller_mtu_on_the_way_in_both_directions() {
    isolated("segments::segments_fit_a_smaller_mtu_on_the_way_in_both_directions", |_| async {
        let Some((host, manager)) = started(false).await else { return };
        deploy(&host, &manager, "1").await;
        publish(&manager, Options::new()).await;
        let without = connected(&host.client, CLIENT);
        // The guest does not hear of smaller MTUs, as MirageOS does not: it sends what the client has announced to it.
        let guest = guest(&host);
        let of_guest = move || run_beside(guest, || sh(&established(80)));
        let both = || [segment_size(&host.client.sh(&established(PORT))), segment_size(&of_guest())];
        let whole = both();
        drop(without);
        eventually("the guest has no connection left", async || of_guest().is_empty()).await;
        // As behind PPPoE: the host's way out is smaller than what both ends believe.
        sh("ip link set outside mtu 1400");
        let within = connected(&host.client, CLIENT);
        assert_eq!(both(), whole.map(|size| size - 100), "what the client and the guest send");
        let large = host.client.run(|| {
            let mut stream = connect(CLIENT).unwrap();
            stream
                .write_all(b"GET /download?bytes=200000&rate=100000000 HTTP/1.1\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        assert!(large > 200_000, "{large}");
        drop(within);
    });
}
