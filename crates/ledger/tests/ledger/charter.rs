//! Rosters and versions: proposed by a custodian, activated by those who will carry them, in force from that head on.

use concordat_events::change::change_tags;
use concordat_events::kinds::CHANGE;
use concordat_events::{
    Activation, Build, Change, Confirming, Custodian, Hash, Proposal, Roster, ValidEvent, Versions,
};
use concordat_ledger::{ExecuteError, Ledger, ROSTER, SYSTEM};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use nostr::Keys;
use serde_json::json;
use std::sync::Arc;

use super::world::*;

/// Custodians whose keys are known.
struct Council {
    world: World,
    keys: Vec<Keys>,
}

fn custodian(number: u16, keys: &Keys) -> Custodian {
    Custodian {
        number,
        name: format!("c{number}-{}", &keys.public_key().to_hex()[..8]),
        identity: keys.public_key(),
        certificate: Hash::from_bytes(keys.public_key().to_bytes()),
    }
}

fn roster(of: &[(u16, &Keys)]) -> Roster {
    Roster::new(of.iter().map(|(number, keys)| custodian(*number, keys)).collect()).unwrap()
}

fn hex(keys: &Keys, digest: Hash) -> String {
    keys.sign_schnorr(&secp256k1::Message::from_digest(*digest.as_bytes())).to_string()
}

impl Council {
    fn new(n: u16) -> Self {
        let keys: Vec<Keys> = (0..n).map(|_| Keys::generate()).collect();
        let numbered: Vec<(u16, &Keys)> = (1..).zip(&keys).collect();
        let founders = roster(&numbered);
        let world = World::with(|genesis| {
            genesis.threshold = founders.q() as u16;
            genesis.roster = founders.clone();
        });
        Council { world, keys }
    }

    /// A change request signed at a second of its own, so that no two are alike.
    fn request(&self, by: &Keys, change: &Change, at: u64) -> ValidEvent {
        let content = serde_json::to_string(change).unwrap();
        event(by, CHANGE, change_tags(&self.world.group.public_key()), &content, START + 1_000 * at)
    }

    fn propose(&mut self, by: usize, proposal: Proposal, at: u64) -> (ValidEvent, String) {
        let request = self.request(&self.keys[by], &Change::Propose(proposal), at);
        let outcome = self.world.one(1_000 * at, &request);
        (request, outcome)
    }

    fn confirming(&self, proposal: Hash, transcript: Hash) -> Confirming {
        let roster = self.world.ledger.charter().roster_hash;
        Confirming { cluster: self.world.ledger.cluster(), roster, proposal, transcript }
    }

    fn activation(&self, proposal: &ValidEvent, transcript: Hash, by: &[(u16, &Keys)]) -> Activation {
        let confirming = self.confirming(proposal.id(), transcript);
        let confirmations = by.iter().map(|(n, keys)| (*n, hex(keys, confirming.digest()))).collect();
        let proof = if transcript == Hash::ZERO {
            String::new()
        } else {
            hex(&self.world.group, confirming.proof_digest())
        };
        Activation { proposal: proposal.id(), transcript, confirmations, proof }
    }

    fn activate(&mut self, by: &Keys, activation: Activation, at: u64) -> String {
        let request = self.request(by, &Change::Activate(activation), at);
        self.world.one(1_000 * at, &request)
    }

    fn stored(&self, key: &[u8]) -> serde_json::Value {
        let proof = self.world.ledger.prove_key(key).unwrap();
        serde_json::to_value(proof).unwrap()
    }
}

const TRANSCRIPT: [u8; 32] = [7; 32];

