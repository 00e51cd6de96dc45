//! # Threshold signatures of one head: FROST, as a pure library
//!
//! A group of custodians owns one Nostr key that none of them holds. This crate
//! makes that key ([`dkg`]), hands it over to other holders or gives the same ones
//! new shares ([`reshare`]), rebuilds a lost share ([`repair`]), and signs with it: [`commit`] (FROST round 1, which
//! travels in a prepare vote), [`sign`] (round 2, the commit vote) and
//! [`aggregate`] (the certificate), see PROTOCOL section 2. The result is an
//! ordinary BIP340 signature, which [`verify`] checks with libsecp256k1.
//!
//! **Promises.** A signing nonce is consumed by value and exists in no other
//! form than a [`Nonce`]; a share is only computed for a session of exactly `t`
//! known signers that holds the own commitment unaltered; whoever spoils a
//! signature is named, all of them; every aggregate is verified twice, by two
//! independent libraries.
//!
//! **Refuses.** It reads no clock, file, socket or system randomness: entropy
//! comes in as an argument and must be that of a cryptographic generator. It
//! does not decide *whether* to sign: that is `finality`'s business.
//!
//! **Trust.** The cipher suite is FROST(secp256k1, SHA-256) with Taproot
//! compatible signatures of `frost-secp256k1-tr`. The audit of its relatives
//! does not cover this suite. The plain secp256k1 suite is no substitute: its
//! signatures are not BIP340 and no Nostr client accepts them.
//!
//! The group's public key may have either parity. What readers know is its x
//! coordinate, [`GroupKey`]; nothing here assumes the prefix `0x02`.

mod aggregate;
mod curve;
pub mod dkg;
mod keys;
pub mod limits;
mod memory;
mod nonce;
pub mod repair;
pub mod reshare;
mod session;
mod sign;
mod verify;

pub use aggregate::{AggregateError, aggregate, aggregate_many};
pub use keys::{GroupKey, GroupKeys, KeyError, KeyShare};
pub use nonce::{Commitment, CommitmentError, Nonce, commit, commit_many};
pub use session::{Session, SessionError, Sessions};
pub use sign::{Share, ShareError, SignError, check_own, sign, sign_many, verify_share, verify_shares};
pub use verify::verify;
