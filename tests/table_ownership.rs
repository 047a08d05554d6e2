//! The kernel's table as the service's property, against a real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // A test is to fail and to say why.

#[path = "support/netns.rs"]
mod netns;

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::{Duration, Instant};

use albatross_deployer::domain::{Network, PortMapping, PortProtocol, Publication, ServiceName, UnikernelId};
use albatross_deployer::host_network::Error;
use albatross_deployer::host_network::nftables::{ForeignChanges, Ownership, Table, export};
use albatross_deployer::planning::ruleset::{ElementsChange, Ruleset, Settings, difference, ruleset};
use netns::{isolated, sh, try_sh};
use tokio::time::timeout;

const TABLE: &str = "inet albatross_deployer";
const QUIET: Duration = Duration::from_millis(200);

/// Longer than anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn owned() -> (Table, ForeignChanges) {
    Table::open_as(Ownership::Owned).unwrap()
}

/// As [`isolated`], where the kernel has what is tested.
fn where_tables_have_owners<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F + Send + 'static) {
    if Ownership::here() == Ownership::Shared {
        return println!("SKIPPED: {test}: a table that outlives its owner needs Linux 6.9");
    }
    isolated(test, |_| body());
}

/// `count` ports of this host, from 80 on, lead to `target`; one of them for some sources only.
fn on(target: &str, count: u16) -> Ruleset {
    let service: ServiceName = "website".parse().unwrap();
    let publication = |ports: std::ops::Range<u16>, sources: &[&str]| Publication {
        unikernel: UnikernelId::new(&service, &[1; 32]),
        target: target.parse().unwrap(),
        ports: ports.map(|host| PortMapping { protocol: PortProtocol::Tcp, host, unikernel: 80 }).collect(),
        addresses: [].into(),
        sources: sources.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        drain: 0,
        tolerates_until: None,
    };
    let published = [publication(80..80 + count, &[]), publication(70..71, &["192.0.2.0/24"])];
    let prefix = "10.0.0.0/24".parse().unwrap();
    let network = Network { name: "br0".parse().unwrap(), prefix, gateway: None, exclude: Vec::new() };
    ruleset(published.iter(), &[network], Settings { loopback: true })
}

fn switch(count: u16) -> [ElementsChange; 2] {
    let (one, two) = (on("10.0.0.2", count), on("10.0.0.3", count));
    [difference(&one.elements, &two.elements), difference(&two.elements, &one.elements)]
}

/// All that is in it in order of the text, with handles, which another table would have others of; without the owner.
/// Elements have no order of their own.
fn listed() -> Vec<String> {
    let (there, listed) = try_sh(&format!("nft -a list table {TABLE}"));
    assert!(there, "{listed}");
    let parts = listed.split(['\n', ',', '{', '}', '=']).map(|part| part.trim().to_owned());
    let of_content = |part: &String| !["", "flags", "flags owner"].contains(&part.as_str()) && !part.starts_with('#');
    let mut parts: Vec<_> = parts.filter(of_content).collect();
    parts.sort();
    parts
}

fn is_owned() -> bool {
    sh(&format!("nft list table {TABLE}")).contains("flags owner")
}

