//! All machines under one head: batches go in, a head with its state root and the events it makes due come out.
//!
//! Promises: execution is a function of the certified state and the batches (PROTOCOL 4.2), the same bytes on every
//! custodian and at every replay; a request that can't be accepted is a rejection with a reason, never silence; a draft
//! leaves the certified state as it is until it is installed.
//! Refuses: batches that are invalid whatever the clock, and effects the group never signs. Knows no clock, no
//! randomness, no file: time stands in the batches, bytes lie in a [`concordat_store::Store`].

mod admit;
mod cache;
mod charter;
mod check;
mod draft;
mod due;
mod error;
mod execute;
mod kept;
mod keys;
mod layer;
mod ledger;
pub mod limits;
mod mail;
mod proof;
mod reason;
mod record;
mod request;
mod sync;
mod timers;
mod tree;
mod vet;
mod work;

pub use admit::check_definition;
pub use charter::Proposed;
pub use draft::{Draft, Tip};
pub use error::{BatchFault, ChunkError, ExecuteError, HeadFault, InstallError, OpenError, RestoreError};
pub use keys::{ROSTER, SYSTEM, claim_key, definition_key, machine_key, mail_key, record_key, request_key};
pub use ledger::Ledger;
pub use mail::{Delivery, mail_id};
pub use proof::{Proof, ProofError};
pub use reason::Refusal;
pub use record::{MachineView, Record};
pub use sync::{Chunk, Landing};

#[cfg(test)]
mod tests;
