//! What all custodians together have sent, and what follows from it: which prepare certificates and group signatures somebody
//! who sees every message and has the liar's key can make. Messages are never used up: they may come again, late, or never.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use concordat_events::Hash;
use concordat_finality::message::Vote;
use concordat_finality::rules::Rule;

use super::custodian::{Explored, View};
use super::founding::WALL;
use super::steps::{Step, leader, liars_batch, liars_grant};
use super::world::{Fact, Id, World};
use crate::invariants::Violation;
use crate::standin::Flaw;

/// See the module.
#[derive(Clone, Default)]
pub struct Soup {
    /// Votes by what they are for.
    prepares: BTreeMap<Vote, Vec<Id>>,
    /// Prepare certificates that can be made.
    certs: BTreeSet<Vote>,
    /// Proposals of honest leaders.
    proposals: Vec<(Id, Vote, u64)>,
    /// Logs of honest leaders.
    logs: BTreeMap<u64, BTreeMap<u64, Id>>,
    /// Sessions of honest leaders.
    certifies: Vec<(Id, Vote)>,
    /// Grants: message, sender, epoch, height, lock.
    grants: Vec<(Id, u16, u64, u64, Option<Vote>)>,
    /// Ids that the group's signature can be made for, with the earliest vote behind it.
    certified: BTreeMap<Hash, Vote>,
    /// A rule that is broken by all this.
    pub broken: Vec<Violation>,
}

impl Soup {
    /// What these sets of messages hold.
    ///
    /// # Errors
    /// When the explorer itself is at fault.
    pub fn of<R: Explored>(world: &mut World, sets: &[Id]) -> Result<Self> {
        let mut soup = Soup::default();
        let mut shares: BTreeMap<Hash, BTreeSet<u16>> = BTreeMap::new();
        let mut all = Vec::new();
        for set in sets {
            all.extend(world.members(*set)?.iter().copied());
        }
        for id in all {
            let told = world.told(id)?;
            let sender = told.sender;
            match told.fact {
                Fact::Propose(vote, number) => soup.proposals.push((id, vote, number)),
                Fact::Prepare(vote) => soup.prepares.entry(vote).or_default().push(id),
                Fact::Certify(vote, _) => soup.certifies.push((id, vote)),
                Fact::Share(_, session) => {
                    shares.entry(session).or_default().insert(sender);
                }
                Fact::Grant(epoch, next, lock) => soup.grants.push((id, sender, epoch, next, lock)),
                Fact::Entry(epoch, number) => {
                    soup.logs.entry(epoch).or_default().entry(number).or_insert(id);
                }
            }
        }
        let q = world.founding.context.q();
        let own = usize::from(world.liar.is_some());
        for (vote, prepares) in soup.prepares.clone() {
            let mut senders = BTreeSet::new();
            for id in &prepares {
                senders.insert(world.told(*id)?.sender);
            }
            // Where nobody lies only the leader has the votes.
            if own > 0 && senders.len() + own >= q {
                world.certificate(vote, &prepares)?;
                soup.certs.insert(vote);
            }
        }
        soup.certs.extend(soup.certifies.iter().map(|(_, vote)| *vote));
        soup.mix_epochs::<R>(world)?;
        soup.sign::<R::Flaw>(world, &shares);
        soup.judge();
        Ok(soup)
    }

    /// Prepares of one head that count for each other, whatever epochs they are of: a mutant's.
    fn mix_epochs<R: Explored>(&mut self, world: &mut World) -> Result<()> {
        if R::keeps(Rule::PrepareBindsEpoch) || world.liar.is_none() {
            return Ok(());
        }
        let votes: Vec<Vote> = self.prepares.keys().copied().collect();
        for vote in &votes {
            let same = votes.iter().filter(|other| (other.height, other.id) == (vote.height, vote.id));
            let ids: Vec<Id> = same.filter_map(|other| self.prepares.get(other)).flatten().copied().collect();
            let senders: BTreeSet<Option<u16>> = ids.iter().map(|id| by(world, *id)).collect();
            if senders.len() + 1 >= world.founding.context.q() {
                for epoch in 0..=votes.iter().map(|vote| vote.epoch).max().unwrap_or(0) {
                    let claimed = Vote { epoch, ..*vote };
                    world.certificate(claimed, &ids)?;
                    self.certs.insert(claimed);
                }
            }
        }
        Ok(())
    }

