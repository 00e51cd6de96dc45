//! Seeds by hand: every kind of message, every stored form, and a small history. Inputs are mended when they run, so
//! signatures and hashes are left out here.

use std::sync::Arc;

use concordat_events::request::{definition_tags, input_tags};
use concordat_events::{Batch, Hash, Mode, Template, ValidEvent};
use concordat_finality::message::Kind;
use concordat_finality::wire;
use concordat_ledger::Ledger;
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use prost::Message;
use serde_json::{Value, json};

use super::decider::Step;
use super::mend::KINDS;
use super::world::{START, public, sign, world};

/// A target's input by name.
pub struct Seed {
    pub target: &'static str,
    pub name: String,
    pub input: Vec<u8>,
}

/// All seeds.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target, name: &str, input: Vec<u8>| {
        seeds.push(Seed { target, name: format!("seed-{name}"), input });
    };
    for (n, (kind, body, attachment)) in messages().into_iter().enumerate() {
        let name = format!("{:02}-{}", n + 1, format!("{kind:?}").to_lowercase());
        add("peer_message", &name, [vec![1], envelope(kind, body, attachment).encode_to_vec()].concat());
    }
    let vote = wire::Again { epoch: 2, height: 7, id: vec![7; 32] };
    add("record", "record", [vec![0], record(&vote)].concat());
    add("record", "head", [vec![2 << 1 | 1], certified_head().encode_to_vec()].concat());
    add("record", "batch", [vec![4 << 1 | 1], batch().encode_to_vec()].concat());
    let claim = wire::Claim { sender: 2, seq: 9, kind: 4, body_hash: vec![1; 32], signature: vec![2; 64] };
    add("record", "claim", [vec![5 << 1], claim.encode_to_vec()].concat());
    add("record", "evidence", [vec![6 << 1 | 1], contradiction().encode_to_vec()].concat());

    let (definition, input) = (definition_spec(), input_spec());
    for (name, event) in [("definition", &definition), ("input", &input), ("head", &log_spec(3))] {
        add("event", name, [b"\x01", event.to_string().as_bytes()].concat());
        let flags = if name == "head" { b"\x03" } else { b"\x01" };
        add("request", name, [flags, event.to_string().as_bytes()].concat());
    }
    let strict = json!({"kind": 7500, "content": counter().to_string(), "tags": [
        ["state", format!("30078:{}:x", super::mend::group())], ["mode", "strict"],
        ["source", r##"{"kinds":[1,30023],"authors":["0000000000000000000000000000000000000000000000000000000000000001"],"#t":["a"]}"##],
        ["engine", "concordat-cel@1", "guards", "actions"],
    ]});
    add("request", "source", [b"\x01", strict.to_string().as_bytes()].concat());

    let bet = include_str!("../../../docs/machines/bet.json").replace('\n', " ");
    let lines = "{\"type\":\"LOAD\",\"data\":{},\"pubkey\":\"0000000000000000000000000000000000000000000000000000000000000001\",\"now\":1800000001}\n{\"type\":\"CANCEL\",\"now\":1800000002.5}";
    add("definition", "bet", format!("{bet}\n{lines}").into_bytes());
    let inputs = "{\"type\":\"ADD\",\"data\":{\"n\":1}}\n{\"type\":\"SAY\"}\n{\"type\":\"LATER\",\"now\":1800000009}\n{\"type\":\"STOP\"}\n{\"type\":\"NEVER\"}";
    add("definition", "counter", format!("{}\n{inputs}", counter()).into_bytes());
    add("definition", "features", format!("{}\n{inputs}", features()).into_bytes());

    for (n, (source, payload)) in EXPRESSIONS.iter().enumerate() {
        add("cel", &format!("{n}"), [source.as_bytes(), b"\0", payload.as_bytes()].concat());
    }

    // The announcement is dlcspecs' own; see crates/machine/tests/vectors.
    add("oracle", "outcome", include_bytes!("../corpus/oracle/seed-outcome").to_vec());
    add("oracle", "number", include_bytes!("../corpus/oracle/seed-number").to_vec());

    let history = history();
    let lines: Vec<&str> = history.public.iter().map(ValidEvent::json).collect();
    add("history", "whole", [&[1], lines.join("\n").as_bytes()].concat());
    add("history", "first", [&[3], lines[..3].join("\n").as_bytes()].concat());
    let specs: Vec<String> =
        [log_spec(0), log_spec(1), definition, input].iter().map(Value::to_string).collect();
    add("history", "specs", [&[3], specs.join("\n").as_bytes()].concat());

    let leaves = leaves(&history);
    add("state_chunk", "whole", [&[0, 0], leaves.join(&b'\n').as_slice()].concat());
    add("state_chunk", "half", [&[1, 0], leaves.join(&b'\n').as_slice()].concat());
    for (n, part) in leaves.chunks(leaves.len().div_ceil(3)).enumerate() {
        add("state_chunk", &format!("part-{n}"), [&[0, 0], part.join(&b'\n').as_slice()].concat());
    }
    for (name, key) in [("there", history.machine), ("absent", Hash::ZERO)] {
        let proof = history.ledger.prove(&key).unwrap().to_json().unwrap();
        let key = String::from_utf8(concordat_ledger::machine_key(&key)).unwrap();
        add("proof", name, format!("{key}\n{proof}").into_bytes());
    }
    let zero = Hash::ZERO;
    add(
        "proof",
        "other",
        format!("k\n{{\"end\":{{\"other\":[\"{zero}\",\"{zero}\"]}},\"path\":[]}}").into_bytes(),
    );

    for (name, bytes) in ceremony() {
        add("ceremony", name, bytes);
    }
    for (name, bytes) in stories() {
        add("decider", name, bytes);
    }
    seeds
}

