//! Messages of the log group as values: parsed from bytes at the edge, turned into openraft's types once the guard let
//! them through. The entries' form is also the one on disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use concordat_events::protobuf::{Shaped, Unfit};
use concordat_events::quoted;
use openraft::Membership;
use openraft::entry::EntryPayload;
use prost::Message;

use super::types::{Ballot, LeaderId, LogEntry, LogId, Payload, Term, Wrapper};
use crate::limits;
use crate::proto::peer as pb;

/// A log id: the term of the leader that wrote the entry, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Place in the log, from 0.
    pub index: u64,
}

/// A vote on the wire: who asks to lead, or leads (`committed`), in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The custodian who is candidate or leader.
    pub node: u64,
    /// True once a majority granted it.
    pub committed: bool,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A wrapper signed by the epoch's leader.
    Wrapper(Bytes),
    /// The group's members; only as entry 0.
    Members(BTreeSet<u16>),
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its log id.
    pub at: At,
    /// What it carries.
    pub content: Content,
}

/// A leader's append, or heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Which epoch's group.
    pub epoch: u64,
    /// The leader's vote.
    pub vote: Vote,
    /// The entry before the first of `items`.
    pub previous: Option<At>,
    /// What to append.
    pub items: Vec<Item>,
    /// Up to where the leader's log is committed.
    pub committed: Option<At>,
}

/// The answer to an [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendReply {
    /// All of it is stored and flushed.
    Success,
    /// Stored up to this entry only.
    Partial(At),
    /// The entry before the first isn't there.
    Conflict,
    /// The follower holds this vote, which is above the leader's.
    HigherVote(Vote),
}

/// A candidate's request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which epoch's group.
    pub epoch: u64,
    /// The vote asked for.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last: Option<At>,
    /// Asks to be let through a live leader's lease.
    pub transfer: bool,
}

/// The answer to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskReply {
    /// The vote that the voter holds now.
    pub vote: Vote,
    /// True if it was granted.
    pub granted: bool,
    /// The voter's last entry.
    pub last: Option<At>,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not in the protobuf form.
    #[error("not in the expected form: {0}")]
    Form(String),
    /// A part that must be there isn't.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// More than allowed.
    #[error("{what}: {got}, at most {most} allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much came.
        got: usize,
        /// How much is allowed.
        most: usize,
    },
    /// A custodian's number above 65535.
    #[error("{0} is no custodian's number")]
    Number(u32),
}

impl From<Unfit> for Malformed {
    fn from(error: Unfit) -> Self {
        Self::Form(error.to_string())
    }
}

/// Decodes what a peer encoded: nothing is made of it before its fields are counted.
fn decode<T: Message + Default + Shaped>(bytes: Bytes) -> Result<T, Malformed> {
    T::SHAPE.check(&bytes, limits::MAX_APPEND_FIELDS)?;
    Ok(T::decode(bytes)?)
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self::Form(quoted(error))
    }
}

/// The epoch that a request to a log group names, to find the group by.
pub fn epoch_of(request: &[u8]) -> Result<u64, Malformed> {
    /// The first field of both requests.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Head {
        #[prost(uint64, tag = "1")]
        epoch: u64,
    }
    Ok(Head::decode(request)?.epoch)
}

fn bounded(what: &'static str, got: usize, most: usize) -> Result<(), Malformed> {
    if got > most {
        return Err(Malformed::TooMuch { what, got, most });
    }
    Ok(())
}

impl Append {
    /// Parses and bounds a request; what it claims is the guard's to judge.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        bounded("bytes of an append", bytes.len(), limits::MAX_MESSAGE_BYTES)?;
        let wire: pb::RaftAppendRequest = decode(bytes)?;
        bounded("entries of an append", wire.entries.len(), limits::MAX_APPEND_ENTRIES)?;
        Ok(Self {
            epoch: wire.epoch,
            vote: wire.vote.ok_or(Malformed::Missing("vote"))?.into(),
            previous: wire.previous.map(At::from),
            items: wire.entries.into_iter().map(Item::try_from).collect::<Result<_, _>>()?,
            committed: wire.committed.map(At::from),
        })
    }

    /// The bytes of this request.
    pub fn encode(self) -> Bytes {
        let wire = pb::RaftAppendRequest {
            epoch: self.epoch,
            vote: Some(self.vote.into()),
            previous: self.previous.map(Into::into),
            entries: self.items.into_iter().map(Into::into).collect(),
            committed: self.committed.map(Into::into),
        };
        wire.encode_to_vec().into()
    }
}

impl AppendReply {
    /// Parses a reply.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        use pb::raft_append_reply::Outcome;
        match decode::<pb::RaftAppendReply>(bytes)?.outcome.ok_or(Malformed::Missing("outcome"))? {
            Outcome::Success(_) => Ok(Self::Success),
            Outcome::Conflict(_) => Ok(Self::Conflict),
            Outcome::HigherVote(vote) => Ok(Self::HigherVote(vote.into())),
            Outcome::Partial(at) => Ok(Self::Partial(at.into())),
        }
    }

    /// The bytes of this reply.
    pub fn encode(self) -> Bytes {
        use pb::raft_append_reply::Outcome;
        let outcome = match self {
            Self::Success => Outcome::Success(pb::RaftBlank {}),
            Self::Conflict => Outcome::Conflict(pb::RaftBlank {}),
            Self::HigherVote(vote) => Outcome::HigherVote(vote.into()),
            Self::Partial(at) => Outcome::Partial(at.into()),
        };
        pb::RaftAppendReply { outcome: Some(outcome) }.encode_to_vec().into()
    }
}