    /// The group's signatures that these shares and the liar's make.
    fn sign<F: Flaw>(&mut self, world: &World, shares: &BTreeMap<Hash, BTreeSet<u16>>) {
        let (q, f) = (world.founding.context.q(), world.founding.context.roster.f());
        let mut together: BTreeMap<Hash, (Vote, BTreeSet<u16>)> = BTreeMap::new();
        let mut enough = |vote: Vote| {
            let known = self.certified.entry(vote.id).or_insert(vote);
            *known = (*known).min(vote);
        };
        for (id, by) in shares {
            let Some(session) = world.sessions.get(id) else { continue };
            let mut by = by.clone();
            // The liar gives its share to whoever it likes.
            by.extend(world.liar.filter(|liar| session.signers.contains_key(liar)));
            let needed = if F::FEW_SHARES_SUFFICE { f + 1 } else { session.signers.len() };
            if by.len() >= needed {
                enough(session.vote);
            }
            let (first, all) = together.entry(session.vote.id).or_insert((session.vote, BTreeSet::new()));
            *first = (*first).min(session.vote);
            all.extend(by);
            all.extend(world.liar);
        }
        if F::SHARES_COMBINE {
            together.into_values().filter(|(_, by)| by.len() >= q).for_each(|(vote, _)| enough(vote));
        }
    }

    /// I1 and I12, as soon as somebody *can* make the certificates that break them.
    fn judge(&mut self) {
        let mut broken = |invariant, message| self.broken.push(Violation { invariant, message });
        for (id, vote) in &self.certified {
            let height = vote.height;
            let other = self.certified.iter().find(|(other, at)| *other != id && at.height == height);
            if let Some((other, _)) = other {
                broken(
                    "I1",
                    format!("{} and {} are both signed at height {height}", id.short(), other.short()),
                );
            }
            let late = |cert: &&Vote| cert.height == height && cert.id != *id && cert.epoch >= vote.epoch;
            if let Some(late) = self.certs.iter().find(late) {
                let message = format!(
                    "{} was signed at height {height} in epoch {}, {} has a prepare certificate of epoch {}",
                    id.short(),
                    vote.epoch,
                    late.id.short(),
                    late.epoch
                );
                broken("I12", message);
            }
        }
    }

