//! From a signed request to its certified outcome.
//!
//! Promises: subscribes before it publishes; an outcome is a log event signed by the group whose head names the request.
//! Refuses: any other sign of success.

use concordat_events::{Hash, Head, Outcome, PublicKey, ValidEvent, kinds};
use nostr::{Filter, Kind};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::Group;
use super::custodians::{self, Proven};
use super::machine::Snapshot;
use super::relays::Feed;
use crate::failure::{Exit, Failure};
use crate::limits::{LAST_QUESTION, SNAPSHOT_WAIT};

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
    Pending::begin(group, log_kind, request, machine, warn).await?.settled().await
}

/// A request that is on its way.
pub struct Pending<'g> {
    group: &'g Group,
    log_kind: u16,
    request: Hash,
    machine: Hash,
    deadline: Instant,
    logs: Feed,
    snapshots: Feed,
    /// The answer of the custodians, if any was asked.
    direct: Option<JoinHandle<Result<ValidEvent, Failure>>>,
}

impl<'g> Pending<'g> {
    /// Subscribes to what will be said about a request, then hands it to the relays, and to a custodian if one is known.
    pub async fn begin(
        group: &'g Group,
        log_kind: u16,
        request: &ValidEvent,
        machine: Hash,
        warn: impl Fn(&str),
    ) -> Result<Pending<'g>, Failure> {
        let deadline = Instant::now() + group.wait;
        let logs = group.relays.follow(about(group.key, log_kind, request.id())).await?;
        let snapshots = group.relays.follow(about(group.key, kinds::SNAPSHOT, machine)).await?;
        let direct = (!group.custodians.is_empty()).then(|| {
            let (addresses, request) = (group.custodians.clone(), request.clone());
            tokio::spawn(async move { custodians::send(&addresses, &request).await })
        });
        match group.relays.publish(request.event()).await {
            Ok(refusals) => {
                refusals
                    .iter()
                    .for_each(|refusal| warn(&format!("a relay didn't take the request: {refusal}")));
            }
            // The custodians publish what reached them by another way.
            Err(failure) if direct.is_some() => warn(&failure.message),
            Err(failure) => return Err(failure),
        }
        Ok(Pending { group, log_kind, request: request.id(), machine, deadline, logs, snapshots, direct })
    }

    /// Waits for the head that settles it, and for the state after it.
    pub async fn settled(mut self) -> Result<Settled, Failure> {
        let (log, head, outcome) = self.head().await?;
        let shown = match &outcome {
            Outcome::Ok => timeout(SNAPSHOT_WAIT, self.state_from(head.height)).await.ok().flatten(),
            // A rejection changes no state: the newest snapshot there is says where the machine stands, no new one comes.
            Outcome::Rejected(_) => None,
        };
        let state = match shown {
            Some(state) => Some(state),
            None => newest(self.group, self.machine)
                .await?
                .filter(|(_, height)| matches!(outcome, Outcome::Rejected(_)) || *height >= head.height),
        };
        let (state, state_height) = state.unzip();
        Ok(Settled {
            request: self.request,
            outcome: outcome.word(),
            reason: outcome.reason().map(str::to_owned),
            height: head.height,
            log,
            state,
            state_height,
        })
    }

    /// The head that names the request, from whoever shows it first.
    async fn head(&mut self) -> Result<(Hash, Head, Outcome), Failure> {
        let (key, kind, request) = (self.group.key, self.log_kind, self.request);
        let logs = &mut self.logs;
        let from_relays = async {
            while let Some(event) = logs.next().await {
                if let Some(found) = naming(&event, key, kind, request) {
                    return Some(found);
                }
            }
            None
        };
        let direct = &mut self.direct;
        let from_custodians = async {
            let answered = match direct {
                Some(asked) => asked.await.ok(),
                None => return std::future::pending().await,
            };
            match answered {
                Some(Ok(event)) => match naming(&event, key, kind, request) {
                    Some(found) => Ok(found),
                    None => Err(Failure::check(
                        "bad_answer",
                        format!(
                            "a custodian shows event {} for request {request}, which the group didn't sign as its outcome",
                            event.id()
                        ),
                        "don't trust this custodian; the relays hold the group's own events",
                    )),
                },
                // All said that it can't be a request for them: no head will ever name it.
                Some(Err(failure)) if failure.exit == Exit::Refused => Err(failure),
                // Out of reach or busy: the relays have it.
                Some(Err(failure)) => {
                    tracing::warn!(%failure, "no outcome from a custodian, waiting for the relays");
                    std::future::pending().await
                }
                None => std::future::pending().await,
            }
        };
        let waited = timeout_at(self.deadline, async {
            tokio::select! {
                found = from_relays => Ok(found),
                found = from_custodians => found.map(Some),
            }
        });
        match waited.await {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Err(failure)) => Err(failure),
            // The feed may have missed it (a lost connection): ask once before giving up.
            Ok(Ok(None)) | Err(_) => {
                let events = self.group.relays.fetch(about(key, kind, request), LAST_QUESTION).await?;
                let found = events.iter().find_map(|event| naming(event, key, kind, request));
                found.ok_or_else(|| no_outcome(self.group, request))
            }
        }
    }

    /// The machine's state at this height or above, with its height: a signed snapshot, or a custodian's proof.
    async fn state_from(&mut self, height: u64) -> Option<(Value, u64)> {
        let (key, machine) = (self.group.key, self.machine);
        let snapshots = &mut self.snapshots;
        let signed = async {
            while let Some(event) = snapshots.next().await {
                match Snapshot::read(&event, &key) {
                    Ok(snapshot) if snapshot.machine == machine && snapshot.height >= height => {
                        return Some((snapshot.value().clone(), snapshot.height));
                    }
                    _ => {}
                }
            }
            None
        };
        let proven = async {
            match custodians::proven(&self.group.custodians, key, self.log_kind, machine).await {
                Ok(Proven { record: Some(record), head, .. }) if head.height >= height => {
                    let value = record.state.snapshot().get("value").cloned().unwrap_or_default();
                    Some((value, head.height))
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            state = signed => state,
            state = proven => state,
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(asked) = &self.direct {
            asked.abort();
        }
    }
}

/// Events of this kind by the group about an event.
fn about(group: PublicKey, kind: u16, event: Hash) -> Filter {
    Filter::new().kind(Kind::from_u16(kind)).author(group).event(event.into())
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

/// The newest state that relays show, with its height.
async fn newest(group: &Group, machine: Hash) -> Result<Option<(Value, u64)>, Failure> {
    let events = group.relays.fetch(about(group.key, kinds::SNAPSHOT, machine), LAST_QUESTION).await?;
    let snapshot = Snapshot::newest(&events, &group.key, machine);
    Ok(snapshot.map(|snapshot| (snapshot.value().clone(), snapshot.height)))
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
