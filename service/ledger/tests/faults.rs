//! Full disks, failing disks, and power that goes at any instant.

use std::io::ErrorKind;

use super::disk::{Disk, Operation};
use super::model::apply;
use super::*;

/// Transactions that touch every table, grow the file and free pages again.
fn transactions() -> Vec<Vec<Change>> {
    let mut transactions = vec![every_kind()];
    for round in 0..4_u8 {
        let many =
            (0..40_u8).map(|n| Change::PutLease(lease(&format!("{round}.{n}"), &format!("10.{round}.0.{n}"), 1)));
        transactions
            .push(many.chain([Change::PutService(Box::new(service("wide", 600 * u16::from(round))))]).collect());
        transactions.push(vec![Change::PutUnikernel(Box::new(unikernel("website", round, "x")))]);
        transactions.push(
            (0..40_u8)
                .map(|n| Change::ReleaseLease { tag: tag(&format!("{round}.{n}")), at: Ordinal(u64::from(n)) })
                .collect(),
        );
    }
    transactions
}

/// The contents after 0, 1, 2, … of the transactions.
fn states(transactions: &[Vec<Change>]) -> Vec<Contents> {
    let mut states = vec![Contents::default()];
    for changes in transactions {
        let mut next = states.last().unwrap().clone();
        changes.iter().for_each(|change| apply(&mut next, change));
        states.push(next);
    }
    states
}

#[test]
fn a_commit_waits_for_the_disk_once() {
    let disk = Disk::formatted();
    let (ledger, _) = disk.open().unwrap();
    for number in 0..20 {
        disk.state().log.clear();
        commit(&ledger, vec![Change::PutLease(lease(&number.to_string(), "10.0.0.9", number))]).unwrap();
        let state = disk.state();
        assert_eq!(state.log.iter().filter(|operation| matches!(operation, Operation::Sync)).count(), 1);
    }
}

#[test]
fn callers_at_the_same_time_share_a_wait_and_each_gets_an_answer() {
    let disk = Disk::formatted();
    let (ledger, _) = disk.open().unwrap();
    disk.state().log.clear();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let change = |number: u8| vec![Change::PutLease(lease(&number.to_string(), &format!("10.0.0.{number}"), 1))];
        let callers = (0..200_u8).map(|number| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.commit(change(number)).await })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap().unwrap();
        }
    });
    let syncs = disk.state().log.iter().filter(|operation| matches!(operation, Operation::Sync)).count();
    assert!(syncs < 200, "{syncs} waits for 200 callers");
    assert_eq!(disk.contents().leases.len(), 200);
}

/// The disk is full after any number of writes: an error, nothing half-made, and all is well when there is space again.
#[test]
fn a_full_disk_is_an_error_and_no_more() {
    let transactions = transactions();
    let states = states(&transactions);
    let mut refused = 0;
    for operations in (0..40).chain((40..2000).step_by(13)) {
        let disk = Disk::formatted();
        let (ledger, _) = disk.open().unwrap();
        disk.state().operations_left = Some(operations);
        let mut done = 0;
        while done < transactions.len() {
            match commit(&ledger, transactions[done].clone()) {
                Ok(()) => done += 1,
                Err(error) => {
                    let Error::Io { source, .. } = &error else { panic!("{error}") };
                    assert_eq!(source.kind(), ErrorKind::StorageFull, "{error}");
                    assert!(error.to_string().ends_with("free space on its file system, then try again"), "{error}");
                    refused += 1;
                    break;
                }
            }
        }
        let again = done;
        disk.state().operations_left = None;
        commit(&ledger, vec![]).unwrap();
        assert_eq!(as_sets(&disk.contents()), as_sets(&states[done]), "after {operations} operations");
        // The same handle goes on, without a new start.
        for changes in &transactions[again..] {
            commit(&ledger, changes.clone()).unwrap();
        }
        assert_eq!(as_sets(&disk.contents()), as_sets(states.last().unwrap()));
        if again == transactions.len() {
            break;
        }
    }
    assert!(refused > 40, "the disk was full {refused} times");
}