    /// What may happen next to a custodian.
    ///
    /// # Errors
    /// When the explorer itself is at fault.
    pub fn steps<R: Explored>(&self, world: &mut World, view: &View, epochs: u64) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let (epoch, next) = (view.epoch, view.next);
        // A custodian that has certified every height of the exploration has nothing left to be wrong about.
        if view.stopped || next > world.founding.requests.len() as u64 {
            return Ok(steps);
        }
        let lead = leader(epoch);
        if lead == view.me {
            self.steps_of_leader::<R>(world, view, &mut steps)?;
        } else if Some(lead) == world.liar {
            self.steps_of_liar::<R>(world, view, &mut steps)?;
        } else {
            self.steps_of_follower::<R>(view, &mut steps);
        }
        for cert in self.certs.iter().filter(|cert| cert.height == next && cert.epoch < epochs) {
            if view.lock.is_none_or(|lock| (lock.height, lock.epoch) < (cert.height, cert.epoch)) {
                steps.push(Step::Lock(*cert));
            }
        }
        steps.extend(
            self.certified.iter().filter(|(_, at)| at.height == next).map(|(id, _)| Step::Certificate(*id)),
        );
        if epoch + 1 < epochs {
            steps.push(Step::Bind);
            if !R::keeps(Rule::GrantReadsLockLast) {
                steps.push(Step::Complaint);
            }
        }
        Ok(steps)
    }

    fn steps_of_follower<R: Explored>(&self, view: &View, steps: &mut Vec<Step>) {
        let here = |vote: &Vote| vote.epoch == view.epoch && vote.height == view.next;
        for (id, _, number) in self.proposals.iter().filter(|(_, vote, _)| here(vote)) {
            let log = self.logs.get(&view.epoch).into_iter().flatten().filter(|(at, _)| *at <= number);
            steps.push(Step::Propose { propose: *id, log: log.map(|(_, id)| *id).collect() });
        }
        let signs = |vote: &Vote| {
            here(vote)
                || (!R::keeps(Rule::EpochEndsShares) && vote.epoch < view.epoch && vote.height == view.next)
        };
        steps.extend(self.certifies.iter().filter(|(_, vote)| signs(vote)).map(|(id, _)| Step::Certify(*id)));
    }

    fn steps_of_leader<R: Explored>(
        &self,
        world: &mut World,
        view: &View,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let here = |vote: &Vote| vote.epoch == view.epoch && vote.height == view.next;
        let q = world.founding.context.q();
        let led = self.certifies.iter().any(|(_, vote)| here(vote));
        for (_, prepares) in self.prepares.iter().filter(|(vote, _)| here(vote) && !led) {
            // Its own vote is one of the q.
            for others in choices(world, prepares, Some(view.me))? {
                if others.len() + 1 == q {
                    steps.push(Step::Session(others, false));
                } else if others.len() + 2 == q && world.liar.is_some() {
                    steps.push(Step::Session(others, true));
                }
            }
        }
        if view.epoch > 0 && !self.logs.contains_key(&view.epoch) {
            for (opening, (grants, own)) in self.openings::<R>(world, view.epoch, Some(view.me))? {
                if opening.0 <= view.next {
                    steps.push(Step::Open(view.epoch, grants, own));
                }
            }
        }
        Ok(())
    }

    /// The heads and locks that a grant of the liar may name.
    fn liars_grants(&self, world: &World, epoch: u64) -> Vec<(Hash, Option<Vote>)> {
        let mut all = Vec::new();
        let mut tips: Vec<(Hash, u64)> = world.first_head.iter().map(|id| (*id, 1)).collect();
        tips.extend(self.certified.iter().map(|(id, vote)| (*id, vote.height + 1)));
        for (tip, next) in tips {
            all.push((tip, None));
            let locks = self.certs.iter().filter(|cert| cert.height == next && cert.epoch < epoch);
            all.extend(locks.map(|cert| (tip, Some(*cert))));
        }
        all
    }

    fn steps_of_liar<R: Explored>(
        &self,
        world: &mut World,
        view: &View,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let epoch = view.epoch;
        let starts: Vec<Option<(u64, Option<Vote>)>> = if view.started {
            vec![None]
        } else if epoch == 0 {
            world.keep_start(0, 0, None, &[])?;
            vec![Some((0, None))]
        } else {
            let mut starts = Vec::new();
            for ((next, forced), (grants, own)) in self.openings::<R>(world, epoch, None)? {
                let mut messages = Vec::new();
                for id in grants {
                    messages.push(world.told(id)?.message.clone());
                }
                if let Some((tip, lock)) = own {
                    messages.push(liars_grant(world, epoch, &tip, lock)?);
                }
                world.keep_start(epoch, next, forced, &messages)?;
                starts.push(Some((next, forced)));
            }
            starts
        };
        let mut batches = BTreeSet::new();
        for twin in [false, true] {
            if let Some(batch) = liars_batch(world, epoch, view.next, twin) {
                batches.insert(world.keep_batch(&batch));
            }
        }
        for cert in self.certs.iter().filter(|cert| cert.height == view.next && cert.epoch < epoch) {
            let known = world.heads.get(&cert.id).map(|head| head.batches.clone()).unwrap_or_default();
            // A head of more batches than one takes as many entries; its first is as good a beginning as any.
            batches.extend(known.first().map(|batch| world.keep_batch(batch)));
        }
        debug_assert!(batches.iter().all(|hash| world.batch(hash).is_ok_and(|batch| batch.time_ms >= WALL)));
        for start in starts {
            steps.extend(batches.iter().map(|hash| Step::LiarPropose(epoch, start, *hash)));
        }
        let here = |vote: &Vote| vote.epoch == epoch && vote.height == view.next;
        let q = world.founding.context.q();
        let voted: Vec<(Vote, Vec<Id>)> = self
            .prepares
            .iter()
            .filter(|(vote, _)| here(vote))
            .map(|(vote, ids)| (*vote, ids.clone()))
            .collect();
        for (vote, prepares) in voted {
            for signers in choices(world, &prepares, None)? {
                let mine = signers.iter().any(|id| world.told(*id).is_ok_and(|told| told.sender == view.me));
                if !mine || !(q - 1..=q).contains(&signers.len()) {
                    continue;
                }
                let own = signers.len() < world.founding.context.q();
                steps.push(Step::LiarCertify(vote, signers, own));
            }
        }
        Ok(())
    }

    /// Where an epoch can begin, with grants for each way: every choice of at least q, the liar's own being any that verifies.
    /// What an EpochStart says is where its epoch begins, so one choice stands for all that lead to the same. `me`: a leader
    /// that counts its own grant and needs those of others.
    fn openings<R: Explored>(&self, world: &World, epoch: u64, me: Option<u16>) -> Result<Openings> {
        let grants: Vec<Id> =
            self.grants.iter().filter(|(_, _, at, _, _)| *at == epoch).map(|(id, ..)| *id).collect();
        let said = |id: &Id| {
            self.grants.iter().find(|(other, ..)| other == id).map(|(_, _, _, next, lock)| (*next, *lock))
        };
        let own: Vec<(u64, Option<Vote>)> =
            grants.iter().filter(|id| me.is_some() && by(world, **id) == me).filter_map(said).collect();
        let quorum = if R::keeps(Rule::GrantsOpenByQuorum) {
            world.founding.context.q()
        } else {
            world.founding.context.roster.f() + 1
        };
        let q = quorum - usize::from(!own.is_empty());
        let liars = if world.liar.is_some() { self.liars_grants(world, epoch) } else { Vec::new() };
        let mut openings = Openings::new();
        for others in choices(world, &grants, me)? {
            let mut all = own.clone();
            all.extend(others.iter().filter_map(said));
            if others.len() >= q {
                openings.entry(value_rule::<R>(&all)).or_insert_with(|| (others.clone(), None));
            }
            if others.len() + 1 >= q {
                for (tip, lock) in &liars {
                    let next = world.heads.get(tip).map_or(1, |head| head.height + 1);
                    let opening = value_rule::<R>(&[all.as_slice(), &[(next, *lock)]].concat());
                    openings.entry(opening).or_insert_with(|| (others.clone(), Some((*tip, *lock))));
                }
            }
        }
        Ok(openings)
    }
}

