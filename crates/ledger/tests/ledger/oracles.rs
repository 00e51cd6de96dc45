//! Oracles of discreet log contracts decide a bet: docs/machines/dlc-bet.json in a ledger.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use concordat_events::kinds::{INPUT, STATEMENT};
use concordat_events::request::input_tags;
use concordat_events::{Mode, ValidEvent};
use nostr::Keys;
use serde_json::{Value, json};

use super::dlc_oracle::{Event, Oracle, number, one_of, secret};
use super::world::*;

const S: u64 = START / 1000;
const ANNOUNCED: u16 = 88;
const ATTESTED: u16 = 89;

/// A bet on a match, on two of three oracles: the last one hashes as it did before hashes were tagged.
struct Bet {
    world: World,
    machine: ValidEvent,
    bettors: [Keys; 2],
    arbiter: Keys,
    oracles: Vec<Oracle>,
    now: u64,
}

fn match_() -> Event {
    Event::new("match", one_of(&["red", "blue", "draw"]), 1)
}

fn definition() -> Value {
    serde_json::from_str(include_str!("../../../../docs/machines/dlc-bet.json")).unwrap()
}

impl Bet {
    /// Published, with the announcements as part of its input or still to come.
    fn announced(inline: bool) -> Self {
        let mut bet = Bet {
            world: World::new(),
            machine: event(&Keys::generate(), 1, vec![], "", START),
            bettors: [Keys::generate(), Keys::generate()],
            arbiter: Keys::generate(),
            oracles: [("anna", true), ("bert", true), ("carl", false)]
                .map(|(name, tagged)| Oracle::new(name, tagged))
                .into(),
            now: 0,
        };
        let (outcome, machine) = bet.published(&bet.expected(inline));
        assert_eq!(outcome, "ok");
        bet.machine = machine;
        bet
    }

    fn expected(&self, inline: bool) -> Vec<Value> {
        let expected = self.oracles.iter().map(|oracle| {
            let mut entry = json!({"key": oracle.key(), "event_id": "match"});
            if !oracle.tagged {
                entry["hash"] = json!("legacy_untagged");
            }
            if inline {
                entry["announcement"] = json!(STANDARD.encode(oracle.announces(&match_())));
            }
            entry
        });
        expected.collect()
    }

