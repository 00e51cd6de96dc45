//! The shapes of everything Concordat says on Nostr, the hashes that bind it, and every limit of the system.
//!
//! Promises: what leaves this crate as a `Valid...` type has been checked whole (id, signature, sizes, depth); canonical
//! bytes are the same on every machine (RFC 8785); no clock, no randomness, no IO.
//! Refuses: anything over a limit, and JSON numbers that two programs could read differently.

pub mod batch;
pub mod change;
pub mod checked;
pub mod event;
pub mod genesis;
pub mod hash;
pub mod head;
pub mod json;
pub mod kinds;
pub mod limits;
pub mod output;
pub mod protobuf;
pub mod quote;
pub mod request;
pub mod roster;

pub use batch::Batch;
pub use change::{Activation, Build, Change, Charter, Confirming, Office, Proposal, Seats, Versions};
pub use checked::Checked;
pub use event::{EventError, Template, ValidEvent};
pub use genesis::{Admission, Genesis, SignedGenesis};
pub use hash::Hash;
pub use head::{Head, Outcome, Reason};
pub use nostr::{Event, EventId, Kind, PublicKey};
pub use quote::{quote, quoted};
pub use request::{Definition7500, Input7501, Mode, Route};
pub use roster::{Custodian, Roster};