const EXPRESSIONS: &[(&str, &str)] = &[
    ("context.n + 1 > 7 && size(context.l) == 4", "null"),
    (
        "event.data.items.filter(i, i.price > 10).map(i, i.price * 2)",
        r#"{"items":[{"price":11},{"price":9}]}"#,
    ),
    ("context.l.exists(x, x == event.data) ? string(now) + 'ms' : 'none'", "1"),
    ("has(context.m.k) && context.m['k'].deep[0] in [0, 1, 2] || !(state == 'a')", "null"),
    (
        "event.data.s.startsWith('ab') && event.data.s.contains(\"b\") && event.data.s.endsWith('c')",
        r#"{"s":"abc"}"#,
    ),
    ("{'a': -context.n, 'b': [1, 2] + context.l, 'c': int('12') % 5 / 2}", "null"),
    (
        "context.l.all(x, context.l.exists_one(y, y == x)) && event.pubkey != null && event.created_at >= 0",
        "null",
    ),
    // The smallest integer has no absolute value.
    ("int('-9223372036854775808')", "-9223372036854775808"),
    ("[[1,2],[3]].map(a, a.map(b, b > 1, [a, b].map(c, size(string(c)))))", "null"),
];

fn envelope(kind: Kind, body: Vec<u8>, attachment: Vec<u8>) -> wire::Envelope {
    wire::Envelope { sender: 1, seq: 3, kind: kind as u32, body, signature: Vec::new(), attachment }
}

