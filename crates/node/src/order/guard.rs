//! The guard in front of openraft (PROTOCOL 6): what may reach it, requests and replies, as pure functions.
//!
//! openraft trusts its peers, so one message can panic its core, depose a leader or rewrite an applied log. The guard
//! lets through only what the epoch's own leader may say. To refuse is to lose the message, which Raft tolerates;
//! nothing is altered. The leader leads in one process run and its log only grows, so no honest append ever cuts a
//! follower's log: every cut is refused, whether the batch was prepared or not.

use std::cmp::Ordering;
use std::collections::BTreeSet;

pub use super::refusal::{Reason, Refusals, Refused};
use super::wire::{Append, AppendReply, Ask, AskReply, At, Content, Item};
use crate::limits;

/// The guard, in or out. Tests take it out, to see what each of openraft's weaknesses does without it.
pub trait GuardRules: Send + Sync + 'static {
    /// Requests and replies are checked before openraft sees them.
    const CHECKS: bool = true;
}

/// The guard stands. A custodian's groups are of no other type.
#[derive(Clone, Copy, Debug)]
pub enum Guarded {}

impl GuardRules for Guarded {}

/// Checks wrappers for the guard: signature of the epoch's leader, chain, number, form.
pub trait WrapperCheck: Send + Sync + 'static {
    /// Checks the wrapper offered at `position` of `epoch`, whose predecessor has the hash `previous` (`None` for the
    /// first), and gives its hash.
    ///
    /// # Errors
    /// Why it is no wrapper of that place, in words.
    fn check(
        &self,
        epoch: u64,
        position: u64,
        previous: Option<&[u8; 32]>,
        bytes: &[u8],
    ) -> Result<[u8; 32], String>;

    /// The epoch's leader offered `offered` where this custodian already holds `held`, another wrapper that passed
    /// [`WrapperCheck::check`]. If `offered` carries the leader's signature too, the two are evidence (PROTOCOL 5).
    fn contradiction(&self, epoch: u64, position: u64, held: &[u8], offered: &[u8]) {
        let _ = (epoch, position, held, offered);
    }
}

/// Whose group this is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The epoch.
    pub epoch: u64,
    /// This custodian.
    pub me: u16,
    /// The epoch's leader.
    pub leader: u16,
}

/// The end of the chain of wrappers in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// The last entry of any kind.
    pub last: Option<At>,
    /// How many wrappers there are: the next one's batch number.
    pub wrappers: u64,
    /// The last wrapper's hash.
    pub hash: Option<[u8; 32]>,
    /// The last entry that the leader called committed, while the log doesn't reach it.
    pub claimed: Option<At>,
}

impl Tip {
    /// What is called committed beyond the end of the log once `committed` is, too. A leader may well say so of what it
    /// hasn't sent yet. But openraft applies up to there whatever comes, so it must be able to stand there.
    fn claim(&self, committed: Option<At>) -> Result<Option<At>, Reason> {
        let ahead = |at: &At| self.last.is_none_or(|last| at.index > last.index);
        let before = self.claimed.filter(ahead);
        let Some(now) = committed.filter(ahead) else { return Ok(before) };
        if [self.last, before].into_iter().flatten().any(|other| !one_log(other, now)) {
            return Err(Reason::Commit { index: now.index, term: now.term });
        }
        Ok(before.max(Some(now)))
    }
}

/// Can both be entries of one log? Its terms never fall.
fn one_log(a: At, b: At) -> bool {
    match a.index.cmp(&b.index) {
        Ordering::Less => a.term <= b.term,
        Ordering::Equal => a.term == b.term,
        Ordering::Greater => a.term >= b.term,
    }
}

/// What the guard looks up in the log it guards.
pub trait Held {
    /// The entry at `index`, if there is one.
    ///
    /// # Errors
    /// When the log can't be read.
    fn item(&self, index: u64) -> Result<Option<Item>, Reason>;

    /// The batch number of the wrapper at `index`, or of the next one if another entry stands there.
    fn position(&self, index: u64) -> u64;
}

