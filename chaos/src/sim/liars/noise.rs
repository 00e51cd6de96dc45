//! Noise: old messages, numbers at the end of their range, bytes that mean nothing, and Raft messages that openraft would believe.

use bytes::Bytes;
use concordat_finality::message::Kind;
use concordat_finality::{Msg, wire};
use concordat_node::order::wire::{Append, AppendReply, Ask, At, Vote};
use concordat_node::transport::RaftCall;
use prost::Message as _;
use rand_core::RngCore;

use super::{Behaviour, Saying, Tools, to_all};

/// Sends its old messages again, byte for byte, to anybody.
#[derive(Default)]
pub struct Replays {
    old: Vec<Bytes>,
}

impl Behaviour for Replays {
    fn name(&self) -> &'static str {
        "replays"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let bytes = Bytes::from(message.to_bytes());
        if self.old.len() < 512 {
            self.old.push(bytes.clone());
        } else if let Some(old) = self.old.get_mut(usize::try_from(tools.dice.next_u64() % 512).unwrap_or(0))
        {
            *old = bytes.clone();
        }
        vec![(to, bytes, 0)]
    }

    fn idle(&mut self, tools: &mut Tools<'_>) -> Vec<Saying> {
        let which = usize::try_from(tools.below(self.old.len() as u64)).unwrap_or_default();
        let Some(old) = self.old.get(which).cloned() else { return Vec::new() };
        tools.did("liar: replay");
        to_all(tools, &old)
    }
}

/// Speaks of epochs and heights that nobody will reach.
pub struct HugeNumbers;

impl Behaviour for HugeNumbers {
    fn name(&self) -> &'static str {
        "huge-numbers"
    }

    fn idle(&mut self, tools: &mut Tools<'_>) -> Vec<Saying> {
        let huge = [u64::MAX, u64::MAX - 1, 1 << 63, u64::from(u32::MAX), tools.status.epoch + 1_000_000];
        let number = huge.get(usize::try_from(tools.below(5)).unwrap_or(0)).copied().unwrap_or(u64::MAX);
        let seq = if tools.below(2) == 0 { number } else { tools.status.seq };
        let id = vec![7; 32];
        let (kind, attachment) = (tools.below(7), Vec::new());
        let bytes = match kind {
            0 => tools.seal(
                seq,
                Kind::Propose,
                &wire::Propose { epoch: number, height: number, number, id },
                attachment,
            ),
            1 => tools.seal(
                seq,
                Kind::Prepare,
                &wire::Prepare { epoch: number, height: number, id: id.clone(), commitments: id },
                attachment,
            ),
            2 => tools.seal(
                seq,
                Kind::Complaint,
                &wire::Complaint { epoch: number, cause: 1, next_height: number },
                attachment,
            ),
            3 => tools.seal(
                seq,
                Kind::Grant,
                &wire::Grant { epoch: number, certified: Vec::new(), lock: None, evidence: Vec::new() },
                attachment,
            ),
            4 => tools.seal(seq, Kind::FetchHeads, &wire::FetchHeads { from: number }, attachment),
            5 => tools.seal(
                seq,
                Kind::Share,
                &wire::Share {
                    epoch: number,
                    height: number,
                    id: id.clone(),
                    session: id,
                    shares: Vec::new(),
                },
                attachment,
            ),
            _ => tools.seal(seq, Kind::Again, &wire::Again { epoch: number, height: number, id }, attachment),
        };
        tools.did("liar: huge numbers");
        to_all(tools, &bytes)
    }
}

/// Sends bytes that mean nothing, and its messages with a bit turned or an end cut off.
pub struct Garbage;

fn spoil(tools: &mut Tools<'_>, bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = usize::try_from(tools.below(bytes.len() as u64)).unwrap_or_default();
    match tools.below(3) {
        0 => bytes.truncate(at),
        1 => {
            let bit = 1 << tools.below(8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bit;
            }
        }
        _ => tools.dice.fill_bytes(&mut bytes),
    }
    bytes.into()
}

