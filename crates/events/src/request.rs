//! Requests: events that users address to a machine (EVENTS 1). Reading one never needs state; whether it is accepted does.

use nostr::{Filter, JsonUtil, PublicKey};
use serde_json::Value;

use crate::change::{self, Change};
use crate::event::ValidEvent;
use crate::hash::Hash;
use crate::json;
use crate::kinds::{CHANGE, DEFINITION, INPUT, SNAPSHOT};
use crate::limits::{NAME_BYTES, SOURCES};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// A definition that names this group as its custodian.
    Definition(Definition7500),
    /// An input to a machine.
    Input(Input7501),
    /// A change of roster or versions, proposed or activated.
    Change(Change),
    /// Anything else: an input only for machines one of whose `source` filters matches it.
    Other,
}

/// How a machine's inputs are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// An input must name the last accepted one: compare and swap.
    Strict,
    /// The cluster gives the order; a `transition` tag that is present is checked all the same.
    #[default]
    Sequenced,
}

/// What the tags of a definition (kind 7500) say.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition7500 {
    /// `d` of the machine's snapshots.
    pub d: String,
    /// How inputs are ordered.
    pub mode: Mode,
    /// Engines as `(name@version, roles)`.
    pub engines: Vec<(String, Vec<String>)>,
    /// Other events that are inputs too.
    pub sources: Vec<Filter>,
    /// What the machine is started with; null if nothing.
    pub input: Value,
}

/// What an input (kind 7501) says.
#[derive(Clone, Debug, PartialEq)]
pub struct Input7501 {
    /// The machine: the id of its definition.
    pub machine: Hash,
    /// The event type.
    pub kind: String,
    /// The last accepted input that the sender saw.
    pub transition: Option<Hash>,
    /// The payload; null if there is none.
    pub data: Value,
}

/// Why an event of one of our kinds can't be a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A definition for another custodian.
    #[error("event {id} names another custodian in its `state` tag; it isn't for this group")]
    NotForUs {
        /// The event.
        id: Hash,
    },
    /// A tag is missing or malformed.
    #[error("event {id}: tag `{tag}` {message}")]
    Tag {
        /// The event.
        id: Hash,
        /// Which tag.
        tag: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The content isn't JSON that everybody reads alike.
    #[error("event {id}: content: {error}")]
    Content {
        /// The event.
        id: Hash,
        /// What is wrong with it.
        error: json::JsonError,
    },
}

impl Route {
    /// Reads where an event goes. `group` is the group's key.
    pub fn of(event: &ValidEvent, group: &PublicKey) -> Result<Route, RequestError> {
        match event.kind() {
            DEFINITION => definition(event, group).map(Route::Definition),
            INPUT => input(event).map(Route::Input),
            CHANGE => change::read(event, group).map(Route::Change),
            _ => Ok(Route::Other),
        }
    }
}

fn definition(event: &ValidEvent, group: &PublicKey) -> Result<Definition7500, RequestError> {
    let id = event.id();
    let tag = |tag, message: &str| RequestError::Tag { id, tag, message: message.to_owned() };
    let state = event.tag("state").ok_or_else(|| tag("state", "is missing"))?;
    let mut parts = state.splitn(3, ':');
    let (kind, author, d) = (parts.next(), parts.next(), parts.next());
    if kind != Some(SNAPSHOT.to_string().as_str()) || author != Some(group.to_hex().as_str()) {
        return Err(RequestError::NotForUs { id });
    }
    let d = d.unwrap_or_default();
    if d.is_empty() || d.len() > NAME_BYTES {
        return Err(tag("state", &format!("needs a `d` of 1 to {NAME_BYTES} bytes")));
    }
    let mode = match event.tag("mode") {
        None | Some("sequenced") => Mode::Sequenced,
        Some("strict") => Mode::Strict,
        Some(_) => return Err(tag("mode", "is neither `strict` nor `sequenced`")),
    };
    let engines = event
        .tags("engine")
        .map(|tag| (tag.get(1).cloned().unwrap_or_default(), tag.iter().skip(2).cloned().collect()))
        .collect();
    let mut sources = Vec::new();
    for source in event.tags("source") {
        let text = source.get(1).map(String::as_str).unwrap_or_default();
        let filter =
            Filter::from_json(text).map_err(|error| tag("source", &format!("isn't a filter: {error}")))?;
        if filter.is_empty() {
            return Err(tag("source", "matches everything"));
        }
        sources.push(filter);
    }
    if sources.len() > SOURCES {
        return Err(tag("source", &format!("stands {} times; at most {SOURCES} are taken", sources.len())));
    }
    let input = match event.tag("input") {
        None => Value::Null,
        Some(text) => json::parse(text).map_err(|error| tag("input", &error.to_string()))?,
    };
    Ok(Definition7500 { d: d.to_owned(), mode, engines, sources, input })
}