/// One message of every kind: kind, body, attachment.
pub fn messages() -> Vec<(Kind, Vec<u8>, Vec<u8>)> {
    let id = vec![7; 32];
    let (epoch, height) = (2, 7);
    let plain = |kind, body: Vec<u8>| (kind, body, Vec::new());
    let vote = wire::Again { epoch, height, id: id.clone() }.encode_to_vec();
    let commitments = wire::Commitments { commitments: vec![commitment()] }.encode_to_vec();
    let prepare = wire::Prepare { epoch, height, id: id.clone(), commitments: id.clone() }.encode_to_vec();
    let bare = || envelope(Kind::Prepare, prepare.clone(), Vec::new());
    let cert = wire::PrepareCert {
        epoch,
        height,
        id: id.clone(),
        prepares: vec![bare(), bare(), bare()],
        batch_hashes: vec![id.clone()],
    };
    let full = || envelope(Kind::Prepare, prepare.clone(), commitments.clone());
    let certify =
        wire::Certify { cert: Some(cert.clone()), attempt: 1, signers: vec![full(), full(), full()] };
    let head = certified_head();
    let lock = wire::PrepareCert { epoch: 1, height: 4, ..cert.clone() };
    let grant = wire::Grant {
        epoch,
        certified: log_spec(3).to_string().into_bytes(),
        lock: Some(lock),
        evidence: vec![contradiction()],
    };
    let complaint = wire::Complaint { epoch: 1, cause: 2, next_height: 4 }.encode_to_vec();
    let complaints = wire::Proof { messages: vec![envelope(Kind::Complaint, complaint.clone(), Vec::new())] };
    let small = wire::Grant { epoch, ..Default::default() }.encode_to_vec();
    let grants = || vec![envelope(Kind::Grant, small.clone(), Vec::new()); 3];
    let opening = wire::Opening { grants: grants(), evidence: vec![invalid_batch()], resume: Vec::new() }
        .encode_to_vec();
    let report = wire::Report {
        epoch,
        certified: log_spec(6).to_string().into_bytes(),
        lock: Some(cert.clone()),
        prepared: Some(wire::Again { epoch, height, id: id.clone() }),
        batch_hashes: vec![id.clone()],
        resumed: 1,
    };
    let resume = wire::Resume {
        epoch: 3,
        certified: log_spec(6).to_string().into_bytes(),
        lock: None,
        possible: Some(wire::Again { epoch, height, id: id.clone() }),
        batch_hashes: vec![id.clone()],
    }
    .encode_to_vec();
    let resumed = wire::Opening {
        grants: Vec::new(),
        evidence: vec![contradiction()],
        resume: vec![envelope(Kind::Resume, resume.clone(), Vec::new()); 3],
    }
    .encode_to_vec();
    let state = wire::State {
        height,
        place: vec![0; 32],
        beside: vec![id.clone()],
        leaves: vec![wire::Leaf { key: b"k".to_vec(), value: b"v".to_vec() }],
    };
    let claim = wire::Claim { sender: 2, seq: 9, kind: 4, body_hash: id.clone(), signature: Vec::new() };
    let answer = wire::Answer {
        nonce: id.clone(),
        highest: Some(claim),
        certified: log_spec(0).to_string().into_bytes(),
        quarantined: true,
        starting: false,
        intact: true,
    };
    let share = wire::Share { epoch, height, id: id.clone(), session: id.clone(), shares: vec![vec![1; 32]] };
    vec![
        plain(Kind::Requests, wire::Requests { events: batch().requests }.encode_to_vec()),
        (
            Kind::Wrapper,
            wire::Wrapper { epoch, number: 3, previous: id.clone(), batch: id.clone() }.encode_to_vec(),
            batch().encode_to_vec(),
        ),
        plain(Kind::Propose, wire::Propose { epoch, height, number: 3, id: id.clone() }.encode_to_vec()),
        (Kind::Prepare, prepare.clone(), commitments.clone()),
        plain(Kind::Certify, certify.encode_to_vec()),
        plain(Kind::Lock, wire::Lock { cert: Some(cert.clone()) }.encode_to_vec()),
        plain(
            Kind::Refuse,
            wire::Refuse { epoch, height, id: id.clone(), reason: 1, lock: Some(cert) }.encode_to_vec(),
        ),
        plain(Kind::Shown, wire::Shown { prepares: vec![full()] }.encode_to_vec()),
        plain(Kind::Share, share.encode_to_vec()),
        plain(Kind::Again, vote),
        plain(Kind::Certificate, head.certificate.clone().unwrap_or_default().encode_to_vec()),
        (Kind::Complaint, complaint, wire::Proof { messages: grants() }.encode_to_vec()),
        (Kind::Grant, grant.encode_to_vec(), complaints.encode_to_vec()),
        (Kind::EpochStart, wire::EpochStart { epoch, opening: id.clone() }.encode_to_vec(), opening),
        plain(Kind::Evidence, contradiction().encode_to_vec()),
        plain(Kind::Question, wire::Question { nonce: id.clone() }.encode_to_vec()),
        plain(Kind::Answer, answer.encode_to_vec()),
        plain(Kind::FetchHeads, wire::FetchHeads { from: 3 }.encode_to_vec()),
        plain(
            Kind::Heads,
            wire::Heads { heads: vec![head], newest: log_spec(9).to_string().into_bytes() }.encode_to_vec(),
        ),
        plain(Kind::FetchBatches, wire::FetchBatches { hashes: vec![id.clone()] }.encode_to_vec()),
        plain(Kind::Batches, wire::Batches { batches: vec![batch()] }.encode_to_vec()),
        plain(Kind::Nudge, Vec::new()),
        plain(Kind::FetchState, wire::FetchState { height, place: id.clone() }.encode_to_vec()),
        plain(Kind::State, state.encode_to_vec()),
        plain(Kind::Report, report.encode_to_vec()),
        plain(Kind::Resume, resume),
        (Kind::EpochStart, wire::EpochStart { epoch: 3, opening: id }.encode_to_vec(), resumed),
    ]
}