impl Ask {
    /// Parses a request for a vote.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let wire: pb::RaftVoteRequest = decode(bytes)?;
        Ok(Self {
            epoch: wire.epoch,
            vote: wire.vote.ok_or(Malformed::Missing("vote"))?.into(),
            last: wire.last.map(At::from),
            transfer: wire.leadership_transfer,
        })
    }

    /// The bytes of this request.
    pub fn encode(self) -> Bytes {
        let wire = pb::RaftVoteRequest {
            epoch: self.epoch,
            vote: Some(self.vote.into()),
            last: self.last.map(Into::into),
            leadership_transfer: self.transfer,
        };
        wire.encode_to_vec().into()
    }
}

impl AskReply {
    /// Parses a reply.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let wire: pb::RaftVoteReply = decode(bytes)?;
        Ok(Self {
            vote: wire.vote.ok_or(Malformed::Missing("vote"))?.into(),
            granted: wire.granted,
            last: wire.last.map(At::from),
        })
    }

    /// The bytes of this reply.
    pub fn encode(self) -> Bytes {
        let wire = pb::RaftVoteReply {
            vote: Some(self.vote.into()),
            granted: self.granted,
            last: self.last.map(Into::into),
        };
        wire.encode_to_vec().into()
    }
}

impl Item {
    /// Parses an entry as stored.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        Self::try_from(decode::<pb::RaftEntry>(bytes)?)
    }

    /// The bytes of this entry, on disk as on the wire.
    pub fn encode(self) -> Vec<u8> {
        pb::RaftEntry::from(self).encode_to_vec()
    }
}

impl From<pb::RaftLogId> for At {
    fn from(wire: pb::RaftLogId) -> Self {
        Self { term: wire.term, index: wire.index }
    }
}

impl From<At> for pb::RaftLogId {
    fn from(at: At) -> Self {
        Self { term: at.term, index: at.index }
    }
}

impl From<LogId> for At {
    fn from(id: LogId) -> Self {
        Self { term: *id.leader_id, index: id.index }
    }
}

impl From<At> for LogId {
    fn from(at: At) -> Self {
        Self { leader_id: Term::new(at.term), index: at.index }
    }
}

impl From<pb::RaftVote> for Vote {
    fn from(wire: pb::RaftVote) -> Self {
        Self { term: wire.term, node: u64::from(wire.node), committed: wire.committed }
    }
}

impl From<Vote> for pb::RaftVote {
    fn from(vote: Vote) -> Self {
        // Node ids are u16 numbers inside, so this never cuts.
        Self {
            term: vote.term,
            node: u32::try_from(vote.node).unwrap_or(u32::MAX),
            committed: vote.committed,
        }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        Self { term: ballot.leader_id.term, node: ballot.leader_id.voted_for, committed: ballot.committed }
    }
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed }
    }
}

impl TryFrom<pb::RaftEntry> for Item {
    type Error = Malformed;

    fn try_from(wire: pb::RaftEntry) -> Result<Self, Malformed> {
        use pb::raft_entry::Payload;
        let content = match wire.payload.ok_or(Malformed::Missing("payload"))? {
            Payload::Blank(_) => Content::Blank,
            Payload::Wrapper(bytes) => {
                bounded("bytes of a wrapper", bytes.len(), limits::MAX_WRAPPER_BYTES)?;
                Content::Wrapper(bytes)
            }
            Payload::Members(members) => {
                bounded("members", members.numbers.len(), limits::MAX_MEMBERS)?;
                let number = |n| u16::try_from(n).map_err(|_| Malformed::Number(n));
                Content::Members(members.numbers.into_iter().map(number).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self { at: wire.id.ok_or(Malformed::Missing("log id"))?.into(), content })
    }
}

impl From<Item> for pb::RaftEntry {
    fn from(item: Item) -> Self {
        use pb::raft_entry::Payload;
        let payload = match item.content {
            Content::Blank => Payload::Blank(pb::RaftBlank {}),
            Content::Wrapper(bytes) => Payload::Wrapper(bytes),
            Content::Members(members) => {
                Payload::Members(pb::RaftMembers { numbers: members.into_iter().map(u32::from).collect() })
            }
        };
        Self { id: Some(item.at.into()), payload: Some(payload) }
    }
}

impl From<Item> for LogEntry {
    fn from(item: Item) -> Self {
        let payload: Payload = match item.content {
            Content::Blank => EntryPayload::Blank,
            Content::Wrapper(bytes) => EntryPayload::Normal(Wrapper(bytes)),
            Content::Members(members) => {
                let voters: BTreeSet<u64> = members.iter().copied().map(u64::from).collect();
                let nodes: BTreeMap<u64, ()> = voters.iter().map(|n| (*n, ())).collect();
                EntryPayload::Membership(Membership::new_with_defaults(vec![voters], nodes.into_keys()))
            }
        };
        Self { log_id: item.at.into(), payload }
    }
}

impl From<LogEntry> for Item {
    fn from(entry: LogEntry) -> Self {
        let content = match entry.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(wrapper) => Content::Wrapper(wrapper.0),
            // Node ids are u16 numbers inside, so none is lost.
            EntryPayload::Membership(members) => {
                Content::Members(members.voter_ids().filter_map(|n| u16::try_from(n).ok()).collect())
            }
        };
        Self { at: entry.log_id.into(), content }
    }
}
