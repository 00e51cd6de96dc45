//! The standard machines of docs/machines: what they promise to people who deal with each other, refusals included.

use concordat_events::kinds::STATEMENT;
use concordat_events::{Hash, Mode, ValidEvent};
use concordat_machine::records_root;
use nostr::Keys;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::world::*;

/// Seconds of the start.
const S: u64 = START / 1000;

fn service(file: &str) -> Value {
    serde_json::from_str(file).unwrap()
}

fn escrow_text() -> Value {
    service(include_str!("../../../../docs/machines/escrow.json"))
}

fn vote_text() -> Value {
    service(include_str!("../../../../docs/machines/vote.json"))
}

/// A service that somebody starts with this input.
fn started(
    world: &mut World,
    content: &Value,
    d: &str,
    input: &Value,
    source: Option<&str>,
) -> (ValidEvent, String) {
    let text = input.to_string();
    let mut more = vec![["input", text.as_str()]];
    more.extend(source.map(|filter| ["source", filter]));
    let definition = world.definition_with(&Keys::generate(), d, content, Mode::Sequenced, &more);
    let outcome = world.one(0, &definition);
    (definition, outcome)
}

/// An input with this payload.
fn says(keys: &Keys, machine: &ValidEvent, kind: &str, data: &Value) -> ValidEvent {
    says_at(keys, machine, kind, data, 0)
}

/// The same, signed so many seconds after the start.
fn says_at(keys: &Keys, machine: &ValidEvent, kind: &str, data: &Value, second: u64) -> ValidEvent {
    let tags = concordat_events::request::input_tags(machine.id(), kind, None);
    event(keys, concordat_events::kinds::INPUT, tags, &data.to_string(), (S + second) * 1000)
}

/// The statements of a machine among everything that is public.
fn statements(world: &World, machine: &ValidEvent) -> Vec<Value> {
    let id = machine.id().to_hex();
    let said = world.public.iter().filter(|event| event.kind() == STATEMENT && event.tag("e") == Some(&id));
    said.map(|event| serde_json::from_str(event.content()).unwrap()).collect()
}

struct Deal {
    world: World,
    machine: ValidEvent,
    /// Buyer, seller, three arbiters, three oracles, a stranger.
    people: Vec<Keys>,
    now: u64,
}

impl Deal {
    /// An escrow: two of three arbiters; two of three oracles if there are any.
    fn new(oracles: bool) -> Self {
        let mut world = World::new();
        let people: Vec<Keys> = (0..9).map(|_| Keys::generate()).collect();
        let key = |n: usize| people[n].public_key().to_hex();
        let input = json!({
            "buyer": key(0), "seller": key(1), "arbiters": [key(2), key(3), key(4)], "arbiter_quorum": 2,
            "oracles": if oracles { json!([key(5), key(6), key(7)]) } else { json!([]) }, "oracle_quorum": 2,
            "fund_by": S + 100, "deliver_by": S + 200, "inspection_s": 50, "arbiter_timeout_s": 500,
        });
        let (machine, outcome) = started(&mut world, &escrow_text(), "escrow", &input, None);
        assert_eq!(outcome, "ok");
        Deal { world, machine, people, now: 1 }
    }

    fn key(&self, n: usize) -> String {
        self.people[n].public_key().to_hex()
    }

    /// A second passes and somebody says something; the outcome.
    fn says(&mut self, who: usize, kind: &str, data: Value) -> String {
        self.now += 1;
        let request = says_at(&self.people[who], &self.machine, kind, &data, self.now);
        self.world.one(self.now * 1000, &request)
    }

    fn fund(&mut self) {
        assert_eq!(self.says(0, "FUND", json!({"deposit": "token"})), "ok");
    }

    /// Time passes.
    fn at(&mut self, second: u64) {
        self.now = second;
        self.world.head(second * 1000, &[]);
    }

    /// Where it ended, who gets the deposit; said exactly once, and nothing changes afterwards.
    fn ends(&mut self, state: &str, to: Option<usize>) {
        assert_eq!(self.world.value(&self.machine), json!(state));
        let payouts: Vec<Value> =
            to.iter().map(|n| json!({"deposit": "token", "to": self.key(*n)})).collect();
        let expected = json!({"outcome": state, "payouts": payouts});
        assert_eq!(statements(&self.world, &self.machine), [expected]);
        for (who, kind) in [(0, "RELEASE"), (1, "REFUND"), (2, "RULING")] {
            assert_eq!(self.says(who, kind, json!({"to": self.key(who)})), "done");
        }
        self.at(self.now + 10_000);
        assert_eq!(statements(&self.world, &self.machine).len(), 1);
    }
}