/// Drops an owner and waits until its table has none: a process that another test starts at this moment has the socket until
/// it is executed.
async fn give_up(table: Table) {
    drop(table);
    let end = Instant::now() + PATIENCE;
    while is_owned() {
        assert!(Instant::now() < end, "the table keeps its owner");
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_others_do_does_nothing() {
    where_tables_have_owners("what_others_do_does_nothing", || async {
        let (table, mut changes) = owned();
        let wanted = on("10.0.0.2", 3);
        assert!(table.install(&wanted).await.unwrap());
        assert!(!table.install(&wanted).await.unwrap());
        let (before, name) = (listed(), std::fs::read_to_string("/proc/self/comm").unwrap());
        sh("nft add table ip other; nft flush ruleset");
        assert_eq!(sh("nft list tables").trim(), format!("table {TABLE}"));
        for change in [
            format!("delete table {TABLE}"),
            format!("flush table {TABLE}"),
            format!("flush chain {TABLE} published"),
            format!("delete chain {TABLE} guard"),
            format!("insert rule {TABLE} prerouting drop"),
            format!("delete element {TABLE} ports4 {{ tcp . 80 }}"),
            format!("add element {TABLE} ports4 {{ tcp . 99 : 10.0.0.66 . 80 }}"),
            format!("add set {TABLE} mine {{ type ipv4_addr; }}"),
            format!("add table {TABLE} {{ flags dormant; }}"),
            format!("delete table {TABLE}; add table {TABLE}"),
        ] {
            let (done, said) = try_sh(&format!("nft '{change}'"));
            assert!(!done && said.contains("Operation not permitted"), "{change}: {said}");
        }
        assert_eq!(listed(), before);
        assert!(timeout(QUIET, changes.next()).await.is_err(), "nothing has changed");
        // What a person and a program see of it.
        let text = sh(&format!("nft list table {TABLE}"));
        assert!(text.starts_with(&format!("table {TABLE} {{ # progname {}", name.trim())), "{text}");
        let json: serde_json::Value = serde_json::from_str(&sh("nft -j list ruleset")).unwrap();
        assert_eq!(json["nftables"][1]["table"]["flags"][0], "owner");
        // Loaded by nft, a table with an owner would go with nft.
        let exported: serde_json::Value = serde_json::from_str(&export(&wanted)).unwrap();
        assert_eq!(exported["nftables"][0]["table"]["flags"], serde_json::Value::Null);
        table.remove().await.unwrap();
        assert_eq!(sh("nft list tables"), "");
    });
}

#[test]
fn an_orphan_stays_and_is_taken_over_as_it_is() {
    where_tables_have_owners("an_orphan_stays_and_is_taken_over_as_it_is", || async {
        let wanted = on("10.0.0.2", 500);
        let (table, _) = owned();
        table.install(&wanted).await.unwrap();
        let before = listed();
        give_up(table).await;
        assert_eq!(listed(), before);
        let (table, mut changes) = owned();
        assert!(!table.install(&wanted).await.unwrap(), "nothing is changed");
        assert!(is_owned());
        assert_eq!(listed(), before);
        assert!(timeout(QUIET, changes.next()).await.is_err());
        sh("nft flush ruleset");
        assert_eq!(listed(), before);
        give_up(table).await;
        sh(&format!("nft delete table {TABLE}"));
        assert_eq!(sh("nft list tables"), "");
    });
}

#[test]
fn what_was_done_to_an_orphan_is_put_right() {
    where_tables_have_owners("what_was_done_to_an_orphan_is_put_right", || async {
        let wanted = on("10.0.0.2", 3);
        let (table, _) = owned();
        table.install(&wanted).await.unwrap();
        give_up(table).await;
        let stateless = || sh(&format!("nft -s list table {TABLE}"));
        for damage in [
            format!("delete element {TABLE} ports4 {{ tcp . 80 }}"),
            format!("insert rule {TABLE} published drop"),
            format!("add chain {TABLE} prerouting {{ policy drop; }}"),
            format!("delete table {TABLE}"),
            format!("delete table {TABLE}; add table {TABLE} {{ flags dormant; }}"),
            format!("delete table {TABLE}; add table {TABLE}; add map {TABLE} ports4 {{ type mark : verdict; }}"),
            "flush ruleset".into(),
        ] {
            let (table, _) = owned();
            table.install(&wanted).await.unwrap();
            let whole = stateless();
            give_up(table).await;
            sh(&format!("nft '{damage}'"));
            let (table, _) = owned();
            assert!(table.install(&wanted).await.unwrap(), "{damage}");
            assert_eq!(stateless(), whole, "{damage}");
            assert!(is_owned() && !table.install(&wanted).await.unwrap(), "{damage}");
            give_up(table).await;
        }
    });
}

#[test]
fn a_table_without_an_owner_is_made_anew_as_ones_own() {
    where_tables_have_owners("a_table_without_an_owner_is_made_anew_as_ones_own", || async {
        let wanted = on("10.0.0.2", 3);
        let (shared, mut changes) = Table::open_as(Ownership::Shared).unwrap();
        shared.install(&wanted).await.unwrap();
        assert!(!is_owned());
        let (table, _) = owned();
        assert!(table.install(&wanted).await.unwrap());
        assert!(is_owned());
        // In one batch, so in one piece of news.
        timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
        assert!(timeout(QUIET, changes.next()).await.is_err());
        // Who cannot own a table leaves an orphan as it is.
        drop(table);
        assert!(!shared.install(&wanted).await.unwrap());
        shared.apply(&switch(3)[0]).await.unwrap();
    });
}

#[test]
fn two_owners_are_one_too_many() {
    where_tables_have_owners("two_owners_are_one_too_many", || async {
        let wanted = on("10.0.0.2", 3);
        let (first, _) = owned();
        first.install(&wanted).await.unwrap();
        let before = listed();
        for ownership in [Ownership::Owned, Ownership::Shared] {
            let (second, _) = Table::open_as(ownership).unwrap();
            let error = second.install(&on("10.0.0.9", 3)).await.unwrap_err();
            assert!(matches!(error, Error::HeldByAnother { .. }) && !error.needs_install(), "{error}");
            assert!(error.to_string().contains("another process"), "{error}");
            let error = second.apply(&switch(3)[0]).await.unwrap_err();
            assert_eq!(error.needs_install(), ownership == Ownership::Owned, "{error}");
            assert!(matches!(second.remove().await.unwrap_err(), Error::HeldByAnother { .. }));
            assert_eq!(listed(), before);
        }
        let (second, _) = owned();
        give_up(first).await;
        assert!(!second.install(&wanted).await.unwrap());
        second.apply(&switch(3)[0]).await.unwrap();
        assert!(is_owned());
    });
}

#[test]
fn a_socket_that_was_given_up_leaves_an_orphan_that_is_taken_over() {
    where_tables_have_owners("a_socket_that_was_given_up_leaves_an_orphan_that_is_taken_over", || async {
        // So many that the kernel is seldom done before it is asked for the first time.
        let (wanted, [there, back]) = (on("10.0.0.2", 3000), switch(3000));
        let (table, mut changes) = owned();
        table.install(&wanted).await.unwrap();
        let mut given_up = 0;
        for _ in 0..50 {
            if !is_given_up(table.apply(&there)).await {
                table.apply(&back).await.unwrap();
                continue;
            }
            given_up += 1;
            let error = table.apply(&there).await.unwrap_err();
            assert!(matches!(error, Error::NotHeld) && error.needs_install(), "{error}");
            assert!(table.install(&wanted).await.unwrap(), "the batch that was given up came through");
            assert!(is_owned());
            // It came from a port that is ours no more, which is the reason to look again.
            timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
            assert!(!table.install(&wanted).await.unwrap());
            sh("nft flush ruleset");
            table.apply(&there).await.unwrap();
            table.apply(&back).await.unwrap();
            assert!(!table.install(&wanted).await.unwrap());
            if given_up == 3 {
                return;
            }
        }
        panic!("{given_up} of 50 were given up");
    });
}

/// Drops the future when its batch is on its way, so that nobody knows what becomes of it; false when it was faster.
async fn is_given_up(change: impl Future<Output = Result<(), Error>>) -> bool {
    let mut change = Box::pin(change);
    poll_fn(|context| Poll::Ready(change.as_mut().poll(context).is_pending())).await
}

/// Before anything is installed a change is not made: it would be of a table that others can change.
#[test]
fn a_change_waits_for_the_installation() {
    where_tables_have_owners("a_change_waits_for_the_installation", || async {
        let (table, _) = owned();
        let error = table.apply(&switch(1)[0]).await.unwrap_err();
        assert!(error.needs_install(), "{error}");
        assert_eq!(sh("nft list tables"), "");
    });
}

#[test]
fn a_switch_costs_the_same() {
    where_tables_have_owners("a_switch_costs_the_same", || async {
        let changes = switch(1);
        let mut fast = Vec::new();
        for ownership in [Ownership::Shared, Ownership::Owned, Ownership::Shared, Ownership::Owned] {
            let (table, _) = Table::open_as(ownership).unwrap();
            table.install(&on("10.0.0.2", 1)).await.unwrap();
            let mut times = Vec::new();
            for round in 0..400 {
                let begin = Instant::now();
                table.apply(&changes[round % 2]).await.unwrap();
                times.push(begin.elapsed());
            }
            times.sort();
            println!("a switch of one port, {ownership:?}: median {:?}, 99th {:?}", times[200], times[396]);
            // Of a busy machine's others the fastest know nothing.
            fast.push(times[40]);
            give_up(table).await;
        }
        assert!(fast[1].min(fast[3]) < 3 * fast[0].min(fast[2]), "{fast:?}");
    });
}
