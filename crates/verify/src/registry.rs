//! Who an identity is now, by the group's key registry (docs/machines/registry.md): what a custodian shows of the state at one
//! head, read without believing it.
//!
//! Promises: an answer follows from the head that the group signed, by proofs of each leaf that it rests on: which machine the
//! registry is, that it runs the definition that the reader knows, what stands under each key of the chain, and that nothing
//! stands under its last one. An unknown key is an answer too, proven in the same way. What it can't say: whether a newer head
//! exists. Refuses: to guess what a leaf holds that wasn't shown ([`Lack::Leaf`] names it).

use std::collections::BTreeMap;

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Hash, Head, PublicKey, ValidEvent, json};
use concordat_ledger::{Proof, claim_key, definition_key, record_key};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Code, Failure};
use crate::proof::head_of;

/// The `d` of a group's registry, if nobody says otherwise.
pub const D: &str = "registry";

/// The definition of a registry: a machine that runs another one is none.
pub const DEFINITION: &str = include_str!("../../../docs/machines/registry.json");

/// Moves from key to key that are followed: more than anybody's life has, and each costs a proof.
pub const MOVES: usize = 32;

/// Leaves of the state at one head, with their proofs. It is all that an answer needs beside the group's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The head.
    pub log_event: ValidEvent,
    /// Proofs by the leaf's key.
    pub proofs: BTreeMap<String, Proof>,
}

/// The same as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    log_event: Value,
    proofs: BTreeMap<String, Proof>,
}

impl Shown {
    /// As one line of JSON.
    ///
    /// # Errors
    /// It can't be written as JSON.
    pub fn to_json(&self) -> Result<String, Failure> {
        let wrong = |error: String| Failure::new(Code::BadProof, error);
        let log_event = json::parse(self.log_event.json()).map_err(|error| wrong(error.to_string()))?;
        let file = File { log_event, proofs: self.proofs.clone() };
        json::canonical(&file).map_err(|error| wrong(error.to_string()))
    }

    /// Reads what [`Shown::to_json`] has written.
    ///
    /// # Errors
    /// It isn't that.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |error: String| {
            Failure::new(Code::BadProof, format!("not what a registry's lookup writes: {error}"))
        };
        let file: File = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let event = file.log_event.to_string();
        let log_event = ValidEvent::parse(event.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        Ok(Shown { log_event, proofs: file.proofs })
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// A leaf that wasn't shown.
    #[error("the leaf {0} isn't shown")]
    Leaf(String),
    /// At this head the group has no registry under this `d`, which is proven.
    #[error("at head {height} the group has no machine with d={d}")]
    NoRegistry {
        /// Height of the head.
        height: u64,
        /// What was looked for.
        d: String,
    },
    /// The machine runs another definition than a registry does.
    #[error("machine {machine} with d={d} isn't a registry: it runs another definition")]
    Other {
        /// The machine.
        machine: Hash,
        /// What was looked for.
        d: String,
    },
    /// What is shown proves nothing.
    #[error(transparent)]
    False(#[from] Failure),
}

/// What the registry says of a key at a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whose key was looked up, hex.
    pub identity: String,
    /// Does the registry know the key?
    pub known: bool,
    /// Who the identity is now, hex: the key itself where nothing has moved.
    pub current: String,
    /// The moves from the one to the other, in order.
    pub chain: Vec<Move>,
    /// A move away from the current key that may still be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Move>,
    /// The current key's precommitment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precommit: Option<Precommit>,
    /// The registry.
    pub machine: Hash,
    /// Height of the head.
    pub height: u64,
    /// Its log event.
    pub log: Hash,
    /// Its time, ms since 1970.
    pub time_ms: u64,
}

/// A migration that the registry has admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// From which key, hex.
    pub from: String,
    /// To which, hex.
    pub to: String,
    /// Id of the migration event.
    pub event: Hash,
    /// Its kind.
    pub kind: u16,
    /// Its author, hex.
    pub by: String,
    /// Its signature, hex, if somebody has shown it to the registry: only its id stands in the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
    /// Height of the head that admitted it.
    pub height: u64,
    /// When, seconds since 1970.
    pub at: u64,
    /// From when on it stands; none as long as guardians must approve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_at: Option<u64>,
}

