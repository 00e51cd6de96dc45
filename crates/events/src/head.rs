//! A head and the log event (kind 400) that it determines byte for byte. The log event's id is the head's id.

use nostr::PublicKey;
use serde::{Deserialize, Serialize};

use crate::batch::{batch_hash, batches_root};
use crate::event::{Template, ValidEvent};
use crate::genesis::Genesis;
use crate::hash::Hash;
use crate::json;
use crate::limits::{BATCHES_PER_HEAD, REQUESTS_PER_HEAD};

/// The state of everything at one height. No epoch, leader, attempt or clock of one custodian is in it, so a head proposed
/// again in a later epoch has the same id (PROTOCOL 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The cluster's id.
    pub cluster: Hash,
    /// 0 for the first.
    pub height: u64,
    /// Id of the head before; zero for the first.
    pub parent: Hash,
    /// Root of the batches executed since the parent.
    pub batches_root: Hash,
    /// Root of the state tree after them.
    pub state_root: Hash,
    /// Time of the last batch, ms since 1970; of the genesis for Head(0).
    pub time_ms: u64,
    /// Hash of the roster that this head puts in force.
    pub roster: Hash,
    /// Time and number of requests of each batch.
    pub batches: Vec<(u64, u32)>,
    /// The requests in order with what became of each.
    pub outcomes: Vec<(Hash, Outcome)>,
    /// The genesis, in Head(0) only: a reader who has the group's key and public events needs nothing else.
    pub genesis: Option<Box<Genesis>>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed.
    Ok,
    /// It changed nothing, for this reason.
    Rejected(Reason),
}

impl Outcome {
    /// `ok` or `rejected`, as the log event says it.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Rejected(_) => "rejected",
        }
    }

    /// The reason's code, if it was rejected.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Outcome::Ok => None,
            Outcome::Rejected(reason) => Some(reason.code()),
        }
    }
}

/// A reason's code: 1 to 64 of `a-z`, `0-9`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(String);

impl Reason {
    /// Takes a code of the allowed form.
    pub fn new(code: &str) -> Option<Self> {
        let fits = (1..=64).contains(&code.len())
            && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.');
        fits.then(|| Reason(code.to_owned()))
    }

    /// The code.
    pub fn code(&self) -> &str {
        &self.0
    }
}

/// The head as it stands in the log event's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    cluster: Hash,
    height: u64,
    parent: Hash,
    batches_root: Hash,
    state_root: Hash,
    time: u64,
    roster: Hash,
    batches: Vec<(u64, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    genesis: Option<Box<Genesis>>,
}

/// Why an event isn't the log event of a head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Content that isn't a head.
    #[error("log event {id}: the content isn't a head: {message}")]
    Content {
        /// The event.
        id: Hash,
        /// What is wrong.
        message: String,
    },
    /// The tags aren't those that its content determines.
    #[error("log event {id}: it isn't the event that its own head determines")]
    Shape {
        /// The event.
        id: Hash,
    },
    /// Batches and requests don't match `batches_root`.
    #[error("log event {id}: its requests don't hash to its batches root")]
    Batches {
        /// The event.
        id: Hash,
    },
}

impl Head {
    /// The log event that this head determines, without its signature.
    pub fn log_event(&self, group: PublicKey, kind: u16) -> Result<Template, json::JsonError> {
        let content = json::canonical(&Content {
            cluster: self.cluster,
            height: self.height,
            parent: self.parent,
            batches_root: self.batches_root,
            state_root: self.state_root,
            time: self.time_ms,
            roster: self.roster,
            batches: self.batches.clone(),
            genesis: self.genesis.clone(),
        })?;
        let mut tags = vec![vec!["height".to_owned(), self.height.to_string()]];
        for (id, outcome) in &self.outcomes {
            let mut tag = vec!["e".to_owned(), id.to_hex(), String::new(), outcome.word().to_owned()];
            tag.extend(outcome.reason().map(str::to_owned));
            tags.push(tag);
        }
        tags.push(vec!["prev".to_owned(), self.parent.to_hex()]);
        tags.push(vec!["state_root".to_owned(), self.state_root.to_hex()]);
        tags.push(vec!["batches_root".to_owned(), self.batches_root.to_hex()]);
        Ok(Template { author: group, created_at: self.time_ms / 1000, kind, tags, content })
    }

