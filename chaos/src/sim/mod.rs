//! The simulator: whole custodians in virtual time. One seed is one run.
//!
//! A custodian here is the decider, the ledger, the store's safety record, the Raft group behind its guard and the tasks around
//! it, as they run in production; the world is everything else: the network, disks that lose what wasn't flushed, clocks that
//! are wrong, power that fails between any write and any send, users, relays, and up to f liars.
//!
//! * [`world`]: what happens when, and to whom; [`seat`]: one custodian and its machine;
//! * [`outside`]: the runtime, store, flusher and links that the custodians' tasks run on;
//! * [`liars`]: custodians that lie; [`net`]: which message arrives, when, how often; [`faults`]: what goes wrong;
//! * [`outlet`] and [`relays`]: what is published, and what relays make of it;
//! * [`agenda`]: changes of the roster; [`users`]: requests, and what their senders were promised;
//! * [`scenarios`]: directed attacks, one script each;
//! * [`run`]: a run from its seed to its [`run::Outcome`].

pub mod agenda;
pub mod brain;
pub mod faults;
pub mod liars;
pub mod net;
pub mod outlet;
pub mod outside;
pub mod reading;
pub mod relays;
pub mod run;
pub mod scenarios;
pub mod seat;
pub mod trace;
pub mod users;
pub mod world;
