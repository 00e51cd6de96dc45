//! Reading messages from their bytes, each once: what a message is depends on its bytes, on who brought it and on the roster in force, not on who reads it.
//! Half of a run's time would go into checking the same signatures for every custodian anew.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use concordat_events::Hash;
use concordat_finality::{Context, Input, Msg};
use concordat_node::engine;

/// Messages remembered: those of a few heads.
const KEPT: usize = 4_096;

/// Under which roster, from whom, what.
type Key = (Hash, u16, Bytes);

/// See the module's header.
#[derive(Default)]
pub struct Reading {
    known: HashMap<Key, Option<Msg>>,
    order: VecDeque<Key>,
}

impl Reading {
    /// The message in these bytes, as production reads it; nothing if it is refused.
    pub fn read(&mut self, context: &Context, from: u16, bytes: &Bytes) -> Option<Msg> {
        let key = (context.roster_hash, from, bytes.clone());
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