/// The first entry of every group, written alike by everybody.
pub fn first_entry(members: &BTreeSet<u16>) -> Item {
    Item { at: At { term: 0, index: 0 }, content: Content::Members(members.clone()) }
}

impl Identity {
    fn common(&self, from: u16, epoch: u64, vote: &super::wire::Vote, committed: bool) -> Result<(), Reason> {
        if epoch != self.epoch {
            return Err(Reason::Epoch { expected: self.epoch, got: epoch });
        }
        if from != self.leader || from == self.me {
            return Err(Reason::NotLeader { sender: from, leader: self.leader });
        }
        if vote.node != u64::from(self.leader) {
            return Err(Reason::Names { named: vote.node, leader: self.leader });
        }
        if vote.term == 0 || vote.term > limits::MAX_TERM {
            return Err(Reason::Term { got: vote.term, most: limits::MAX_TERM });
        }
        if vote.committed != committed {
            return Err(Reason::Standing { got: vote.committed });
        }
        Ok(())
    }

    /// A request for a vote from `from`.
    pub fn ask(&self, from: u16, ask: &Ask) -> Result<(), Reason> {
        self.common(from, ask.epoch, &ask.vote, false)?;
        if ask.transfer {
            return Err(Reason::Transfer);
        }
        match ask.last {
            Some(last) => place(last, ask.vote.term),
            None => Ok(()),
        }
    }

    /// Everything of an append that can be judged without the log.
    pub fn append(&self, from: u16, append: &Append) -> Result<(), Reason> {
        self.common(from, append.epoch, &append.vote, true)?;
        let term = append.vote.term;
        if let Some(committed) = append.committed {
            place(committed, term)?;
        }
        let mut before = append.previous;
        if let Some(previous) = before {
            place(previous, term)?;
        }
        for item in &append.items {
            let At { term: of, index } = item.at;
            place(item.at, term)?;
            let expected = before.map_or(0, |at| at.index + 1);
            if index != expected || of < before.map_or(0, |at| at.term) {
                return Err(Reason::Order { index, term: of });
            }
            before = Some(item.at);
        }
        Ok(())
    }

    /// The rest of an append, judged against the log.
    ///
    /// `held` gives the entry at an index up to `tip.last`; `prepared` is how many batches, from the first on, this
    /// custodian prepared. Returns the tip after the append, or the same one if openraft will find no place for it.
    pub fn append_to<C: WrapperCheck + ?Sized>(
        &self,
        append: &Append,
        tip: Tip,
        prepared: u64,
        check: &C,
        log: &impl Held,
    ) -> Result<Tip, Reason> {
        let end = tip.last.map_or(0, |at| at.index + 1);
        let cut = |index| Reason::Cut { index, prepared: log.position(index) < prepared };
        if let Some(previous) = append.previous {
            if previous.index >= end {
                // It doesn't join on; openraft answers so and takes nothing but the commit.
                return Ok(Tip { claimed: tip.claim(append.committed)?, ..tip });
            }
            if log.item(previous.index)?.map(|item| item.at) != Some(previous) {
                return Err(cut(previous.index));
            }
        }
        let mut after = tip;
        for item in &append.items {
            if item.at.index < end {
                let Some(own) = log.item(item.at.index)? else { return Err(cut(item.at.index)) };
                if own != *item {
                    return Err(self.differs(&own, item, check, log).unwrap_or_else(|| cut(item.at.index)));
                }
                continue;
            }
            if let Some(claimed) = tip.claimed.filter(|claimed| !one_log(*claimed, item.at)) {
                return Err(Reason::Commit { index: claimed.index, term: claimed.term });
            }
            match &item.content {
                Content::Members(_) => return Err(Reason::Membership { index: item.at.index }),
                Content::Blank => {
                    if after.last.is_some_and(|last| item.at.term <= last.term) {
                        return Err(Reason::Blank { index: item.at.index });
                    }
                }
                Content::Wrapper(_) => {}
            }
            after = walk(after, self.epoch, std::slice::from_ref(item), check)?;
        }
        if let Some(committed) = append.committed {
            let here = match append.items.iter().find(|item| item.at.index == committed.index) {
                Some(item) => Some(item.at),
                None if committed.index < end => log.item(committed.index)?.map(|item| item.at),
                None => None,
            };
            if here.is_some_and(|at| at != committed) {
                return Err(Reason::Commit { index: committed.index, term: committed.term });
            }
        }
        after.claimed = after.claim(append.committed)?;
        Ok(after)
    }