#[test]
fn a_confirmed_roster_is_in_force_from_its_head_on() {
    let mut council = Council::new(4);
    let old = council.keys.clone();
    let newcomer = Keys::generate();
    // 2 goes, 5 comes.
    let numbered = [(1, &old[0]), (3, &old[2]), (4, &old[3]), (5, &newcomer)];
    let next = roster(&numbered);
    let (proposal, outcome) = council.propose(0, Proposal::Roster(next.clone().into()), 1);
    assert_eq!(outcome, "ok");
    let before = council.world.ledger.tip().unwrap().head.roster;
    assert_eq!(council.world.ledger.proposals().unwrap()[&1].id, proposal.id());
    assert_ne!(before, next.hash().unwrap());

    let activation = council.activation(&proposal, Hash::from_bytes(TRANSCRIPT), &numbered[..3]);
    assert_eq!(council.activate(&old[2], activation, 2), "ok");
    let tip = council.world.ledger.tip().unwrap().head.clone();
    assert_eq!(tip.roster, next.hash().unwrap());
    let charter = council.world.ledger.charter();
    assert_eq!((&charter.roster, charter.office.since), (&next, tip.height));
    assert!(council.world.ledger.proposals().unwrap().is_empty());
    assert!(council.stored(ROSTER).to_string().contains(&newcomer.public_key().to_hex()));

    // Who has left proposes nothing any more; who came does.
    let refresh = Proposal::Roster(next.clone().into());
    let gone = council.request(&old[1], &Change::Propose(refresh.clone()), 3);
    assert_eq!(council.world.one(3_000, &gone), "not_allowed");
    let came = council.request(&newcomer, &Change::Propose(refresh), 4);
    assert_eq!(council.world.one(4_000, &came), "ok");
    // 2's number is used up.
    let again = roster(&[(1, &old[0]), (2, &Keys::generate()), (3, &old[2]), (4, &old[3])]);
    let (_, outcome) = council.propose(0, Proposal::Roster(again.into()), 5);
    assert_eq!(outcome, "number_reused");

    // A custodian that restarts, and one that takes the state over, go by the same.
    let genesis = council.world.ledger.genesis().clone();
    let reopened = Ledger::open(council.world.store.clone(), genesis.clone()).unwrap();
    assert_eq!(reopened.charter(), council.world.ledger.charter());
    council.world.ledger.freeze();
    let store = Arc::new(MemoryStore::default());
    let mut behind = Ledger::open(store.clone(), genesis).unwrap();
    let head = council.world.ledger.tip().unwrap().head.clone();
    let (mut landing, writes) = behind.begin_landing(head.state_root);
    store.apply(writes).unwrap();
    while let Some(at) = landing.next() {
        let chunk = council.world.ledger.chunk(&at).unwrap().unwrap();
        let writes = behind.land(&mut landing, chunk).unwrap();
        store.apply(writes).unwrap();
    }
    let writes = behind.adopt(&landing, &head).unwrap();
    store.apply(writes).unwrap();
    assert_eq!(behind.charter(), council.world.ledger.charter());
}

#[test]
fn nothing_comes_into_force_without_those_who_carry_it() {
    let mut council = Council::new(4);
    let old = council.keys.clone();
    let transcript = Hash::from_bytes(TRANSCRIPT);
    let own: Vec<Keys> = (0..3).map(|_| Keys::generate()).collect();
    // One liar and its own people: they confirm whatever it wants, but have no shares.
    let sect = [(1, &old[0]), (5, &own[0]), (6, &own[1]), (7, &own[2])];
    let (proposal, outcome) = council.propose(0, Proposal::Roster(roster(&sect).into()), 1);
    assert_eq!(outcome, "ok");
    let good = council.activation(&proposal, transcript, &sect);
    let unproven = Activation { proof: hex(&own[0], Hash::ZERO), ..good.clone() };
    assert_eq!(council.activate(&old[0], unproven, 2), "unconfirmed");
    let few = Activation { confirmations: good.confirmations[..2].to_vec(), ..good.clone() };
    assert_eq!(council.activate(&old[0], few, 3), "unconfirmed");
    // Nobody else's request activates it, and what isn't proposed doesn't come into force.
    assert_eq!(council.activate(&Keys::generate(), good.clone(), 4), "not_allowed");
    let unknown = Activation { proposal: Hash::ZERO, ..good.clone() };
    assert_eq!(council.activate(&old[1], unknown, 5), "no_proposal");
    // A proposal takes the place of the one before by the same custodian, and of no other's.
    let (other, _) = council.propose(1, Proposal::Roster(roster(&sect).into()), 6);
    let (newer, _) = council.propose(0, Proposal::Roster(roster(&[(1, &old[0])]).into()), 7);
    assert_eq!(council.activate(&old[1], good, 8), "no_proposal");
    let proposed = council.world.ledger.proposals().unwrap();
    assert_eq!((proposed[&1].id, proposed[&2].id, proposed.len()), (newer.id(), other.id(), 2));
    assert_eq!(council.world.ledger.charter().roster, council.world.ledger.genesis().roster);
}

#[test]
fn one_change_a_head_and_an_old_activation_never_again() {
    let mut council = Council::new(4);
    let keys = council.keys.clone();
    let all: Vec<(u16, &Keys)> = (1..).zip(&keys).collect();
    let transcript = Hash::from_bytes(TRANSCRIPT);
    let same = council.world.ledger.charter().roster.clone();
    let (first, _) = council.propose(0, Proposal::Roster(same.clone().into()), 1);
    let (second, _) = council.propose(1, Proposal::Roster(roster(&all[1..]).into()), 2);
    let one = council.activation(&first, transcript, &all);
    let two = council.activation(&second, transcript, &all[1..]);
    let one = council.request(&keys[0], &Change::Activate(one), 3);
    let two = council.request(&keys[1], &Change::Activate(two), 3);
    let late = council.request(&keys[2], &Change::Propose(Proposal::Roster(same.into())), 3);
    let (outcomes, _) = council.world.head(3_000, &[&one, &two, &late]);
    assert_eq!(outcomes, ["ok", "stale", "stale"]);
    // Every request has its one outcome, and with the proposals what was confirmed is gone.
    assert_eq!(council.world.one(4_000, &one), "duplicate");
    assert_eq!(council.world.one(4_000, &two), "duplicate");
    let again = council.activation(&second, transcript, &all[1..]);
    assert_eq!(council.activate(&keys[1], again, 5), "no_proposal");
}

