//! What a step asks for, judged before anything of it is written: a step happens whole, with all that it publishes, sends
//! and starts, or not at all.
//!
//! A machine that is started takes its first step here too, and so do those that it starts in turn. What they refuse is the
//! reason of the step that began it all.

use std::collections::BTreeMap;
use std::sync::Arc;

use concordat_events::kinds::{STATEMENT, allowed_effect};
use concordat_events::limits::{EVENT_BYTES, EVENT_TAGS, MAX_INTEGER, NAME_BYTES};
use concordat_events::output::Started;
use concordat_events::{Hash, PublicKey, json};
use concordat_machine::{Effect, RecordChange, State, Step};
use concordat_store::{Store, StoreError};
use serde_json::Value;

use crate::keys;
use crate::layer::Read;
use crate::limits::{QUEUED_EFFECTS, SOURCE_MACHINES};
use crate::mail::{Mail, mail_id};
use crate::reason::Refusal;
use crate::record::{Claim, Fixed, FixedLeaf, QueuedEffect};
use crate::work::{Slot, Verdict, Work, fixed, source_prefixes};

/// A step that may happen.
pub(crate) struct Vetted {
    pub(crate) state: State,
    pub(crate) records: Vec<RecordChange>,
    pub(crate) effects: Vec<QueuedEffect>,
    pub(crate) mail: Vec<Mail>,
    pub(crate) births: Vec<Birth>,
}

/// A machine that may start.
pub(crate) struct Birth {
    pub(crate) id: Hash,
    pub(crate) leaf: FixedLeaf,
    pub(crate) fixed: Arc<Fixed>,
    /// The event that makes its definition public; a participant's is public already.
    pub(crate) event: Option<QueuedEffect>,
    pub(crate) step: Vetted,
}

/// Whose step is judged.
pub(crate) struct Asker {
    pub(crate) id: Hash,
    pub(crate) creator: PublicKey,
    sent: u64,
    begun: u64,
    effects: u32,
}

impl Asker {
    pub(crate) fn of(id: Hash, slot: &Slot) -> Self {
        let record = &slot.record;
        let (sent, begun, effects) = (record.sent, record.begun, record.effects);
        Asker { id, creator: slot.fixed.creator, sent, begun, effects }
    }

    /// A machine that has done nothing yet; its first event is among `effects`, if it has one.
    pub(crate) fn new(id: Hash, creator: PublicKey, effects: u32) -> Self {
        Asker { id, creator, sent: 0, begun: 0, effects }
    }
}

/// What one step and the first steps of the machines that it starts take together.
#[derive(Default)]
pub(crate) struct Tally {
    /// Machines that the state doesn't show yet.
    family: Vec<Hash>,
    /// Addresses that the state doesn't show yet as taken.
    claims: BTreeMap<Vec<u8>, Hash>,
    mail: usize,
    starts: usize,
    /// Machines that will run and count against their author's quota.
    running: u32,
}

impl Tally {
    /// That of a machine that starts and will run, unless it is done at once.
    pub(crate) fn starting(done: bool) -> Self {
        Tally { running: u32::from(!done), ..Tally::default() }
    }
}

