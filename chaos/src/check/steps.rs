//! The steps of an exploration: what may happen to one custodian next, and how it is done to it.
//!
//! A step is one delivery with what makes it effective: a proposal comes with the part of its leader's log that it covers, a
//! lock with the batches that rebuild its head. Without them the message is held or waits for an answer, which is what happens
//! to one that is delivered later.

use anyhow::{Context as _, Result};
use concordat_events::Hash;
use concordat_events::batch::Batch;
use concordat_finality::message::{Body, Kind, Vote};
use concordat_finality::{Input, Msg, wire};

use super::custodian::{Custodian, End, Explored};
use super::founding::CUSTODIANS;
use super::liar;
use super::world::{Fact, Id, World};

/// What may happen to one custodian.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Votes reach the leader, as many as make its session; the last one may be the liar's.
    Session(Vec<Id>, bool),
    /// A proposal, after the log up to what it covers.
    Propose {
        /// The proposal.
        propose: Id,
        /// The entries of the log, from 0.
        log: Vec<Id>,
    },
    /// A prepare certificate with a session.
    Certify(Id),
    /// A lock that travels, with the batches behind it.
    Lock(Vote),
    /// A certificate with the batches behind it.
    Certificate(Hash),
    /// Grants reach the epoch's leader, with the batches behind their locks, the liar's (a head and a lock for the height
    /// after it) among them or not; it has waited long enough for more.
    Open(u64, Vec<Id>, Option<(Hash, Option<Vote>)>),
    /// One complaint about the epoch.
    Complaint,
    /// q complaints about the epoch: everybody's timeout may fire at any time, and the liar complains always.
    Bind,
    /// The liar orders a batch, told by its hash, and proposes the head. Where its epoch hasn't begun it begins first, with
    /// grants that lead to this height and force this head.
    LiarPropose(u64, Option<(u64, Option<Vote>)>, Hash),
    /// The liar makes a session of these prepares, with its own or without.
    LiarCertify(Vote, Vec<Id>, bool),
    /// The process is killed and starts again.
    Restart,
    /// The power goes before any write or flush of a step; the process starts again.
    Cut(Box<Step>),
}

/// What a step comes to.
pub enum Outcome<R: Explored> {
    /// Another state.
    Moved(Box<Custodian<R>>),
    /// The power went before this write or flush of the step.
    Cut,
    /// Nothing worth following: a proposal that gets no vote leaves its voter where it was.
    Nothing,
}

fn is_prepare(world: &World, id: Id) -> bool {
    world.told(id).is_ok_and(|told| matches!(told.fact, Fact::Prepare(_)))
}

fn cut(end: End) -> bool {
    end == End::Cut
}