/// Two points: the keys of two founders.
fn commitment() -> Vec<u8> {
    commitment_of(0)
}

/// Two points, others for other numbers: keys that the harness knows.
pub fn commitment_of(number: u32) -> Vec<u8> {
    let world = world();
    let keys: Vec<_> = world.custodians.values().chain(&world.users).map(|key| key.public_key()).collect();
    let (first, step) = (number as usize % keys.len(), number as usize / keys.len() % (keys.len() - 1));
    let second = (first + 1 + step) % keys.len();
    [keys[first].serialize(), keys[second].serialize()].concat()
}

/// Stories of a custodian: how it comes to certify, and what ends its epochs.
fn stories() -> Vec<(&'static str, Vec<u8>)> {
    let step = |step: Step, how: u8| vec![step as u8, how];
    let carrying = |step: Step, bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[step as u8, 0], &length[..], bytes].concat()
    };
    let echo = |kind: Kind, peer: u8| {
        let place = KINDS.iter().position(|known| *known == kind).unwrap() as u8;
        step(Step::Echo, place | peer << 5)
    };
    let tick = || step(Step::Tick, 1);
    let round = || {
        let votes = [echo(Kind::Prepare, 0), echo(Kind::Prepare, 1), echo(Kind::Prepare, 2)].concat();
        [votes, echo(Kind::Share, 0), echo(Kind::Share, 1), echo(Kind::Share, 2)].concat()
    };
    let start = [step(Step::Answer, 0), step(Step::Answer, 1), step(Step::Answer, 2), tick()].concat();
    let first = [start.clone(), step(Step::Appended, 0), round()].concat();
    let request = carrying(Step::Request, definition_spec().to_string().as_bytes());
    let second = [first.clone(), request, tick(), step(Step::Appended, 0), round()].concat();
    let wrapper = wire::Wrapper { batch: vec![0; 32], previous: vec![0; 32], ..Default::default() };
    let entry = envelope(Kind::Wrapper, wrapper.encode_to_vec(), batch().encode_to_vec());
    let opening = wire::Opening { grants: vec![grant_of(1); 3], ..Default::default() }.encode_to_vec();
    let opened = wire::EpochStart { epoch: 1, opening: vec![0; 32] }.encode_to_vec();
    let enter = [
        step(Step::Resign, 0),
        echo(Kind::Complaint, 0),
        echo(Kind::Complaint, 1),
        echo(Kind::Grant, 0),
        echo(Kind::Grant, 1),
        carrying(Step::Entry, &envelope(Kind::EpochStart, opened, opening).encode_to_vec()),
        carrying(Step::Entry, &entry.encode_to_vec()),
        tick(),
    ];
    let again = [step(Step::Restart, 0), start, tick(), round()].concat();
    let propose = wire::Propose { epoch: 0, height: 1, number: 1, id: vec![7; 32] }.encode_to_vec();
    let lie = [
        carrying(
            Step::Message,
            &envelope(Kind::Evidence, contradiction().encode_to_vec(), Vec::new()).encode_to_vec(),
        ),
        carrying(Step::Message, &envelope(Kind::Propose, propose, Vec::new()).encode_to_vec()),
        step(Step::Reachable, 1),
        step(Step::Reachable, 0),
        step(Step::GroupFailed, 0),
        step(Step::Tick, 255),
    ];
    let relayed = carrying(Step::Relayed, log_spec(3).to_string().as_bytes());
    vec![
        ("first", first.clone()),
        ("second", second.clone()),
        ("epoch", [second.clone(), enter.concat()].concat()),
        ("restart", [first.clone(), again].concat()),
        ("lies", [second, lie.concat()].concat()),
        ("relayed", [first, relayed, tick()].concat()),
    ]
}

/// A grant of an epoch on nothing.
fn grant_of(epoch: u64) -> wire::Envelope {
    envelope(Kind::Grant, wire::Grant { epoch, ..Default::default() }.encode_to_vec(), Vec::new())
}

