//! Somebody else changes the kernel's table, and the service puts it back.

use std::time::{Duration, Instant};

use crate::account::elements;
use crate::host::{HOST, PATIENCE, TestHost, eventually};
use crate::netns::{isolated, sh, try_sh};
use crate::scene::{Deed, Scene};
use std::net::TcpStream;

const LIMIT: Duration = Duration::from_millis(300);
/// Changes one after the other are answered every tenth of a second.
const BREATH: Duration = Duration::from_millis(150);

const TABLE: &str = "inet albatross_deployer";

/// How long until the port answers. Asked again and again: a SYN that was dropped is repeated only after a second.
fn answers_again(host: &TestHost) -> Duration {
    let began = Instant::now();
    let target = format!("{HOST}:8080").parse().unwrap();
    host.client.run(move || {
        while TcpStream::connect_timeout(&target, Duration::from_millis(20)).is_err() {
            assert!(began.elapsed() < PATIENCE, "the port does not answer again");
        }
    });
    let answered = began.elapsed();
    assert!(host.get(8080).unwrap().starts_with("version="));
    answered
}

fn listed() -> String {
    try_sh(&format!("nft -s list table {TABLE}")).1
}

#[test]
fn what_others_do_to_the_table_is_healed() {
    isolated("kernel::what_others_do_to_the_table_is_healed", |_| async {
        let Some(scene) = Scene::new().await else { return };
        let whole = listed();
        for damage in [
            "flush ruleset".into(),
            format!("delete table {TABLE}"),
            format!("flush map {TABLE} ports4"),
            format!("delete element {TABLE} ports4 {{ tcp . 8080 }}"),
            format!("flush chain {TABLE} prerouting"),
            format!("flush table {TABLE}"),
            format!("add element {TABLE} ports4 {{ tcp . 7070 : 10.0.0.77 . 80 }}"),
            format!("insert rule {TABLE} published drop"),
            format!("add table {TABLE} {{ flags dormant; }}"),
        ] {
            tokio::time::sleep(BREATH).await;
            sh(&format!("nft '{damage}'"));
            let began = Instant::now();
            let answered = answers_again(&scene.host);
            eventually(&format!("the table as it was, after {damage}"), async || listed() == whole).await;
            let healed = began.elapsed();
            println!("{damage}: the port answered after {answered:?}, the table was whole after {healed:?}");
            assert!(answered < LIMIT, "{damage}: {answered:?}");
        }
        scene.settled().await;
    });
}

#[test]
fn what_was_done_while_the_service_was_away_is_healed() {
    isolated("kernel::what_was_done_while_the_service_was_away_is_healed", |_| async {
        let Some(mut scene) = Scene::new().await else { return };
        let whole = listed();
        for damage in [
            format!("delete element {TABLE} ports4 {{ tcp . 8080 }}"),
            format!("insert rule {TABLE} published drop"),
            "flush ruleset".into(),
            format!("delete table {TABLE}; add table {TABLE}; add map {TABLE} ports4 {{ type mark : verdict; }}"),
        ] {
            scene.host.kill_service();
            sh(&format!("nft '{damage}'"));
            let began = Instant::now();
            scene.host.spawn_service();
            answers_again(&scene.host);
            println!("after SIGKILL and {damage}: the port answered {:?} after the start", began.elapsed());
            eventually("the table as it was", async || listed() == whole).await;
            scene.host.kill_service();
            scene.host.start_service().await;
            scene.settled().await;
        }
    });
}

#[test]
fn a_switch_at_the_moment_of_a_flush() {
    isolated("kernel::a_switch_at_the_moment_of_a_flush", |host| async move {
        let Some(scene) = Scene::new().await else { return };
        scene.prepare(Deed::Rollback).await;
        let known = scene.known(Deed::Rollback).await;
        for round in 0..30 {
            let flush = host.spawn(move || {
                std::thread::sleep(Duration::from_millis(round % 10));
                sh("nft flush ruleset");
            });
            scene.perform(Deed::Rollback, &known).await.unwrap();
            flush.join().unwrap();
            scene.settled().await;
        }
        assert_eq!(elements(&scene.host).len(), 2);
        assert_eq!(answers_again(&scene.host).as_secs(), 0);
    });
}
