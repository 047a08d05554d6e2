//! One change of the table's elements without the service: what a switch costs in the kernel.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use albatross_deployer::domain::Publication;
use albatross_deployer::host_network::nftables::Table;
use albatross_deployer::planning::ruleset::{self, Elements, Settings};

use super::netns::Namespace;

/// In a namespace of its own, since the service would take this for somebody who meddles with its table. The table
/// holds `others` too.
pub struct RawBatch {
    switch: Sender<()>,
    took: Receiver<Duration>,
    _thread: JoinHandle<()>,
    _namespace: Namespace,
}

impl RawBatch {
    pub fn new(others: Vec<Publication>, one: Vec<Publication>, other: Vec<Publication>) -> Self {
        let namespace = Namespace::create().unwrap();
        let ((switch, switches), (take, took)) = (channel(), channel());
        let thread = namespace.spawn(move || serve(&others, [one, other], &switches, &take));
        took.recv().unwrap();
        Self { switch, took, _thread: thread, _namespace: namespace }
    }

    /// Deletes the elements of one and adds those of the other, in one batch.
    pub fn switch(&self) -> Duration {
        self.switch.send(()).unwrap();
        self.took.recv().unwrap()
    }
}

fn serve(others: &[Publication], pair: [Vec<Publication>; 2], switches: &Receiver<()>, took: &Sender<Duration>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (table, foreign) = Table::open().unwrap();
        drop(foreign);
        let all = others.iter().chain(&pair[0]);
        table.install(&ruleset::ruleset(all, &[], Settings { loopback: true })).await.unwrap();
        took.send(Duration::ZERO).unwrap();
        let [one, other]: [Elements; 2] = pair.each_ref().map(|publications| elements(publications));
        let (mut before, mut after) = (&one, &other);
        while switches.recv().is_ok() {
            let change = ruleset::difference(before, after);
            let begun = Instant::now();
            table.apply(&change).await.unwrap();
            if took.send(begun.elapsed()).is_err() {
                return;
            }
            std::mem::swap(&mut before, &mut after);
        }
    });
}

fn elements(publications: &[Publication]) -> Elements {
    let mut all = Elements::default();
    publications.iter().for_each(|publication| all.merge(ruleset::elements(publication)));
    all
}
