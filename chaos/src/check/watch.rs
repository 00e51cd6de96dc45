//! The rules that one custodian's own history shows, watched on its way: I2, I3, I4, I5, I8, and PROTOCOL 7.

use concordat_events::Hash;
use concordat_finality::{Action, Context, Message};
use concordat_store::memory::MemoryStore;

use crate::invariants::{Moment, OwnWatch, Seen, Violation};

/// What one custodian has said and done, as far as later words can contradict it.
#[derive(Clone, Default)]
pub struct Watching {
    me: u16,
    own: OwnWatch,
    /// Each rule that it broke, as it broke it first.
    pub broken: Vec<Violation>,
}

impl Watching {
    /// Watches a custodian from its first start.
    pub fn new(me: u16) -> Self {
        Watching { me, ..Watching::default() }
    }

    /// It is about to be shown a session.
    pub fn session(&mut self, context: &Context, disk: &MemoryStore, message: &Message) {
        let seen = Seen::Sent { to: self.me, message };
        self.moment(context, &Moment { number: message.sender, honest: false, disk, seen });
    }

    /// It has started on a disk with this head.
    pub fn started(&mut self, context: &Context, disk: &MemoryStore, tip: Option<(u64, Hash)>) {
        self.moment(context, &Moment { number: self.me, honest: true, disk, seen: Seen::Started { tip } });
    }

    /// Something leaves it. The disk is as it was at this moment.
    pub fn see(&mut self, context: &Context, disk: &MemoryStore, action: &Action) {
        let seen = match action {
            Action::Send { to, message } => Seen::Sent { to: *to, message },
            Action::Append { epoch, entry, .. } => Seen::Appended { epoch: *epoch, entry },
            Action::Certified(head) => Seen::Certified(head),
            _ => return,
        };
        self.moment(context, &Moment { number: self.me, honest: true, disk, seen });
    }

    fn moment(&mut self, context: &Context, moment: &Moment<'_>) {
        for broken in self.own.see(context, moment) {
            if self.broken.iter().all(|known| known.invariant != broken.invariant) {
                self.broken.push(broken);
            }
        }
    }
}
