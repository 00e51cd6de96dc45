//! The key registry of docs/machines/registry.json in a ledger: which migration stands, and why all others don't.

use std::collections::BTreeMap;

use concordat_events::kinds::{INPUT, STATEMENT};
use concordat_events::request::input_tags;
use concordat_events::{Mode, ValidEvent};
use nostr::Keys;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::*;

const S: u64 = START / 1000;
const SOURCE: &str = r#"{"kinds":[260,261,360,361,1776,1777]}"#;

fn definition() -> Value {
    serde_json::from_str(include_str!("../../../../docs/machines/registry.json")).unwrap()
}

fn hex(keys: &Keys) -> String {
    keys.public_key().to_hex()
}

/// `child` signs its parent's key, as kinds 260 and 261 want it.
fn proof(child: &Keys, parent: &Keys) -> String {
    let message = secp256k1::Message::from_digest(parent.public_key().to_bytes());
    child.sign_schnorr(&message).to_string()
}

struct Registry {
    world: World,
    machine: ValidEvent,
    now: u64,
}

impl Registry {
    fn new() -> Self {
        Self::with(&json!({"delay_s": 0, "contest_s": 0, "age_s": 0}), SOURCE)
    }

    fn with(input: &Value, source: &str) -> Self {
        let mut world = World::new();
        let text = input.to_string();
        let more = [["input", text.as_str()], ["source", source]];
        let machine =
            world.definition_with(&Keys::generate(), "registry", &definition(), Mode::Sequenced, &more);
        assert_eq!(world.one(0, &machine), "ok");
        Registry { world, machine, now: 0 }
    }

    /// An event as its author publishes it.
    fn signed(&mut self, keys: &Keys, kind: u16, tags: &[[&str; 2]]) -> ValidEvent {
        self.now += 1;
        let tags = tags.iter().map(|tag| tag.iter().map(|part| (*part).to_owned()).collect()).collect();
        event(keys, kind, tags, "", (S + self.now) * 1000)
    }

    /// One request in a head of its own; its outcome.
    fn takes(&mut self, event: &ValidEvent) -> String {
        self.now += 1;
        self.world.one(self.now * 1000, event)
    }

    fn says(&mut self, keys: &Keys, kind: &str, data: &Value) -> String {
        self.now += 1;
        let tags = input_tags(self.machine.id(), kind, None);
        let said = event(keys, INPUT, tags, &data.to_string(), (S + self.now) * 1000);
        self.takes(&said)
    }

    /// Somebody who needn't be anybody brings an event with its signature.
    fn shown(&mut self, shown: &ValidEvent) -> String {
        let event: Value = serde_json::from_str(shown.json()).unwrap();
        self.says(&Keys::generate(), "ADMIT", &json!({"event": event}))
    }

    /// A precommitment of kind 360, as admitted.
    fn precommit(&mut self, who: &Keys, to: &Keys) -> ValidEvent {
        let precommit = self.signed(who, 360, &[["p", &hex(to)]]);
        assert_eq!(self.takes(&precommit), "ok");
        precommit
    }

    fn migration(&mut self, signer: &Keys, precommit: &ValidEvent, to: &Keys) -> ValidEvent {
        self.signed(signer, 361, &[["p", &hex(to)], ["e", &precommit.id().to_hex()]])
    }

    fn identity(&self, who: &Keys) -> Option<Value> {
        self.world.ledger.kept(&self.machine.id(), "identities", &hex(who)).unwrap()
    }

    fn successor(&self, who: &Keys) -> Option<String> {
        self.identity(who)?["move"]["to"].as_str().map(str::to_owned)
    }

    /// Titles and contents of what was stated.
    fn verdicts(&self) -> Vec<(String, Value)> {
        let id = self.machine.id().to_hex();
        let said = self.world.public.iter().filter(|e| e.kind() == STATEMENT && e.tag("e") == Some(&id));
        said.map(|e| (e.tag("title").unwrap().to_owned(), serde_json::from_str(e.content()).unwrap()))
            .collect()
    }
}