/// Does a step to a custodian, in place. `false`: the power went.
///
/// # Errors
/// When the explorer itself is at fault.
pub fn take<R: Explored>(world: &mut World, it: &mut Custodian<R>, step: &Step) -> Result<bool> {
    let other = *it.others().first().context("a custodian alone")?;
    let other = world.liar.unwrap_or(other);
    match step {
        Step::Session(prepares, own) => {
            let mut messages = Vec::new();
            for id in prepares {
                messages.push(world.told(*id)?.message.clone());
            }
            if *own {
                let pattern = *prepares.first().context("a session of leader and liar alone")?;
                let Fact::Prepare(vote) = world.told(pattern)?.fact else { anyhow::bail!("no vote") };
                messages.push(world.liars_prepare(vote, pattern)?);
            }
            for message in messages {
                if cut(it.input(world, Input::Message(message))?) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Step::Propose { propose, log } => {
            let handed = it.view(world)?.handed;
            for id in log.iter().skip(usize::try_from(handed)?) {
                let entry = world.told(*id)?.message.clone();
                if cut(it.hand(world, entry)?) {
                    return Ok(false);
                }
            }
            let message = world.told(*propose)?.message.clone();
            Ok(!cut(it.input(world, Input::Message(message))?))
        }
        Step::Certify(id) => {
            let message = world.told(*id)?.message.clone();
            with_batches(world, it, message)
        }
        Step::Lock(vote) => {
            let cert = world.certificate(*vote, &[])?;
            let message = world.forge(other, Kind::Lock, &wire::Lock { cert: Some(cert) }, Vec::new())?;
            with_batches(world, it, message)
        }
        Step::Certificate(id) => {
            let heads = vec![certified(world, id)?];
            let message = world.forge(
                other,
                Kind::Heads,
                &wire::Heads { heads, ..wire::Heads::default() },
                Vec::new(),
            )?;
            Ok(!cut(it.input(world, Input::Message(message))?))
        }
        Step::Open(epoch, grants, own) => {
            let mut messages = Vec::new();
            for id in grants {
                messages.push(world.told(*id)?.message.clone());
            }
            if let Some((tip, lock)) = own {
                messages.push(liars_grant(world, *epoch, tip, *lock)?);
            }
            for message in messages {
                if !with_batches(world, it, message)? {
                    return Ok(false);
                }
            }
            Ok(!cut(it.wait(world)?))
        }
        Step::Bind | Step::Complaint => {
            let view = it.view(world)?;
            let body = wire::Complaint { epoch: view.epoch, cause: 2, next_height: view.next };
            let from = it.others();
            let count = if *step == Step::Bind { from.len() } else { 1 };
            for from in from.into_iter().take(count) {
                let complaint = world.forge(from, Kind::Complaint, &body, Vec::new())?;
                if cut(it.input(world, Input::Message(complaint))?) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Step::LiarPropose(epoch, start, batch) => {
            let liar = world.liar.context("nobody lies")?;
            if let Some((next, forced)) = start {
                let entry = world.start(*epoch, *next, *forced)?;
                if cut(it.hand(world, entry)?) {
                    return Ok(false);
                }
            }
            let batch = world.batch(batch)?;
            let view = it.view(world)?;
            let mut batches = it.uncovered();
            batches.push(batch.clone());
            let Some(id) = world.head_of(&view.tip, &batches) else { return Ok(true) };
            let entry = liar::wrapper(&world.founding, liar, *epoch, view.handed, &batch)?;
            if cut(it.hand(world, entry)?) {
                return Ok(false);
            }
            let vote = Vote { epoch: *epoch, height: view.next, id };
            let message = liar::propose(&world.founding, liar, vote, view.handed)?;
            Ok(!cut(it.input(world, Input::Message(message))?))
        }
        Step::LiarCertify(vote, prepares, own) => {
            let liar = world.liar.context("nobody lies")?;
            let cert = world.certificate(*vote, prepares)?;
            let mut signers = Vec::new();
            for id in prepares {
                signers.push(world.told(*id)?.message.clone());
            }
            if *own {
                let pattern = *prepares.first().context("a session of the liar alone")?;
                signers.push(world.liars_prepare(*vote, pattern)?);
            }
            signers.sort_by_key(|signer| signer.sender);
            let message = liar::certify(&world.founding, liar, cert, &signers)?;
            world.tell(&message);
            with_batches(world, it, message)
        }
        Step::Restart | Step::Cut(_) => anyhow::bail!("a crash is no step of a running custodian"),
    }
}

/// Delivers a message that carries a prepare certificate, then the batches behind it, then the message again: what a fetch
/// and a repeat come to.
fn with_batches<R: Explored>(world: &mut World, it: &mut Custodian<R>, message: Msg) -> Result<bool> {
    if matches!(message.body, Body::Certify(_)) {
        it.show(world, &message);
    }
    let before = it.digest();
    if cut(it.input(world, Input::Message(message.clone()))?) {
        return Ok(false);
    }
    let vote = match &message.body {
        Body::Certify(certify) => Some(certify.cert.vote),
        Body::Lock(cert) => Some(cert.vote),
        Body::Grant(grant) => grant.lock.as_ref().map(|lock| lock.vote),
        _ => None,
    };
    let Some(vote) = vote else { return Ok(true) };
    let adopted = it.status().lock.is_some_and(|lock| lock.height == vote.height && lock.epoch >= vote.epoch);
    // Whoever has it all already asks for nothing.
    if adopted || (matches!(message.body, Body::Lock(_)) && before != it.digest()) {
        return Ok(true);
    }
    let Some(head) = world.heads.get(&vote.id) else { return Ok(true) };
    let batches = head.batches.iter().map(liar::batch_to_wire).collect();
    let answer = world.forge(message.sender, Kind::Batches, &wire::Batches { batches }, Vec::new())?;
    if cut(it.input(world, Input::Message(answer))?) {
        return Ok(false);
    }
    Ok(!cut(it.input(world, Input::Message(message))?))
}

/// A certified head as it is shown to those behind.
fn certified(world: &mut World, id: &Hash) -> Result<wire::CertifiedHead> {
    let (log, signatures) = world.signed(id)?;
    let head = world.heads.get(id).context("a head that nobody proposed")?;
    Ok(wire::CertifiedHead {
        certificate: Some(wire::Certificate { log_event: log, signatures }),
        batches: head.batches.iter().map(liar::batch_to_wire).collect(),
        events: Vec::new(),
    })
}

/// A grant of the liar.
///
/// # Errors
/// When the head or the lock was never met.
pub fn liars_grant(world: &mut World, epoch: u64, tip: &Hash, lock: Option<Vote>) -> Result<Msg> {
    let liar = world.liar.context("nobody lies")?;
    let (log, _) = world.signed(tip)?;
    let lock = lock.map(|vote| world.certificate(vote, &[])).transpose()?;
    liar::grant(&world.founding, liar, epoch, log, lock)
}

impl<R: Explored> Outcome<R> {
    /// Does a step to a copy of a custodian.
    ///
    /// # Errors
    /// When the explorer itself is at fault.
    pub fn of(world: &mut World, from: &Custodian<R>, step: &Step) -> Result<Self> {
        let mut it = from.fork(world)?;
        if !take(world, &mut it, step)? {
            return Ok(Outcome::Cut);
        }
        if it.stopped.is_some() || !it.broken().is_empty() {
            return Ok(Outcome::Moved(Box::new(it)));
        }
        let said = it.sent().len() > from.sent().len();
        let (before, after) = (from.status(), it.status());
        let matters = match step {
            // Who doesn't vote is where it was before the proposal came.
            Step::Propose { .. } | Step::LiarPropose(..) => {
                it.sent().difference(from.sent()).any(|id| is_prepare(world, *id))
            }
            // A session in which it gives no share, and votes and grants that make nothing, are as good as lost.
            Step::Certify(_) | Step::LiarCertify(..) => said || before.lock != after.lock,
            Step::Session(..) | Step::Open(..) => said,
            _ => true,
        };
        if !matters {
            return Ok(Outcome::Nothing);
        }
        Ok(Outcome::Moved(Box::new(it)))
    }

    /// Cuts the power before every write and flush of a step, and starts the custodian again on what may be left.
    ///
    /// # Errors
    /// When the explorer itself is at fault.
    pub fn cuts(world: &mut World, from: &Custodian<R>, step: &Step) -> Result<Vec<(String, Custodian<R>)>> {
        let mut all = Vec::new();
        for op in 0.. {
            let mut it = from.fork(world)?;
            it.cut_at(it.ops() + op);
            if take(world, &mut it, step)? {
                return Ok(all);
            }
            let unflushed = it.unflushed();
            for keep in 0..=unflushed {
                let mut again = from.fork(world)?;
                again.cut_at(again.ops() + op);
                take(world, &mut again, step)?;
                let text =
                    format!("before its write or flush {op}, {keep} of {unflushed} unflushed writes kept");
                all.push((text, again.restart(world, keep)?));
            }
        }
        Ok(all)
    }
}

/// Who leads an epoch: nobody is ever named, see the bounds.
pub fn leader(epoch: u64) -> u16 {
    u16::try_from(epoch % u64::from(CUSTODIANS)).unwrap_or_default() + 1
}

/// A batch of a request, ordered by the liar: two times make two batches.
pub fn liars_batch(world: &World, epoch: u64, height: u64, twin: bool) -> Option<Batch> {
    let request = world.founding.requests.get(usize::try_from(height.checked_sub(1)?).ok()?)?;
    let time_ms = super::founding::WALL + 1_000 * epoch + u64::from(twin);
    Some(Batch { time_ms, requests: vec![request.clone()] })
}