/// Where an epoch can begin (the height and the forced head), with grants that lead there: others' and the liar's.
type Openings = BTreeMap<(u64, Option<Vote>), (Vec<Id>, Option<(Hash, Option<Vote>)>)>;

/// What an opening says: the highest height, and for it the lock of the highest epoch; of the lowest, for a mutant.
fn value_rule<R: Explored>(grants: &[(u64, Option<Vote>)]) -> (u64, Option<Vote>) {
    let next = grants.iter().map(|(next, _)| *next).max().unwrap_or(0);
    let locks = grants.iter().filter_map(|(_, lock)| *lock).filter(|lock| lock.height == next);
    let highest = R::keeps(Rule::HighestLockDecides);
    (next, if highest { locks.max_by_key(|lock| lock.epoch) } else { locks.min_by_key(|lock| lock.epoch) })
}

fn by(world: &World, id: Id) -> Option<u16> {
    world.told(id).ok().map(|told| told.sender)
}

/// All choices of messages of distinct senders, without those of one.
fn choices(world: &World, messages: &[Id], without: Option<u16>) -> Result<Vec<Vec<Id>>> {
    let mut by_sender: BTreeMap<u16, Vec<Id>> = BTreeMap::new();
    for id in messages {
        let sender = world.told(*id)?.sender;
        if Some(sender) != without {
            by_sender.entry(sender).or_default().push(*id);
        }
    }
    let mut sets: Vec<Vec<Id>> = vec![Vec::new()];
    for ids in by_sender.values() {
        for set in sets.clone() {
            for id in ids {
                sets.push([set.as_slice(), &[*id]].concat());
            }
        }
    }
    Ok(sets)
}
