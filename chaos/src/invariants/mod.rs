//! The invariants of PROTOCOL 11, one file each, checked after every step of a run by one who sees everything.
//!
//! They watch what leaves a custodian and what stands on its disk, never what it thinks: an invariant that asked the code under
//! test for its opinion would share its errors. Those that one custodian's step can break are an [`Invariant`]; I6, I7, I9 and I11 speak
//! of relays, of time and of the whole cluster, and are asked where these are known.

mod i01_one_id;
mod i02_never_falls;
mod i03_one_vote;
mod i04_lock_before_share;
mod i05_nonce_once;
#[cfg(feature = "sim")]
pub mod i06_replay;
pub mod i07_no_early_effect;
mod i08_grant_shows_lock;
pub mod i09_progress;
mod i10_once;
pub mod i11_honest_epochs;
mod i12_no_late_certificate;
mod p07_written_before_sent;
mod r09_one_roster;

use concordat_events::Hash;
use concordat_finality::{Context, Message, Published};
use concordat_store::memory::MemoryStore;

/// Something that happened at one custodian.
pub enum Seen<'a> {
    /// Its process has started from its disk.
    Started {
        /// The certified head that stands on it.
        tip: Option<(u64, Hash)>,
    },
    /// Its disk was replaced by an older image.
    Restored,
    /// A message left for a peer.
    Sent {
        /// For whom.
        to: u16,
        /// The message: its own, or one that it passes on.
        message: &'a Message,
    },
    /// It takes in what an honest custodian has sent it itself.
    Taken {
        /// The message.
        message: &'a Message,
        /// The roster that its sender went by.
        under: Hash,
    },
    /// An entry was handed to the epoch's log.
    Appended {
        /// Which epoch's.
        epoch: u64,
        /// The entry.
        entry: &'a Message,
    },
    /// A head was certified: it may be published, acknowledged, have effects.
    Certified(&'a Published),
}

/// What happened, to whom.
pub struct Moment<'a> {
    /// The custodian's number.
    pub number: u16,
    /// Does it keep to the protocol? Liars are bound by nothing but the group's signature.
    pub honest: bool,
    /// Its disk.
    pub disk: &'a MemoryStore,
    /// What happened.
    pub seen: Seen<'a>,
}

/// A rule that every run must keep.
pub trait Invariant: Send {
    /// Its name in PROTOCOL 11.
    fn name(&self) -> &'static str;

    /// Looks at what happened.
    ///
    /// # Errors
    /// How the rule was broken, by whom.
    fn see(&mut self, context: &Context, moment: &Moment<'_>) -> Result<(), String>;
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub message: String,
}

/// All invariants, watching one run.
pub struct Watch {
    all: Vec<Box<dyn Invariant>>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            all: vec![
                Box::<i01_one_id::OneId>::default(),
                Box::<i02_never_falls::NeverFalls>::default(),
                Box::<i03_one_vote::OneVote>::default(),
                Box::<i04_lock_before_share::LockBeforeShare>::default(),
                Box::<i05_nonce_once::NonceOnce>::default(),
                Box::<i08_grant_shows_lock::GrantShowsLock>::default(),
                Box::<i10_once::Once>::default(),
                Box::<i12_no_late_certificate::NoLateCertificate>::default(),
                Box::<p07_written_before_sent::WrittenBeforeSent>::default(),
                Box::<r09_one_roster::OneRoster>::default(),
            ],
        }
    }
}

impl Watch {
    /// Shows what happened to every invariant; the first that is broken is told.
    pub fn see(&mut self, context: &Context, moment: &Moment<'_>) -> Option<Violation> {
        self.all.iter_mut().find_map(|invariant| {
            let message = invariant.see(context, moment).err()?;
            Some(Violation { invariant: invariant.name(), message })
        })
    }
}

/// The invariants that one custodian's own history shows. It may be copied with the custodian, and outlives its crashes.
#[derive(Clone, Default)]
pub struct OwnWatch {
    never_falls: i02_never_falls::NeverFalls,
    one_vote: i03_one_vote::OneVote,
    lock_before_share: i04_lock_before_share::LockBeforeShare,
    nonce_once: i05_nonce_once::NonceOnce,
    grant_shows_lock: i08_grant_shows_lock::GrantShowsLock,
    written_before_sent: p07_written_before_sent::WrittenBeforeSent,
}

impl OwnWatch {
    /// Shows what happened to every invariant, also to those after one that is broken.
    pub fn see(&mut self, context: &Context, moment: &Moment<'_>) -> Vec<Violation> {
        let all: [&mut dyn Invariant; 6] = [
            &mut self.never_falls,
            &mut self.one_vote,
            &mut self.lock_before_share,
            &mut self.nonce_once,
            &mut self.grant_shows_lock,
            &mut self.written_before_sent,
        ];
        all.into_iter()
            .filter_map(|invariant| {
                let message = invariant.see(context, moment).err()?;
                Some(Violation { invariant: invariant.name(), message })
            })
            .collect()
    }
}