#[test]
fn an_escrow_pays_by_the_hand_of_who_gives() {
    let mut deal = Deal::new(false);
    assert_eq!(deal.says(1, "FUND", json!({"deposit": "token"})), "guard_false", "only the buyer pays");
    assert_eq!(deal.says(0, "FUND", json!({"deposit": ""})), "guard_false");
    deal.fund();
    assert_eq!(deal.says(0, "FUND", json!({"deposit": "another"})), "unknown_event", "once");
    assert_eq!(deal.says(1, "RELEASE", json!({})), "guard_false", "the seller can't pay himself");
    assert_eq!(deal.says(0, "REFUND", json!({})), "guard_false", "nor the buyer herself");
    assert_eq!(deal.says(8, "DISPUTE", json!({})), "guard_false");
    assert_eq!(deal.says(0, "RELEASE", json!({})), "ok");
    deal.ends("released", Some(1));

    let mut deal = Deal::new(false);
    deal.fund();
    assert_eq!(deal.says(1, "REFUND", json!({})), "ok");
    deal.ends("refunded", Some(0));

    let mut deal = Deal::new(false);
    deal.fund();
    assert_eq!(deal.says(0, "CANCEL", json!({})), "ok");
    assert_eq!(deal.says(0, "CANCEL", json!({})), "guard_false", "one of two, twice, isn't both");
    assert_eq!(deal.says(8, "CANCEL", json!({})), "guard_false");
    assert_eq!(deal.world.value(&deal.machine), json!("funded"));
    assert_eq!(deal.says(1, "CANCEL", json!({})), "ok");
    deal.ends("refunded", Some(0));
}

#[test]
fn an_escrow_ends_by_its_deadlines() {
    let mut deal = Deal::new(false);
    deal.at(100);
    deal.ends("cancelled", None);

    let mut deal = Deal::new(false);
    deal.fund();
    deal.at(200);
    deal.ends("refunded", Some(0));

    // Delivered, and the buyer says nothing.
    let mut deal = Deal::new(false);
    deal.fund();
    assert_eq!(deal.says(0, "DELIVERED", json!({})), "guard_false");
    assert_eq!(deal.says(1, "DELIVERED", json!({})), "ok");
    assert_eq!(deal.world.value(&deal.machine), json!("delivered"));
    assert_eq!(deal.says(1, "DISPUTE", json!({})), "guard_false", "the seller has what he says");
    deal.at(100);
    deal.ends("released", Some(1));

    // Disputed, and the arbiters say nothing.
    let mut deal = Deal::new(false);
    deal.fund();
    assert_eq!(deal.says(1, "DELIVERED", json!({})), "ok");
    assert_eq!(deal.says(0, "DISPUTE", json!({})), "ok");
    deal.at(600);
    deal.ends("refunded", Some(0));
}

#[test]
fn an_escrows_panels_decide_by_their_quorum() {
    let mut deal = Deal::new(true);
    deal.fund();
    assert_eq!(deal.says(1, "DELIVERED", json!({})), "guard_false", "the oracles say so, not the seller");
    assert_eq!(deal.says(5, "DELIVERED", json!({})), "ok");
    assert_eq!(deal.says(5, "DELIVERED", json!({})), "guard_false");
    assert_eq!(deal.world.value(&deal.machine), json!("funded"));
    assert_eq!(deal.says(7, "DELIVERED", json!({})), "ok");
    assert_eq!(deal.world.value(&deal.machine), json!("delivered"));
    assert_eq!(deal.says(0, "DISPUTE", json!({})), "ok");
    let (buyer, seller) = (deal.key(0), deal.key(1));
    assert_eq!(deal.says(8, "RULING", json!({"to": seller})), "guard_false");
    assert_eq!(
        deal.says(2, "RULING", json!({"to": deal.key(2)})),
        "guard_false",
        "only one of the two gets it"
    );
    assert_eq!(deal.says(2, "RULING", json!({"to": seller})), "ok");
    assert_eq!(deal.says(2, "RULING", json!({"to": seller})), "guard_false");
    assert_eq!(deal.says(3, "RULING", json!({"to": buyer})), "ok");
    assert_eq!(deal.world.value(&deal.machine), json!("disputed"));
    assert_eq!(deal.says(4, "RULING", json!({"to": seller})), "ok");
    deal.ends("released", Some(1));
}

/// Both want the last word in one head: the log decides, once; the loser is told why.
#[test]
fn of_two_words_on_one_head_the_first_in_the_log_stands() {
    for seller_first in [false, true] {
        let mut deal = Deal::new(false);
        deal.fund();
        let release = says(&deal.people[0], &deal.machine, "RELEASE", &json!({}));
        let refund = says(&deal.people[1], &deal.machine, "REFUND", &json!({}));
        let order = if seller_first { [&refund, &release] } else { [&release, &refund] };
        assert_eq!(deal.world.head(10_000, &order).0, ["ok", "done"]);
        deal.now = 10;
        deal.ends(if seller_first { "refunded" } else { "released" }, Some(if seller_first { 0 } else { 1 }));
    }
}