/// A sync fails although the disk has taken everything: the caller was told that the change is not there, so it must not
/// be, or the address would be leased twice.
#[test]
fn what_was_told_as_failed_is_undone() {
    let disk = Disk::formatted();
    let (ledger, _) = disk.open().unwrap();
    let at_first =
        [Change::PutLease(lease("a", "10.0.0.2", 1)), Change::PutService(Box::new(service("website", 3)))].to_vec();
    commit(&ledger, at_first.clone()).unwrap();
    let expected = as_sets(&disk.contents());
    for opens in [true, false] {
        disk.state().syncs_fail = true;
        disk.state().closed = !opens;
        let changes = vec![
            Change::ReleaseLease { tag: tag("a"), at: Ordinal(2) },
            Change::PutLease(lease("b", "10.0.0.2", 3)),
            Change::PutService(Box::new(service("website", 4))),
            Change::PutService(Box::new(service("website", 5))),
            Change::PutImage(image(1)),
        ];
        for _ in 0..2 {
            commit(&ledger, changes.clone()).unwrap_err();
        }
        assert_ne!(as_sets(&disk.contents()), expected, "the disk has it");
        disk.state().syncs_fail = false;
        disk.state().closed = false;
        commit(&ledger, vec![]).unwrap();
        assert_eq!(as_sets(&disk.contents()), expected);
    }
}

#[test]
fn another_file_in_its_place_is_told() {
    let disk = Disk::formatted();
    let (ledger, _) = disk.open().unwrap();
    let empty = disk.state().bytes.clone();
    commit(&ledger, vec![]).unwrap();
    disk.state().operations_left = Some(0);
    commit(&ledger, vec![]).unwrap_err();
    disk.state().operations_left = None;
    disk.state().bytes = empty;
    for _ in 0..2 {
        let error = commit(&ledger, vec![]).unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
    }
}

#[test]
fn a_ledger_that_cannot_be_opened_again_is_opened_later() {
    let disk = Disk::formatted();
    let (ledger, _) = disk.open().unwrap();
    disk.state().operations_left = Some(0);
    disk.state().closed = true;
    let change = Change::PutLease(lease("a", "10.0.0.2", 1));
    commit(&ledger, vec![change.clone()]).unwrap_err();
    let error = commit(&ledger, vec![change.clone()]).unwrap_err().to_string();
    assert!(error.ends_with("give the service's user the right to read and write it and its folder"), "{error}");
    disk.state().operations_left = None;
    disk.state().closed = false;
    commit(&ledger, vec![change]).unwrap();
    assert_eq!(disk.contents().leases, [lease("a", "10.0.0.2", 1)]);
}

/// The power goes at any operation; of what was written since the last sync, any part may be on the disk.
#[test]
fn after_a_crash_all_of_a_transaction_is_there_or_nothing() {
    let transactions = transactions();
    let states = states(&transactions);
    let disk = Disk::formatted();
    let before = disk.state().bytes.clone();
    let (ledger, _) = disk.open().unwrap();
    let mut acknowledged = Vec::new();
    for changes in &transactions {
        commit(&ledger, changes.clone()).unwrap();
        acknowledged.push(disk.state().log.len());
    }
    let log = disk.state().log.clone();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for crash in 0..=log.len() {
        let synced = log[..crash].iter().rposition(|operation| matches!(operation, Operation::Sync)).unwrap_or(0);
        let after = acknowledged.iter().filter(|&&length| length <= crash).count();
        for luck in 0..3 {
            let survivor = Disk::with(before.clone());
            for (index, operation) in log[..crash].iter().enumerate() {
                let unsynced = index > synced && matches!(operation, Operation::Write { .. });
                let kept = !unsynced || luck == 0 || (luck > 1 && chance.coin());
                if kept {
                    survivor.state().apply(operation);
                }
            }
            let found = as_sets(&survivor.open().unwrap().1);
            let one_of = &states[after..states.len().min(after + 2)];
            assert!(
                one_of.iter().any(|state| as_sets(state) == found),
                "crash at {crash} of {}, {after} transactions acknowledged: {found:#?}",
                log.len()
            );
        }
    }
}

/// Bits that flip on a disk at rest: told, or without effect; never other contents, never a panic that ends the process.
#[test]
fn a_damaged_file_is_told() {
    let disk = Disk::formatted();
    let (ledger, _) = disk.open().unwrap();
    for changes in transactions() {
        commit(&ledger, changes).unwrap();
    }
    let expected = as_sets(&disk.contents());
    drop(ledger);
    // Closed in order: the last thing that redb writes then is that it was.
    let whole = loop {
        let bytes = disk.state().bytes.clone();
        std::thread::sleep(Duration::from_millis(100));
        if disk.state().bytes == bytes {
            break bytes;
        }
    };
    let mut told = 0;
    for offset in (0..whole.len()).step_by(4001).chain(0..320) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0x10;
        match Disk::with(bytes).open() {
            Ok((_, contents)) => assert_eq!(as_sets(&contents), expected, "a flip at {offset}"),
            Err(Error::Damaged { .. }) => told += 1,
            Err(error) => panic!("a flip at {offset}: {error}"),
        }
    }
    assert!(told > 20, "{told} were told");
}

/// Xorshift: the same bits in every run.
struct Chance(u64);

impl Chance {
    fn coin(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 & 1 == 1
    }
}
