//! Lookups in a key registry, from what a custodian would show.

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Mode, PublicKey, ValidEvent};
use concordat_ledger::claim_key;
use concordat_verify::registry::{Answer, D, DEFINITION, Lack, MOVES, Shown, look_up};
use concordat_verify::{Code, Failure};
use nostr::Keys;
use serde_json::{Value, json};

use super::world::*;

/// A registry in which moves take `contest_s` to stand.
struct Registry {
    world: World,
    now: u64,
}

impl Registry {
    fn new(contest_s: u64, definition: &Value) -> Self {
        let mut world = World::new();
        let input = json!({"delay_s": 0, "contest_s": contest_s, "age_s": 0}).to_string();
        let more = [["input", input.as_str()], ["source", r#"{"kinds":[360,361]}"#]];
        let machine = world.definition_with(&Keys::generate(), D, definition, Mode::Sequenced, &more);
        assert_eq!(world.one(0, &machine), "ok");
        Registry { world, now: 0 }
    }

    fn takes(&mut self, keys: &Keys, kind: u16, tags: &[[String; 2]]) -> ValidEvent {
        self.now += 1;
        let tags = tags.iter().map(|tag| tag.to_vec()).collect();
        let event = event(keys, kind, tags, "", START + self.now * 1000);
        assert_eq!(self.world.one(self.now * 1000, &event), "ok");
        event
    }

    /// `who` moves to `to`, by a migration key of its own.
    fn moves(&mut self, who: &Keys, to: &Keys) -> ValidEvent {
        let key = Keys::generate();
        let precommit = self.takes(who, 360, &[["p".into(), key.public_key().to_hex()]]);
        let tags = [["p".into(), to.public_key().to_hex()], ["e".into(), precommit.id().to_hex()]];
        self.takes(&key, 361, &tags)
    }

    fn group(&self) -> PublicKey {
        self.world.group.public_key()
    }

    /// What a custodian shows to whoever asks for these leaves.
    fn shows(&self, leaves: &[String]) -> Shown {
        let log_event = self.world.public.iter().rfind(|event| event.kind() == 400).unwrap().clone();
        let proof = |leaf: &String| (leaf.clone(), self.world.ledger.prove_key(leaf.as_bytes()).unwrap());
        Shown { log_event, proofs: leaves.iter().map(proof).collect() }
    }

    /// As a client asks: for each leaf that an answer still lacks.
    fn asked(&self, key: &Keys) -> Result<(Answer, Shown), Lack> {
        let mut leaves = vec![String::from_utf8(claim_key(SNAPSHOT, D)).unwrap()];
        loop {
            let shown = self.shows(&leaves);
            match look_up(&self.group(), 400, D, &key.public_key(), &shown) {
                Err(Lack::Leaf(leaf)) => leaves.push(leaf),
                found => return Ok((found?, shown)),
            }
        }
    }
}

fn definition() -> Value {
    serde_json::from_str(DEFINITION).unwrap()
}

#[test]
fn a_chain_of_moves_is_proven_and_so_is_an_unknown_key() {
    let mut registry = Registry::new(0, &definition());
    let [ada, bea, carla, nobody] = [(); 4].map(|()| Keys::generate());
    let (first, second) = (registry.moves(&ada, &bea), registry.moves(&bea, &carla));
    let (answer, shown) = registry.asked(&ada).unwrap();
    assert!(answer.known);
    assert_eq!(answer.current, carla.public_key().to_hex());
    assert_eq!(answer.chain.iter().map(|step| step.event).collect::<Vec<_>>(), [first.id(), second.id()]);
    assert_eq!(answer.height, registry.world.ledger.tip().unwrap().head.height);
    assert_eq!((&answer.pending, &answer.precommit), (&None, &None));
    // From a file, with nothing but the group's key.
    let again = Shown::parse(&shown.to_json().unwrap()).unwrap();
    assert_eq!(again, shown);
    let offline = |key: &Keys| look_up(&registry.group(), 400, D, &key.public_key(), &again);
    assert_eq!(offline(&ada), Ok(answer));
    assert_eq!(offline(&bea).unwrap().current, carla.public_key().to_hex());
    // What wasn't asked for isn't guessed: an absence is proven too.
    assert!(
        matches!(offline(&nobody), Err(Lack::Leaf(leaf)) if leaf.ends_with(&nobody.public_key().to_hex()))
    );
    let (unknown, _) = registry.asked(&nobody).unwrap();
    assert!(!unknown.known && unknown.chain.is_empty());
    assert_eq!(unknown.current, nobody.public_key().to_hex());
}

#[test]
fn a_move_stands_when_nobody_can_undo_it_any_more() {
    let mut registry = Registry::new(100, &definition());
    let [ada, bea] = [(); 2].map(|()| Keys::generate());
    let migration = registry.moves(&ada, &bea);
    let (answer, _) = registry.asked(&ada).unwrap();
    assert_eq!(answer.current, ada.public_key().to_hex());
    let pending = answer.pending.unwrap();
    assert_eq!((pending.event, pending.final_at), (migration.id(), Some(pending.at + 100)));
    registry.now += 99;
    registry.world.head(registry.now * 1000, &[]);
    assert!(registry.asked(&ada).unwrap().0.pending.is_some());
    registry.now += 1;
    registry.world.head(registry.now * 1000, &[]);
    let (answer, _) = registry.asked(&ada).unwrap();
    assert_eq!((answer.current, answer.pending), (bea.public_key().to_hex(), None));
}

#[test]
fn what_is_bent_proves_nothing() {
    let mut registry = Registry::new(0, &definition());
    let [ada, bea] = [(); 2].map(|()| Keys::generate());
    let (_, before) = registry.asked(&ada).unwrap();
    registry.moves(&ada, &bea);
    let (_, shown) = registry.asked(&ada).unwrap();
    let (group, key) = (registry.group(), ada.public_key());
    let found = |shown: &Shown| look_up(&group, 400, D, &key, shown);
    let is_false = |found: Result<Answer, Lack>, code: Code| {
        assert!(matches!(&found, Err(Lack::False(Failure { code: got, .. })) if *got == code), "{found:?}");
    };
    // An old head's proofs under a newer head, one key's proof for another, another group, an event that isn't a head.
    is_false(found(&Shown { log_event: shown.log_event.clone(), ..before.clone() }), Code::BadProof);
    let leaf = |who: &Keys| {
        let ends = who.public_key().to_hex();
        shown.proofs.keys().find(|leaf| leaf.ends_with(&ends)).unwrap().clone()
    };
    let mut swapped = shown.clone();
    swapped.proofs.insert(leaf(&ada), shown.proofs[&leaf(&bea)].clone());
    is_false(found(&swapped), Code::BadProof);
    let stranger = Keys::generate().public_key();
    is_false(look_up(&stranger, 400, D, &key, &shown), Code::BadHead);
    is_false(look_up(&group, 401, D, &key, &shown), Code::BadHead);
    for leaf in shown.proofs.keys() {
        let mut less = shown.clone();
        less.proofs.remove(leaf);
        assert_eq!(found(&less), Err(Lack::Leaf(leaf.clone())));
    }
    // Whoever shows the old head shows an old answer, which says of which height it is.
    assert_eq!(found(&before).unwrap().current, key.to_hex());
    for rubbish in ["", "{}", "[]", r#"{"log_event":{},"proofs":{}}"#] {
        assert!(Shown::parse(rubbish).is_err());
    }
}

#[test]
fn only_the_definition_that_readers_know_is_a_registry() {
    let mut other = definition();
    other["description"] = json!("as good as");
    let registry = Registry::new(0, &other);
    let ada = Keys::generate();
    assert!(matches!(registry.asked(&ada), Err(Lack::Other { .. })));
    let none = look_up(
        &registry.group(),
        400,
        "elsewhere",
        &ada.public_key(),
        &registry.shows(&["d/30078:elsewhere".into()]),
    );
    assert!(matches!(none, Err(Lack::NoRegistry { height: 1, .. })), "{none:?}");
}

#[test]
fn a_chain_is_followed_so_far_and_no_farther() {
    let mut registry = Registry::new(0, &definition());
    let keys: Vec<Keys> = (0..MOVES + 2).map(|_| Keys::generate()).collect();
    for pair in keys.windows(2) {
        registry.moves(&pair[0], &pair[1]);
    }
    assert_eq!(registry.asked(&keys[1]).unwrap().0.chain.len(), MOVES);
    assert!(matches!(registry.asked(&keys[0]), Err(Lack::False(_))));
}
