//! PROTOCOL.md as a pure state machine: (state, input) -> effects.
//!
//! Promises: two different heads of one height never get enough of this custodian's word to be both signed; nothing leaves
//! before what it promises is durable; what is certified is exactly what this custodian computed itself.
//! Refuses: to sign bytes that anybody hands it, to act on a message whose signature it hasn't checked, to read a clock, a
//! file, a socket or the system's randomness: time and entropy are passed in, the store is a trait.

pub mod certified;
mod change;
pub mod context;
mod core;
pub mod decider;
mod digest;
pub mod effect;
mod epoch;
pub mod evidence;
mod fork;
mod handover;
pub mod limits;
pub mod message;
#[doc(hidden)]
pub mod mutants;
mod normal;
mod pace;
pub mod pool;
mod progress;
mod read;
pub mod record;
pub mod recover;
mod repeat;
mod resume;
mod round;
pub mod rules;
pub mod scheme;
mod session;
mod spread;
mod start;
mod state;
pub mod status;
mod sync;
#[cfg(test)]
mod tests;
pub mod timing;
pub mod wrapper;

/// The custodians' messages as they travel (`proto/concordat/v1/consensus.proto`).
#[allow(missing_docs, clippy::all, reason = "generated; documented in the .proto file")]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/concordat.consensus.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

    /// Decodes what somebody else encoded: nothing is made of it before its fields are counted.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode<T>(bytes: &[u8]) -> Result<T, DecodeError>
    where
        T: ::prost::Message + Default + ::concordat_events::protobuf::Shaped,
    {
        T::SHAPE.check(bytes, ::concordat_events::limits::MESSAGE_FIELDS)?;
        Ok(T::decode(bytes)?)
    }

    /// Why bytes aren't decoded.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum DecodeError {
        /// Not to be decoded at all.
        #[error(transparent)]
        Unfit(#[from] ::concordat_events::protobuf::Unfit),
        /// The decoder refused.
        #[error("{}", ::concordat_events::quoted(.0))]
        Prost(#[from] ::prost::DecodeError),
    }
}

pub use crate::core::{Entropy, Fatal, Parts};
pub use certified::{Certified, Published};
pub use context::{Context, Identity};
pub use decider::Decider;
pub use effect::{Action, Alarm, Input, Now, Origin};
pub use evidence::{Evidence, Fault, Finding};
pub use message::{Message, Msg};
pub use record::{Bar, Record};
pub use rules::{Law, Rules};
pub use scheme::{Frost, Scheme};
pub use status::Status;
pub use timing::Timing;
