//! Notifications: somebody else has changed our table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::Error;
use super::super::attributes::Attributes;
use super::super::netlink::{Frame, Heard, Subscription, frames};
use super::observed::{GENERIC_HEADER, OF_TABLE};
use crate::planning::ruleset::TABLE;

/// NFNLGRP_NFTABLES
const GROUP: u32 = 7;
const NFTABLES: u16 = 10;
const INET: u8 = 1;
const NEW_GENERATION: u16 = 15; // NFT_MSG_NEWGEN
const PROCESS_NAME: u16 = 3; // NFTA_GEN_PROC_NAME

/// A program that changes the table again and again is answered at most this often.
const BREATH: Duration = Duration::from_millis(100);

/// Datagrams that are read for one answer, should they never end.
const MOST_AT_ONCE: usize = 10_000;

/// Changes of tables by others.
#[derive(Debug)]
pub struct ForeignChanges {
    subscription: Subscription,
    /// The port of the socket that our own batches come from.
    own_port: Arc<AtomicU32>,
    last: Option<Instant>,
    /// Kept here, so that a wait that is given up in the middle of a transaction forgets nothing.
    seen: Seen,
}

/// The table may be another than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChange {
    /// The program that did it, as the kernel names it; empty when that got lost.
    pub process: String,
}

impl ForeignChange {
    /// The program that made the change, for a line of the log: any process may choose its name.
    pub fn program(&self) -> String {
        match self.process.as_str() {
            "" => "another program".into(),
            process => process.escape_debug().to_string(),
        }
    }
}

impl ForeignChanges {
    pub(super) fn open(own_port: Arc<AtomicU32>) -> Result<Self, Error> {
        Ok(Self {
            subscription: Subscription::open(NETLINK_NETFILTER, &[GROUP])?,
            own_port,
            last: None,
            seen: Seen::default(),
        })
    }

    /// Waits until somebody else has changed or deleted something of our table, or may have.
    ///
    /// The first change is told at once; those within the tenth of a second after it are told together, as one.
    /// May be dropped while it waits: nothing gets lost.
    pub async fn next(&mut self) -> Result<ForeignChange, Error> {
        loop {
            if let Some(change) = self.next_of_any_table().await? {
                return Ok(change);
            }
        }
    }

    /// The same, and `None` where all that has changed is of other tables.
    pub async fn next_of_any_table(&mut self) -> Result<Option<ForeignChange>, Error> {
        if let Some(last) = self.last {
            sleep_until(last + BREATH).await;
        }
        while self.seen.finished.is_none() && !self.seen.others {
            self.hear().await?;
        }
        // What else has come in the meantime is part of the same news.
        for _ in 0..MOST_AT_ONCE {
            match timeout(Duration::ZERO, self.hear()).await {
                Ok(heard) => heard?,
                Err(_) => break,
            }
        }
        self.last = Some(Instant::now());
        self.seen.others = false;
        Ok(self.seen.finished.take().map(|process| ForeignChange { process }))
    }

    async fn hear(&mut self) -> Result<(), Error> {
        let own = self.own_port.load(Ordering::Relaxed);
        match self.subscription.next("notifications of nf_tables").await? {
            Heard::Lost => self.seen.finished = Some(String::new()),
            Heard::Datagram(datagram) => frames(datagram).for_each(|frame| self.seen.look(&frame, own)),
        }
        Ok(())
    }
}

/// What the messages of a transaction amount to. Its last says that there is a new generation, and whose.
#[derive(Debug, Default)]
struct Seen {
    touched: bool,
    finished: Option<String>,
    /// A transaction has changed tables of others alone.
    others: bool,
}

impl Seen {
    fn look(&mut self, frame: &Frame<'_>, own_port: u32) {
        if frame.kind >> 8 != NFTABLES || frame.port == own_port {
            return;
        }
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        if frame.kind & 0xff == NEW_GENERATION {
            if std::mem::take(&mut self.touched) {
                self.finished = Some(attributes.text(PROCESS_NAME).unwrap_or_default().to_owned());
            } else {
                self.others = true;
            }
        } else if frame.payload.first() == Some(&INET) && attributes.text(OF_TABLE) == Some(TABLE) {
            self.touched = true;
        }
    }
}
