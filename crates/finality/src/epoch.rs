//! What a custodian holds in memory about the running epoch: who opened it, the part of its log that no certified head
//! covers yet, and the clocks behind complaints. How epochs change stands in [`crate::change`].

use std::collections::{BTreeMap, VecDeque};

use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_events::limits::{BATCHES_PER_HEAD, REQUESTS_PER_HEAD};

use crate::limits::HEAD_BYTES;
use crate::message::{Cause, Msg, PrepareCert};

/// A batch of the epoch's log as it was delivered.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub batch: Batch,
    pub hash: Hash,
    /// When it came to this custodian, ms since 1970.
    pub arrived_wall_ms: u64,
}

/// What a valid EpochStart says.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// The height after c, the highest certified head that a grant names.
    pub next_height: u64,
    /// The lock of the highest epoch for that height (the value rule).
    pub forced: Option<PrepareCert>,
    /// Who signed it, and alone signs the log's entries.
    pub leader: u16,
}

impl Started {
    /// The lock that forces the head of this height.
    pub fn forced_for(&self, height: u64) -> Option<&PrepareCert> {
        self.forced.as_ref().filter(|cert| cert.vote.height == height)
    }
}

/// What a custodian holds in memory about the running epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch {
    /// Since when the opening is known, ms.
    pub opened_ms: Option<u64>,
    /// The grants that opened it; none for a roster's first epoch and for one that a Resume opened.
    pub opening: Vec<Msg>,
    /// The first entry of the log.
    pub started: Option<Started>,
    /// The batches of the log after those dropped.
    pub entries: VecDeque<Entry>,
    /// How many batches at the front of the log were dropped: a certified head covers them.
    pub dropped: u64,
    /// The last batch that the certified head covers.
    pub covered: u64,
    /// Heads certified since c whose batches haven't been found in the log yet.
    pub unmatched: VecDeque<Vec<Hash>>,
    /// Batches of some heads between c and those aren't known: they were fetched as a state.
    pub gap: bool,
    /// Leader: the last entry that was made.
    pub created: u64,
    /// Leader: its digest.
    pub last_digest: Hash,
    /// Time of the last batch that was made or delivered.
    pub last_time_ms: u64,
    /// Leader: the height last proposed.
    pub proposed: Option<u64>,
    /// Leader: its EpochStart was given to Raft.
    pub start_sent: bool,
    /// Leader: how many batches the forced lock's head has.
    pub forced_batches: u64,
    /// When the group whose core is dead is to be opened again, ms.
    pub reopen_ms: Option<u64>,
    /// Leader: empty batches ordered for each custodian in quarantine.
    pub nudges: BTreeMap<u16, u32>,
    /// Why the own complaint was sent, if it was.
    pub complained: Option<Cause>,
    /// The lock as it was when the first complaint came ([`crate::Rules::GRANT_READS_LOCK_LAST`]).
    pub early_lock: Option<Option<Box<PrepareCert>>>,
    /// When the epoch was entered, or the last head was certified in it, ms.
    pub progress_ms: u64,
    /// When the epoch was entered, ms.
    pub entered_ms: u64,
    /// Since when something waits for a certificate, ms.
    pub waiting_ms: Option<u64>,
}

impl Epoch {
    /// A fresh epoch. A roster's first one is open from the start.
    pub fn new(open: bool, now_ms: u64) -> Self {
        Epoch {
            opened_ms: open.then_some(now_ms),
            progress_ms: now_ms,
            entered_ms: now_ms,
            ..Epoch::default()
        }
    }

    /// Batches and bytes that no certified head covers yet.
    pub fn uncovered(&self) -> (usize, usize) {
        let open = || self.entries.iter().skip(self.place(self.covered));
        (open().count(), open().map(|entry| entry.batch.bytes()).sum())
    }

    /// The number of the last batch.
    pub fn last_number(&self) -> u64 {
        self.dropped + self.entries.len() as u64
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number.saturating_sub(self.dropped)).unwrap_or(usize::MAX)
    }

    /// The batches after the certified head, up to `number`; `None` if they aren't all here.
    pub fn batches_to(&self, number: u64) -> Option<Vec<Batch>> {
        (self.covered..=self.last_number())
            .contains(&number)
            .then(|| self.entries_to(number).map(|entry| entry.batch.clone()).collect())
    }

    /// The entries of [`Epoch::batches_to`].
    pub fn entries_to(&self, number: u64) -> impl Iterator<Item = &Entry> {
        let (from, to) = (self.place(self.covered), self.place(number));
        self.entries.iter().take(to).skip(from)
    }

    /// The last batch that one head may cover: what is more waits for the next head.
    pub fn coverable(&self) -> u64 {
        let (mut requests, mut bytes) = (0, 0);
        let mut number = self.covered;
        for entry in self.entries.iter().skip(self.place(self.covered)).take(BATCHES_PER_HEAD) {
            requests += entry.batch.requests.len();
            bytes += entry.batch.bytes();
            if number > self.covered && (requests > REQUESTS_PER_HEAD || bytes > HEAD_BYTES) {
                break;
            }
            number += 1;
        }
        number
    }

    /// A head was certified; its batches are those that follow, or of another epoch.
    pub fn certified(&mut self, batches: Vec<Hash>) {
        self.unmatched.push_back(batches);
        self.match_heads();
    }

    /// The log is read again from its beginning.
    pub fn restart_log(&mut self) {
        self.entries.clear();
        self.unmatched.clear();
        self.started = None;
        (self.dropped, self.covered) = (0, 0);
    }

    /// After a gap a head's batches stand somewhere further on in the log.
    fn find_after_gap(&mut self) -> bool {
        let log: Vec<Hash> =
            self.entries.iter().skip(self.place(self.covered)).map(|entry| entry.hash).collect();
        let found = self.unmatched.iter().enumerate().find_map(|(which, head)| {
            let at =
                (!head.is_empty()).then(|| log.windows(head.len()).position(|batches| batches == head))??;
            Some((which, at + head.len()))
        });
        let Some((which, count)) = found else { return false };
        self.unmatched.drain(..=which);
        self.covered += count as u64;
        self.gap = false;
        true
    }

    /// The state of a later head has taken the place of the own one.
    pub fn jumped(&mut self, next_height: u64) {
        self.gap = self.started.as_ref().is_none_or(|started| started.next_height + 1 < next_height);
        if self.gap {
            self.unmatched.clear();
        }
    }

    /// Their batches tell which entries certified heads cover (PROTOCOL 5, Joining). A head of another epoch's log is known as
    /// such by its first batch that differs, so it holds up nothing.
    pub fn match_heads(&mut self) {
        if self.started.is_none() {
            return;
        }
        if self.gap && !self.find_after_gap() {
            return;
        }
        while let Some(head) = self.unmatched.front() {
            let log = self.entries.iter().skip(self.place(self.covered));
            let (mut matched, mut other) = (0, false);
            for (hash, entry) in head.iter().zip(log) {
                other |= *hash != entry.hash;
                matched += 1;
            }
            let count = head.len();
            if !other && matched < count {
                return;
            }
            if !other {
                self.covered += count as u64;
            }
            self.unmatched.pop_front();
        }
        // What a certified head covers is on disk; nobody needs it here again.
        while self.dropped < self.covered && self.entries.pop_front().is_some() {
            self.dropped += 1;
        }
    }
}