    /// What it means that another entry is offered in the place of `own`; `None` is a plain cut.
    fn differs<C: WrapperCheck + ?Sized>(
        &self,
        own: &Item,
        offered: &Item,
        check: &C,
        log: &impl Held,
    ) -> Option<Reason> {
        match (&own.content, &offered.content) {
            (Content::Wrapper(held), Content::Wrapper(other)) if held != other => {
                let position = log.position(own.at.index);
                check.contradiction(self.epoch, position, held, other);
                Some(Reason::Contradiction { position })
            }
            (_, Content::Members(_)) => Some(Reason::Membership { index: offered.at.index }),
            _ => None,
        }
    }
}

fn place(at: At, term: u64) -> Result<(), Reason> {
    if at.index > limits::MAX_INDEX {
        return Err(Reason::Index { got: at.index, most: limits::MAX_INDEX });
    }
    if at.term > term {
        return Err(Reason::Order { index: at.index, term: at.term });
    }
    Ok(())
}

/// What the leader remembers of an append to judge its reply by.
#[derive(Clone, Debug)]
pub struct SentAppend {
    previous: Option<At>,
    sent: Vec<At>,
}

impl SentAppend {
    /// Of this request.
    pub fn of(append: &Append) -> Self {
        Self { previous: append.previous, sent: append.items.iter().map(|item| item.at).collect() }
    }

    /// The last entry that success acknowledges.
    pub fn last(&self) -> Option<At> {
        self.sent.last().copied().or(self.previous)
    }

    /// A peer's reply; `acknowledged` is the last entry it acknowledged before.
    pub fn reply(&self, reply: &AppendReply, acknowledged: Option<At>) -> Result<(), Reason> {
        match reply {
            AppendReply::Success => Ok(()),
            AppendReply::Partial(at) => {
                if self.previous == Some(*at) || self.sent.contains(at) {
                    return Ok(());
                }
                Err(Reason::NotSent { index: at.index })
            }
            AppendReply::Conflict => {
                // Entry 0 is written alike by everybody, so nobody lacks it.
                let Some(previous) = self.previous else { return Err(Reason::TakenBack { index: 0 }) };
                if previous.index == 0 || acknowledged.is_some_and(|at| previous.index <= at.index) {
                    return Err(Reason::TakenBack { index: previous.index });
                }
                Ok(())
            }
            AppendReply::HigherVote(vote) => Err(Reason::OtherVote { term: vote.term, node: vote.node }),
        }
    }
}

/// A peer's reply to a request for a vote.
pub fn ask_reply(ask: &Ask, reply: &AskReply) -> Result<(), Reason> {
    if reply.vote != ask.vote {
        return Err(Reason::OtherVote { term: reply.vote.term, node: reply.vote.node });
    }
    if !reply.granted || reply.last > ask.last {
        return Err(Reason::NotGranted);
    }
    Ok(())
}

/// The chain's tip after `items`, whose wrappers are checked one after the other.
pub fn walk<C: WrapperCheck + ?Sized>(
    tip: Tip,
    epoch: u64,
    items: &[Item],
    check: &C,
) -> Result<Tip, Reason> {
    let mut tip = tip;
    for item in items {
        if let Content::Wrapper(bytes) = &item.content {
            let position = tip.wrappers;
            let checked = check.check(epoch, position, tip.hash.as_ref(), bytes);
            tip.hash = Some(checked.map_err(|why| Reason::Wrapper { position, why })?);
            tip.wrappers = position + 1;
        }
        tip.last = Some(item.at);
    }
    Ok(tip)
}
