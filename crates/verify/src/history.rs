//! The events at hand, sorted into what a replay needs: the chain of heads, requests by id, and all else the group signed.

use std::collections::{BTreeMap, HashMap};

use concordat_events::{Genesis, Hash, Head, PublicKey, ValidEvent};
use serde_json::Value;

use crate::failure::{Code, Failure};

/// Events as they come in, in any order.
pub(crate) struct Pile {
    group: PublicKey,
    pub(crate) events: HashMap<Hash, ValidEvent>,
    /// Lines that are no valid event.
    pub(crate) rubbish: u64,
    /// The first line that claims the group's authorship without having it.
    forged: Option<Failure>,
}

/// A log event and the head it carries.
pub(crate) struct Logged {
    pub(crate) id: Hash,
    pub(crate) head: Head,
}

/// The heads in order, checked as a chain.
pub(crate) struct Chain {
    pub(crate) genesis: Genesis,
    pub(crate) heads: Vec<Logged>,
}

impl Pile {
    pub(crate) fn new(group: PublicKey) -> Self {
        Pile { group, events: HashMap::new(), rubbish: 0, forged: None }
    }

    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        match ValidEvent::parse(line.as_bytes()) {
            Ok(event) => self.event(event),
            Err(error) => {
                self.rubbish += 1;
                let value: Value = serde_json::from_str(line).unwrap_or_default();
                let author = value.get("pubkey").and_then(Value::as_str);
                if author == Some(self.group.to_hex().as_str()) && self.forged.is_none() {
                    let text = format!("an event claims the group as its author: {error}");
                    self.forged = Some(Failure {
                        height: claimed(&value, "height").and_then(|text| text.parse().ok()),
                        machine: claimed(&value, "e").filter(|_| !is_log(&value)).and_then(Hash::from_hex),
                        ..Failure::new(Code::BadSignature, text)
                    });
                }
            }
        }
    }

    pub(crate) fn event(&mut self, event: ValidEvent) {
        self.events.insert(event.id(), event);
    }

    /// Everything that the group signed.
    pub(crate) fn of_group(&self) -> impl Iterator<Item = &ValidEvent> {
        self.events.values().filter(|event| event.author() == self.group)
    }

    /// Finds Head(0) and all that follow from it.
    pub(crate) fn chain(&self) -> Result<Chain, Failure> {
        if let Some(forged) = &self.forged {
            return Err(forged.clone());
        }
        let founded = |event: &ValidEvent| {
            let genesis = Head::from_log_event(event).ok()?.genesis?;
            (genesis.kinds.log == event.kind() && genesis.group_key == self.group).then_some(*genesis)
        };
        // The smallest id, so that the answer is the same in whatever order events come; a second one is a fork.
        let first = self.of_group().filter_map(|event| Some((event.id(), founded(event)?)));
        let Some((_, genesis)) = first.min_by_key(|(id, _)| *id) else {
            let text = format!("no event is Head(0) of the group {}", self.group);
            return Err(Failure::new(Code::NoGenesis, text));
        };
        let mut heads: BTreeMap<u64, Logged> = BTreeMap::new();
        let mut logs: Vec<_> = self.of_group().filter(|event| event.kind() == genesis.kinds.log).collect();
        logs.sort_by_key(|event| event.id());
        for event in logs {
            let id = event.id();
            let head = Head::from_log_event(event).map_err(|error| Failure {
                height: event.tag("height").and_then(|text| text.parse().ok()),
                ..Failure::new(Code::BadHead, error.to_string())
            })?;
            let height = head.height;
            if let Some(other) = heads.insert(height, Logged { id, head }) {
                let text = format!("the group signed two heads of height {height}: {} and {id}", other.id);
                return Err(Failure::new(Code::Fork, text).at(height));
            }
        }
        Ok(Chain { heads: linked(heads)?, genesis })
    }
}

/// Checks that heads follow one another.
fn linked(heads: BTreeMap<u64, Logged>) -> Result<Vec<Logged>, Failure> {
    let mut chain: Vec<Logged> = Vec::with_capacity(heads.len());
    for (height, logged) in heads {
        let expected = chain.len() as u64;
        if height != expected {
            let text = format!("head {expected} isn't among the events, head {height} is");
            return Err(Failure::new(Code::Gap, text).at(expected));
        }
        let (parent, cluster) =
            chain.last().map_or((Hash::ZERO, logged.head.cluster), |before| (before.id, before.head.cluster));
        if logged.head.parent != parent {
            let text = format!("head {height} continues {}, the head before is {parent}", logged.head.parent);
            return Err(Failure::new(Code::BrokenChain, text).at(height));
        }
        if logged.head.cluster != cluster {
            let text =
                format!("head {height} is of cluster {}, the one before of {cluster}", logged.head.cluster);
            return Err(Failure::new(Code::BrokenChain, text).at(height));
        }
        chain.push(logged);
    }
    Ok(chain)
}

/// The first value of a tag in an event that couldn't be read as one.
fn claimed<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    let tags = value.get("tags")?.as_array()?;
    let tag = tags.iter().find(|tag| tag.get(0).and_then(Value::as_str) == Some(name))?;
    tag.get(1)?.as_str()
}

/// Does it look like a log event, whose `e` tags are requests?
fn is_log(value: &Value) -> bool {
    claimed(value, "batches_root").is_some()
}