/// Each of the three drafts, from the precommitment to a verdict that carries id, signature and height.
#[test]
fn walkthrough_key_rotation() {
    for kind in [360, 260, 1776] {
        let mut registry = Registry::new();
        let [ada, key, new] = [(); 3].map(|()| Keys::generate());
        let (by, tags) = match kind {
            360 => (&key, vec![["p".to_owned(), hex(&key)]]),
            260 => (&key, vec![["p".to_owned(), hex(&key)], ["proof".to_owned(), proof(&key, &ada)]]),
            _ => (&new, vec![["p".to_owned(), hex(&new)]]),
        };
        let tags: Vec<[&str; 2]> = tags.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
        let precommit = registry.signed(&ada, kind, &tags);
        assert_eq!(registry.takes(&precommit), "ok", "{kind}");
        let (id, to, from, proven) = (precommit.id().to_hex(), hex(&new), hex(&ada), proof(&new, &key));
        let tags = match kind {
            360 => vec![["p", &to], ["e", &id]],
            260 => vec![["p", &to], ["proof", &proven]],
            _ => vec![["p", &from], ["e", &id]],
        };
        let migration = registry.signed(by, kind + 1, &tags);
        assert_eq!(registry.takes(&migration), "ok", "{kind}");
        let height = registry.world.ledger.tip().unwrap().head.height;
        assert_eq!(registry.successor(&ada), Some(hex(&new)));
        // An id says nothing of a signature, and only ids stand in the order: the verdict gets it when somebody shows it.
        assert_eq!(registry.shown(&migration), "ok");
        assert_eq!(registry.shown(&migration), "machine.known");
        let verdicts = registry.verdicts();
        assert_eq!(verdicts.len(), 2);
        assert_eq!(verdicts[0].1["event"]["sig"], Value::Null);
        let (title, said) = &verdicts[1];
        assert_eq!(title, "migration");
        let admitted = json!({
            "id": migration.id().to_hex(), "kind": kind + 1, "pubkey": hex(by),
            "sig": migration.event().sig.to_string(),
        });
        assert_eq!(
            (&said["event"], &said["height"], &said["precommit"]),
            (&admitted, &json!(height), &json!(id))
        );
        assert_eq!((&said["identity"], &said["successor"]), (&json!(from), &json!(to)));
        assert_eq!(said["final_at"], said["at"]);
    }
}

/// What a thief with the identity's own key, or with an old precommitment, tries.
#[test]
fn what_comes_after_the_first_valid_one_is_refused() {
    let mut registry = Registry::new();
    let [ada, key, new, thief] = [(); 4].map(|()| Keys::generate());
    let precommit = registry.precommit(&ada, &key);
    // Another precommitment, of the same kind or another one, however early it says it was signed.
    let early = event(&ada, 360, vec![vec!["p".into(), hex(&thief)]], "", START);
    assert_eq!(registry.takes(&early), "machine.precommitted");
    let other = registry.signed(&ada, 1776, &[["p", &hex(&thief)]]);
    assert_eq!(registry.takes(&other), "machine.precommitted");
    // With the identity's key alone nothing moves.
    let stolen = registry.migration(&ada, &precommit, &thief);
    assert_eq!(registry.takes(&stolen), "machine.not_precommitted");
    let rightful = registry.migration(&key, &precommit, &new);
    // Signed by the migration key, and before the rightful one by its date and by a timestamp's proof: it comes later.
    let tags =
        [("p", hex(&thief)), ("e", precommit.id().to_hex()), ("proof", "a timestamp of last year".into())];
    let tags = tags.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect();
    let stamped = event(&key, 361, tags, "", START);
    assert_eq!(registry.takes(&rightful), "ok");
    assert_eq!(registry.takes(&stamped), "machine.migrated");
    assert_eq!(registry.shown(&stamped), "machine.migrated");
    // After it, the old identity says nothing more here.
    let late = registry.signed(&ada, 360, &[["p", &hex(&thief)]]);
    assert_eq!(registry.takes(&late), "machine.precommitted");
    assert_eq!(registry.says(&ada, "POLICY", &json!({})), "machine.policy_stands");
    assert_eq!(registry.successor(&ada), Some(hex(&new)));
    assert_eq!(registry.verdicts().len(), 1);
}

