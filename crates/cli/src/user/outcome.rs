//! From a signed request to its certified outcome.
//!
//! Promises: subscribes before it publishes; an outcome is a log event signed by the group whose head names the request.
//! Refuses: any other sign of success.

use std::time::Duration;

use concordat_events::{Hash, Head, Outcome, PublicKey, ValidEvent, kinds};
use nostr::{Filter, Kind};
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::Group;
use super::machine::Snapshot;
use super::relays::Relays;
use crate::failure::Failure;
use crate::limits::SNAPSHOT_WAIT;

/// What became of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Settled {
    /// The request's id.
    pub request: Hash,
    /// `ok` or `rejected`.
    pub outcome: &'static str,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// Height of the head that settled it.
    pub height: u64,
    /// The log event of that head.
    pub log: Hash,
    /// The machine's state at that head or after it; null if no snapshot shows it yet.
    pub state: Option<serde_json::Value>,
    /// Height of the snapshot that `state` comes from.
    pub state_height: Option<u64>,
}

impl Settled {
    /// Was it rejected?
    pub fn rejected(&self) -> bool {
        self.reason.is_some()
    }

    /// For people.
    pub fn text(&self) -> String {
        let state = match (&self.state, self.state_height) {
            (Some(state), Some(height)) if height != self.height => {
                format!("\nstate:   {state} (at height {height})")
            }
            (Some(state), _) => format!("\nstate:   {state}"),
            (None, _) => "\nstate:   not published yet; see `concordat get`".to_owned(),
        };
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!(
            "request: {}\noutcome: {}{reason}\nhead:    {} (log event {}){state}",
            self.request, self.outcome, self.height, self.log
        )
    }

    /// The failure that a rejection ends the command with.
    pub fn refusal(&self) -> Option<Failure> {
        let reason = self.reason.as_deref()?;
        Some(Failure::refused(
            "rejected",
            format!("request {} was rejected at height {}: {reason}", self.request, self.height),
            "the rejection is final and signed by the group; change the request and send a new one",
        ))
    }
}

/// Publishes a request to `machine` and waits for what becomes of it.
pub async fn settle(
    group: &Group,
    log_kind: u16,
    request: &ValidEvent,
    machine: Hash,
    warn: impl Fn(&str),
) -> Result<Settled, Failure> {
    let deadline = Instant::now() + group.wait;
    let id = request.id();
    let logs = Filter::new().kind(Kind::from_u16(log_kind)).author(group.key).event(id.into());
    let snapshots =
        Filter::new().kind(Kind::from_u16(kinds::SNAPSHOT)).author(group.key).event(machine.into());
    let mut log_feed = group.relays.follow(logs.clone()).await?;
    let mut snapshot_feed = group.relays.follow(snapshots.clone()).await?;
    for refusal in group.relays.publish(request.event()).await? {
        warn(&format!("a relay didn't take the request: {refusal}"));
    }
    let waited = timeout_at(deadline, async {
        while let Some(event) = log_feed.next().await {
            if let Some(found) = naming(&event, group.key, log_kind, id) {
                return Some(found);
            }
        }
        None
    })
    .await;
    let (log, head, outcome) = match waited {
        Ok(Some(found)) => found,
        // The feed may have missed it (a lost connection): ask once before giving up.
        Ok(None) | Err(_) => fetch_naming(&group.relays, logs, group.key, log_kind, id)
            .await?
            .ok_or_else(|| no_outcome(group, id))?,
    };
    let shown = timeout(SNAPSHOT_WAIT, async {
        while let Some(event) = snapshot_feed.next().await {
            match Snapshot::read(&event, &group.key) {
                Ok(snapshot) if snapshot.machine == machine && snapshot.height >= head.height => {
                    return Some(snapshot);
                }
                _ => {}
            }
        }
        None
    });
    // A rejection changes no state: the newest snapshot there is says where the machine stands, no new one comes.
    let snapshot = match &outcome {
        Outcome::Ok => shown.await.ok().flatten(),
        Outcome::Rejected(_) => None,
    };
    let snapshot = match snapshot {
        Some(snapshot) => Some(snapshot),
        None => newest(&group.relays, snapshots, group.key, machine)
            .await?
            .filter(|snapshot| matches!(outcome, Outcome::Rejected(_)) || snapshot.height >= head.height),
    };
    Ok(Settled {
        request: id,
        outcome: outcome.word(),
        reason: outcome.reason().map(str::to_owned),
        height: head.height,
        log,
        state: snapshot.as_ref().map(|snapshot| snapshot.value().clone()),
        state_height: snapshot.as_ref().map(|snapshot| snapshot.height),
    })
}

