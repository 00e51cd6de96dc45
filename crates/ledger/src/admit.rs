//! Definitions: may this author start this machine, and does it start?

use std::sync::Arc;

use concordat_events::{Definition7500, Hash, Mode, ValidEvent};
use concordat_store::{Store, StoreError};
use nostr::JsonUtil;
use serde_json::Value;

use crate::keys;
use crate::layer::Read;
use crate::limits::{SOURCE_KINDS, SOURCE_MACHINES};
use crate::reason::Refusal;
use crate::record::{Claim, FixedLeaf, Record};
use crate::work::{Slot, Verdict, Work, source_kinds};

/// The refusals that don't need the state.
pub(crate) fn policy(
    genesis: &concordat_events::Genesis,
    event: &ValidEvent,
    definition: &Definition7500,
) -> Result<(), Refusal> {
    let admission = &genesis.admission;
    if !admission.allow.is_empty() && !admission.allow.contains(&event.author()) {
        return Err(Refusal::NotAllowed);
    }
    if leading_zeros(&event.id()) < u32::from(admission.pow_bits) {
        return Err(Refusal::Pow);
    }
    for (name, roles) in &definition.engines {
        // Names of packages stand for guards and actions by name; a name that this engine doesn't have is a fault of the
        // definition. Our own engines are versions of the rules, and XState's version decides how charts run.
        let ours = name.starts_with("concordat-");
        let charts = roles.iter().any(|role| role == "state-machine");
        if (ours && !genesis.engines.contains(name)) || (charts && !ours && !is_xstate5(name)) {
            return Err(Refusal::Engine);
        }
    }
    Ok(())
}

/// `xstate@5`, also with a package manager's prefix, a caret or a longer version.
fn is_xstate5(name: &str) -> bool {
    let name = name.rsplit(':').next().unwrap_or(name);
    let Some(version) = name.strip_prefix("xstate@") else { return false };
    let version = version.trim_start_matches(['^', '~', 'v']);
    version == "5" || version.starts_with("5.")
}

fn leading_zeros(id: &Hash) -> u32 {
    let mut zeros = 0;
    for byte in id.as_bytes() {
        zeros += byte.leading_zeros();
        if *byte != 0 {
            break;
        }
    }
    zeros
}

/// Does a definition ask for `send` or `start` anywhere? Machines of one group can't reach each other yet, and an effect
/// is never ignored, so such a definition is refused.
fn reaches_out(value: &Value) -> bool {
    let named = |action: &Value| {
        let name = action.as_str().or_else(|| action.get("type").and_then(Value::as_str));
        matches!(name, Some("send" | "start"))
    };
    match value {
        Value::Array(items) => items.iter().any(reaches_out),
        Value::Object(fields) => fields.iter().any(|(key, value)| match (key.as_str(), value) {
            // Data, not structure: whatever stands in it runs nothing.
            ("context" | "params", _) => false,
            ("entry" | "exit" | "actions", Value::Array(items)) => items.iter().any(named),
            ("entry" | "exit" | "actions", action) if named(action) => true,
            _ => reaches_out(value),
        }),
        _ => false,
    }
}