#[test]
fn without_its_precommitment_nothing_is_a_migration() {
    let mut registry = Registry::new();
    let [ada, bob, key, new] = [(); 4].map(|()| Keys::generate());
    let never = registry.signed(&ada, 360, &[["p", &hex(&key)]]);
    let orphan = registry.migration(&key, &never, &new);
    assert_eq!(registry.takes(&orphan), "machine.no_precommit");
    let bare = registry.signed(&key, 361, &[["p", &hex(&new)]]);
    assert_eq!(registry.takes(&bare), "machine.no_precommit");
    let lone = registry.signed(&key, 261, &[["p", &hex(&new)], ["proof", &proof(&new, &key)]]);
    assert_eq!(registry.takes(&lone), "machine.no_precommit");
    // One of another kind is none.
    let precommit = registry.precommit(&ada, &new);
    let other = registry.signed(&new, 1777, &[["p", &hex(&ada)], ["e", &precommit.id().to_hex()]]);
    assert_eq!(registry.takes(&other), "machine.no_precommit");
    // Who has opted out moves nowhere.
    let out = registry.signed(&bob, 360, &[["p", ""]]);
    assert_eq!(registry.takes(&out), "ok");
    let moved = registry.migration(&bob, &out, &new);
    assert_eq!(registry.takes(&moved), "machine.not_precommitted");
    for who in [&ada, &bob] {
        assert_eq!(registry.identity(who).unwrap()["move"], Value::Null);
    }
}

/// What was signed for one identity is worth nothing for another one, nor twice.
#[test]
fn a_replay_for_another_identity_is_refused() {
    let mut registry = Registry::new();
    let [ada, bob, key, new] = [(); 4].map(|()| Keys::generate());
    // The same migration key serves both; its word names one.
    let (a, b) = (registry.precommit(&ada, &key), registry.precommit(&bob, &key));
    let migration = registry.migration(&key, &a, &new);
    assert_eq!(registry.takes(&migration), "ok");
    assert_eq!((registry.takes(&migration), registry.shown(&migration)), ("duplicate".into(), "ok".into()));
    assert_eq!(registry.identity(&bob).unwrap()["move"], Value::Null);
    let [carl, dora] = [(); 2].map(|()| Keys::generate());
    let whitelist = |registry: &mut Registry, who: &Keys| {
        let list = registry.signed(who, 1776, &[["p", &hex(&new)]]);
        assert_eq!(registry.takes(&list), "ok");
        list.id().to_hex()
    };
    let (list, _) = (whitelist(&mut registry, &carl), whitelist(&mut registry, &dora));
    let mixed = registry.signed(&new, 1777, &[["p", &hex(&dora)], ["e", &list]]);
    assert_eq!(registry.takes(&mixed), "machine.other_identity");
    // A proof made for one parent proves nothing for another.
    let [erin, fred, child] = [(); 3].map(|()| Keys::generate());
    let copied = registry.signed(&fred, 260, &[["p", &hex(&child)], ["proof", &proof(&child, &erin)]]);
    assert_eq!(registry.takes(&copied), "machine.bad_proof");
    let own = registry.signed(&erin, 260, &[["p", &hex(&child)], ["proof", &proof(&child, &erin)]]);
    assert_eq!(registry.takes(&own), "ok");
    let second = registry.signed(&fred, 260, &[["p", &hex(&child)], ["proof", &proof(&child, &fred)]]);
    assert_eq!(registry.takes(&second), "machine.key_taken");
    let wrong = registry.signed(&child, 261, &[["p", &hex(&new)], ["proof", &proof(&new, &erin)]]);
    assert_eq!(registry.takes(&wrong), "machine.bad_proof");
    let _ = b;
}

