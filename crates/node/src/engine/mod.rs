//! What lies between the pure decider and the outside, whatever the outside is: the tasks around the epoch's Raft group, and
//! the release of what was decided.
//!
//! Generic over runtime, store, flusher and link through one trait, [`Outside`]: a custodian's process and the simulator run
//! the same code (docs/ARCHITECTURE.md, invariant 6). Nothing in here reads a clock, opens a socket or decides anything.

mod entries;
mod groups;

use std::future::Future;

use bytes::Bytes;
use concordat_events::Hash;
use concordat_finality::{Action, Alarm, Certified, Input, Message, Published};
use concordat_store::Store;
use openraft::AsyncRuntime;

pub use self::groups::{Groups, LogHealth, Orders, Setting, orders};

use crate::order::{Flusher, RaftLink};

/// Where a custodian runs: one choice of everything that isn't the protocol.
pub trait Outside: Send + Sync + 'static {
    /// The runtime of its tasks.
    type Rt: AsyncRuntime;
    /// Its store: a cheap handle, copies of which are one store.
    type Store: Store + Clone;
    /// Makes the store durable for the log.
    type Flusher: Flusher + Clone;
    /// The log's way to the other custodians.
    type Link: RaftLink + Clone;
    /// The decider's queue.
    type Inbox: Inbox;
}

/// The decider's queue: inputs are taken one after the other, in their order.
pub trait Inbox: Clone + Send + Sync + 'static {
    /// Hands an input over; waits while too many are on their way.
    fn input(&self, input: Input) -> impl Future<Output = ()> + Send;
}

/// The ways out of a custodian. None of these may block: they are called by the decider's one task.
pub trait Ways {
    /// A message to a peer. A lost one is repeated by the protocol.
    fn send(&mut self, to: u16, message: Bytes);
    /// A head was certified: publish it, answer who waits for its requests.
    fn certified(&mut self, head: Certified<Published>);
    /// Something for [`Groups`].
    fn order(&mut self, action: Action);
    /// Another roster is in force: the decider is done, and the custodian begins again from its disk.
    fn reopen(&mut self);
    /// Something that an operator must know.
    fn alarm(&mut self, alarm: Alarm);
}

/// Carries out what was decided.
pub fn release(action: Action, ways: &mut impl Ways) {
    match action {
        Action::Send { to, message } => ways.send(to, Bytes::from(message.to_bytes())),
        Action::Certified(head) => ways.certified(*head),
        Action::Reopen => ways.reopen(),
        Action::Alarm(alarm) => ways.alarm(alarm),
        action @ (Action::OpenGroup { .. } | Action::CloseGroup { .. } | Action::Append { .. }) => {
            ways.order(action);
        }
    }
}

/// What a peer delivered, as an input: parsed and its signature checked, or refused with the reason.
///
/// # Errors
/// Says what is wrong with it and who sent it.
pub fn received(
    context: &concordat_finality::Context,
    from: u16,
    bytes: &[u8],
) -> Result<Input, concordat_finality::message::MessageError> {
    Message::receive(context, from, bytes).map(Input::Message)
}

/// The hash of a wrapper's predecessor, as the guard keeps it.
fn hash(bytes: &[u8; 32]) -> Hash {
    Hash::from_bytes(*bytes)
}