/// The outcome of `request` in this event, if the event is a log event of the group that names it.
pub fn naming(
    event: &ValidEvent,
    group: PublicKey,
    log_kind: u16,
    request: Hash,
) -> Option<(Hash, Head, Outcome)> {
    if event.author() != group || event.kind() != log_kind {
        return None;
    }
    let head = match Head::from_log_event(event) {
        Ok(head) => head,
        Err(error) => {
            tracing::warn!(%error, "a log event of the group is no head");
            return None;
        }
    };
    let outcome = head.outcomes.iter().find(|(id, _)| *id == request).map(|(_, outcome)| outcome.clone())?;
    Some((event.id(), head, outcome))
}

async fn fetch_naming(
    relays: &Relays,
    logs: Filter,
    group: PublicKey,
    log_kind: u16,
    request: Hash,
) -> Result<Option<(Hash, Head, Outcome)>, Failure> {
    let events = relays.fetch(logs, Duration::from_secs(5)).await?;
    Ok(events.iter().find_map(|event| naming(event, group, log_kind, request)))
}

async fn newest(
    relays: &Relays,
    snapshots: Filter,
    group: PublicKey,
    machine: Hash,
) -> Result<Option<Snapshot>, Failure> {
    let events = relays.fetch(snapshots, Duration::from_secs(5)).await?;
    Ok(Snapshot::newest(&events, &group, machine))
}

fn no_outcome(group: &Group, request: Hash) -> Failure {
    Failure::not_ready(
        "no_outcome",
        format!(
            "request {request} is published on {}, but no certified head names it after {} s",
            group.relays.names(),
            group.wait.as_secs()
        ),
        "it isn't lost: custodians that come back settle it; ask again with `concordat history`, or wait longer with --timeout",
    )
}

#[cfg(test)]
mod tests {
    use concordat_events::Reason;
    use concordat_events::hash::tagged;
    use nostr::{EventId, Keys};

    use super::*;

    fn log(keys: &Keys, kind: u16, request: Hash, outcome: Outcome) -> ValidEvent {
        let mut head = Head {
            cluster: tagged("c", &[]),
            height: 7,
            parent: tagged("p", &[]),
            batches_root: Hash::ZERO,
            state_root: tagged("s", &[]),
            time_ms: 1_700_000_001_000,
            roster: tagged("r", &[]),
            batches: vec![(1_700_000_001_000, 1)],
            outcomes: vec![(request, outcome)],
            genesis: None,
        };
        head.batches_root = head.computed_batches_root().unwrap();
        let template = head.log_event(keys.public_key(), kind).unwrap();
        let id: EventId = template.id().into();
        let signature = keys.sign_schnorr(&secp256k1::Message::from_digest(id.to_bytes()));
        template.signed(&signature.serialize()).unwrap()
    }

    /// A relay may answer a filter with anything.
    #[test]
    fn only_the_groups_own_log_event_is_an_outcome() {
        let (group, other) = (Keys::generate(), Keys::generate());
        let request = tagged("request", &[]);
        let rejected = Outcome::Rejected(Reason::new("guard_false").unwrap());
        let found = |event: &ValidEvent| naming(event, group.public_key(), 400, request);
        let good = log(&group, 400, request, rejected.clone());
        let (id, head, outcome) = found(&good).unwrap();
        assert_eq!((id, head.height, outcome), (good.id(), 7, rejected));
        assert!(found(&log(&other, 400, request, Outcome::Ok)).is_none(), "somebody else's");
        assert!(found(&log(&group, 401, request, Outcome::Ok)).is_none(), "another kind");
        assert!(found(&log(&group, 400, tagged("another", &[]), Outcome::Ok)).is_none(), "another request");
    }
}
