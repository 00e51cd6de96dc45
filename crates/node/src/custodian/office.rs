//! Whom this custodian knows, and what it is among them: the roster in force and what its operator has accepted instead.

use std::collections::BTreeMap;

use concordat_events::{Charter, Custodian, Genesis, Hash, Office, Proposal, PublicKey, Seats};
use concordat_finality::Context;
use concordat_ledger::{Ledger, Proposed};
use concordat_threshold::KeyShare;

use super::db::Db;
use super::life::RunError;
use crate::dir::CustodianDir;
use crate::handover::{Accepted, Change};
use crate::keys::CustodianKeys;
use crate::transport::{Member, Pin, Pins};

/// See the module's header.
pub(super) struct Standing {
    /// What is in force.
    pub context: Context,
    /// The own number.
    pub me: u16,
    /// The own share in force. Without one it only follows along.
    pub share: Option<KeyShare>,
    /// The accepted proposal, if it is in certified state: with the number of who proposed it.
    pub proposed: Option<(u16, Hash, Seats)>,
    /// Everybody known, those in force first.
    known: Vec<Custodian>,
    /// Where each of them is, as far as known.
    pub addresses: BTreeMap<u16, String>,
}

/// The proposal of a roster that the operator has accepted, in certified state.
pub(super) fn proposed(proposals: &BTreeMap<u16, Proposed>, accepted: Hash) -> Option<(u16, Hash, Seats)> {
    proposals.iter().find_map(|(by, proposed)| match &proposed.proposal {
        Proposal::Roster(seats) if proposed.id == accepted => Some((*by, proposed.id, seats.clone())),
        _ => None,
    })
}

impl Standing {
    /// Reads it from certified state, from what is accepted, and from what the founders knew of each other.
    pub fn read(
        dir: &CustodianDir,
        keys: &CustodianKeys,
        db: &Db,
        genesis: &Genesis,
        accepted: Option<&Accepted>,
        founders: BTreeMap<u16, String>,
    ) -> Result<Self, RunError> {
        let ledger = Ledger::open(db.clone(), genesis.clone()).map_err(RunError::open)?;
        let charter: &Charter = ledger.charter();
        let proposed = match accepted {
            Some(accepted) => proposed(&ledger.proposals()?, accepted.proposal),
            None => None,
        };
        let invited = accepted.and_then(|accepted| accepted.invited.as_ref());
        let mut known = charter.roster.members().to_vec();
        let mut addresses = founders;
        let mut meet = |members: &[Custodian]| {
            for member in members {
                if !known.iter().any(|other| other.number == member.number) {
                    known.push(member.clone());
                }
            }
        };
        if let Some(invited) = invited {
            meet(invited.in_force.roster.members());
            addresses.extend(invited.in_force.addresses.clone());
        }
        let next = proposed.as_ref().map(|(_, _, seats)| seats).or(invited.map(|invited| &invited.proposed));
        addresses.extend(charter.office.addresses.clone());
        if let Some(seats) = next {
            meet(seats.roster.members());
            for (number, address) in &seats.addresses {
                addresses.entry(*number).or_insert_with(|| address.clone());
            }
        }
        // Who founded it and has left may still ask for heads.
        meet(genesis.roster.members());
        let own = known.iter().find(|member| member.identity == keys.public_key());
        let me = own.map(|own| own.number).ok_or_else(|| {
            RunError::Incomplete(
                "this custodian's identity is in no roster that it knows of; accept an invitation".into(),
            )
        })?;
        let share = share(dir, keys, &charter.office, &genesis.group_key)?;
        let context = Context::at(genesis.clone(), charter, &known)
            .map_err(|error| RunError::Genesis(error.to_string()))?;
        let wrong = share.as_ref().is_some_and(|share| {
            share.number() != me
                || context.votes(me) && !share.keys().numbers().iter().copied().eq(context.roster.numbers())
        });
        if wrong {
            let path = dir.share_file(charter.office.transcript);
            let text = format!("{} isn't this custodian's share of the roster in force", path.display());
            return Err(RunError::Incomplete(text));
        }
        Ok(Standing { context, me, share, proposed, known, addresses })
    }

    /// The pins of everybody known. `seen`: when the newest certificates were made that were seen before.
    pub fn pins(&self, seen: &BTreeMap<u16, u64>) -> Pins {
        let pin = |member: &Custodian| Pin(*member.certificate.as_bytes());
        Pins::vouched(self.known.iter().map(|member| (member.number, pin(member), member.identity)), seen)
    }

    /// The ways to everybody else; `local` are addresses that are other ones here.
    pub fn members(&self, local: &BTreeMap<u16, String>) -> Vec<Member> {
        let others = self.known.iter().filter(|member| member.number != self.me);
        let member = |member: &Custodian| {
            let address = local.get(&member.number).or_else(|| self.addresses.get(&member.number))?.clone();
            Some(Member { number: member.number, address, pin: Pin(*member.certificate.as_bytes()) })
        };
        others.filter_map(member).collect()
    }

    /// The ceremony that the accepted proposal asks for.
    pub fn change(&self) -> Option<Change> {
        let (by, proposal, seats) = self.proposed.clone()?;
        let context = &self.context;
        let change = concordat_events::Confirming {
            cluster: context.cluster,
            roster: context.roster_hash,
            proposal,
            transcript: Hash::ZERO,
        };
        let (old, new) = (context.roster.clone(), seats.roster);
        let takes_part = old.get(self.me).or_else(|| new.get(self.me)).is_some();
        takes_part.then(|| Change { change, group: context.group(), by, old, new, own: self.me })
    }
}

fn share(
    dir: &CustodianDir,
    keys: &CustodianKeys,
    office: &Office,
    group: &PublicKey,
) -> Result<Option<KeyShare>, RunError> {
    let share = dir.share_of(keys, office.transcript)?;
    if share.as_ref().is_some_and(|share| share.group_key().to_bytes() != group.to_bytes()) {
        let path = dir.share_file(office.transcript);
        return Err(RunError::Incomplete(format!("{} belongs to another group", path.display())));
    }
    Ok(share)
}
