//! Leaders that lie: silent, slow, partial, and with two stories.

use std::collections::BTreeMap;

use bytes::Bytes;
use concordat_events::ValidEvent;
use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_finality::message::{Body, Kind};
use concordat_finality::{Message, Msg, wire};
use concordat_node::order::wire::{Append, Content};
use concordat_node::transport::RaftCall;
use prost::Message as _;

use super::{Behaviour, Kept, Saying, Tools, disliked};

/// Says nothing at all, and answers nothing.
pub struct Silent;

impl Behaviour for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn say(&mut self, tools: &mut Tools<'_>, _to: u16, _message: &Msg) -> Vec<Saying> {
        tools.did("liar: silent");
        Vec::new()
    }

    fn ask(&mut self, _tools: &mut Tools<'_>, _to: u16, _call: RaftCall, _request: Bytes) -> Option<Bytes> {
        None
    }
}

/// Leads nothing, though it votes like anybody.
pub struct SilentLeader;

impl Behaviour for SilentLeader {
    fn name(&self) -> &'static str {
        "silent-leader"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        match message.kind() {
            Kind::Propose | Kind::Certify => {
                tools.did("liar: silent leader");
                Vec::new()
            }
            _ => vec![(to, Bytes::from(message.to_bytes()), 0)],
        }
    }

    fn ask(&mut self, tools: &mut Tools<'_>, _to: u16, _call: RaftCall, request: Bytes) -> Option<Bytes> {
        // Its log begins, so that nobody misses its start; then nothing is proposed.
        (tools.below(2) == 0).then_some(request)
    }
}

/// Leads just fast enough not to be deposed at once.
pub struct SlowLeader;

impl Behaviour for SlowLeader {
    fn name(&self) -> &'static str {
        "slow-leader"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let late = match message.kind() {
            Kind::Propose | Kind::Certify | Kind::Certificate => {
                tools.did("liar: slow leader");
                200 + tools.below(1_200)
            }
            _ => 0,
        };
        vec![(to, Bytes::from(message.to_bytes()), late)]
    }
}

/// Opens its epoch to one custodian only.
pub struct OpensToOne;

impl Behaviour for OpensToOne {
    fn name(&self) -> &'static str {
        "opens-to-one"
    }

    fn ask(&mut self, tools: &mut Tools<'_>, to: u16, _call: RaftCall, request: Bytes) -> Option<Bytes> {
        if tools.others.first() == Some(&to) {
            return Some(request);
        }
        tools.did("liar: opens to one");
        None
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let leads = matches!(message.kind(), Kind::Propose | Kind::Certify | Kind::Grant);
        if leads && tools.others.first() != Some(&to) {
            return Vec::new();
        }
        vec![(to, Bytes::from(message.to_bytes()), 0)]
    }
}

/// Knows nothing of the requests of some users.
pub struct Censors;

impl Behaviour for Censors {
    fn name(&self) -> &'static str {
        "censors"
    }

    fn hear(&mut self, tools: &mut Tools<'_>, message: &Msg) -> bool {
        let Body::Requests(requests) = &message.body else { return true };
        let censored = requests.iter().any(|request| disliked(&request.author()));
        if censored {
            tools.did("liar: censors");
        }
        !censored
    }

    fn take(&mut self, _tools: &mut Tools<'_>, request: &ValidEvent) -> bool {
        !disliked(&request.author())
    }
}

/// Tells every other custodian another log: the same chain with other batches.
#[derive(Default)]
pub struct TwoLogs {
    /// The other log's entries by epoch and number, and their digests.
    other: BTreeMap<(u64, u64), (Bytes, Hash)>,
    /// Its own entries.
    own: BTreeMap<(u64, u64), Kept>,
}