impl<S: Store> Work<'_, S> {
    /// Judges a step.
    pub(crate) fn vet(&self, asker: &Asker, step: Step, tally: &mut Tally) -> Verdict<Vetted> {
        let (mut effects, mut mail, mut births) = (Vec::new(), Vec::new(), Vec::new());
        tally.family.push(asker.id);
        for effect in step.effects {
            let refused = match effect {
                Effect::Publish { kind, content, tags } => {
                    let effect = QueuedEffect { machine: asker.id, kind, tags, content, at: None };
                    self.vet_publish(effect, tally)?.map(|effect| effects.push(effect))
                }
                Effect::Send { to, kind, data } => {
                    let n = asker.sent.saturating_add(mail.len() as u64);
                    let id = mail_id(&asker.id, n);
                    self.vet_receiver(&to, tally)?
                        .map(|to| mail.push(Mail { from: asker.id, to, kind, data, id }))
                }
                Effect::Start { definition, input } => {
                    let n = asker.begun.saturating_add(births.len() as u64);
                    self.vet_start(asker, n, &definition, &input, tally)?.map(|birth| births.push(birth))
                }
            };
            if let Err(refusal) = refused {
                return Ok(Err(refusal));
            }
        }
        let new = u32::try_from(effects.len()).unwrap_or(u32::MAX);
        if new > 0 && asker.effects.saturating_add(new) > QUEUED_EFFECTS {
            return Ok(Err(Refusal::Busy));
        }
        Ok(Ok(Vetted { state: step.state, records: step.records, effects, mail, births }))
    }

    fn vet_publish(&self, mut effect: QueuedEffect, tally: &mut Tally) -> Verdict<QueuedEffect> {
        if !allowed_effect(effect.kind) || effect.kind == self.genesis.kinds.log {
            return Ok(Err(Refusal::ForbiddenKind));
        }
        if effect.kind == STATEMENT {
            // Readers look for it under the machine's id: nobody gets there but the machine itself.
            if effect.tags.iter().any(|tag| tag.first().is_some_and(|name| name == "e")) {
                return Ok(Err(Refusal::Machine(concordat_machine::Reason::EffectError)));
            }
            effect.tags.insert(0, vec!["e".to_owned(), effect.machine.to_hex()]);
        }
        if self.oversize(&effect) {
            return Ok(Err(Refusal::TooLarge));
        }
        if let Some(d) = effect.d() {
            if d.len() > NAME_BYTES {
                return Ok(Err(Refusal::TooLarge));
            }
            let key = keys::claim_key(effect.kind, d);
            let owner = match tally.claims.get(&key) {
                Some(owner) => Some(*owner),
                None => self.leaf::<Claim>(&key)?.map(|claim| claim.machine),
            };
            if owner.is_some_and(|owner| owner != effect.machine) {
                return Ok(Err(Refusal::DTaken));
            }
            tally.claims.insert(key, effect.machine);
        }
        Ok(Ok(effect))
    }

    fn oversize(&self, effect: &QueuedEffect) -> bool {
        effect.tags.len() > EVENT_TAGS
            || self.template(effect, MAX_INTEGER.unsigned_abs()).signed_size() > EVENT_BYTES
    }

    fn vet_receiver(&self, to: &str, tally: &mut Tally) -> Verdict<Hash> {
        let known = match Hash::from_hex(to) {
            Some(to) if tally.family.contains(&to) || self.knows(&to)? => to,
            _ => return Ok(Err(Refusal::UnknownMachine)),
        };
        if tally.mail + tally.starts >= self.mail_left {
            return Ok(Err(Refusal::Busy));
        }
        tally.mail += 1;
        Ok(Ok(known))
    }

    fn vet_start(
        &self,
        asker: &Asker,
        n: u64,
        definition: &str,
        input: &Value,
        tally: &mut Tally,
    ) -> Verdict<Birth> {
        let Some(named) = Hash::from_hex(definition) else { return Ok(Err(Refusal::UnknownDefinition)) };
        let Some(model) = self.leaf::<FixedLeaf>(&keys::definition_key(&named))? else {
            return Ok(Err(Refusal::UnknownDefinition));
        };
        if tally.starts >= self.starts_left.min(self.batch_starts_left)
            || tally.mail + tally.starts >= self.mail_left
        {
            return Ok(Err(Refusal::StartLimit));
        }
        let running: u32 = self.leaf(&keys::author_key(&asker.creator))?.unwrap_or(0);
        if running.saturating_add(tally.running) >= self.genesis.admission.machines_per_author {
            return Ok(Err(Refusal::Quota));
        }
        let of = model.of.unwrap_or(named);
        let shared = fixed(self.definitions, &self.over, &of)?;
        let model_sources = fixed(self.definitions, &self.over, &named)?;
        for prefix in source_prefixes(&model_sources.sources) {
            let listening = self.over.scan(&prefix, &[], SOURCE_MACHINES)?;
            if listening.len() + tally.starts >= SOURCE_MACHINES {
                return Ok(Err(Refusal::Quota));
            }
        }
        tally.starts += 1;
        // As with messages, a machine is known by its id, which no participant can sign for.
        let step = match shared.definition.start_with(self.now_ms, Some(&asker.id.to_hex()), input) {
            Ok(step) => step,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        let key = keys::definition_key(&named);
        let written = json::canonical(input).map_err(|error| keys::corrupt(&key, &error.to_string()))?;
        let started = Started {
            group: self.genesis.group_key,
            parent: asker.id,
            n,
            definition: of,
            input: (!input.is_null()).then_some(written.as_str()),
            mode: model_sources.mode,
            sources: &model.sources,
            content: &self.text_of(&of, model.text)?,
            time_ms: self.now_ms,
        };
        let template = started.template();
        let (id, d) = (template.id(), started.d());
        let event = QueuedEffect {
            machine: id,
            kind: template.kind,
            tags: template.tags,
            content: template.content,
            at: Some(template.created_at),
        };
        if self.oversize(&event) {
            return Ok(Err(Refusal::TooLarge));
        }
        if self.has(&Self::snapshot_claim(&d))? {
            return Ok(Err(Refusal::DTaken));
        }
        if !step.state.is_done() {
            tally.running += 1;
        }
        let leaf = FixedLeaf {
            creator: asker.creator,
            parent: Some(asker.id),
            of: Some(of),
            d,
            strict: model.strict,
            sources: model.sources,
            text: String::new(),
        };
        let fixed = leaf.fixed(shared.definition.clone()).map_err(|error| keys::corrupt(&key, &error))?;
        let step = match self.vet(&Asker::new(id, asker.creator, 1), step, tally)? {
            Ok(step) => step,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(Ok(Birth { id, leaf, fixed: Arc::new(fixed), event: Some(event), step }))
    }

    /// The text of the definition `of`: at hand, if it is the one that was named.
    fn text_of(&self, of: &Hash, at_hand: String) -> Result<String, StoreError> {
        if !at_hand.is_empty() {
            return Ok(at_hand);
        }
        let key = keys::definition_key(of);
        let leaf: Option<FixedLeaf> = self.leaf(&key)?;
        Ok(leaf.ok_or_else(|| keys::corrupt(&key, "a machine without the definition that it runs"))?.text)
    }
}
