//! One machine's state against one head: what `get --proof` checks.

use concordat_events::{Hash, Head, PublicKey, ValidEvent};
use concordat_ledger::{Proof, Record, machine_key};

use crate::failure::{Code, Failure};

/// What the head in `log_event` says about `machine`: its record, or `None` if there is no such machine.
///
/// `log_kind` is that of the cluster's genesis (400 unless the founders chose otherwise). It must be known: under another
/// kind the group may have signed what a machine's author dictated.
///
/// # Errors
/// [`Code::BadHead`] if the event isn't a head of this group, [`Code::BadProof`] if the proof doesn't lead to its root.
pub fn verify_proof(
    group: &PublicKey,
    log_kind: u16,
    log_event: &ValidEvent,
    machine: &Hash,
    proof: &Proof,
) -> Result<Option<Record>, Failure> {
    let head = head_of(group, log_kind, log_event)?;
    let bad = |text: String| Failure::new(Code::BadProof, text).at(head.height).of(Some(*machine));
    let value =
        proof.check(&head.state_root, &machine_key(machine)).map_err(|error| bad(error.to_string()))?;
    value.map(serde_json::from_str).transpose().map_err(|error| bad(error.to_string()))
}

/// The head in a log event of this group.
pub(crate) fn head_of(group: &PublicKey, log_kind: u16, log_event: &ValidEvent) -> Result<Head, Failure> {
    if log_event.author() != *group || log_event.kind() != log_kind {
        let text = format!(
            "event {} is of kind {} by {}; expected kind {log_kind} by the group {group}",
            log_event.id(),
            log_event.kind(),
            log_event.author()
        );
        return Err(Failure::new(Code::BadHead, text));
    }
    Head::from_log_event(log_event).map_err(|error| Failure::new(Code::BadHead, error.to_string()))
}