fn batch() -> wire::Batch {
    let requests = [definition_spec(), input_spec()].into_iter().map(|spec| spec.to_string().into_bytes());
    wire::Batch { time_ms: START, requests: requests.collect() }
}

fn certified_head() -> wire::CertifiedHead {
    let certificate = wire::Certificate {
        log_event: log_spec(3).to_string().into_bytes(),
        signatures: vec![vec![0; 64], vec![0; 64]],
    };
    let event = json!({"kind": 30078, "tags": [["d", "x"]], "content": "{}"}).to_string().into_bytes();
    wire::CertifiedHead { certificate: Some(certificate), batches: vec![batch()], events: vec![event] }
}

/// Two proposals for one height.
fn contradiction() -> wire::Evidence {
    let propose = |byte| {
        let body = wire::Propose { epoch: 1, height: 4, number: 2, id: vec![byte; 32] };
        envelope(Kind::Propose, body.encode_to_vec(), Vec::new())
    };
    wire::Evidence { messages: vec![propose(1), propose(2)] }
}

/// A batch that holds one request twice.
fn invalid_batch() -> wire::Evidence {
    let body = wire::Wrapper { epoch: 1, number: 4, previous: vec![0; 32], batch: vec![0; 32] };
    let outline = wire::Outline { time_ms: START, ids: vec![9; 64] };
    wire::Evidence { messages: vec![envelope(Kind::Wrapper, body.encode_to_vec(), outline.encode_to_vec())] }
}

/// The fixed part of a safety record, by its field numbers: its form is private to the core.
fn record(vote: &wire::Again) -> Vec<u8> {
    let vote = vote.encode_to_vec();
    let mut bytes = vec![0x08, 5, 0x10, 2, 0x18, 1, 0x20, 3, 0x2a, vote.len() as u8];
    bytes.extend(&vote);
    bytes.extend([0x3a, vote.len() as u8]);
    bytes.extend(&vote);
    bytes.extend([0x42, 32]);
    bytes.extend([4; 32]);
    bytes.extend([0x48, 9, 0x58, 1, 0x62, 2, 1, 2]);
    bytes
}

fn log_spec(height: u64) -> Value {
    let id = Hash::ZERO.to_hex();
    let content = json!({"height": height, "time": START + height, "batches": [[START, 1], [START + 1, 1]]});
    json!({"kind": 400, "pubkey": "g", "content": content.to_string(),
        "tags": [["e", id, "", "ok"], ["e", id, "", "rejected", "guard_false"]]})
}

fn definition_spec() -> Value {
    let tags = definition_tags(&super::mend::group(), "counter", Some("Counter"), Mode::Sequenced);
    json!({"kind": 7500, "tags": tags, "content": counter().to_string(), "created_at": START / 1000})
}

fn input_spec() -> Value {
    let tags = input_tags(Hash::ZERO, "ADD", Some(Hash::ZERO));
    json!({"kind": 7501, "tags": tags, "content": "{\"n\": [1, \"two\", null, -3]}", "pubkey": "1"})
}

/// Counts, says, waits and ends.
fn counter() -> Value {
    json!({
        "id": "counter", "initial": "on", "context": {"n": 0},
        "states": {
            "on": {"on": {
                "ADD": {"actions": {"type": "cel.assign", "params": {"n": "context.n + 1"}}},
                "NEVER": {"guard": {"type": "cel", "params": {"expr": "context.n < 0"}}, "target": "off"},
                "SAY": {"actions": {"type": "publish", "params":
                    {"kind": 39000, "content": {"cel": "string(context.n)"}, "tags": [["d", "x"]]}}},
                "LATER": "later", "STOP": "off",
            }},
            "later": {"after": {"1000": "on", "500": {"target": "off", "guard": {"type": "isCreator"}}}},
            "off": {"type": "final"},
        },
    })
}