/// What a leaf `identities` of the registry holds.
#[derive(Deserialize)]
struct Identity {
    precommit: Option<Precommit>,
    #[serde(rename = "move")]
    moved: Option<Moved>,
}

/// A precommitment that the registry has admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precommit {
    /// The event.
    pub id: Hash,
    /// Its kind.
    pub kind: u16,
    /// Its signature, hex, if somebody has shown it to the registry.
    pub sig: Option<String>,
    /// The keys that it names; none if the identity has opted out of migrations.
    pub keys: Vec<String>,
    /// Height of the head that admitted it.
    pub height: u64,
    /// When, seconds since 1970.
    pub at: u64,
}

#[derive(Deserialize)]
struct Moved {
    id: Hash,
    kind: u16,
    sig: Option<String>,
    by: String,
    to: String,
    height: u64,
    at: u64,
    final_at: Option<u64>,
}

#[derive(Deserialize)]
struct Claim {
    machine: Hash,
}

#[derive(Deserialize)]
struct Fixed {
    text: String,
}

/// What the registry with this `d` says of `key`, by what is shown.
///
/// `log_kind` as in [`crate::verify_proof`].
///
/// # Errors
/// [`Lack`].
pub fn look_up(
    group: &PublicKey,
    log_kind: u16,
    d: &str,
    key: &PublicKey,
    shown: &Shown,
) -> Result<Answer, Lack> {
    let head = head_of(group, log_kind, &shown.log_event)?;
    let at = At { head: &head, shown };
    let claim: Claim = at
        .read(&claim_key(SNAPSHOT, d))?
        .ok_or_else(|| Lack::NoRegistry { height: head.height, d: d.to_owned() })?;
    let machine = claim.machine;
    let runs: Option<Fixed> = at.read(&definition_key(&machine))?;
    let wanted = json::parse(DEFINITION).ok();
    if wanted.is_none() || runs.and_then(|fixed| json::parse(&fixed.text).ok()) != wanted {
        return Err(Lack::Other { machine, d: d.to_owned() });
    }
    let mut answer = Answer {
        identity: key.to_hex(),
        known: false,
        current: key.to_hex(),
        chain: Vec::new(),
        pending: None,
        precommit: None,
        machine,
        height: head.height,
        log: shown.log_event.id(),
        time_ms: head.time_ms,
    };
    for step in 0.. {
        let leaf = record_key(&machine, "identities", &answer.current);
        let identity: Option<Identity> = at.read(&leaf)?;
        answer.known |= identity.is_some() && step == 0;
        let (precommit, moved) =
            identity.map_or((None, None), |identity| (identity.precommit, identity.moved));
        answer.precommit = precommit;
        let Some(moved) = moved else { break };
        let stands = moved.final_at.is_some_and(|from| from.saturating_mul(1000) <= head.time_ms);
        let Moved { id: event, kind, sig, by, to, height, at, final_at } = moved;
        let moved = Move { from: answer.current.clone(), to, event, kind, by, sig, height, at, final_at };
        if !stands {
            answer.pending = Some(moved);
            break;
        }
        if step >= MOVES {
            let text = format!("more than {MOVES} moves from {} on", answer.identity);
            return Err(Failure::new(Code::BadProof, text).at(head.height).of(Some(machine)).into());
        }
        answer.current.clone_from(&moved.to);
        answer.chain.push(moved);
    }
    Ok(answer)
}

/// The state under one head.
struct At<'s> {
    head: &'s Head,
    shown: &'s Shown,
}

impl At<'_> {
    /// A leaf's value, proven; `None` if it is proven that there is none.
    fn read<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Lack> {
        let name = String::from_utf8_lossy(key);
        let proof = self.shown.proofs.get(name.as_ref()).ok_or_else(|| Lack::Leaf(name.to_string()))?;
        let bad = |text: String| Failure::new(Code::BadProof, format!("{name}: {text}")).at(self.head.height);
        let value = proof.check(&self.head.state_root, key).map_err(|error| bad(error.to_string()))?;
        Ok(value.map(serde_json::from_str).transpose().map_err(|error| bad(error.to_string()))?)
    }
}
