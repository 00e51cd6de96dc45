//! Proofs of one machine against one head.

use concordat_events::{Hash, Head, ValidEvent};
use concordat_ledger::Proof;
use concordat_verify::{Code, verify_proof};
use nostr::Keys;

use super::whole::story;
use super::world::*;

fn last_log(public: &[ValidEvent]) -> ValidEvent {
    public.iter().rfind(|event| event.kind() == 400).unwrap().clone()
}

#[test]
fn a_machine_is_proven_from_a_log_event_alone() {
    let story = story();
    let (group, machine) = (story.world.group.public_key(), story.counter.id());
    let log = last_log(&story.world.public);
    let proof = story.world.ledger.prove(&machine).unwrap();
    let proof = Proof::parse(&proof.to_json().unwrap()).unwrap();
    let record = verify_proof(&group, 400, &log, &machine, &proof).unwrap().unwrap();
    assert_eq!(record.state.snapshot()["context"]["n"], 1);
    let nobody = Hash::from_bytes([9; 32]);
    let absent = story.world.ledger.prove(&nobody).unwrap();
    assert_eq!(verify_proof(&group, 400, &log, &nobody, &absent), Ok(None));

    let code = |log: &ValidEvent, kind, machine: &Hash, proof: &Proof| {
        verify_proof(&group, kind, log, machine, proof).unwrap_err().code
    };
    assert_eq!(code(&log, 400, &story.speaker.id(), &proof), Code::BadProof);
    assert_eq!(code(&log, 401, &machine, &proof), Code::BadHead);
    assert_eq!(code(&story.counter, 400, &machine, &proof), Code::BadHead);
    let older = story.world.public.iter().find(|event| event.kind() == 400).unwrap();
    assert_eq!(code(older, 400, &machine, &proof), Code::BadProof);
    let mallory = Keys::generate();
    let head = Head::from_log_event(&log).unwrap();
    let forged = sign(&mallory, &head.log_event(mallory.public_key(), 400).unwrap());
    assert_eq!(code(&forged, 400, &machine, &proof), Code::BadHead);
}
