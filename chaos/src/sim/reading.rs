//! Reading messages from their bytes, each once: what a message is depends on its bytes, on who brought it, on the roster in force and
//! on the rules of who reads it, not on who that is. Half of a run's time would go into reading the same messages for every
//! custodian anew, and for every liar what it says itself.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use concordat_events::Hash;
use concordat_finality::{Context, Input, Msg};
use concordat_node::engine;

use super::brain::Mind;

/// Messages remembered: those of a few heads.
const KEPT: usize = 4_096;

/// Under which rules and roster, from whom, what.
type Key = (u64, Hash, u16, Bytes);

/// See the module's header.
#[derive(Default)]
pub struct Reading {
    known: HashMap<Key, Option<Msg>>,
    order: VecDeque<Key>,
}

impl Reading {
    /// The message in these bytes, as production reads it; nothing if it is refused.
    pub fn read(&mut self, mind: Mind, context: &Context, from: u16, bytes: &Bytes) -> Option<Msg> {
        let key = (mind.off, context.roster_hash, from, bytes.clone());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let message = match engine::received(context, from, bytes) {
            Ok(Input::Message(message)) => Some(message),
            _ => None,
        };
        if self.order.len() >= KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.known.insert(key, message.clone());
        message
    }
}