impl Behaviour for Garbage {
    fn name(&self) -> &'static str {
        "garbage"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let bytes = Bytes::from(message.to_bytes());
        if tools.below(4) != 0 {
            return vec![(to, bytes, 0)];
        }
        tools.did("liar: garbage");
        vec![(to, spoil(tools, &bytes), 0), (to, bytes, 1)]
    }

    fn ask(&mut self, tools: &mut Tools<'_>, _to: u16, _call: RaftCall, request: Bytes) -> Option<Bytes> {
        if tools.below(8) == 0 { Some(spoil(tools, &request)) } else { Some(request) }
    }

    fn answer(&mut self, tools: &mut Tools<'_>, _call: RaftCall, reply: Bytes) -> Bytes {
        if tools.below(8) == 0 { spoil(tools, &reply) } else { reply }
    }
}

/// Says to openraft what it would believe: votes in other names, terms without end, commits that aren't, replies to what was
/// never sent.
pub struct AttacksRaft;

impl Behaviour for AttacksRaft {
    fn name(&self) -> &'static str {
        "attacks-raft"
    }

    fn ask(&mut self, tools: &mut Tools<'_>, to: u16, call: RaftCall, request: Bytes) -> Option<Bytes> {
        if tools.below(3) != 0 {
            return Some(request);
        }
        tools.did("liar: attacks raft");
        Some(match call {
            RaftCall::Append => {
                let Ok(mut append) = Append::parse(request.clone()) else { return Some(request) };
                match tools.below(5) {
                    0 => append.vote.term = u64::MAX,
                    1 => append.vote.node = u64::from(to),
                    2 => append.committed = Some(At { term: append.vote.term, index: u64::MAX }),
                    3 => append.previous = None,
                    _ => append.epoch = append.epoch.wrapping_sub(1),
                }
                append.encode()
            }
            RaftCall::Vote => {
                let Ok(mut ask) = Ask::parse(request.clone()) else { return Some(request) };
                match tools.below(4) {
                    0 => ask.vote.term = u64::MAX,
                    1 => ask.vote.node = u64::from(to),
                    2 => ask.vote.committed = true,
                    _ => ask.transfer = true,
                }
                ask.encode()
            }
        })
    }

    fn answer(&mut self, tools: &mut Tools<'_>, call: RaftCall, reply: Bytes) -> Bytes {
        if tools.below(4) != 0 || !matches!(call, RaftCall::Append) {
            return reply;
        }
        tools.did("liar: attacks raft");
        let (term, index) = (1 + tools.below(3), tools.below(1_000));
        let forged = match tools.below(3) {
            0 => AppendReply::HigherVote(Vote { term: 900, node: u64::from(tools.number), committed: true }),
            1 => AppendReply::Partial(At { term, index }),
            _ => AppendReply::Conflict,
        };
        forged.encode()
    }
}

/// Serves states that aren't the group's: chunks with other values, other places, an end cut off.
pub struct ForgesState;

impl Behaviour for ForgesState {
    fn name(&self) -> &'static str {
        "forges-state"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let honest = vec![(to, Bytes::from(message.to_bytes()), 0)];
        if message.kind() == Kind::Heads
            && let Ok(mut body) = wire::Heads::decode(message.envelope().body.as_slice())
            && let Some(newest) = body.heads.last().and_then(|head| head.certificate.as_ref())
        {
            // Whoever is behind is sent to fetch a state instead of heads.
            body.newest = newest.log_event.clone();
            body.heads.clear();
            tools.did("liar: offers a state");
            return vec![(to, tools.instead(message, &body, Vec::new()), 0)];
        }
        let Ok(mut body) = wire::State::decode(message.envelope().body.as_slice()) else { return honest };
        if message.kind() != Kind::State {
            return honest;
        }
        match tools.below(4) {
            0 => body.leaves.truncate(body.leaves.len() / 2),
            1 => body.leaves.iter_mut().for_each(|leaf| leaf.value.push(b' ')),
            2 => body.beside.reverse(),
            _ => body.height += 1,
        }
        tools.did("liar: forged state");
        vec![(to, tools.instead(message, &body, Vec::new()), 0)]
    }
}
