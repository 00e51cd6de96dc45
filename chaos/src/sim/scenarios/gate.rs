//! What stands over the network in a directed scenario: it keeps every message that leaves, and rules of the script say which
//! of them are lost or late. The network knows of nothing but seats; the gate reads.

use bytes::Bytes;
use concordat_events::head::Head;
use concordat_events::{Hash, ValidEvent};
use concordat_finality::message::Kind;
use concordat_finality::{Msg, wire};
use prost::Message as _;

/// A message on its way from a seat to a seat, read without being checked.
#[derive(Clone, Debug)]
pub struct Letter {
    /// When it left, ms.
    pub at: u64,
    /// From which seat.
    pub from: usize,
    /// To which seat.
    pub to: usize,
    /// Who signed it.
    pub sender: u16,
    /// Its signer's `seq`.
    pub seq: u64,
    kind: u32,
    /// The epoch that it names, or 0.
    pub epoch: u64,
    /// The height that it names (of several heads the highest), or 0.
    pub height: u64,
    /// The head's id that it names.
    pub id: Hash,
    /// The bytes.
    pub bytes: Bytes,
}

impl Letter {
    fn read(at: u64, from: usize, to: usize, bytes: &Bytes) -> Option<Self> {
        let envelope = wire::Envelope::decode(bytes.clone()).ok()?;
        let body = envelope.body.as_slice();
        let (mut epoch, mut height, mut id) = (0, 0, Hash::ZERO);
        let mut vote = |at: (u64, u64), of: &[u8]| {
            (epoch, height) = at;
            id = Hash::from_slice(of).unwrap_or_default();
        };
        let is = |kind: Kind| envelope.kind == kind as u32;
        if is(Kind::Propose) {
            let body = wire::Propose::decode(body).ok()?;
            vote((body.epoch, body.height), &body.id);
        } else if is(Kind::Prepare) {
            let body = wire::Prepare::decode(body).ok()?;
            vote((body.epoch, body.height), &body.id);
        } else if is(Kind::Certify) {
            let cert = wire::Certify::decode(body).ok()?.cert?;
            vote((cert.epoch, cert.height), &cert.id);
        } else if is(Kind::Lock) {
            let cert = wire::Lock::decode(body).ok()?.cert?;
            vote((cert.epoch, cert.height), &cert.id);
        } else if is(Kind::Refuse) {
            let body = wire::Refuse::decode(body).ok()?;
            vote((body.epoch, body.height), &body.id);
        } else if is(Kind::Share) {
            let body = wire::Share::decode(body).ok()?;
            vote((body.epoch, body.height), &body.id);
        } else if is(Kind::Again) {
            let body = wire::Again::decode(body).ok()?;
            vote((body.epoch, body.height), &body.id);
        } else if is(Kind::Complaint) {
            let body = wire::Complaint::decode(body).ok()?;
            vote((body.epoch, body.next_height), &[]);
        } else if is(Kind::Grant) {
            let body = wire::Grant::decode(body).ok()?;
            vote((body.epoch, 0), &[]);
        } else if is(Kind::Certificate) {
            let body = wire::Certificate::decode(body).ok()?;
            vote((0, height_of(&body.log_event)?), &[]);
        } else if is(Kind::Heads) {
            let last = wire::Heads::decode(body).ok()?.heads.pop()?.certificate?;
            vote((0, height_of(&last.log_event)?), &[]);
        }
        let sender = u16::try_from(envelope.sender).ok()?;
        let (seq, kind) = (envelope.seq, envelope.kind);
        Some(Letter { at, from, to, sender, seq, kind, epoch, height, id, bytes: bytes.clone() })
    }

    /// Is it of this kind?
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u32
    }

    /// Is it of this kind and about this height?
    pub fn about(&self, kind: Kind, height: u64) -> bool {
        self.is(kind) && self.height == height
    }

    /// Was it signed by who sits there?
    pub fn own(&self) -> bool {
        usize::from(self.sender) == self.from + 1
    }

    /// Its envelope.
    pub fn envelope(&self) -> wire::Envelope {
        wire::Envelope::decode(self.bytes.clone()).unwrap_or_default()
    }
}

fn height_of(log: &[u8]) -> Option<u64> {
    Some(Head::from_log_event(&ValidEvent::parse(log).ok()?).ok()?.height)
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// What becomes of it without a gate.
    Goes,
    /// It is lost.
    Lost,
    /// It takes so many ms more.
    After(u64),
}

/// A rule: what becomes of a message, or nothing if the rule isn't about it.
type Rule = Box<dyn FnMut(&Letter) -> Option<Pass>>;

/// See the module's header.
#[derive(Default)]
pub struct Gate {
    rules: Vec<(u32, Rule)>,
    made: u32,
    /// Every message that left for a peer, lost or not.
    pub spoken: Vec<Letter>,
    /// Every entry that a leader gave to its log, by its seat.
    pub entries: Vec<(usize, Msg)>,
}

impl Gate {
    /// Keeps a message and says what becomes of it: the newest rule that is about it decides.
    pub fn judge(&mut self, at: u64, from: usize, to: usize, bytes: &Bytes) -> Pass {
        let Some(letter) = Letter::read(at, from, to, bytes) else { return Pass::Goes };
        let pass = self.rules.iter_mut().rev().find_map(|(_, rule)| rule(&letter)).unwrap_or(Pass::Goes);
        self.spoken.push(letter);
        pass
    }

    /// Adds a rule; its number takes it away again.
    pub fn rule(&mut self, rule: impl FnMut(&Letter) -> Option<Pass> + 'static) -> u32 {
        self.made += 1;
        self.rules.push((self.made, Box::new(rule)));
        self.made
    }

    /// Takes a rule away.
    pub fn lift(&mut self, number: u32) {
        self.rules.retain(|(other, _)| *other != number);
    }

    /// Takes all rules away.
    pub fn open(&mut self) {
        self.rules.clear();
    }
}