#[test]
fn versions_come_into_force_with_the_next_head_and_stop_older_builds() {
    let mut council = Council::new(4);
    let keys = council.keys.clone();
    let all: Vec<(u16, &Keys)> = (1..).zip(&keys).collect();
    let genesis = council.world.ledger.genesis().clone();
    let newer =
        Build { engines: vec![genesis.engines[0].clone(), "concordat-next@1".into()], ..Build::default() };
    let versions = Versions { protocol: 1, engines: newer.engines.clone() };
    // This build runs both: the ledger is opened anew for it.
    council.world.ledger = Ledger::open_as(council.world.store.clone(), genesis.clone(), newer).unwrap();
    let tags = |world: &World| {
        let mut tags = concordat_events::request::definition_tags(
            &world.group.public_key(),
            "next",
            None,
            concordat_events::Mode::Sequenced,
        );
        tags.push(vec!["engine".into(), "concordat-next@1".into(), "guards".into()]);
        tags
    };
    let chart = json!({"id": "m", "initial": "a", "states": {"a": {}}}).to_string();
    let machine = event(&keys[0], 7500, tags(&council.world), &chart, START);
    assert_eq!(council.world.one(500, &machine), "engine");

    let (proposal, outcome) = council.propose(0, Proposal::Versions(versions.clone()), 1);
    assert_eq!(outcome, "ok");
    let few = council.activation(&proposal, Hash::ZERO, &all[..2]);
    assert_eq!(council.activate(&keys[0], few, 2), "unconfirmed");
    let good = council.activation(&proposal, Hash::ZERO, &all[1..]);
    let good = council.request(&keys[0], &Change::Activate(good), 3);
    let early = event(&keys[1], 7500, tags(&council.world), &chart, START);
    // In the head that activates, the old ones still execute.
    let (outcomes, _) = council.world.head(3_000, &[&good, &early]);
    assert_eq!(outcomes, ["ok", "engine"]);
    let charter = council.world.ledger.charter();
    assert_eq!((&charter.versions, charter.office.since), (&versions, 0));
    assert!(council.stored(SYSTEM).to_string().contains("concordat-next@1"));

    // An older build follows up to here, and no further.
    let mut older = Ledger::open(council.world.store.clone(), genesis).unwrap();
    let next = batch(4_000, &[]);
    let error = older.execute(std::slice::from_ref(&next)).unwrap_err();
    assert!(matches!(&error, ExecuteError::Unsupported { lacks } if lacks == "concordat-next@1"), "{error}");
    let late = event(&keys[2], 7500, tags(&council.world), &chart, START);
    assert_eq!(council.world.one(5_000, &late), "ok");
    older.settle();
}

#[test]
fn changes_are_judged_before_they_are_ordered() {
    let mut council = Council::new(4);
    let keys = council.keys.clone();
    let same = Proposal::Roster(council.world.ledger.charter().roster.clone().into());
    let request = council.request(&keys[0], &Change::Propose(same.clone()), 1);
    let judge = |council: &Council, event: &ValidEvent| {
        council.world.ledger.judge(event, START + 1_000).unwrap().map(|refusal| refusal.code().to_owned())
    };
    assert_eq!(judge(&council, &request), None);
    let stranger = council.request(&Keys::generate(), &Change::Propose(same.clone()), 1);
    assert_eq!(judge(&council, &stranger), Some("not_allowed".into()));
    let future = council.request(&keys[0], &Change::Propose(same), 100_000);
    assert_eq!(judge(&council, &future), Some("too_new".into()));
    assert_eq!(council.world.one(1_000, &request), "ok");
    assert_eq!(judge(&council, &request), Some("duplicate".into()));
    let group = Keys::generate().public_key();
    let elsewhere = event(&keys[0], CHANGE, change_tags(&group), "{}", START);
    assert_eq!(judge(&council, &elsewhere), Some("not_for_us".into()));
    let tags = change_tags(&council.world.group.public_key());
    for content in [
        "{}",
        "[]",
        r#"{"propose":{"roster":[]}}"#,
        r#"{"propose":{"versions":{"protocol":1,"engines":[]}}}"#,
    ] {
        let odd = event(&keys[0], CHANGE, tags.clone(), content, START);
        assert_eq!(judge(&council, &odd), Some("bad_request".into()), "{content}");
        assert_eq!(council.world.one(2_000, &odd), "bad_request");
    }
}