    fn published(&mut self, oracles: &[Value]) -> (String, ValidEvent) {
        let key = |keys: &Keys| keys.public_key().to_hex();
        let input = json!({
            "bettors": [{"key": key(&self.bettors[0]), "wins": ["red"]}, {"key": key(&self.bettors[1]), "wins": ["blue"]}],
            "oracles": oracles, "oracle_quorum": 2, "arbiters": [key(&self.arbiter)], "arbiter_quorum": 1,
            "match_time": S + 100, "oracle_timeout_s": 1_000, "dispute_window_s": 50, "arbiter_timeout_s": 500,
        });
        let text = input.to_string();
        let more = [["input", text.as_str()], ["source", r#"{"kinds":[88,89]}"#]];
        let definition =
            self.world.definition_with(&Keys::generate(), "bet", &definition(), Mode::Sequenced, &more);
        (self.world.one(0, &definition), definition)
    }

    /// Both stakes are in and the match has begun.
    fn started() -> Self {
        let mut bet = Self::announced(true);
        bet.load();
        bet
    }

    fn load(&mut self) {
        for n in 0..2 {
            let keys = self.bettors[n].clone();
            assert_eq!(self.says(&keys, "LOAD", &json!({"deposit": format!("stake {n}")})), "ok");
        }
        self.at(101);
        assert_eq!(self.state(), "started");
    }

    fn at(&mut self, second: u64) {
        self.now = second;
        self.world.head(second * 1000, &[]);
    }

    fn says(&mut self, keys: &Keys, kind: &str, data: &Value) -> String {
        self.now += 1;
        let tags = input_tags(self.machine.id(), kind, None);
        let said = event(keys, INPUT, tags, &data.to_string(), (S + self.now) * 1000);
        self.world.one(self.now * 1000, &said)
    }

    /// An oracle publishes, and knows nothing of the bet.
    fn published_by_oracle(&mut self, kind: u16, bytes: &[u8]) -> String {
        self.now += 1;
        let said = event(&Keys::generate(), kind, vec![], &STANDARD.encode(bytes), (S + self.now) * 1000);
        self.world.one(self.now * 1000, &said)
    }

    fn attests(&mut self, oracle: usize, outcome: &str) -> String {
        let bytes = self.oracles[oracle].attests(&match_(), &[outcome]);
        self.published_by_oracle(ATTESTED, &bytes)
    }

    fn state(&self) -> Value {
        self.world.value(&self.machine)
    }

    /// The one release statement.
    fn release(&self) -> Value {
        let id = self.machine.id().to_hex();
        let said = self.world.public.iter().filter(|e| e.kind() == STATEMENT && e.tag("e") == Some(&id));
        let said: Vec<Value> = said.map(|e| serde_json::from_str(e.content()).unwrap()).collect();
        assert_eq!(said.len(), 1);
        said[0].clone()
    }

    fn payouts(&self, to: [usize; 2]) -> Value {
        let pay = |n: usize| json!({"deposit": format!("stake {n}"), "to": self.bettors[to[n]].public_key().to_hex()});
        json!([pay(0), pay(1)])
    }
}

#[test]
fn oracles_that_know_nothing_of_a_bet_decide_it() {
    let mut bet = Bet::announced(false);
    assert_eq!(bet.state(), "announcing");
    let loads = bet.bettors[0].clone();
    assert_eq!(
        bet.says(&loads, "LOAD", &json!({"deposit": "x"})),
        "unknown_event",
        "nobody bets on what isn't announced"
    );
    // Another event of the same oracle, another oracle, one that hashes otherwise than it is said to.
    let rematch = bet.oracles[0].announces(&Event::new("rematch", one_of(&["red", "blue"]), 1));
    assert_eq!(bet.published_by_oracle(ANNOUNCED, &rematch), "oracle_event");
    let stranger = Oracle::new("stranger", true).announces(&match_());
    assert_eq!(bet.published_by_oracle(ANNOUNCED, &stranger), "oracle_key");
    let modern = Oracle::new("carl", true).announces(&match_());
    assert_eq!(bet.published_by_oracle(ANNOUNCED, &modern), "oracle_signature");
    assert_eq!(bet.published_by_oracle(ANNOUNCED, b"nonsense"), "oracle_malformed");
    for n in 0..3 {
        let bytes = bet.oracles[n].announces(&match_());
        if n < 2 {
            assert_eq!(bet.published_by_oracle(ANNOUNCED, &bytes), "ok");
            assert_eq!(bet.published_by_oracle(ANNOUNCED, &bytes), "guard_false", "once");
        } else {
            // Anybody may bring it.
            let text = json!({"announcement": STANDARD.encode(&bytes)});
            assert_eq!(bet.says(&Keys::generate(), "ANNOUNCE", &text), "ok");
        }
    }
    assert_eq!(bet.state(), "created");
    bet.load();
    assert_eq!(bet.attests(0, "blue"), "ok");
    assert_eq!(bet.attests(0, "blue"), "guard_false", "an oracle counts once");
    assert_eq!(bet.state(), "started");
    // Carl's word, in the hash that is his; brought by somebody.
    let text = STANDARD.encode(bet.oracles[2].attests(&match_(), &["blue"]));
    assert_eq!(bet.says(&Keys::generate(), "ATTEST", &json!({"attestation": text})), "ok");
    assert_eq!(bet.state(), "decided");
    bet.at(bet.now + 60);
    let release = bet.release();
    assert_eq!((&release["outcome"], &release["word"]), (&json!("won"), &json!("blue")));
    assert_eq!((&release["payouts"], &release["proof"]), (&bet.payouts([1, 1]), &json!([])));
}

#[test]
fn each_wrong_attestation_is_refused_with_its_reason() {
    let mut bet = Bet::started();
    let (anna, event) = (Oracle::new("anna", true), match_());
    let cases = [
        (Oracle::new("stranger", true).attests(&event, &["red"]), "oracle_key"),
        (anna.attests_with("rematch", &event.nonces, &["red"]), "oracle_event"),
        (anna.attests_with("match", &[secret("another")], &["red"]), "oracle_nonce"),
        (anna.attests(&event, &["green"]), "oracle_outcome"),
        (Oracle::new("anna", false).attests(&event, &["red"]), "oracle_signature"),
        (anna.announces(&event), "oracle_malformed"),
    ];
    let before = bet.world.context(&bet.machine, "words");
    for (bytes, reason) in cases {
        assert_eq!(bet.published_by_oracle(ATTESTED, &bytes), reason);
    }
    assert_eq!(
        bet.says(&Keys::generate(), "ATTEST", &json!({"attestation": "not base64"})),
        "oracle_malformed"
    );
    assert_eq!(bet.says(&Keys::generate(), "ATTEST", &json!({"attestation": 7})), "guard_error");
    assert_eq!(bet.world.context(&bet.machine, "words"), before);
    assert_eq!(bet.state(), "started");
}

#[test]
fn an_oracle_that_attests_two_outcomes_is_a_dispute_with_its_proof() {
    for decided in [false, true] {
        let mut bet = Bet::started();
        assert_eq!(bet.attests(0, "red"), "ok");
        if decided {
            assert_eq!(bet.attests(1, "red"), "ok");
            assert_eq!(bet.state(), "decided");
            assert_eq!(bet.attests(2, "blue"), "guard_false", "another oracle's word is no contradiction");
        }
        assert_eq!(bet.attests(0, "blue"), "ok");
        assert_eq!(bet.state(), "disputed");
        let proof = bet.world.context(&bet.machine, "proof");
        // Who has both attestations needs nothing else: one nonce, two outcomes.
        for (n, outcome) in ["red", "blue"].into_iter().enumerate() {
            let bytes = bet.oracles[0].attests(&match_(), &[outcome]);
            assert_eq!(proof[n]["attestation"], STANDARD.encode(bytes));
            assert_eq!(
                (&proof[n]["by"], &proof[n]["outcome"]),
                (&json!(bet.oracles[0].key()), &json!(outcome))
            );
        }
        if decided {
            // The panel decides.
            let (arbiter, winner) = (bet.arbiter.clone(), bet.bettors[1].public_key().to_hex());
            assert_eq!(bet.says(&arbiter, "RULING", &json!({"winner": winner})), "ok");
            assert_eq!(bet.release()["payouts"], bet.payouts([1, 1]));
        } else {
            // Or it is silent: the word of an oracle that has lied decides nothing.
            bet.at(bet.now + 600);
            assert_eq!(
                (&bet.release()["outcome"], &bet.release()["payouts"]),
                (&json!("refunded"), &bet.payouts([0, 1]))
            );
        }
        assert_eq!(bet.release()["proof"], proof);
    }
}

#[test]
fn oracles_that_disagree_or_stay_silent_decide_nothing() {
    let mut bet = Bet::started();
    for (n, outcome) in ["red", "blue", "draw"].into_iter().enumerate() {
        assert_eq!(bet.attests(n, outcome), "ok");
    }
    assert_eq!((bet.state(), bet.world.context(&bet.machine, "proof")), (json!("disputed"), json!([])));

    let mut bet = Bet::started();
    bet.at(1_200);
    assert_eq!(bet.release()["outcome"], "refunded");

    // An outcome that is nobody's.
    let mut bet = Bet::started();
    assert_eq!((bet.attests(0, "draw"), bet.attests(1, "draw")), ("ok".into(), "ok".into()));
    bet.at(bet.now + 60);
    assert_eq!(
        (&bet.release()["outcome"], &bet.release()["payouts"]),
        (&json!("draw"), &bet.payouts([0, 1]))
    );

    // Both bettors together may end it before anybody has decided.
    let mut bet = Bet::started();
    for keys in bet.bettors.clone() {
        assert_eq!(bet.says(&keys, "CANCEL", &json!({})), "ok");
    }
    assert_eq!(bet.release()["outcome"], "cancelled");
}

#[test]
fn a_bet_on_a_wrong_announcement_isnt_admitted() {
    let mut bet = Bet::announced(true);
    let mut wrong = bet.expected(true);
    wrong[0]["announcement"] = wrong[1]["announcement"].clone();
    assert_eq!(bet.published(&wrong).0, "d_taken");
    let mut bet = Bet { world: World::new(), ..bet };
    assert_eq!(bet.published(&wrong).0, "oracle_key");
    let mut wrong = bet.expected(true);
    wrong[2]["hash"] = json!("tagged");
    assert_eq!(bet.published(&wrong).0, "oracle_signature");
    wrong[2]["hash"] = json!("either");
    assert_eq!(bet.published(&wrong).0, "assign_error");
}

/// What a price's digits say is a number in expressions, at the most that an announcement may ask for.
#[test]
fn a_number_of_many_digits_fits_a_guard() {
    let mut world = World::new();
    let oracle = Oracle::new("prices", true);
    let price = Event::new("price", number(2, false, true, 23), 24);
    let entry = json!({"key": oracle.key(), "announcement": STANDARD.encode(oracle.announces(&price))});
    let guard = "[dlc.attestation(context.oracles, event.data.content)].exists(a, a.value == 5 - 8 && a.outcome == '-3')";
    let content = json!({
        "initial": "open",
        "context": {"oracles": {"cel": "input.map(o, dlc.announcement([o], o.announcement))"}},
        "states": {"open": {"on": {"nostr.89": {"target": "low", "guard": {"type": "cel", "params": {"expr": guard}}}}}, "low": {}},
    });
    let input = json!([entry]).to_string();
    let more = [["input", input.as_str()], ["source", r#"{"kinds":[89]}"#]];
    let machine = world.definition_with(&Keys::generate(), "price", &content, Mode::Sequenced, &more);
    assert_eq!(world.one(0, &machine), "ok");
    assert_eq!(world.context(&machine, "oracles")[0]["unit"], "USD");
    let mut signed = vec!["0"; 24];
    (signed[0], signed[22], signed[23]) = ("-", "1", "1");
    let said = |signed: &[&str], ms| {
        event(
            &Keys::generate(),
            ATTESTED,
            vec![],
            &STANDARD.encode(oracle.attests(&price, signed)),
            START + ms,
        )
    };
    let other = {
        let mut other = signed.clone();
        other[5] = "1";
        other
    };
    assert_eq!(world.one(1_000, &said(&other, 1_000)), "guard_false");
    assert_eq!(world.one(2_000, &said(&signed, 2_000)), "ok");
    assert_eq!(world.value(&machine), "low");
}
