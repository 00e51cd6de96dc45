//! Definitions: may this author start this machine, and does it start?

use std::sync::Arc;

use concordat_events::output::STARTED_D;
use concordat_events::{Definition7500, Hash, Mode, ValidEvent};
use concordat_machine::{Definition, Fault};
use concordat_store::{Store, StoreError};
use nostr::JsonUtil;

use crate::keys;
use crate::layer::Read;
use crate::limits::{SOURCE_ENTRIES, SOURCE_MACHINES};
use crate::reason::Refusal;
use crate::record::FixedLeaf;
use crate::vet::{Asker, Birth, Tally};
use crate::work::{Verdict, Work, source_entries, source_prefixes};

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
    // Reserved for machines that machines start: whoever took one beforehand could keep them from it.
    if definition.d.starts_with(STARTED_D) {
        return Err(Refusal::DTaken);
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

/// Would this definition's content be admitted?
///
/// # Errors
/// Every fault with its place.
pub fn check_definition(text: &str) -> Result<Definition, Vec<Fault>> {
    Definition::parse(text)
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
        let count: u32 = self.leaf(&keys::author_key(&event.author()))?.unwrap_or(0);
        if count >= self.genesis.admission.machines_per_author {
            return Ok(Err(Refusal::Quota));
        }
        if self.has(&Self::snapshot_claim(&definition.d))? {
            return Ok(Err(Refusal::DTaken));
        }
        if let Some(refusal) = self.sources_refused(&definition)? {
            return Ok(Err(refusal));
        }
        let leaf = FixedLeaf {
            creator: event.author(),
            parent: None,
            of: None,
            d: definition.d,
            strict: definition.mode == Mode::Strict,
            sources: definition.sources.iter().map(JsonUtil::as_json).collect(),
            text: event.content().to_owned(),
        };
        let Some(fixed) = self.parse(&id, &leaf) else { return Ok(Err(Refusal::BadDefinition)) };
        let step =
            match fixed.definition.start_with(self.now_ms, Some(&leaf.creator.to_hex()), &definition.input) {
                Ok(step) => step,
                Err(rejection) => return Ok(Err(rejection.into())),
            };
        let mut tally = Tally::starting(step.state.is_done());
        let step = match self.vet(&Asker::new(id, leaf.creator, 0), step, &mut tally)? {
            Ok(step) => step,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.bear(Birth { id, leaf, fixed, event: None, step }).map(Ok)
    }

    fn parse(&self, id: &Hash, leaf: &FixedLeaf) -> Option<Arc<crate::record::Fixed>> {
        if let Some(fixed) = self.definitions.get(id) {
            return Some(fixed);
        }
        let fixed = Arc::new(leaf.fixed(leaf.definition().ok()?).ok()?);
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
    fn zeros_are_counted_over_bytes() {
        let mut bytes = [0; 32];
        bytes[2] = 0x10;
        assert_eq!(leading_zeros(&Hash::from_bytes(bytes)), 19);
        assert_eq!(leading_zeros(&Hash::ZERO), 256);
    }
}