impl<S: Store> Work<'_, S> {
    /// Starts a machine.
    pub(crate) fn admit(&mut self, event: &ValidEvent, definition: Definition7500) -> Verdict {
        let id = event.id();
        if self.has(&keys::machine_key(&id))? {
            return Ok(Err(Refusal::Duplicate));
        }
        if self.too_new(event) {
            return Ok(Err(Refusal::TooNew));
        }
        if let Err(refusal) = policy(self.genesis, event, &definition) {
            return Ok(Err(refusal));
        }
        let author = keys::author_key(&event.author());
        let count: u32 = self.leaf(&author)?.unwrap_or(0);
        if count >= self.genesis.admission.machines_per_author {
            return Ok(Err(Refusal::Quota));
        }
        let claim = Self::snapshot_claim(&definition.d);
        if self.has(&claim)? {
            return Ok(Err(Refusal::DTaken));
        }
        if let Some(refusal) = self.sources_refused(&definition)? {
            return Ok(Err(refusal));
        }
        let leaf = FixedLeaf {
            creator: event.author(),
            d: definition.d,
            strict: definition.mode == Mode::Strict,
            sources: definition.sources.iter().map(JsonUtil::as_json).collect(),
            text: event.content().to_owned(),
        };
        let Some(fixed) = self.parse(&id, &leaf) else { return Ok(Err(Refusal::BadDefinition)) };
        let step = match fixed.definition.start(self.now_ms, Some(&leaf.creator.to_hex())) {
            Ok(step) => step,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        let record = Record {
            started_ms: self.now_ms,
            state: step.state.clone(),
            last: None,
            snapshot_s: None,
            queued: None,
            effects: 0,
            timer_streak: 0,
            rest_until_ms: None,
        };
        let mut slot = Slot::new(fixed.clone(), record);
        // A machine that is done once started retires at once; so the quota and the index are written only for others.
        let done = step.state.is_done();
        if let Err(refusal) = self.commit(id, &mut slot, step)? {
            return Ok(Err(refusal));
        }
        if !done {
            for kind in source_kinds(&fixed.sources) {
                self.over.put(keys::source(kind, &id), Vec::new());
            }
            self.set(&author, &(count + 1))?;
        }
        self.set(&claim, &Claim { machine: id, at: None, queued: None })?;
        self.set(&keys::definition_key(&id), &leaf)?;
        self.put(id, slot);
        Ok(Ok(()))
    }

    fn parse(&self, id: &Hash, leaf: &FixedLeaf) -> Option<Arc<crate::record::Fixed>> {
        if let Some(fixed) = self.definitions.get(id) {
            return Some(fixed);
        }
        let value: Value = serde_json::from_str(&leaf.text).ok()?;
        if reaches_out(&value) {
            return None;
        }
        let fixed = Arc::new(leaf.parse().ok()?);
        self.definitions.put(*id, fixed.clone());
        Some(fixed)
    }

    /// Filters that name too much, or kinds that too many machines listen to already.
    fn sources_refused(&self, definition: &Definition7500) -> Result<Option<Refusal>, StoreError> {
        for filter in &definition.sources {
            let kinds = filter.kinds.as_ref().map_or(0, |kinds| kinds.len());
            // A search means what a relay makes of it.
            if kinds > SOURCE_KINDS || filter.search.is_some() {
                return Ok(Some(Refusal::BadDefinition));
            }
        }
        for kind in source_kinds(&definition.sources) {
            let listening = self.over.scan(&keys::source_prefix(kind), &[], SOURCE_MACHINES)?;
            if listening.len() >= SOURCE_MACHINES {
                return Ok(Some(Refusal::Quota));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_of_xstate() {
        for name in ["xstate@5", "npm:xstate@^5.18.0", "jsr:xstate@5.1", "xstate@v5"] {
            assert!(is_xstate5(name), "{name}");
        }
        for name in ["xstate@4", "xstate@50", "xstate", "robot@5", ""] {
            assert!(!is_xstate5(name), "{name}");
        }
    }

    #[test]
    fn sends_are_found_wherever_actions_stand() {
        let send = json!({"type": "send", "params": {"to": "x", "type": "Y"}});
        for definition in [
            json!({"states": {"a": {"entry": send}}}),
            json!({"states": {"a": {"on": {"GO": [{"actions": [{"type": "raise"}, send]}]}}}}),
            json!({"states": {"a": {"always": {"actions": "start"}}}}),
        ] {
            assert!(reaches_out(&definition), "{definition}");
        }
        for definition in [
            json!({"context": {"entry": "send"}, "states": {"send": {"entry": "raise"}}}),
            json!({"states": {"a": {"on": {"send": "b"}}, "b": {"on": {"start": {"target": "a"}}}}}),
        ] {
            assert!(!reaches_out(&definition), "{definition}");
        }
    }

    #[test]
    fn zeros_are_counted_over_bytes() {
        let mut bytes = [0; 32];
        bytes[2] = 0x10;
        assert_eq!(leading_zeros(&Hash::from_bytes(bytes)), 19);
        assert_eq!(leading_zeros(&Hash::ZERO), 256);
    }
}
