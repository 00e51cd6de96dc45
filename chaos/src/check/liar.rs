//! What the liar signs: everything that its key allows and that helps it.

use anyhow::Result;
use concordat_events::batch::Batch;
use concordat_events::hash::{Hash, tagged};
use concordat_finality::message::{Kind, Vote, attachment_hash};
use concordat_finality::{Msg, Scheme, wire};
use prost::Message as _;

use super::dice::Dice;
use super::founding::Founding;
use crate::standin::{Sound, StandIn};

/// A prepare with commitments.
///
/// # Errors
/// When it can't be signed.
pub fn prepare(founding: &Founding, liar: u16, vote: Vote, count: usize) -> Result<Msg> {
    let mut dice = Dice::default();
    dice.aim(liar, 0, vote.epoch, vote.height);
    let made = StandIn::<Sound>::commit_many(&founding.share(liar), count, &mut dice);
    let (_, commitments) = made.ok_or_else(|| anyhow::anyhow!("no commitments"))?;
    let list =
        wire::Commitments { commitments: commitments.iter().map(|one| one.to_bytes().to_vec()).collect() };
    let attachment = list.encode_to_vec();
    let body = wire::Prepare {
        epoch: vote.epoch,
        height: vote.height,
        id: vote.id.as_bytes().to_vec(),
        commitments: attachment_hash(&attachment).as_bytes().to_vec(),
    };
    founding.forge(liar, Kind::Prepare, &body, attachment)
}

/// A session over prepares with their commitments.
///
/// # Errors
/// When it can't be signed.
pub fn certify(founding: &Founding, liar: u16, cert: wire::PrepareCert, signers: &[Msg]) -> Result<Msg> {
    let signers = signers.iter().map(|signer| signer.envelope().clone()).collect();
    founding.forge(liar, Kind::Certify, &wire::Certify { cert: Some(cert), attempt: 1, signers }, Vec::new())
}

/// A grant for an epoch, with any lock or none.
///
/// # Errors
/// When it can't be signed.
pub fn grant(
    founding: &Founding,
    liar: u16,
    epoch: u64,
    certified: Vec<u8>,
    lock: Option<wire::PrepareCert>,
) -> Result<Msg> {
    founding.forge(
        liar,
        Kind::Grant,
        &wire::Grant { epoch, certified, lock, evidence: Vec::new() },
        Vec::new(),
    )
}

/// The first entry of the liar's log.
///
/// # Errors
/// When it can't be signed.
pub fn epoch_start(founding: &Founding, liar: u16, epoch: u64, grants: &[Msg]) -> Result<Msg> {
    let bare = |message: &Msg| wire::Envelope { attachment: Vec::new(), ..message.envelope().clone() };
    let opening = wire::Opening { grants: grants.iter().map(bare).collect(), ..wire::Opening::default() };
    let attachment = opening.encode_to_vec();
    let body = wire::EpochStart { epoch, opening: attachment_hash(&attachment).as_bytes().to_vec() };
    founding.forge(liar, Kind::EpochStart, &body, attachment)
}

/// A later entry of the liar's log. The guard before the log checks the chain; the core doesn't.
///
/// # Errors
/// When it can't be signed.
pub fn wrapper(founding: &Founding, liar: u16, epoch: u64, number: u64, batch: &Batch) -> Result<Msg> {
    let previous: Hash = tagged("chaos/previous", &[&number.to_be_bytes()]);
    let body = wire::Wrapper {
        epoch,
        number,
        previous: previous.as_bytes().to_vec(),
        batch: batch.hash().as_bytes().to_vec(),
    };
    founding.forge(liar, Kind::Wrapper, &body, batch_to_wire(batch).encode_to_vec())
}

/// A proposal.
///
/// # Errors
/// When it can't be signed.
pub fn propose(founding: &Founding, liar: u16, vote: Vote, number: u64) -> Result<Msg> {
    let id = vote.id.as_bytes().to_vec();
    let body = wire::Propose { epoch: vote.epoch, height: vote.height, number, id };
    founding.forge(liar, Kind::Propose, &body, Vec::new())
}

/// A batch as it travels.
pub fn batch_to_wire(batch: &Batch) -> wire::Batch {
    wire::Batch {
        time_ms: batch.time_ms,
        requests: batch.requests.iter().map(|request| request.json().as_bytes().to_vec()).collect(),
    }
}