/// Most of what a statechart may have.
fn features() -> Value {
    json!({
        "id": "m", "type": "parallel", "context": {"n": 0}, "output": {"n": {"cel": "context.n"}},
        "delays": {"soon": {"cel": "context.n * 10"}},
        "states": {
            "a": {"initial": "x", "states": {
                "x": {"entry": {"type": "raise", "params": {"type": "GO"}}, "on": {"GO": "y", "ADD": [
                    {"guard": {"type": "not", "params": {"guard": {"type": "stateIn", "params": {"state": "#m.b.p"}}}}, "target": "y"},
                    {"target": "x", "reenter": true},
                ]}},
                "y": {"on": {"STOP": "#m.a.h", "SAY": {"target": ["#m.a.x", "#m.b.q"]}}, "after": {"soon": "z"}},
                "z": {"type": "final"},
                "h": {"type": "history", "history": "deep", "target": "x"},
            }, "onDone": {"actions": {"type": "cel.assign", "params": {"n": "context.n + 1"}}}},
            "b": {"initial": "p", "states": {
                "p": {"always": {"guard": {"type": "cel", "params": {"expr": "context.n > 2"}}, "target": "q"}},
                "q": {"type": "final", "output": {"k": [1, {"cel": "now"}]}},
            }},
        },
    })
}

struct History {
    ledger: Ledger<Arc<MemoryStore>>,
    machine: Hash,
    public: Vec<ValidEvent>,
}

/// Three heads: the first, a machine's start, and an input with an effect and a timer.
fn history() -> History {
    let store = Arc::new(MemoryStore::default());
    let mut ledger = Ledger::open(store.clone(), world().context.genesis.clone()).unwrap();
    let user = public(&world().users[0]);
    let signed = |kind, tags, content: &str| {
        let template =
            Template { author: user, created_at: START / 1000, kind, tags, content: content.to_owned() };
        sign(&template).unwrap().unwrap()
    };
    let tags = definition_tags(&super::mend::group(), "counter", None, Mode::Sequenced);
    let source = vec!["source".to_owned(), r#"{"kinds":[1]}"#.to_owned()];
    let definition = signed(7500, [tags, vec![source]].concat(), &counter().to_string());
    let machine = definition.id();
    let input = |kind, content| signed(7501, input_tags(machine, kind, None), content);
    let mut public: Vec<ValidEvent> = Vec::new();
    let second = vec![input("ADD", ""), input("SAY", "1"), input("SAY", "2"), input("LATER", "null")];
    for (ms, requests) in [(0, vec![]), (1_000, vec![definition]), (2_000, second)] {
        let batches = match ms {
            0 => Vec::new(),
            _ => vec![Batch { time_ms: START + ms, requests: requests.clone() }],
        };
        let draft = ledger.execute(&batches).unwrap();
        public.extend(requests);
        public.extend(draft.messages.iter().map(|message| sign(message).unwrap().unwrap()));
        let writes = ledger.install(draft).unwrap();
        store.apply(writes).unwrap();
    }
    ledger.freeze();
    History { ledger, machine, public }
}

/// The leaves of a state that fits into one chunk.
fn leaves(history: &History) -> Vec<Vec<u8>> {
    let chunk = history.ledger.chunk(&Hash::ZERO).unwrap().unwrap();
    chunk.leaves.into_iter().map(|(key, value)| [key, b"\t".to_vec(), value].concat()).collect()
}

/// A ceremony's messages by their field numbers.
fn ceremony() -> Vec<(&'static str, Vec<u8>)> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat();
    // Numbers from 16 on take two bytes.
    let high = |number: u8, bytes: &[u8]| {
        [&[(number << 3 | 2) | 0x80, number >> 4, bytes.len() as u8][..], bytes].concat()
    };
    let start = [&[0x08, 1][..], &field(2, &[3; 32])].concat();
    let message = |body: Vec<u8>| [start.clone(), body].concat();
    let view = [field(1, &[5; 32]), field(1, &[6; 32])].concat();
    let round1 =
        [commitment(), world().users[0].public_key().serialize()[1..].to_vec(), vec![1; 32]].concat();
    vec![
        (
            "round1",
            [start.clone(), vec![10 << 3 | 2, (round1.len() as u8) | 0x80, 1], round1.clone()].concat(),
        ),
        ("echo", message(field(11, &view))),
        ("round2", message(field(12, &[&[0x08, 2][..], &field(2, &[1; 32])].concat()))),
        ("confirm", message(field(13, &[9; 32]))),
        ("test-commit", message(field(14, &commitment()))),
        ("test-share", message(field(15, &[field(1, &view), field(2, &[1; 32])].concat()))),
        ("done", message(high(16, &[8; 64]))),
        ("abort", message(high(17, &[0x08, 1, 0x12, 1, 2]))),
    ]
}