/// A vote of these settings, opening after 10 s, closing after 100, revealed until 200.
fn vote(world: &mut World, organiser: &Keys, settings: &Value, source: Option<&str>) -> (ValidEvent, String) {
    let mut input = json!({
        "organiser": organiser.public_key().to_hex(), "question": "Which?", "options": ["red", "blue"],
        "open": true, "secret": false, "change": false, "poll": null,
        "opens_at": S + 10, "closes_at": S + 100, "reveal_until": S + 200,
    });
    input.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    started(world, &vote_text(), "vote", &input, source)
}

fn choice(of: &str) -> Value {
    json!({ "choice": of })
}

fn tally(world: &World, machine: &ValidEvent) -> Vec<i64> {
    let tally = world.context(machine, "tally");
    tally.as_array().unwrap().iter().map(|row| row["votes"].as_i64().unwrap()).collect()
}

#[test]
fn a_vote_takes_one_of_each_key_while_it_is_open() {
    let mut world = World::new();
    let keys: Vec<Keys> = (0..4).map(|_| Keys::generate()).collect();
    let (machine, _) = vote(&mut world, &keys[0], &json!({}), None);
    let ballot = |n: usize, of: &str| says(&keys[n], &machine, "VOTE", &choice(of));
    assert_eq!(world.one(9_000, &ballot(0, "red")), "unknown_event", "not open yet");
    let late = ballot(3, "blue");
    let second = ballot(1, "red");
    let requests = [&ballot(1, "blue"), &second, &ballot(2, "blue"), &ballot(3, "green")];
    assert_eq!(world.head(11_000, &requests).0, ["ok", "guard_false", "ok", "guard_false"]);
    assert_eq!(tally(&world, &machine), [0, 2]);
    // At closing time the vote is closed, whatever the order of the batch. Who is late is told so in the log, once.
    world.head(100_000, &[]);
    assert_eq!(world.ledger.judge(&late, START + 100_000).unwrap(), None);
    assert_eq!(world.one(100_001, &late), "done");
    assert_eq!(world.ledger.judge(&late, START + 100_002).unwrap().unwrap().code(), "duplicate");
    assert_eq!(world.value(&machine), json!("closed"));
    let result = json!({
        "question": "Which?", "votes": 2,
        "tally": [{"option": "red", "votes": 0}, {"option": "blue", "votes": 2}],
    });
    assert_eq!(statements(&world, &machine), [result]);
    // Anybody who has the votes can check that these are all of them, and count.
    let pairs: Vec<(String, Value)> = [1, 2]
        .map(|n: usize| (keys[n].public_key().to_hex(), json!({"choice": "blue", "at": S})))
        .into_iter()
        .collect();
    let root = records_root("votes", pairs.iter().map(|(key, value)| (key, value)));
    let view = world.ledger.machine(&machine.id()).unwrap().unwrap();
    assert_eq!(view.snapshot()["records"]["votes"], json!({"count": 2, "root": root}));
}

#[test]
fn a_roster_is_the_organisers_and_a_vote_may_be_changed_where_that_is_said() {
    let mut world = World::new();
    let keys: Vec<Keys> = (0..3).map(|_| Keys::generate()).collect();
    let (machine, _) = vote(&mut world, &keys[0], &json!({"open": false, "change": true}), None);
    let enrol = |by: usize, whom: usize| {
        says(&keys[by], &machine, "ENROL", &json!({"key": keys[whom].public_key().to_hex()}))
    };
    let requests = [&enrol(1, 1), &enrol(0, 1), &enrol(0, 2)];
    assert_eq!(world.head(1_000, &requests).0, ["guard_false", "ok", "ok"]);
    let ballot = |n: usize, of: &str| says(&keys[n], &machine, "VOTE", &choice(of));
    let requests = [&ballot(0, "red"), &ballot(1, "red"), &ballot(2, "red"), &ballot(1, "blue")];
    assert_eq!(world.head(11_000, &requests).0, ["guard_false", "ok", "ok", "ok"]);
    assert_eq!(tally(&world, &machine), [1, 1]);
    assert_eq!(world.one(12_000, &enrol(0, 0)), "unknown_event", "the roster is closed");
}

