//! The custodian: the IO shell around the pure core. It runs the effects that `finality` decides and decides nothing.
//!
//! * [`order`]: the ordered log of one epoch, openraft behind a guard and one small trait;
//! * [`transport`]: gRPC between custodians with mutual TLS and pinned certificates;
//! * [`relay`]: requests in, certified events out; the durable outbox; a relay of our own;
//! * [`client`]: the door for users;
//! * [`ceremony`]: cards, proposal, and the key ceremony of the founders;
//! * [`engine`]: what is the same in a custodian and in the simulator;
//! * [`evidence`]: what signed messages show against a custodian, checked by anybody;
//! * [`custodian`]: all of it put together, as a process;
//! * [`keys`], [`dir`], [`config`]: sealed keys, a custodian's directory, its local configuration;
//! * [`certificate`]: another TLS certificate for a custodian that runs;
//! * [`backup`]: one sealed file that brings a custodian back; another passphrase;
//! * [`recover`]: the ceremony after too many were restored at once;
//! * [`interrupted`]: operations that end in the middle;
//! * [`harden`]: no core dumps, no swap;
//! * [`limits`]: every bound of this crate, with its reason.

pub mod backup;
pub mod ceremony;
pub mod certificate;
pub mod client;
pub mod config;
pub mod custodian;
pub mod dir;
pub mod engine;
pub mod evidence;
pub mod handover;
pub mod harden;
pub mod interrupted;
pub mod keys;
pub mod limits;
pub mod order;
pub mod recover;
pub mod relay;
pub mod transport;

/// The messages and services of `proto/concordat/v1`, generated.
pub mod proto {
    /// Custodian to custodian.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod peer {
        tonic::include_proto!("concordat.peer.v1");
        include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
    }
    /// Users to a custodian.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod client {
        tonic::include_proto!("concordat.client.v1");
    }
}
