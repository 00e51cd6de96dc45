//! Definitions: may this author start this machine, and does it start?

use std::sync::Arc;

use concordat_events::{Definition7500, Hash, Mode, ValidEvent};
use concordat_machine::{Definition, Fault};
use concordat_store::{Store, StoreError};
use nostr::JsonUtil;
use serde_json::Value;

use crate::keys;
use crate::layer::Read;
use crate::limits::{SOURCE_ENTRIES, SOURCE_MACHINES};
use crate::reason::Refusal;
use crate::record::{Claim, FixedLeaf, Record};
use crate::work::{Slot, Verdict, Work, source_entries, source_prefixes};

/// The refusals that don't need the state.
pub(crate) fn policy(
    genesis: &concordat_events::Genesis,
    engines: &[String],
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
        if (ours && !engines.contains(name)) || (charts && !ours && !is_xstate5(name)) {
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

/// Would this definition's content be admitted? Beside what the engine finds, an action that starts another machine
/// is a fault: machines can't start each other yet, and an effect is never ignored.
///
/// # Errors
/// Every fault with its place.
pub fn check_definition(text: &str) -> Result<Definition, Vec<Fault>> {
    let definition = Definition::parse(text)?;
    let mut faults = Vec::new();
    match serde_json::from_str(text) {
        Ok(value) => reaching_out(&value, "", &mut faults),
        Err(error) => faults.push(Fault { path: String::new(), message: error.to_string() }),
    }
    if faults.is_empty() { Ok(definition) } else { Err(faults) }
}

/// Finds `start` wherever actions stand. The engine has bounded the nesting.
fn reaching_out(value: &Value, path: &str, faults: &mut Vec<Fault>) {
    let Value::Object(fields) = value else {
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            reaching_out(item, &format!("{path}/{n}"), faults);
        }
        return;
    };
    for (key, value) in fields {
        let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        match key.as_str() {
            // Data, not structure: whatever stands in it runs nothing.
            "context" | "params" => {}
            "entry" | "exit" | "actions" => {
                let actions = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                for (n, action) in actions.iter().enumerate() {
                    let name = action.as_str().or_else(|| action.get("type").and_then(Value::as_str));
                    if let Some(name @ "start") = name {
                        let path = if value.is_array() { format!("{path}/{n}") } else { path.clone() };
                        let message = format!("`{name}` isn't supported yet: a machine can't start another");
                        faults.push(Fault { path, message });
                    }
                }
                // A state may have one of these names too.
                reaching_out(value, &path, faults);
            }
            _ => reaching_out(value, &path, faults),
        }
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
        if let Err(refusal) = policy(self.genesis, &self.charter.versions.engines, event, &definition) {
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
            sent: 0,
            timer_streak: 0,
            rest_until_ms: None,
        };
        let mut slot = Slot::new(fixed.clone(), record);
        // One that is done once started never takes an input: it isn't indexed and doesn't count.
        let done = step.state.is_done();
        if let Err(refusal) = self.commit(id, &mut slot, step)? {
            return Ok(Err(refusal));
        }
        if !done {
            for prefix in source_prefixes(&fixed.sources) {
                self.over.put(keys::source(&prefix, &id), Vec::new());
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
        check_definition(&leaf.text).ok()?;
        let fixed = Arc::new(leaf.parse().ok()?);
        self.definitions.put(*id, fixed.clone());
        Some(fixed)
    }

    /// Filters that name too much, or what too many machines listen to already.
    fn sources_refused(&self, definition: &Definition7500) -> Result<Option<Refusal>, StoreError> {
        // A search means what a relay makes of it.
        let searches = definition.sources.iter().any(|filter| filter.search.is_some());
        if searches || source_entries(&definition.sources) > SOURCE_ENTRIES {
            return Ok(Some(Refusal::BadDefinition));
        }
        for prefix in source_prefixes(&definition.sources) {
            let listening = self.over.scan(&prefix, &[], SOURCE_MACHINES)?;
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
    fn starts_are_found_wherever_actions_stand() {
        let send = json!({"type": "start", "params": {"definition": "x"}});
        let found = |definition: Value| {
            let mut faults = Vec::new();
            reaching_out(&definition, "", &mut faults);
            faults.into_iter().map(|fault| fault.path).collect::<Vec<_>>()
        };
        assert_eq!(found(json!({"states": {"a": {"entry": send}}})), ["/states/a/entry"]);
        assert_eq!(
            found(json!({"states": {"a/b": {"on": {"GO": [{"actions": [{"type": "raise"}, send]}]}}}})),
            ["/states/a~1b/on/GO/0/actions/1"]
        );
        assert_eq!(
            found(json!({"states": {"a": {"always": {"actions": "start"}}}})),
            ["/states/a/always/actions"]
        );
        assert_eq!(found(json!({"states": {"entry": {"exit": send}}})), ["/states/entry/exit"]);
        for harmless in [
            json!({"context": {"entry": "send"}, "states": {"send": {"entry": "raise"}}}),
            json!({"states": {"a": {"on": {"send": "b"}}, "b": {"on": {"start": {"target": "a"}}}}}),
        ] {
            assert!(found(harmless).is_empty());
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
