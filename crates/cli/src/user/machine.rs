//! What relays show of a machine: its definition and the group's snapshots of it.
//!
//! Promises: a [`Snapshot`] is signed by the group and has the tags that EVENTS gives it; [`Seen::of`] also checks the head
//! that it names. Refuses: a snapshot whose head has another height or another state root.

use std::time::Duration;

use concordat_events::kinds::{COMPUTER, DEFINITION, Kinds, SNAPSHOT};
use concordat_events::{Definition7500, Hash, Head, PublicKey, Route, ValidEvent, json};
use nostr::{Filter, Kind};
use serde_json::Value;

use super::Group;
use super::pages;
use super::relays::Relays;
use crate::failure::Failure;

/// A machine's snapshot, signed by the group.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// `d` of the machine.
    pub d: String,
    /// The machine.
    pub machine: Hash,
    /// The last accepted input.
    pub transition: Option<Hash>,
    /// Height of the head that carries it.
    pub height: u64,
    /// Log event of that head.
    pub log: Hash,
    /// Its state root.
    pub root: Hash,
    /// Time of the head, seconds since 1970.
    pub created_at: u64,
    /// XState's persisted snapshot.
    pub content: Value,
}

impl Snapshot {
    /// Reads a snapshot; the text says what is wrong with it.
    pub fn read(event: &ValidEvent, group: &PublicKey) -> Result<Self, String> {
        let id = event.id();
        if event.author() != *group || event.kind() != SNAPSHOT {
            return Err(format!("event {id} is no snapshot of this group"));
        }
        let hash = |name| {
            event
                .tag(name)
                .and_then(Hash::from_hex)
                .ok_or_else(|| format!("snapshot {id}: tag `{name}` holds no id"))
        };
        let height = event
            .tag("height")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("snapshot {id}: tag `height` holds no number"))?;
        let content = json::parse(event.content()).map_err(|error| format!("snapshot {id}: {error}"))?;
        Ok(Snapshot {
            d: event.tag("d").ok_or_else(|| format!("snapshot {id}: tag `d` is missing"))?.to_owned(),
            machine: hash("e")?,
            transition: event.tag("transition").and_then(Hash::from_hex),
            height,
            log: hash("log")?,
            root: hash("root")?,
            created_at: event.created_at(),
            content,
        })
    }

    /// The one of highest height among these events that is a snapshot of `machine`.
    pub fn newest(events: &[ValidEvent], group: &PublicKey, machine: Hash) -> Option<Self> {
        events
            .iter()
            .filter_map(|event| Snapshot::read(event, group).ok())
            .filter(|snapshot| snapshot.machine == machine)
            .max_by_key(|snapshot| snapshot.height)
    }

    /// The state: `value` of the persisted snapshot.
    pub fn value(&self) -> &Value {
        self.content.get("value").unwrap_or(&Value::Null)
    }

    /// `active` or `done`.
    pub fn status(&self) -> &str {
        self.content.get("status").and_then(Value::as_str).unwrap_or("unknown")
    }
}

/// A machine's newest snapshot and the head that carries it, both checked.
pub struct Seen {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its head.
    pub head: Head,
}

impl Seen {
    /// Fetches and checks the newest snapshot of `machine`.
    pub async fn of(group: &Group, machine: Hash) -> Result<Self, Failure> {
        let filter = Filter::new().kind(Kind::from_u16(SNAPSHOT)).author(group.key).event(machine.into());
        let events = group.relays.fetch(filter, group.wait).await?;
        let snapshot = Snapshot::newest(&events, &group.key, machine).ok_or_else(|| {
            Failure::not_ready(
                "no_snapshot",
                format!(
                    "no relay of {} holds a snapshot of machine {machine} by this group",
                    group.relays.names()
                ),
                "check the id and the group; a machine that was just published needs a second",
            )
        })?;
        let head = head_of(group, &snapshot).await?;
        Ok(Seen { snapshot, head })
    }
}