/// An input that isn't the event itself, whatever it says, and a deletion.
#[test]
fn only_the_events_themselves_count_and_nothing_deletes_them() {
    // Even if the filter lets deletions in.
    let mut registry = Registry::with(
        &json!({"delay_s": 0, "contest_s": 0, "age_s": 0}),
        r#"{"kinds":[5,260,261,360,361,1776,1777]}"#,
    );
    let [ada, key, new] = [(); 3].map(|()| Keys::generate());
    let data = json!({"kind": 360, "content": "", "tags": [["p", hex(&key)]]});
    assert_eq!(registry.says(&ada, "nostr.360", &data), "bad_event");
    let inner = json!({"event": {"id": "00", "kind": 360, "pubkey": hex(&ada), "tags": [], "sig": null}});
    assert_eq!(registry.says(&key, "registry.seen", &inner), "machine.not_for_participants");
    let precommit = registry.precommit(&ada, &key);
    let before = registry.identity(&ada);
    let deletion = registry.signed(&ada, 5, &[["e", &precommit.id().to_hex()], ["k", "360"]]);
    assert_eq!(registry.takes(&deletion), "machine.kind");
    assert_eq!((registry.shown(&deletion), registry.identity(&ada)), ("machine.kind".into(), before));
    // What is shown is checked: id, signature, and that there is nothing else.
    let migration = registry.migration(&key, &precommit, &new);
    for (member, value, reason) in [
        ("sig", json!(precommit.event().sig.to_string()), "event_signature"),
        ("content", json!("other"), "event_id"),
        ("more", json!(1), "event_malformed"),
        ("pubkey", json!(hex(&key).to_uppercase()), "event_malformed"),
    ] {
        let mut event: Value = serde_json::from_str(migration.json()).unwrap();
        event[member] = value;
        assert_eq!(registry.says(&new, "ADMIT", &json!({"event": event})), reason);
    }
    assert_eq!(registry.identity(&ada).unwrap()["move"], Value::Null);
    assert_eq!(registry.shown(&migration), "ok");
    assert_eq!(registry.takes(&migration), "machine.known");
    let verdict = &registry.verdicts()[0].1;
    assert_eq!(verdict["event"]["sig"], json!(migration.event().sig.to_string()));
    // Without deletions in the filter nobody even listens.
    let mut registry = Registry::new();
    let deletion = registry.signed(&ada, 5, &[["e", &precommit.id().to_hex()]]);
    assert_eq!(registry.takes(&deletion), "no_machine");
}

/// Precommitments from before the registry, which a source filter never lets in, and what is pending.
#[test]
fn an_identity_sets_its_own_rules_before_it_precommits() {
    let mut registry = Registry::with(&json!({"delay_s": 0, "contest_s": 100, "age_s": 50}), SOURCE);
    let [ada, key, new, thief] = [(); 4].map(|()| Keys::generate());
    let guardians = [(); 3].map(|()| Keys::generate());
    let rules = json!({
        "delay_s": 1_000, "contest_s": 500, "age_s": 10, "needed": 2,
        "guardians": guardians.iter().map(hex).collect::<Vec<_>>(),
    });
    for wrong in
        [json!({"needed": 4}), json!({"delay_s": -1}), json!({"guardians": ["x"]}), json!({"age_s": "1"})]
    {
        let mut rules = rules.clone();
        rules.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(registry.says(&ada, "POLICY", &rules), "machine.malformed");
    }
    assert_eq!(registry.says(&ada, "POLICY", &rules), "ok");
    assert_eq!(registry.says(&ada, "POLICY", &rules), "machine.policy_stands");
    let old = event(&ada, 360, vec![vec!["p".into(), hex(&key)]], "", START - 400 * 86_400_000);
    assert_eq!(registry.takes(&old), "too_old");
    assert_eq!(registry.shown(&old), "ok");
    let stolen = registry.migration(&key, &old, &thief);
    assert_eq!(registry.takes(&stolen), "machine.too_young");
    registry.now += 10;
    // An outcome is for ever: the event itself can be brought again with its signature only.
    assert_eq!(registry.shown(&stolen), "ok");
    let pending =
        |keys: &Keys, id: &ValidEvent| json!({"identity": hex(keys), "migration": id.id().to_hex()});
    let word = pending(&ada, &stolen);
    assert_eq!(registry.identity(&ada).unwrap()["move"]["final_at"], Value::Null);
    assert_eq!(registry.says(&ada, "CONTEST", &word), "machine.not_a_guardian");
    assert_eq!(registry.says(&guardians[0], "CONTEST", &word), "ok");
    assert_eq!(registry.says(&guardians[0], "CONTEST", &word), "machine.said");
    assert_eq!(registry.says(&guardians[1], "CONTEST", &word), "ok");
    assert_eq!(registry.identity(&ada).unwrap()["move"], Value::Null);
    // What was undone doesn't come again, the rightful one does.
    assert_eq!(registry.shown(&stolen), "machine.known");
    let rightful = registry.migration(&key, &old, &new);
    assert_eq!(registry.shown(&rightful), "ok");
    let word = pending(&ada, &rightful);
    assert_eq!(registry.says(&thief, "APPROVE", &word), "machine.not_a_guardian");
    assert_eq!(registry.says(&guardians[1], "APPROVE", &word), "ok");
    assert_eq!(registry.says(&guardians[1], "APPROVE", &word), "machine.said");
    assert_eq!(registry.identity(&ada).unwrap()["move"]["final_at"], Value::Null);
    assert_eq!(registry.says(&guardians[2], "APPROVE", &word), "ok");
    let moved = registry.identity(&ada).unwrap()["move"].clone();
    assert_eq!(moved["final_at"].as_u64().unwrap(), moved["at"].as_u64().unwrap() + 1_000);
    registry.now += 500;
    assert_eq!(registry.says(&guardians[0], "CONTEST", &word), "machine.too_late");
    let titles: Vec<_> = registry.verdicts().into_iter().map(|(title, _)| title).collect();
    assert_eq!(titles, ["migration", "contested", "migration", "approved"]);
    // Where an identity has no guardians, its own old key may stop a migration, and do no more.
    let [bob, spare] = [(); 2].map(|()| Keys::generate());
    let precommit = registry.precommit(&bob, &spare);
    registry.now += 50;
    let migration = registry.migration(&spare, &precommit, &new);
    assert_eq!(registry.takes(&migration), "ok");
    assert_eq!(registry.says(&spare, "CONTEST", &pending(&bob, &migration)), "machine.not_a_guardian");
    assert_eq!(registry.says(&bob, "CONTEST", &pending(&bob, &migration)), "ok");
    assert_eq!(registry.says(&bob, "CONTEST", &pending(&bob, &migration)), "machine.nothing_pending");
}

