//! What is in force, in certified state: roster, versions, and what custodians propose instead (PROTOCOL 9).
//!
//! A roster comes into force with the head that activates it: votes for the next height are counted in it. Versions come into force
//! for the next head. Whatever was proposed under what is no longer in force is dropped.

use std::collections::BTreeMap;

use concordat_events::change::{Charter, Office, follows, highest};
use concordat_events::genesis::GenesisError;
use concordat_events::{
    Activation, Change, Confirming, Genesis, Hash, Proposal, PublicKey, Roster, Seats, ValidEvent, Versions,
};
use concordat_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::keys::{self, corrupt};
use crate::layer::Read;
use crate::reason::Refusal;
use crate::record::{decode, leaf};
use crate::request::{too_new, too_old};
use crate::work::{Verdict, Work};

/// What is in force but for the roster itself: the value of the leaf `system`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct System {
    pub(crate) cluster: Hash,
    pub(crate) protocol: u32,
    pub(crate) engines: Vec<String>,
    pub(crate) roster: Hash,
    pub(crate) office: Office,
    /// The highest number that any custodian ever had.
    pub(crate) highest: u16,
}

/// What a custodian proposes: the value of the leaf `proposal/<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposed {
    /// The request.
    pub id: Hash,
    /// Height of the head in which it was accepted.
    pub height: u64,
    /// What it proposes.
    pub proposal: Proposal,
}

/// What a state puts in force; the genesis' before Head(0).
pub(crate) fn in_force<R: Read>(read: &R, genesis: &Genesis) -> Result<Charter, OpenError> {
    let Some(system) = leaf::<System, R>(read, keys::SYSTEM)? else {
        return Charter::founded(genesis).map_err(|error| GenesisError::Json(error).into());
    };
    let roster: Roster =
        leaf(read, keys::ROSTER)?.ok_or_else(|| corrupt(keys::ROSTER, "a state without its roster"))?;
    let versions = Versions { protocol: system.protocol, engines: system.engines };
    let charter = Charter::new(roster, system.office, versions).map_err(GenesisError::Json)?;
    if charter.roster_hash != system.roster {
        return Err(corrupt(keys::ROSTER, "the roster isn't the one that is in force").into());
    }
    Ok(charter)
}

/// What is proposed, by the number of who proposes it.
pub(crate) fn proposals<R: Read>(read: &R) -> Result<BTreeMap<u16, Proposed>, StoreError> {
    let prefix = keys::leaf(keys::PROPOSALS);
    let entries = read.scan(&prefix, &[], concordat_events::limits::CUSTODIANS)?;
    let number = |key: &[u8]| -> Option<u16> {
        std::str::from_utf8(key.strip_prefix(prefix.as_slice())?).ok()?.parse().ok()
    };
    entries
        .iter()
        .map(|(key, value)| {
            let by = number(key).ok_or_else(|| corrupt(key, "expected a custodian's number"))?;
            Ok((by, decode(key, value)?))
        })
        .collect()
}

/// The highest number that any custodian ever had.
pub(crate) fn highest_number<R: Read>(read: &R, charter: &Charter) -> Result<u16, StoreError> {
    let system = leaf::<System, R>(read, keys::SYSTEM)?;
    Ok(system.map_or_else(|| highest(&charter.roster), |system| system.highest))
}

/// The custodian in force whose identity signed this.
fn author(charter: &Charter, event: &ValidEvent) -> Option<u16> {
    let members = charter.roster.members().iter();
    members.filter(|member| member.identity == event.author()).map(|member| member.number).next()
}

/// The refusals of a change that need no order.
pub(crate) fn judge<R: Read>(
    read: &R,
    genesis: &Genesis,
    charter: &Charter,
    event: &ValidEvent,
    now_ms: u64,
) -> Verdict<u16> {
    let Ok(cluster) = genesis.cluster() else { return Ok(Err(Refusal::BadRequest)) };
    let Some(by) = author(charter, event) else { return Ok(Err(Refusal::NotAllowed)) };
    if read.get(&keys::leaf(&keys::request_key(&cluster, &event.id())))?.is_some() {
        return Ok(Err(Refusal::Duplicate));
    }
    if too_old(event, genesis.time_ms) {
        return Ok(Err(Refusal::TooOld));
    }
    if too_new(event, now_ms) {
        return Ok(Err(Refusal::TooNew));
    }
    Ok(Ok(by))
}

