//! Custodians asked directly, at their client ports.
//!
//! Promises: a state that comes out of here is proven against a head that the group signed. Refuses: to believe a custodian:
//! it can withhold and delay, it can't make anything up.

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Hash, Head, PublicKey, ValidEvent};
use concordat_ledger::{Proof, Record, claim_key};
use concordat_node::client::{Client, ClientError, CustodianAddress, LEAVES, MachineView};
use concordat_verify::registry::{Answer, Lack, Shown, look_up};
use concordat_verify::verify_proof;

use crate::failure::{Exit, Failure};

/// A machine at a head, proven.
pub struct Proven {
    /// The head.
    pub head: Head,
    /// Its log event.
    pub log: Hash,
    /// What the state holds of the machine; `None` if it is proven that there is no such machine.
    pub record: Option<Record>,
    /// Who showed it.
    pub by: CustodianAddress,
}

/// What went wrong with a custodian, by meaning.
pub fn failure(error: ClientError) -> Failure {
    let text = error.to_string();
    match error {
        ClientError::Address(_) => Failure::usage("custodian_address", text, "expected HOST:PORT#PIN"),
        ClientError::Connect { .. } => {
            Failure::not_ready("custodian_unreachable", text, "ask another one, or use relays")
        }
        ClientError::NotReady { .. } => {
            Failure::not_ready("custodian_not_ready", text, "ask another one, or use relays")
        }
        ClientError::Refused { .. } => {
            Failure::refused("refused", text, "it isn't a request that the group can take")
        }
        ClientError::Answer { .. } => {
            Failure::check("bad_answer", text, "don't trust this custodian; ask another one")
        }
    }
}

/// Hands a request to the first custodian that takes it, and waits for the log event that settles it. The caller checks that
/// event. Fails as refused only if every custodian refused.
pub async fn send(addresses: &[CustodianAddress], request: &ValidEvent) -> Result<ValidEvent, Failure> {
    let mut worst: Option<Failure> = None;
    for address in addresses {
        let asked = async {
            let client = Client::connect(address.clone()).await?;
            client.send(request).await.map(|certified| certified.log_event)
        };
        match asked.await.map_err(failure) {
            Ok(log_event) => return Ok(log_event),
            // One that is only out of reach may yet do what others refused.
            Err(failure) if worst.as_ref().is_none_or(|known| known.exit == Exit::Refused) => {
                worst = Some(failure)
            }
            Err(_) => {}
        }
    }
    Err(worst.unwrap_or_else(none_given))
}

/// A machine's state at some custodian's certified head, checked against the group's key.
pub async fn proven(
    addresses: &[CustodianAddress],
    group: PublicKey,
    log_kind: u16,
    machine: Hash,
) -> Result<Proven, Failure> {
    let mut last = none_given();
    for address in addresses {
        let asked = async {
            let client = Client::connect(address.clone()).await?;
            client.get(machine).await
        };
        match asked.await.map_err(failure).and_then(|view| check(address, &view, group, log_kind, machine)) {
            Ok(proven) => return Ok(proven),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// What the registry with this `d` says of a key, at some custodian's certified head, with the proofs that it follows from.
pub async fn registered(
    addresses: &[CustodianAddress],
    group: PublicKey,
    log_kind: u16,
    d: &str,
    key: PublicKey,
) -> Result<(Answer, Shown), Failure> {
    let mut last = none_given();
    for address in addresses {
        match asked(address, group, log_kind, d, key).await {
            Ok(found) => return Ok(found),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// What a lookup lacks, by meaning.
pub fn lack(lack: Lack) -> Failure {
    let text = lack.to_string();
    match lack {
        Lack::Leaf(_) => {
            Failure::check("bad_proof", text, "it isn't about this key, this registry or this group")
        }
        Lack::NoRegistry { .. } => Failure::refused(
            "no_registry",
            text,
            "give --d NAME; docs/machines/registry.md says how to run one",
        ),
        Lack::Other { .. } => Failure::check("not_a_registry", text, "don't trust what it says of keys"),
        Lack::False(_) => {
            Failure::check("bad_proof", text, "don't trust whoever has shown it; ask another custodian")
        }
    }
}

/// Which leaves an answer rests on comes out as it is read: each is asked for with all before it, so that they stand at one
/// head.
async fn asked(
    address: &CustodianAddress,
    group: PublicKey,
    log_kind: u16,
    d: &str,
    key: PublicKey,
) -> Result<(Answer, Shown), Failure> {
    let client = Client::connect(address.clone()).await.map_err(failure)?;
    let mut leaves = vec![String::from_utf8_lossy(&claim_key(SNAPSHOT, d)).into_owned()];
    loop {
        let proven = client.prove(&leaves).await.map_err(failure)?;
        let wrong = |message: String| {
            let text = format!("{}: {message}", address.address);
            Failure::check("bad_proof", text, "don't trust this custodian; ask another one")
        };
        let read = |proof: &String| Proof::parse(proof).map_err(|error| wrong(error.to_string()));
        let proofs = proven.proofs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let shown =
            Shown { log_event: proven.log_event, proofs: leaves.iter().cloned().zip(proofs).collect() };
        match look_up(&group, log_kind, d, &key, &shown) {
            Ok(answer) => return Ok((answer, shown)),
            Err(Lack::Leaf(leaf)) if leaves.len() < LEAVES && !leaves.contains(&leaf) => leaves.push(leaf),
            Err(other) => return Err(lack(other)),
        }
    }
}

/// Checks what a custodian showed of a machine.
fn check(
    address: &CustodianAddress,
    view: &MachineView,
    group: PublicKey,
    log_kind: u16,
    machine: Hash,
) -> Result<Proven, Failure> {
    let wrong = |message: String| {
        Failure::check(
            "bad_proof",
            format!("{}: {message}", address.address),
            "don't trust this custodian; ask another one",
        )
    };
    let text = std::str::from_utf8(&view.proof).map_err(|_| wrong("the proof isn't text".to_owned()))?;
    let proof = Proof::parse(text).map_err(|error| wrong(error.to_string()))?;
    let record = verify_proof(&group, log_kind, &view.log_event, &machine, &proof)
        .map_err(|failure| wrong(failure.message))?;
    let head = Head::from_log_event(&view.log_event).map_err(|error| wrong(error.to_string()))?;
    Ok(Proven { head, log: view.log_event.id(), record, by: address.clone() })
}

fn none_given() -> Failure {
    Failure::usage(
        "no_custodian",
        "no custodian is given",
        "give --custodian HOST:PORT#PIN or set CONCORDAT_CUSTODIANS; `concordat dev up` prints them",
    )
}