/// The head that a snapshot names, fetched and checked against what the snapshot says of it.
pub async fn head_of(group: &Group, snapshot: &Snapshot) -> Result<Head, Failure> {
    let found = pages::by_id(&group.relays, [snapshot.log], group.wait).await?;
    let log = found.iter().find(|event| event.id() == snapshot.log).ok_or_else(|| {
        Failure::not_ready(
            "no_log_event",
            format!(
                "no relay of {} holds log event {} of the head at height {}",
                group.relays.names(),
                snapshot.log,
                snapshot.height
            ),
            "the custodians publish it again; try later or another relay",
        )
    })?;
    let wrong = |message: String| {
        Failure::check(
            "snapshot_mismatch",
            message,
            "the group's signature stands on two things that contradict each other: keep both events and tell the operators",
        )
    };
    if log.author() != group.key {
        return Err(wrong(format!("log event {} isn't signed by the group", snapshot.log)));
    }
    let head = Head::from_log_event(log).map_err(|error| wrong(error.to_string()))?;
    if head.height != snapshot.height || head.state_root != snapshot.root {
        return Err(wrong(format!(
            "the snapshot says height {} and root {}, its head has height {} and root {}",
            snapshot.height, snapshot.root, head.height, head.state_root
        )));
    }
    Ok(head)
}

/// A machine's definition as published.
pub struct Published {
    /// The event.
    pub event: ValidEvent,
    /// What its tags say.
    pub definition: Definition7500,
}

impl Published {
    /// Fetches a machine's definition.
    pub async fn of(group: &Group, machine: Hash) -> Result<Self, Failure> {
        let found = pages::by_id(&group.relays, [machine], group.wait).await?;
        let event = found.into_iter().find(|event| event.id() == machine).ok_or_else(|| {
            Failure::not_ready(
                "no_machine",
                format!("no relay of {} holds machine {machine}", group.relays.names()),
                "check the id; `concordat list` shows the group's machines",
            )
        })?;
        match Route::of(&event, &group.key) {
            Ok(Route::Definition(definition)) => Ok(Published { event, definition }),
            Ok(_) => Err(Failure::usage(
                "not_a_machine",
                format!("event {machine} has kind {}, a definition has kind {DEFINITION}", event.kind()),
                "name the machine by the id of its definition",
            )),
            Err(error) => {
                Err(Failure::usage("not_a_machine", error.to_string(), "check the group and the id"))
            }
        }
    }

    /// Its title, if it has one.
    pub fn title(&self) -> Option<&str> {
        self.event.tag("title")
    }
}

/// The kind of the group's log events, from its computer announcement (10400); the default if no relay has one.
pub async fn log_kind(relays: &Relays, group: PublicKey, wait: Duration) -> Result<u16, Failure> {
    let filter = Filter::new().kind(Kind::from_u16(COMPUTER)).author(group).limit(1);
    let found = relays.fetch(filter, wait).await?;
    let announced = found.iter().filter(|event| event.author() == group).find_map(|event| {
        let content = json::parse(event.content()).ok()?;
        let kinds = content.get("output_kinds")?.as_array()?;
        kinds.iter().filter_map(Value::as_u64).find(|kind| *kind != u64::from(SNAPSHOT))
    });
    Ok(announced.and_then(|kind| u16::try_from(kind).ok()).unwrap_or(Kinds::default().log))
}

#[cfg(test)]
mod tests {
    use concordat_events::hash::tagged;
    use concordat_events::output;
    use nostr::{EventId, Keys};

    use super::*;

    fn snapshot(keys: &Keys, machine: Hash, height: u64) -> ValidEvent {
        let template = output::Snapshot {
            group: keys.public_key(),
            d: "m",
            machine,
            transition: None,
            height,
            log: tagged("log", &[]),
            root: tagged("root", &[]),
            time_ms: 1_700_000_000_000,
            content: r#"{"status":"active","value":"a"}"#,
        }
        .template();
        let id: EventId = template.id().into();
        let signature = keys.sign_schnorr(&secp256k1::Message::from_digest(id.to_bytes()));
        template.signed(&signature.serialize()).unwrap()
    }

    /// A relay may answer a filter with anything, in any order.
    #[test]
    fn the_newest_is_the_groups_own_of_that_machine() {
        let (group, other) = (Keys::generate(), Keys::generate());
        let (machine, another) = (tagged("m", &[]), tagged("n", &[]));
        let events = [
            snapshot(&group, machine, 3),
            snapshot(&group, machine, 4),
            snapshot(&group, machine, 2),
            snapshot(&group, another, 9),
            snapshot(&other, machine, 9),
        ];
        let newest = Snapshot::newest(&events, &group.public_key(), machine).unwrap();
        assert_eq!((newest.height, newest.value().as_str(), newest.status()), (4, Some("a"), "active"));
        assert!(Snapshot::newest(&events[3..], &group.public_key(), machine).is_none());
    }
}