#[test]
fn commitments_bind_and_can_not_be_copied() {
    let mut world = World::new();
    let keys: Vec<Keys> = (0..3).map(|_| Keys::generate()).collect();
    let (machine, _) = vote(&mut world, &keys[0], &json!({"secret": true}), None);
    let salt = "0123456789abcdef";
    let sealed = |n: usize, of: &str| {
        let sealed = Sha256::digest(format!("{of}:{salt}:{}", keys[n].public_key().to_hex()));
        Hash::from_bytes(sealed.into()).to_hex()
    };
    let commit = |n: usize, seal: &str| says(&keys[n], &machine, "COMMIT", &json!({"commitment": seal}));
    let reveal =
        |n: usize, of: &str| says(&keys[n], &machine, "REVEAL", &json!({"choice": of, "salt": salt}));
    let requests = [&commit(0, &sealed(0, "red")), &commit(1, &sealed(0, "red")), &commit(2, "00")];
    assert_eq!(world.head(11_000, &requests).0, ["ok", "ok", "guard_false"]);
    let early = says(&keys[0], &machine, "REVEAL", &json!({"choice": "red", "salt": salt, "n": 0}));
    assert_eq!(world.one(12_000, &early), "unknown_event", "nobody sees a vote while others commit");
    assert_eq!(tally(&world, &machine), [0, 0]);
    // Another choice than the one committed to; a commitment copied from another's; who never committed; twice.
    let again = says(&keys[0], &machine, "REVEAL", &json!({"choice": "red", "salt": salt, "n": 1}));
    let requests = [&reveal(0, "blue"), &reveal(1, "red"), &reveal(2, "red"), &reveal(0, "red"), &again];
    assert_eq!(
        world.head(101_000, &requests).0,
        ["guard_false", "guard_false", "guard_false", "ok", "guard_false"]
    );
    world.head(200_000, &[]);
    assert_eq!((world.value(&machine), tally(&world, &machine)), (json!("closed"), vec![1, 0]));
    assert_eq!(statements(&world, &machine).len(), 1);
}

/// Responses to a poll of other clients (NIP-88) count as they would there: the newest of each key within the time.
#[test]
fn poll_responses_are_taken_in() {
    let mut world = World::new();
    let keys: Vec<Keys> = (0..3).map(|_| Keys::generate()).collect();
    let poll = "ab".repeat(32);
    let filter = format!(r##"{{"kinds":[1018],"#e":["{poll}"]}}"##);
    let (machine, outcome) = vote(&mut world, &keys[0], &json!({"poll": poll}), Some(&filter));
    assert_eq!(outcome, "ok");
    let response = |n: usize, options: &[&str], at: u64| {
        let mut tags = vec![vec!["e".to_owned(), poll.clone()]];
        tags.extend(options.iter().map(|of| vec!["response".to_owned(), (*of).to_owned()]));
        event(&keys[n], 1018, tags, "", (S + at) * 1000)
    };
    let (newer, older) = (response(0, &["blue"], 30), response(0, &["red"], 20));
    let requests = [
        &newer,
        &older,
        &response(1, &["red"], 20),
        &response(2, &["red"], 5),
        &response(2, &["green"], 20),
        &response(2, &["red", "blue"], 20),
    ];
    assert_eq!(
        world.head(40_000, &requests).0,
        ["ok", "guard_false", "ok", "guard_false", "guard_false", "guard_false"]
    );
    assert_eq!(tally(&world, &machine), [1, 1]);
    assert_eq!(world.one(41_000, &response(1, &["blue"], 31)), "ok");
    assert_eq!(tally(&world, &machine), [0, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes in which order: the tally is what a recount of the accepted votes gives.
    #[test]
    fn the_tally_is_a_recount(ballots in prop::collection::vec((0usize..4, 0usize..3, any::<bool>()), 0..24), change: bool) {
        let mut world = World::new();
        let keys: Vec<Keys> = (0..4).map(|_| Keys::generate()).collect();
        let (machine, _) = vote(&mut world, &keys[0], &json!({"change": change}), None);
        let names = ["red", "blue", "green"];
        let mut last: Vec<Option<usize>> = vec![None; 4];
        let mut now = 11_000;
        for (at, (voter, of, next)) in ballots.into_iter().enumerate() {
            now += u64::from(next) * 100;
            let data = json!({"choice": names[of], "n": at});
            let outcome = world.one(now, &says(&keys[voter], &machine, "VOTE", &data));
            let taken = of < 2 && (change || last[voter].is_none());
            prop_assert_eq!(outcome, if taken { "ok" } else { "guard_false" });
            if taken {
                last[voter] = Some(of);
            }
        }
        let count = |of: usize| last.iter().filter(|vote| **vote == Some(of)).count() as i64;
        prop_assert_eq!(tally(&world, &machine), vec![count(0), count(1)]);
    }
}
