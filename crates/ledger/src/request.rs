//! One request: where it goes, whether it is accepted, what it changes.

use std::collections::BTreeSet;

use concordat_events::kinds::{GIFT_WRAP, KEY_PACK};
use concordat_events::limits::{REQUEST_FUTURE_S, REQUEST_PAST_S};
use concordat_events::request::RequestError;
use concordat_events::{Hash, Input7501, Mode, Outcome, Route, ValidEvent};
use concordat_machine::{Event, Reason};
use concordat_store::{Store, StoreError};
use nostr::Filter;
use nostr::filter::MatchEventOptions;
use serde_json::{Value, json};

use crate::kept::Kept;
use crate::keys;
use crate::layer::Read;
use crate::limits::{MAIL_PER_REQUEST, SOURCE_MACHINES, STARTS_PER_REQUEST};
use crate::reason::Refusal;
use crate::work::{Slot, Verdict, Work};

/// Why an event is refused that no machine listens for.
pub(crate) fn nobody_listens(event: &ValidEvent) -> Refusal {
    match event.kind() {
        KEY_PACK | GIFT_WRAP => Refusal::Encrypted,
        _ => Refusal::NoMachine,
    }
}

/// Why an event that can't be read is refused.
pub(crate) fn unreadable(error: &RequestError) -> Refusal {
    match error {
        RequestError::NotForUs { .. } => Refusal::NotForUs,
        RequestError::Tag { .. } | RequestError::Content { .. } => Refusal::BadRequest,
    }
}

/// Was the event signed long before the machine's start?
pub(crate) fn too_old(event: &ValidEvent, started_ms: u64) -> bool {
    event.created_at().saturating_add(REQUEST_PAST_S) < started_ms / 1000
}

/// Was it signed long after `now_ms`?
pub(crate) fn too_new(event: &ValidEvent, now_ms: u64) -> bool {
    event.created_at() > (now_ms / 1000).saturating_add(REQUEST_FUTURE_S)
}

/// Does any filter match? Every field of a filter counts; searches are refused at admission.
pub(crate) fn matches(sources: &[Filter], event: &ValidEvent) -> bool {
    sources.iter().any(|filter| filter.match_event(event.event(), MatchEventOptions::new()))
}

/// The machines whose filters may match an event, in the order of their ids.
pub(crate) fn listeners<R: Read>(read: &R, event: &ValidEvent) -> Result<BTreeSet<Hash>, StoreError> {
    let mut machines = BTreeSet::new();
    let (kind, author) = (Some(event.kind()), event.author());
    for (kind, author) in [(None, None), (None, Some(&author)), (kind, None), (kind, Some(&author))] {
        let prefix = keys::source_prefix(kind, author);
        for (key, _) in read.scan(&prefix, &[], SOURCE_MACHINES)? {
            let machine = keys::source_of(&key, &prefix);
            machines.insert(machine.ok_or_else(|| keys::corrupt(&key, "expected a machine's id"))?);
        }
    }
    Ok(machines)
}

/// The input that any other event is: the machine gets content and tags, and takes from them what it wants.
fn source_event(event: &ValidEvent, height: u64) -> Event {
    let tags: Vec<&[String]> = event.event().tags.iter().map(nostr::Tag::as_slice).collect();
    let data = json!({ "kind": event.kind(), "content": event.content(), "tags": tags });
    signed_event(event, format!("nostr.{}", event.kind()), data, height)
}

/// Types that begin so are those of events that a `source` filter lets in: whoever could send them as an input of another kind
/// would have that taken for the event itself, with its id and its author.
pub(crate) fn speaks_for_nostr(kind: &str) -> bool {
    kind == "nostr" || kind.starts_with("nostr.")
}

fn signed_event(event: &ValidEvent, kind: String, data: Value, height: u64) -> Event {
    Event {
        kind,
        data,
        pubkey: Some(event.author().to_hex()),
        id: Some(event.id().to_hex()),
        created_at: i64::try_from(event.created_at()).ok(),
        height: Some(height),
    }
}

/// Compare and swap on the last accepted input. In `sequenced` mode an input that names none goes behind whatever was
/// accepted; one that names some is held to it. Before the first input, the machine's own id stands for "none".
fn stale(machine: &Hash, mode: Mode, last: Option<Hash>, named: Option<Hash>) -> bool {
    match (named, last) {
        (None, None) => false,
        (None, Some(_)) => mode == Mode::Strict,
        (Some(named), Some(last)) => named != last,
        (Some(named), None) => named != *machine,
    }
}

