//! What machines send each other: inputs that an accepted step asks for, delivered within the same head.
//!
//! A message's id is that of its sender and of how many that one had sent before, so it is the same on every custodian
//! and each is delivered once. It is delivered after the step that sent it, in the order of sending, before anything else
//! of the batch. Its outcome is a leaf: like a request's, it is provable and never silent. The receiver sees the sender's
//! id as `event.pubkey`, which no participant can sign for.

use concordat_events::Hash;
use concordat_events::hash::tagged;
use concordat_machine::{Event, Reason};
use concordat_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keys;
use crate::reason::Refusal;
use crate::request::speaks_for_nostr;
use crate::work::{Verdict, Work};

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) from: Hash,
    pub(crate) to: Hash,
    pub(crate) kind: String,
    pub(crate) data: Value,
    pub(crate) id: Hash,
}

/// What became of a message: the value of the leaf `mail/<receiver>/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// The machine that sent it.
    pub from: Hash,
    /// The head in which it was delivered.
    pub height: u64,
    /// Why the receiver refused it; none if it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The id of a machine's n-th message, counted from 0.
pub fn mail_id(from: &Hash, n: u64) -> Hash {
    tagged("concordat/mail", &[from.as_bytes(), &n.to_be_bytes()])
}

impl<S: Store> Work<'_, S> {
    /// Delivers what was sent, and what is sent by that, until nothing is under way. It ends: a request or timer has a
    /// fixed number of messages.
    pub(crate) fn deliver(&mut self) -> Result<(), StoreError> {
        while let Some(mail) = self.mail.pop_front() {
            let verdict = self.deliver_one(&mail)?;
            let reason = verdict.err().map(|refusal| refusal.code().to_owned());
            let delivery = Delivery { from: mail.from, height: self.height, reason };
            self.set(&keys::mail_key(&mail.to, &mail.id), &delivery)?;
        }
        Ok(())
    }

    fn deliver_one(&mut self, mail: &Mail) -> Verdict {
        let Some(mut slot) = self.take(&mail.to)? else { return Ok(Err(Refusal::UnknownMachine)) };
        let verdict = if self.owes_timer(&slot) {
            Ok(Err(Refusal::Busy))
        } else if speaks_for_nostr(&mail.kind) {
            Ok(Err(Refusal::Machine(Reason::BadEvent)))
        } else {
            let event = Event {
                kind: mail.kind.clone(),
                data: mail.data.clone(),
                pubkey: Some(mail.from.to_string()),
                id: Some(mail.id.to_string()),
                created_at: i64::try_from(self.now_ms / 1000).ok(),
                height: Some(self.height),
            };
            self.react(mail.to, &mut slot, event)
        };
        self.put(mail.to, slot);
        verdict
    }
}