    /// Reads a head back from its log event. The event must be exactly the one that the head determines.
    pub fn from_log_event(event: &ValidEvent) -> Result<Self, HeadError> {
        let id = event.id();
        let wrong = |message: &str| HeadError::Content { id, message: message.to_owned() };
        let content: Content = json::typed(event.content()).map_err(|error| wrong(&error.to_string()))?;
        let mut outcomes = Vec::new();
        for tag in event.tags("e") {
            let request = tag.get(1).and_then(|text| Hash::from_hex(text));
            let outcome = match (tag.get(3).map(String::as_str), tag.get(4)) {
                (Some("ok"), None) => Some(Outcome::Ok),
                (Some("rejected"), Some(code)) => Reason::new(code).map(Outcome::Rejected),
                _ => None,
            };
            let pair =
                request.zip(outcome).ok_or_else(|| wrong("an `e` tag has no request or no outcome"))?;
            outcomes.push(pair);
        }
        let head = Head {
            cluster: content.cluster,
            height: content.height,
            parent: content.parent,
            batches_root: content.batches_root,
            state_root: content.state_root,
            time_ms: content.time,
            roster: content.roster,
            batches: content.batches,
            outcomes,
            genesis: content.genesis,
        };
        let same = head.log_event(event.author(), event.kind()).is_ok_and(|template| template.id() == id);
        if !same {
            return Err(HeadError::Shape { id });
        }
        let founded = match &head.genesis {
            None => head.height != 0,
            Some(genesis) => {
                head.height == 0
                    && genesis.group_key == event.author()
                    && genesis.check().is_ok()
                    && genesis.cluster().is_ok_and(|cluster| cluster == head.cluster)
            }
        };
        if !founded {
            return Err(wrong("the genesis stands in Head(0), nowhere else, and hashes to the cluster's id"));
        }
        if head.batches.len() > BATCHES_PER_HEAD || head.outcomes.len() > REQUESTS_PER_HEAD {
            return Err(wrong("more batches or requests than a head may have"));
        }
        if head.computed_batches_root() != Some(head.batches_root) {
            return Err(HeadError::Batches { id });
        }
        Ok(head)
    }

    /// The batches root that follows from `batches` and the ids in `outcomes`; `None` if the numbers don't add up.
    pub fn computed_batches_root(&self) -> Option<Hash> {
        let mut ids = self.outcomes.iter().map(|(id, _)| *id);
        let mut hashes = Vec::with_capacity(self.batches.len());
        for (time_ms, count) in &self.batches {
            let count = usize::try_from(*count).ok()?;
            let batch: Vec<Hash> = ids.by_ref().take(count).collect();
            if batch.len() != count {
                return None;
            }
            hashes.push(batch_hash(*time_ms, batch.into_iter()));
        }
        ids.next().is_none().then(|| batches_root(&hashes))
    }
}

#[cfg(test)]
mod tests {
    use nostr::Keys;

    use super::*;
    use crate::hash::tagged;

    fn sign(template: &Template, keys: &Keys) -> ValidEvent {
        let id: nostr::EventId = template.id().into();
        let signature = keys.sign_schnorr(&secp256k1::Message::from_digest(id.to_bytes()));
        template.signed(&signature.serialize()).unwrap()
    }

    fn head() -> Head {
        let ids: Vec<Hash> = (0u8..3).map(|n| tagged("id", &[&[n]])).collect();
        let mut head = Head {
            cluster: tagged("c", &[]),
            height: 7,
            parent: tagged("p", &[]),
            batches_root: Hash::ZERO,
            state_root: tagged("s", &[]),
            time_ms: 1_700_000_001_234,
            roster: tagged("r", &[]),
            batches: vec![(1_700_000_000_000, 2), (1_700_000_001_000, 0), (1_700_000_001_234, 1)],
            outcomes: vec![
                (ids[0], Outcome::Ok),
                (ids[1], Outcome::Rejected(Reason::new("guard_false").unwrap())),
                (ids[2], Outcome::Ok),
            ],
            genesis: None,
        };
        head.batches_root = head.computed_batches_root().unwrap();
        head
    }

    #[test]
    fn a_head_comes_back_from_its_log_event() {
        let keys = Keys::generate();
        let event = sign(&head().log_event(keys.public_key(), 400).unwrap(), &keys);
        assert_eq!(Head::from_log_event(&event).unwrap(), head());
        assert_eq!(event.created_at(), 1_700_000_001);
    }

    #[test]
    fn an_extra_tag_or_a_moved_boundary_is_no_head() {
        let keys = Keys::generate();
        let mut template = head().log_event(keys.public_key(), 400).unwrap();
        template.tags.push(vec!["x".into(), "y".into()]);
        assert!(matches!(Head::from_log_event(&sign(&template, &keys)), Err(HeadError::Shape { .. })));
        let mut moved = head();
        moved.batches[0].1 = 1;
        moved.batches[1].1 = 1;
        let event = sign(&moved.log_event(keys.public_key(), 400).unwrap(), &keys);
        assert!(matches!(Head::from_log_event(&event), Err(HeadError::Batches { .. })));
        let mut more = head();
        more.batches[0].1 = 9;
        assert_eq!(more.computed_batches_root(), None);
    }

    #[test]
    fn content_is_canonical() {
        let template = head().log_event(Keys::generate().public_key(), 400).unwrap();
        let value: serde_json::Value = serde_json::from_str(&template.content).unwrap();
        assert_eq!(json::canonical(&value).unwrap(), template.content);
    }
}