impl<S: Store> Work<'_, S> {
    /// Writes what the genesis puts in force.
    pub(crate) fn found(&mut self, cluster: Hash) -> Result<(), StoreError> {
        let charter = self.charter.clone();
        let highest = highest(&charter.roster);
        self.set(keys::ROSTER, &charter.roster)?;
        self.set(keys::SYSTEM, &system(cluster, &charter, highest))
    }

    /// A change of what is in force.
    pub(crate) fn change(&mut self, event: &ValidEvent, cluster: Hash, change: Change) -> Verdict {
        let by = match judge(&self.over, self.genesis, self.charter, event, self.now_ms)? {
            Ok(by) => by,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let verdict = if self.next.is_some() {
            // Who proposes or activates goes by what this head has just replaced.
            Err(Refusal::Stale)
        } else {
            match change {
                Change::Propose(proposal) => self.propose(by, event.id(), proposal)?,
                Change::Activate(activation) => self.activate(cluster, &activation)?,
            }
        };
        self.settle(&cluster, event, &verdict)?;
        Ok(verdict)
    }

    fn propose(&mut self, by: u16, id: Hash, proposal: Proposal) -> Verdict {
        if let Proposal::Roster(seats) = &proposal
            && !follows(&seats.roster, &self.charter.roster, self.system()?.highest)
        {
            return Ok(Err(Refusal::NumberReused));
        }
        let proposed = Proposed { id, height: self.height, proposal };
        self.set(&keys::proposal_key(by), &proposed)?;
        Ok(Ok(()))
    }

    fn activate(&mut self, cluster: Hash, activation: &Activation) -> Verdict {
        let proposals = proposals(&self.over)?;
        let proposal = proposals.values().find(|proposed| proposed.id == activation.proposal);
        let Some(proposed) = proposal else { return Ok(Err(Refusal::NoProposal)) };
        let confirming = Confirming {
            cluster,
            roster: self.charter.roster_hash,
            proposal: proposed.id,
            transcript: activation.transcript,
        };
        let charter = self.charter;
        let (roster, office, versions, group): (_, _, _, Option<&PublicKey>) = match &proposed.proposal {
            // Signed with the new shares: that a quorum of the new roster says so isn't enough, since one liar could propose a
            // roster of its own people, who would confirm anything.
            Proposal::Roster(Seats { roster, addresses }) => {
                let mut addresses = addresses.clone();
                let before =
                    charter.office.addresses.iter().filter(|(number, _)| roster.get(**number).is_some());
                before.for_each(|(number, address)| {
                    addresses.entry(*number).or_insert_with(|| address.clone());
                });
                let office = Office { since: self.height, transcript: activation.transcript, addresses };
                (roster, office, &charter.versions, Some(&self.genesis.group_key))
            }
            Proposal::Versions(versions) => (&charter.roster, charter.office.clone(), versions, None),
        };
        if activation.check(&confirming, roster, group).is_err() {
            return Ok(Err(Refusal::Unconfirmed));
        }
        let next = Charter::new(roster.clone(), office, versions.clone())
            .map_err(|error| corrupt(keys::ROSTER, &error.to_string()))?;
        let highest = self.system()?.highest.max(highest(roster));
        for by in proposals.keys() {
            self.remove(&keys::proposal_key(*by));
        }
        self.set(keys::ROSTER, &next.roster)?;
        self.set(keys::SYSTEM, &system(cluster, &next, highest))?;
        self.next = Some(next);
        Ok(Ok(()))
    }

    fn system(&self) -> Result<System, StoreError> {
        self.leaf(keys::SYSTEM)?.ok_or_else(|| corrupt(keys::SYSTEM, "a state without what is in force"))
    }
}

fn system(cluster: Hash, charter: &Charter, highest: u16) -> System {
    System {
        cluster,
        protocol: charter.versions.protocol,
        engines: charter.versions.engines.clone(),
        roster: charter.roster_hash,
        office: charter.office.clone(),
        highest,
    }
}