fn input(event: &ValidEvent) -> Result<Input7501, RequestError> {
    let id = event.id();
    let tag = |tag, message: &str| RequestError::Tag { id, tag, message: message.to_owned() };
    let machine = event
        .tag("e")
        .and_then(Hash::from_hex)
        .ok_or_else(|| tag("e", "must hold the id of a machine's definition"))?;
    let kind = event.tag("t").unwrap_or_default();
    if kind.is_empty() || kind.len() > NAME_BYTES {
        return Err(tag("t", &format!("must hold an event type of 1 to {NAME_BYTES} bytes")));
    }
    let transition = match event.tag("transition") {
        None => None,
        Some(text) => Some(Hash::from_hex(text).ok_or_else(|| tag("transition", "must hold an event id"))?),
    };
    let data = match event.content().trim() {
        "" => Value::Null,
        text => json::parse(text).map_err(|error| RequestError::Content { id, error })?,
    };
    Ok(Input7501 { machine, kind: kind.to_owned(), transition, data })
}

/// The tags of an input as a client writes them.
pub fn input_tags(machine: Hash, kind: &str, transition: Option<Hash>) -> Vec<Vec<String>> {
    let mut tags = vec![vec!["e".into(), machine.to_hex()], vec!["t".into(), kind.into()]];
    tags.extend(transition.map(|id| vec!["transition".into(), id.to_hex()]));
    tags
}

/// The tags of a definition as a client writes them.
pub fn definition_tags(group: &PublicKey, d: &str, title: Option<&str>, mode: Mode) -> Vec<Vec<String>> {
    let mut tags = vec![vec!["state".into(), format!("{SNAPSHOT}:{}:{d}", group.to_hex())]];
    tags.extend(title.map(|title| vec!["title".into(), title.into()]));
    tags.push(vec!["engine".into(), "xstate@5".into(), "state-machine".into()]);
    tags.push(vec!["engine".into(), crate::genesis::CEL_ENGINE.into(), "guards".into(), "actions".into()]);
    if mode == Mode::Strict {
        tags.push(vec!["mode".into(), "strict".into()]);
    }
    tags
}

#[cfg(test)]
mod tests {
    use nostr::{EventBuilder, Keys, Kind, Tag};

    use super::*;

    fn event(kind: u16, tags: Vec<Vec<String>>, content: &str) -> ValidEvent {
        let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        let event = EventBuilder::new(Kind::from_u16(kind), content)
            .tags(tags)
            .sign_with_keys(&Keys::generate())
            .unwrap();
        ValidEvent::check(event).unwrap()
    }

    #[test]
    fn what_clients_write_is_read_back() {
        let group = Keys::generate().public_key();
        let definition =
            event(DEFINITION, definition_tags(&group, "bet:1", Some("A bet"), Mode::Strict), "{}");
        let Ok(Route::Definition(read)) = Route::of(&definition, &group) else { panic!() };
        assert_eq!((read.d.as_str(), read.mode, read.engines.len()), ("bet:1", Mode::Strict, 2));
        let other = Keys::generate().public_key();
        assert!(matches!(Route::of(&definition, &other), Err(RequestError::NotForUs { .. })));

        let machine = definition.id();
        let sent = event(INPUT, input_tags(machine, "LOAD", Some(machine)), r#"{"amount":5}"#);
        let Ok(Route::Input(read)) = Route::of(&sent, &group) else { panic!() };
        assert_eq!((read.machine, read.kind.as_str(), read.transition), (machine, "LOAD", Some(machine)));
        assert_eq!(read.data["amount"], 5);
    }

    #[test]
    fn malformed_requests_name_the_tag() {
        let group = Keys::generate().public_key();
        let bad = [
            (INPUT, vec![], "", "e"),
            (INPUT, vec![vec!["e".into(), "xyz".into()]], "", "e"),
            (INPUT, input_tags(Hash::ZERO, "", None), "", "t"),
            (DEFINITION, vec![], "", "state"),
        ];
        for (kind, tags, content, expected) in bad {
            let error = Route::of(&event(kind, tags, content), &group).unwrap_err();
            assert!(matches!(error, RequestError::Tag { tag, .. } if tag == expected), "{error}");
        }
        let mut tags = definition_tags(&group, "a", None, Mode::Sequenced);
        tags.push(vec!["input".into(), r#"{"n":1}"#.into()]);
        let Ok(Route::Definition(read)) = Route::of(&event(DEFINITION, tags.clone(), "{}"), &group) else {
            panic!()
        };
        assert_eq!(read.input["n"], 1);
        for bad in ["{", "1.5", ""] {
            tags.pop();
            tags.push(vec!["input".into(), bad.into()]);
            let error = Route::of(&event(DEFINITION, tags.clone(), "{}"), &group).unwrap_err();
            assert!(matches!(error, RequestError::Tag { tag: "input", .. }), "{error}");
        }
        let float = event(INPUT, input_tags(Hash::ZERO, "X", None), "1.5");
        assert!(matches!(Route::of(&float, &group), Err(RequestError::Content { .. })));
    }
}