impl TwoLogs {
    /// The entry of the other log in the place of one of the true log.
    fn entry(&mut self, tools: &mut Tools<'_>, true_entry: &Bytes) -> Option<Bytes> {
        let envelope = wire::Envelope::decode(true_entry.clone()).ok()?;
        let message = Message::check(tools.context, envelope).ok()?;
        let Body::Wrapper(wrapper) = &message.body else {
            // The start is the same; the other log goes on from it.
            if let Body::EpochStart(start) = &message.body {
                self.other.insert((start.epoch, 0), (true_entry.clone(), message.digest));
            }
            return None;
        };
        let place = (wrapper.epoch, wrapper.number);
        self.own.insert(place, message.clone());
        if let Some((bytes, _)) = self.other.get(&place) {
            return Some(bytes.clone());
        }
        let previous = self.other.get(&(wrapper.epoch, wrapper.number.checked_sub(1)?))?.1;
        let batch = wrapper.batch.as_ref()?;
        let mut requests = batch.requests.clone();
        requests.pop();
        let batch = Batch { time_ms: batch.time_ms + 1, requests };
        let body = wire::Wrapper {
            epoch: wrapper.epoch,
            number: wrapper.number,
            previous: previous.as_bytes().to_vec(),
            batch: batch.hash().as_bytes().to_vec(),
        };
        let attachment = wire::Batch {
            time_ms: batch.time_ms,
            requests: batch.requests.iter().map(|event| event.json().as_bytes().to_vec()).collect(),
        };
        let bytes = tools.instead(&message, &body, attachment.encode_to_vec());
        let digest = tools.own_words(&bytes)?.digest;
        self.other.insert(place, (bytes.clone(), digest));
        tools.did("liar: two batches of one number");
        Some(bytes)
    }
}

impl Behaviour for TwoLogs {
    fn name(&self) -> &'static str {
        "equivocates-batches"
    }

    fn ask(&mut self, tools: &mut Tools<'_>, to: u16, call: RaftCall, request: Bytes) -> Option<Bytes> {
        if !matches!(call, RaftCall::Append) || !tools.other_side(to) {
            return Some(request);
        }
        let Ok(mut append) = Append::parse(request.clone()) else { return Some(request) };
        for item in &mut append.items {
            if let Content::Wrapper(bytes) = &item.content
                && let Some(other) = self.entry(tools, bytes)
            {
                item.content = Content::Wrapper(other);
            }
        }
        Some(append.encode())
    }
}

/// Proposes two heads of one height.
pub struct TwoProposals;

impl Behaviour for TwoProposals {
    fn name(&self) -> &'static str {
        "equivocates-proposals"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let honest = vec![(to, Bytes::from(message.to_bytes()), 0)];
        let Body::Propose(propose) = &message.body else { return honest };
        if message.sender != tools.number || !tools.other_side(to) {
            return honest;
        }
        tools.did("liar: two proposals");
        let body = wire::Propose {
            epoch: propose.vote.epoch,
            height: propose.vote.height,
            number: propose.number.saturating_sub(1),
            id: concordat_events::hash::tagged("another", &[propose.vote.id.as_bytes()]).as_bytes().to_vec(),
        };
        vec![(to, tools.instead(message, &body, Vec::new()), 0)]
    }
}

/// Shows different sessions of one attempt to different custodians.
#[derive(Default)]
pub struct TwoSessions {
    /// Prepares with their commitments, by what they are for.
    prepares: BTreeMap<(u64, u64, Hash), BTreeMap<u16, Kept>>,
}

impl Behaviour for TwoSessions {
    fn name(&self) -> &'static str {
        "equivocates-sessions"
    }

    fn hear(&mut self, _tools: &mut Tools<'_>, message: &Msg) -> bool {
        if let Body::Prepare(prepare) = &message.body {
            let vote = (prepare.vote.epoch, prepare.vote.height, prepare.vote.id);
            if self.prepares.len() > 64 {
                self.prepares.pop_first();
            }
            self.prepares.entry(vote).or_default().insert(message.sender, message.clone());
        }
        true
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let honest = vec![(to, Bytes::from(message.to_bytes()), 0)];
        let Body::Certify(certify) = &message.body else { return honest };
        if message.sender != tools.number || !tools.other_side(to) {
            return honest;
        }
        let vote = (certify.cert.vote.epoch, certify.cert.vote.height, certify.cert.vote.id);
        let Some(heard) = self.prepares.get(&vote) else { return honest };
        let used: Vec<u16> = certify.signers.iter().map(|signer| signer.sender).collect();
        let Some(spare) = heard.values().find(|prepare| !used.contains(&prepare.sender)) else {
            return honest;
        };
        let Ok(mut body) = wire::Certify::decode(message.envelope().body.as_slice()) else { return honest };
        body.signers.pop();
        body.signers.push(spare.envelope().clone());
        body.signers.sort_by_key(|signer| signer.sender);
        tools.did("liar: two sessions of one attempt");
        vec![(to, tools.instead(message, &body, message.envelope().attachment.clone()), 0)]
    }
}
