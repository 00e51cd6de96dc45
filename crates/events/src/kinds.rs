//! The kinds of the events that Concordat reads and writes. Where a specification leaves a hole, the choice is ours and
//! stands in the genesis file with these defaults.

use serde::{Deserialize, Serialize};

/// Machine definition of a Nostr state machine; its event id is the machine's id.
pub const DEFINITION: u16 = 7500;
/// Transition input, signed by a participant.
pub const INPUT: u16 = 7501;
/// A change of roster or versions, proposed or activated (ours).
pub const CHANGE: u16 = 7510;
/// A machine's statement (ours): what a service says of itself, signed by the group, such as who gets a bet's stakes. The
/// ledger puts the tag `e` with the machine's id before those that the machine gives, so that no machine speaks for another.
pub const STATEMENT: u16 = 7511;
/// Key pack of an encrypted machine: refused (docs/adr/0022).
pub const KEY_PACK: u16 = 7502;
/// Gift wrap (NIP-59), the envelope of an encrypted machine's events: refused where no machine listens for it.
pub const GIFT_WRAP: u16 = 1059;
/// Snapshot of a machine (NIP-78 application data), signed by the group.
pub const SNAPSHOT: u16 = 30078;
/// Relay list (NIP-65).
pub const RELAY_LIST: u16 = 10002;
/// Computer announcement (nips pull request 1242).
pub const COMPUTER: u16 = 10400;

/// Kinds that a genesis may set otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kinds {
    /// Computation log: the log event of a head.
    pub log: u16,
}

impl Default for Kinds {
    fn default() -> Self {
        Kinds { log: 400 }
    }
}

/// Kinds that the group key never signs, whatever a machine asks for: profile and contact lists, deletions, vanish
/// requests, seals and wraps, authentication, and the key rotation kinds whose signature would speak for the group's identity.
pub const FORBIDDEN: &[u16] = &[0, 3, 5, 13, 62, 260, 261, 360, 361, 1059, 1776, 1777, 22242];

/// May the group key sign an event of this kind for a machine's effect?
pub fn allowed_effect(kind: u16) -> bool {
    !FORBIDDEN.contains(&kind)
        && ![SNAPSHOT, RELAY_LIST, COMPUTER, DEFINITION, INPUT, CHANGE, 400].contains(&kind)
}
