//! The other events that a head makes due: snapshots, the relay list and the computer announcement.

use nostr::PublicKey;

use crate::event::Template;
use crate::genesis::Genesis;
use crate::hash::{Hash, tagged};
use crate::json;
use crate::kinds::{COMPUTER, DEFINITION, INPUT, RELAY_LIST, SNAPSHOT};
use crate::request::{Mode, definition_tags};

/// What a snapshot (kind 30078) says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// The group's key.
    pub group: PublicKey,
    /// `d` of the machine.
    pub d: &'a str,
    /// The machine's id.
    pub machine: Hash,
    /// The last accepted input, if any.
    pub transition: Option<Hash>,
    /// Height of the head that carries it.
    pub height: u64,
    /// Log event of that head.
    pub log: Hash,
    /// Its state root.
    pub root: Hash,
    /// Its time in ms; `created_at` is its second.
    pub time_ms: u64,
    /// XState's persisted snapshot as RFC 8785 JSON.
    pub content: &'a str,
}

impl Snapshot<'_> {
    /// The event without its signature.
    pub fn template(&self) -> Template {
        let mut tags =
            vec![vec!["d".to_owned(), self.d.to_owned()], vec!["e".to_owned(), self.machine.to_hex()]];
        tags.extend(self.transition.map(|id| vec!["transition".to_owned(), id.to_hex()]));
        tags.push(vec!["height".to_owned(), self.height.to_string()]);
        tags.push(vec!["log".to_owned(), self.log.to_hex()]);
        tags.push(vec!["root".to_owned(), self.root.to_hex()]);
        Template {
            author: self.group,
            created_at: self.time_ms / 1000,
            kind: SNAPSHOT,
            tags,
            content: self.content.to_owned(),
        }
    }
}

/// What the `d` of machines that machines start begins with. No participant's definition may have such a one.
pub const STARTED_D: &str = "started:";

/// What the definition (kind 7500) of a machine that a machine started says. Its id is the machine's id, as ever, and so
/// follows from parent, number, input and batch time alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Started<'a> {
    /// The group's key.
    pub group: PublicKey,
    /// The machine that started it.
    pub parent: Hash,
    /// How many that one had started before.
    pub n: u64,
    /// The definition whose content it runs.
    pub definition: Hash,
    /// What it is started with, as RFC 8785 JSON; none if it is null.
    pub input: Option<&'a str>,
    /// How its inputs are ordered.
    pub mode: Mode,
    /// Its `source` filters as JSON.
    pub sources: &'a [String],
    /// The definition's content.
    pub content: &'a str,
    /// Time of the batch that started it, in ms; `created_at` is its second.
    pub time_ms: u64,
}

impl Started<'_> {
    /// `d` of its snapshots.
    pub fn d(&self) -> String {
        let place = tagged("concordat/started", &[self.parent.as_bytes(), &self.n.to_be_bytes()]);
        format!("{STARTED_D}{place}")
    }

    /// The event without its signature.
    pub fn template(&self) -> Template {
        let tag = |name: &str, value: String| vec![name.to_owned(), value];
        let mut tags = definition_tags(&self.group, &self.d(), None, self.mode);
        tags.push(tag("definition", self.definition.to_hex()));
        tags.push(vec!["parent".to_owned(), self.parent.to_hex(), self.n.to_string()]);
        tags.extend(self.sources.iter().map(|source| tag("source", source.clone())));
        tags.extend(self.input.map(|input| tag("input", input.to_owned())));
        Template {
            author: self.group,
            created_at: self.time_ms / 1000,
            kind: DEFINITION,
            tags,
            content: self.content.to_owned(),
        }
    }
}

/// The relay list (NIP-65, kind 10002) that Head(0) emits.
pub fn relay_list(genesis: &Genesis) -> Template {
    Template {
        author: genesis.group_key,
        created_at: genesis.time_ms / 1000,
        kind: RELAY_LIST,
        tags: genesis.relays.iter().map(|relay| vec!["r".to_owned(), relay.clone()]).collect(),
        content: String::new(),
    }
}

/// The computer announcement (kind 10400) that Head(0) emits.
pub fn computer(genesis: &Genesis) -> Result<Template, json::JsonError> {
    let (input, output) = ([DEFINITION, INPUT], [SNAPSHOT, genesis.kinds.log]);
    let content = json::canonical(&serde_json::json!({
        "name": genesis.name,
        "description": genesis.description,
        "cluster": genesis.cluster().map_err(|error| json::JsonError::Syntax(error.to_string()))?,
        "nips": ["01", "65", "78"],
        "input_kinds": input,
        "output_kinds": output,
    }))?;
    Ok(Template {
        author: genesis.group_key,
        created_at: genesis.time_ms / 1000,
        kind: COMPUTER,
        tags: input.iter().chain(&output).map(|kind| vec!["k".to_owned(), kind.to_string()]).collect(),
        content,
    })
}