impl<S: Store> Work<'_, S> {
    pub(crate) fn too_new(&self, event: &ValidEvent) -> bool {
        too_new(event, self.now_ms)
    }

    /// Executes one request of the current batch.
    pub(crate) fn request(&mut self, event: &ValidEvent, cluster: Hash) -> Result<Outcome, StoreError> {
        self.mail_left = MAIL_PER_REQUEST;
        self.starts_left = STARTS_PER_REQUEST;
        let verdict = match Route::of(event, &self.genesis.group_key) {
            Err(error) => Err(unreadable(&error)),
            Ok(Route::Definition(definition)) => self.admit(event, definition)?,
            Ok(Route::Input(input)) => self.input(event, input)?,
            Ok(Route::Change(change)) => self.change(event, cluster, change)?,
            Ok(Route::Other) => self.other(event)?,
        };
        self.deliver()?;
        Ok(match verdict {
            Ok(()) => Outcome::Ok,
            Err(refusal) => refusal.outcome(),
        })
    }

    /// An input to one machine.
    fn input(&mut self, event: &ValidEvent, input: Input7501) -> Verdict {
        let id = input.machine;
        let Some(mut slot) = self.take(&id)? else { return Ok(Err(Refusal::UnknownMachine)) };
        let verdict = self.input_to(id, &mut slot, event, input);
        self.put(id, slot);
        let verdict = verdict?;
        self.settle(&id, event, &verdict)?;
        Ok(verdict)
    }

    fn input_to(&mut self, id: Hash, slot: &mut Slot, event: &ValidEvent, input: Input7501) -> Verdict {
        if let Err(refusal) = self.acceptable(id, slot, event)? {
            return Ok(Err(refusal));
        }
        if stale(&id, slot.fixed.mode, slot.record.last, input.transition) {
            return Ok(Err(Refusal::Stale));
        }
        if speaks_for_nostr(&input.kind) {
            return Ok(Err(Refusal::Machine(Reason::BadEvent)));
        }
        let verdict = self.step(id, slot, signed_event(event, input.kind, input.data, self.height))?;
        if verdict.is_ok() {
            Self::note(slot).last = Some(event.id());
        }
        Ok(verdict)
    }

    /// A request has one outcome, for ever: its sender was told it, signed. So a rejection is kept like an acceptance; else
    /// whoever brings the request again, a custodian that reads it from a relay or a leader that waits for the right moment,
    /// could turn it into the opposite.
    pub(crate) fn settle(
        &mut self,
        id: &Hash,
        event: &ValidEvent,
        verdict: &Result<(), Refusal>,
    ) -> Result<(), StoreError> {
        match verdict {
            Err(Refusal::Duplicate) => Ok(()),
            Ok(()) | Err(_) => self.set(&keys::request_key(id, &event.id()), &self.height.clone()),
        }
    }

    /// An event of any other kind: an input of every machine that listens for it. It is accepted if one takes it; if
    /// none does, the first machine's reason is the outcome's.
    fn other(&mut self, event: &ValidEvent) -> Verdict {
        let (mut taken, mut first) = (false, None);
        for id in listeners(&self.over, event)? {
            let Some(mut slot) = self.take(&id)? else { continue };
            if matches(&slot.fixed.sources, event) {
                let verdict = self.source_to(id, &mut slot, event);
                self.put(id, slot);
                let verdict = verdict?;
                self.settle(&id, event, &verdict)?;
                match verdict {
                    Ok(()) => taken = true,
                    Err(refusal) => first = first.or(Some(refusal)),
                }
            } else {
                self.put(id, slot);
            }
        }
        Ok(if taken { Ok(()) } else { Err(first.unwrap_or(nobody_listens(event))) })
    }

    fn source_to(&mut self, id: Hash, slot: &mut Slot, event: &ValidEvent) -> Verdict {
        match self.acceptable(id, slot, event)? {
            Ok(()) => self.step(id, slot, source_event(event, self.height)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// What holds for every input of a machine. Its due timers have fired first, or it takes none: a bid after the deadline
    /// meets a machine that knows of the deadline.
    fn acceptable(&self, id: Hash, slot: &Slot, event: &ValidEvent) -> Verdict {
        if self.has(&keys::request_key(&id, &event.id()))? {
            return Ok(Err(Refusal::Duplicate));
        }
        if too_old(event, slot.record.started_ms) {
            return Ok(Err(Refusal::TooOld));
        }
        if self.too_new(event) {
            return Ok(Err(Refusal::TooNew));
        }
        if self.owes_timer(slot) {
            return Ok(Err(Refusal::Busy));
        }
        Ok(Ok(()))
    }

    /// A step that a participant's event causes.
    fn step(&mut self, id: Hash, slot: &mut Slot, input: Event) -> Verdict {
        let verdict = self.react(id, slot, input)?;
        if verdict.is_ok() {
            let record = Self::note(slot);
            record.timer_streak = 0;
            record.begun_by_timers = 0;
            record.rest_until_ms = None;
        }
        Ok(verdict)
    }

    /// A step, whatever causes it. A message of a machine gives no timers back: two machines could keep each other awake.
    pub(crate) fn react(&mut self, id: Hash, slot: &mut Slot, input: Event) -> Verdict {
        let kept = Kept::new(&self.over, id);
        let outcome = slot.fixed.definition.send_with(&slot.record.state, &input, self.now_ms, &kept);
        kept.check()?;
        let step = match outcome {
            Ok(step) => step,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        self.commit(id, slot, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_and_swap() {
        let (machine, last, other) =
            (Hash::from_bytes([1; 32]), Hash::from_bytes([2; 32]), Hash::from_bytes([3; 32]));
        for mode in [Mode::Strict, Mode::Sequenced] {
            assert!(!stale(&machine, mode, None, None));
            assert!(!stale(&machine, mode, None, Some(machine)));
            assert!(stale(&machine, mode, None, Some(other)));
            assert!(!stale(&machine, mode, Some(last), Some(last)));
            assert!(stale(&machine, mode, Some(last), Some(other)));
            assert!(stale(&machine, mode, Some(last), Some(machine)));
            assert_eq!(stale(&machine, mode, Some(last), None), mode == Mode::Strict);
        }
    }
}
