//! The reader: checks a group's whole history from public events, knowing nothing but the group's public key.
//!
//! Promises: `Ok` means that every head from the first to the newest given is signed by the group, continues the one
//! before, names outcomes and a state root that a replay of its requests gives, and that everything else the group signed
//! was due. What an answer can't say: whether newer heads exist that nobody showed, and what machines of other groups did.
//! Refuses: lines that are no event are counted, never trusted. No network, no storage, no clock.

mod due;
mod failure;
mod history;
mod proof;
pub mod registry;
mod replay;

use concordat_events::{Charter, Genesis, Hash, PublicKey, ValidEvent};

pub use failure::{Code, Failure};
pub use proof::verify_proof;

/// A history that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Heads replayed, Head(0) included.
    pub heads: u64,
    /// Requests replayed, rejected ones included.
    pub requests: u64,
    /// Machines at the newest head.
    pub machines: u64,
    /// State root of the newest head.
    pub state_root: Hash,
    /// Id of the newest head.
    pub head: Hash,
    /// Lines that were no valid event and were passed over.
    pub rubbish: u64,
    /// What the first head commits to.
    pub genesis: Genesis,
    /// What was in force, in order: the founders first, then each change that the group certified.
    pub charters: Vec<Charter>,
}

/// Collects events, in any order, from wherever they come; then checks them together.
pub struct Reader {
    group: PublicKey,
    pile: history::Pile,
}

impl Reader {
    /// A reader that trusts this key and nothing else.
    pub fn new(group: PublicKey) -> Self {
        Reader { group, pile: history::Pile::new(group) }
    }

    /// Takes a line of JSON. Rubbish is counted; a line that falsely claims to be the group's fails the check.
    pub fn line(&mut self, line: &str) {
        self.pile.line(line);
    }

    /// Takes an event that was checked before.
    pub fn event(&mut self, event: ValidEvent) {
        self.pile.event(event);
    }

    /// Replays everything.
    ///
    /// # Errors
    /// The first [`Failure`] found: forgeries first, then the chain, then head by head, then the other events.
    pub fn check(&self) -> Result<Report, Failure> {
        replay::replay(self.group, &self.pile)
    }
}

/// Checks the history in `lines`, one event of JSON each.
///
/// # Errors
/// See [`Reader::check`].
pub fn verify<L: AsRef<str>>(
    group: &PublicKey,
    lines: impl IntoIterator<Item = L>,
) -> Result<Report, Failure> {
    let mut reader = Reader::new(*group);
    for line in lines {
        reader.line(line.as_ref());
    }
    reader.check()
}
