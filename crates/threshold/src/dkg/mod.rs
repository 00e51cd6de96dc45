//! The key ceremony: custodians make the group key together, and nobody ever
//! holds it whole (RFC 9591 leaves key generation open; this is the DKG of the
//! FROST paper, figure 1, as `frost-core` offers it, with what it leaves to us).
//!
//! [`Ceremony`] is a pure state machine: messages in, messages out. Its rounds:
//!
//! | message | to | what it is for |
//! |---|---|---|
//! | `Round1` | all | commitment to the own polynomial, proof of knowledge |
//! | `Echo` | all | what was received from whom: no two custodians go on with different round-1 packages |
//! | `Round2` | one | the share of the own polynomial, **secret** |
//! | `Confirm` | all | hash of all round-1 packages and of the resulting public keys |
//! | `TestCommit`, `TestShare` | all | a signature by **all** n: every share works before anything depends on it |
//! | `Done` | all | the test signature was verified with libsecp256k1 |
//! | `Abort` | all | what went wrong and who is suspected |
//!
//! **Promises.** Any order of delivery and any repetition lead to the same keys.
//! If one honest custodian finishes, every honest one holds a share that was
//! tested. A fault ends the ceremony for good, with an [`Alarm`] that names who
//! is suspected; a custodian that only stays silent is named by
//! [`Ceremony::waiting_on`]. The public keys are tweaked as BIP341 asks of a key
//! without scripts, once, by the library; nothing here tweaks again.
//!
//! **Needs.** Authenticated channels: the sender of a message is who the channel
//! says, never what a body says. `Round2` needs a confidential one too. The
//! caller keeps the signed messages as they came: when two custodians' views
//! differ, comparing the signed round-1 messages shows which of the two lied.
//!
//! The keys count once *all* members say at a higher level (the genesis, or
//! `roster activate`) that they stored them and read them back.
//!
//! **Refuses.** There is no resumption: the secrets of a running ceremony live
//! in memory only, so a custodian that crashed begins a new ceremony, with a new
//! id, together with all others. An id is used for one ceremony only.
//!
//! The shell around it does no more than this, with a network in between:
//!
//! ```
//! use std::collections::{BTreeMap, BTreeSet, VecDeque};
//! use concordat_events::Hash;
//! use concordat_threshold::dkg::{Ceremony, Message, Outgoing, Params, To};
//! # use rand::SeedableRng;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
//! let roster = BTreeSet::from([1, 2, 3]);
//! let mut members = BTreeMap::new();
//! let mut wire: VecDeque<(u16, Outgoing)> = VecDeque::new();
//! for own in &roster {
//!     let params = Params::new(Hash::from_bytes([7; 32]), roster.clone(), *own, 2)?;
//!     let (ceremony, out) = Ceremony::new(params, &mut rng)?;
//!     members.insert(*own, ceremony);
//!     wire.extend(out.into_iter().map(|out| (*own, out)));
//! }
//! while let Some((from, out)) = wire.pop_front() {
//!     for (to, member) in members.iter_mut().filter(|(to, _)| **to != from) {
//!         if out.to == To::All || out.to == To::One(*to) {
//!             let message = Message::decode(&out.message.encode())?;
//!             let answers = member.on_message(from, message, &mut rng)?;
//!             wire.extend(answers.into_iter().map(|out| (*to, out)));
//!         }
//!     }
//! }
//! let outcomes: Vec<_> = members.into_values().filter_map(|c| c.finish().ok()).collect();
//! assert_eq!(outcomes.len(), 3);
//! # Ok(())
//! # }
//! ```

mod alarm;
mod ceremony;
mod given;
mod message;
mod params;
mod status;
mod steps;
mod wire;

pub use alarm::{Alarm, Reason};
pub use ceremony::{Ceremony, NotFinished, Outcome, Outgoing, To};
pub use message::{Body, DecodeError, Kind, Message, Round1Package, SecretShare, View};
pub use params::{Params, ParamsError};
pub(crate) use params::{Source, asked};
pub(crate) use status::Heard;
pub use status::{Phase, Progress};
pub(crate) use steps::compare;