/// What the rules say, in a few lines.
#[derive(Default)]
struct Model {
    precommits: BTreeMap<usize, usize>,
    moves: BTreeMap<usize, usize>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever comes in whatever order, several in one head: the first valid one of each identity stands, all others are
    /// refused, and following the moves from any key comes to an end.
    #[test]
    fn the_first_valid_one_of_each_identity_stands(
        heads in prop::collection::vec(
            prop::collection::vec((any::<bool>(), 0usize..5, 0usize..5, 0usize..5), 1..6), 1..8)
    ) {
        let keys: Vec<Keys> = (0..5).map(|_| Keys::generate()).collect();
        let mut registry = Registry::new();
        let mut model = Model::default();
        let mut precommits: BTreeMap<usize, ValidEvent> = BTreeMap::new();
        for head in heads {
            let (mut events, mut expected) = (Vec::new(), Vec::new());
            for (is_precommit, who, by, to) in head {
                if is_precommit {
                    let event = registry.signed(&keys[who], 360, &[["p", &hex(&keys[by])]]);
                    let taken = model.precommits.contains_key(&who);
                    if who != by && !taken {
                        model.precommits.insert(who, by);
                        precommits.insert(who, event.clone());
                    }
                    expected.push(match (who == by, taken) {
                        (true, _) => "machine.malformed",
                        (false, true) => "machine.precommitted",
                        (false, false) => "ok",
                    });
                    events.push(event);
                } else {
                    let Some(precommit) = precommits.get(&who) else { continue };
                    let event = registry.migration(&keys[by], &precommit.clone(), &keys[to]);
                    expected.push(if model.moves.contains_key(&who) {
                        "machine.migrated"
                    } else if model.precommits[&who] != by {
                        "machine.not_precommitted"
                    } else if who == to {
                        "machine.malformed"
                    } else if model.moves.contains_key(&to) {
                        "machine.successor_migrated"
                    } else {
                        model.moves.insert(who, to);
                        "ok"
                    });
                    events.push(event);
                }
            }
            registry.now += 1;
            let (outcomes, _) = registry.world.head(registry.now * 1000, &events.iter().collect::<Vec<_>>());
            prop_assert_eq!(outcomes, expected);
        }
        for (n, who) in keys.iter().enumerate() {
            prop_assert_eq!(registry.successor(who), model.moves.get(&n).map(|to| hex(&keys[*to])));
            let (mut at, mut steps) = (n, 0);
            while let Some(to) = model.moves.get(&at) {
                (at, steps) = (*to, steps + 1);
                prop_assert!(steps <= keys.len(), "the moves lead round in a circle");
            }
        }
    }
}
