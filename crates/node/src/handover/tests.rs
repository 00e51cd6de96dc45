//! The key handed over between custodians whose words get lost, repeated and late, and whose processes die.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use concordat_events::hash::tagged;
use concordat_events::{Activation, Confirming, Custodian, Hash, PublicKey, Roster};
use concordat_threshold::KeyShare;
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::message::{Attempt, Word};
use super::side::{Change, HandoverError, Side};
use crate::ceremony::Stage;
use crate::ceremony::tests::{Founder, founded};
use crate::dir::CustodianDir;
use crate::interrupted::tests::{Mortal, Row, copy};
use crate::keys::CustodianKeys;

/// A custodian's disk.
struct Disk {
    _temp: tempfile::TempDir,
    dir: Arc<CustodianDir>,
    keys: Arc<CustodianKeys>,
}

struct Town {
    disks: BTreeMap<u16, Disk>,
    sides: BTreeMap<u16, Side>,
    group: PublicKey,
    old: Roster,
    new: Roster,
    by: u16,
    now: u64,
    dice: StdRng,
}

fn seat(number: u16, keys: &CustodianKeys) -> Custodian {
    Custodian {
        number,
        name: format!("c{number}"),
        identity: keys.public_key(),
        certificate: tagged("test", &[&number.to_be_bytes()]),
    }
}

impl Town {
    /// Four founders, and who is to be in office then.
    async fn new(next: &[u16], by: u16) -> Self {
        let (founders, genesis) = founded(4).await;
        let disk = |founder: Founder| {
            let dir = Arc::new(CustodianDir::open(&founder.temp.path().join("c")).unwrap());
            Disk { dir, keys: founder.keys, _temp: founder.temp }
        };
        let mut disks: BTreeMap<u16, Disk> = (1..).zip(founders.into_iter().map(disk)).collect();
        for number in next.iter().filter(|number| **number > 4) {
            let temp = tempfile::tempdir().unwrap();
            let dir = Arc::new(CustodianDir::open(&temp.path().join("c")).unwrap());
            let keys = Arc::new(CustodianKeys::generate().unwrap().0);
            disks.insert(*number, Disk { dir, keys, _temp: temp });
        }
        let roster = |numbers: &[u16]| {
            Roster::new(numbers.iter().map(|number| seat(*number, &disks[number].keys)).collect()).unwrap()
        };
        let (old, new) = (roster(&[1, 2, 3, 4]), roster(next));
        let group = genesis.genesis.group_key;
        let dice = StdRng::seed_from_u64(rand::random());
        let mut town = Town { disks, sides: BTreeMap::new(), group, old, new, by, now: 0, dice };
        let everybody: Vec<u16> = town.disks.keys().copied().collect();
        everybody.into_iter().for_each(|number| town.start(number));
        town
    }

    fn confirming(&self) -> Confirming {
        let hash = |text: &str| tagged(text, &[]);
        let (cluster, roster, proposal) = (hash("cluster"), self.old.hash().unwrap(), hash("proposal"));
        Confirming { cluster, roster, proposal, transcript: Hash::ZERO }
    }

    fn change(&self, own: u16) -> Change {
        let (old, new) = (self.old.clone(), self.new.clone());
        Change { change: self.confirming(), group: self.group, by: self.by, old, new, own }
    }

    fn old_share(&self, number: u16) -> Option<KeyShare> {
        let disk = &self.disks[&number];
        disk.dir.share(&disk.keys).unwrap()
    }

    /// A custodian's process begins, anew or again.
    fn start(&mut self, number: u16) {
        let disk = &self.disks[&number];
        let share = self.old_share(number);
        let side = Side::new(self.change(number), disk.dir.clone(), disk.keys.clone(), share);
        self.sides.insert(number, side);
    }

    /// One exchange between two who run; either way may be lost.
    fn exchange(&mut self, from: u16, to: u16) {
        let (ask, answer) = (self.dice.gen_ratio(4, 5), self.dice.gen_ratio(4, 5));
        let Some(word) = self.sides.get(&from).map(|side| side.word_for(to)) else { return };
        if !ask || !self.sides.contains_key(&to) {
            return;
        }
        let _ = self.sides.get_mut(&to).unwrap().take(from, &word);
        let word = self.sides[&to].word_for(from);
        if answer {
            let _ = self.sides.get_mut(&from).unwrap().take(to, &word);
        }
    }

    /// A while: everybody talks with somebody, and the clock goes on.
    fn pass(&mut self) {
        let all: Vec<u16> = self.sides.keys().copied().collect();
        for _ in 0..all.len() * 2 {
            let pair: Vec<u16> = all.choose_multiple(&mut self.dice, 2).copied().collect();
            self.exchange(pair[0], pair[1]);
        }
        self.now += 100;
        let now = self.now;
        for side in self.sides.values_mut() {
            side.tick(now).unwrap();
        }
    }

    /// Until somebody can ask for the new roster.
    fn settle(&mut self, most: usize) -> Option<Activation> {
        for _ in 0..most {
            if let Some(activation) = self.sides.values().find_map(Side::activation) {
                return Some(activation);
            }
            self.pass();
        }
        None
    }

    /// An activation is what the group would take, and all who come into office have a share of the key on their disks.
    fn check(&self, activation: &Activation) {
        let confirming = self.confirming().ended_with(activation.transcript);
        activation.check(&confirming, &self.new, Some(&self.group)).unwrap();
        for number in self.new.numbers() {
            let disk = &self.disks[&number];
            let share = disk.dir.share_of(&disk.keys, activation.transcript).unwrap().unwrap();
            assert_eq!(share.group_key().to_bytes(), self.group.to_bytes());
            assert!(
                share.number() == number && share.keys().numbers().iter().copied().eq(self.new.numbers())
            );
            assert_eq!(usize::from(share.keys().threshold()), self.new.q());
            assert!(
                self.old_share(number).is_none_or(|old| old.keys() != share.keys()),
                "the shares are fresh"
            );
        }
        for gone in self.old.numbers().filter(|number| self.new.get(*number).is_none()) {
            let disk = &self.disks[&gone];
            assert!(disk.dir.share_of(&disk.keys, activation.transcript).unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn the_key_goes_to_any_custodians_though_words_get_lost() {
    for next in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 5, 6, 7], &[2, 5, 6, 7], &[1, 2, 3]] {
        let mut town = Town::new(next, 1).await;
        let activation = town.settle(2_000).expect("it ends");
        town.check(&activation);
        assert!(town.sides.values().any(|side| side.status().stage == Stage::Complete));
    }
}

#[tokio::test]
async fn processes_die_at_any_moment_and_the_ceremony_goes_on() {
    for _ in 0..3 {
        let mut town = Town::new(&[1, 3, 4, 5], 1).await;
        for _ in 0..3 {
            for _ in 0..town.dice.gen_range(1..12) {
                town.pass();
            }
            let who = *town.disks.keys().choose(&mut town.dice).unwrap();
            town.start(who);
        }
        let activation = town.settle(3_000).expect("it ends");
        town.check(&activation);
    }
}

#[tokio::test]
async fn a_dealer_that_falls_silent_is_replaced_by_another() {
    let mut town = Town::new(&[1, 2, 3, 5], 1).await;
    // 1, 2 and 3 deal: they stay. 3 dies with its first word said; what it was told is gone with it.
    while town.sides[&1].status().attempt.is_none() {
        town.pass();
    }
    town.new =
        Roster::new(town.new.members().iter().filter(|one| one.number != 3).cloned().collect()).unwrap();
    let numbers: BTreeSet<u16> = town.disks.keys().copied().collect();
    numbers.into_iter().for_each(|number| town.start(number));
    while town.sides[&1].status().attempt.is_none() {
        town.pass();
    }
    town.sides.remove(&3);
    let activation = town.settle(3_000).expect("4 deals in the place of 3");
    town.check(&activation);
}

#[tokio::test]
async fn who_comes_into_office_and_never_appears_is_waited_for_by_name() {
    let mut town = Town::new(&[1, 2, 3, 5], 2).await;
    town.sides.remove(&5);
    assert!(town.settle(60).is_none());
    assert_eq!(town.sides[&2].status().waiting_on, [5]);
    town.start(5);
    let activation = town.settle(2_000).expect("it ends");
    town.check(&activation);
}

#[tokio::test]
async fn plans_that_can_not_be_and_strangers_are_refused() {
    let town = Town::new(&[1, 2, 3, 5], 1).await;
    let keys = town.old_share(1).unwrap().keys().clone();
    let proposal = town.confirming().proposal;
    let mut two =
        Side::new(town.change(2), town.disks[&2].dir.clone(), town.disks[&2].keys.clone(), town.old_share(2));
    let plan = |dealers: &[u16], members: &[u16], keys| {
        let runs = members.iter().map(|number| (*number, Hash::ZERO)).collect();
        Attempt::new(1, dealers.iter().copied().collect(), runs, keys).bytes
    };
    let say = |side: &mut Side, from: u16, plan: Vec<u8>| {
        let mut word = Word::default();
        (word.run, word.plan) = (vec![7; 32], plan);
        side.take(from, &word.seal(&town.disks[&from].keys, proposal, from, 2))
    };
    let refused =
        |result: Result<bool, HandoverError>| matches!(result, Err(HandoverError::Plan { by: 1, .. }));
    assert!(refused(say(&mut two, 1, b"no plan".to_vec())));
    assert!(refused(say(&mut two, 1, plan(&[1, 2, 3], &[1, 2, 3], keys.clone()))), "5 is left out");
    assert!(
        refused(say(&mut two, 1, plan(&[1, 2, 3], &[1, 2, 3, 4, 5], keys.clone()))),
        "4 has nothing to do"
    );
    let (others, _) = founded(4).await;
    let dir = CustodianDir::open(&others[0].temp.path().join("c")).unwrap();
    let foreign = dir.share(&others[0].keys).unwrap().unwrap().keys().clone();
    assert!(refused(say(&mut two, 1, plan(&[1, 2, 3], &[1, 2, 3, 5], foreign))), "another group's key");
    // Only who proposed leads, and a plan for another process of this custodian isn't for this one.
    say(&mut two, 3, b"no plan".to_vec()).unwrap();
    say(&mut two, 1, plan(&[1, 2, 3], &[1, 2, 3, 5], keys)).unwrap();
    assert_eq!(two.status().attempt, None);
    let (stranger, _) = CustodianKeys::generate().unwrap();
    let mut word = Word::default();
    word.run = vec![7; 32];
    let result = two.take(9, &word.seal(&stranger, proposal, 9, 2));
    assert!(matches!(result, Err(HandoverError::Stranger(9))));
    assert!(two.take(1, &word.seal(&stranger, proposal, 1, 2)).is_err(), "signed by another");
    // Nobody confirms for another, and no signature but the group's is a proof.
    let mut said = Word::default();
    (said.run, said.transcript, said.proof) = (vec![7; 32], vec![5; 32], vec![3; 64]);
    let word = said.seal(&town.disks[&1].keys, proposal, 1, 2);
    assert!(matches!(two.take(1, &word), Err(HandoverError::Confirmation(1))));
    assert!(two.activation().is_none());
}

#[tokio::test]
async fn shares_before_the_one_in_force_are_erased_and_no_other() {
    let mut town = Town::new(&[1, 2, 3, 4], 1).await;
    let activation = town.settle(2_000).expect("it ends");
    let disk = &town.disks[&2];
    let path = disk.dir.share_file(activation.transcript);
    // Not before it is there: a share in force that can't be found erases nothing.
    assert_eq!(disk.dir.erase_shares_but(Some(Hash::from_bytes([9; 32]))).unwrap(), 0);
    assert!(disk.dir.share(&disk.keys).unwrap().is_some());
    assert_eq!(disk.dir.erase_shares_but(Some(activation.transcript)).unwrap(), 1);
    assert!(disk.dir.share(&disk.keys).unwrap().is_none() && path.exists());
    assert_eq!(disk.dir.erase_shares_but(None).unwrap(), 1);
    assert!(!disk.dir.has_shares().unwrap());
}

/// Changes in which one custodian's process ends at each of its writes, and begins again. The old shares stay as they are, so that
/// each can begin from them.
pub(crate) async fn ended_at_each_write(operation: &'static str, next: &[u16], who: u16) -> Row {
    let mut town = Town::new(next, 1).await;
    let mut row = Row::new(operation);
    loop {
        let everybody: Vec<u16> = town.disks.keys().copied().collect();
        everybody.iter().for_each(|number| town.start(*number));
        let (mut process, mut again, mut rounds) = (Mortal::new(row.writes), false, 0);
        let activation = loop {
            if let Some(activation) = town.sides.values().find_map(Side::activation) {
                break activation;
            }
            rounds += 1;
            assert!(rounds < 600, "{operation}, ended at write {}", row.writes);
            town.now += 100;
            for (from, to) in everybody.iter().flat_map(|from| everybody.iter().map(move |to| (from, to))) {
                let mortal = *to == who && !again;
                if from == to || mortal && process.dead || *from == who && process.dead && !again {
                    continue;
                }
                let word = town.sides[from].word_for(*to);
                let (now, side) = (town.now, town.sides.get_mut(to).unwrap());
                let mut work = || side.take(*from, &word).and_then(|_| side.tick(now));
                let _ = if mortal { process.runs(work) } else { work() };
            }
            if process.dead && !again {
                again = true;
                town.start(who);
                row.count(town.sides[&who].status().earlier);
            }
        };
        town.check(&activation);
        // As the first head under the new roster does, in a copy.
        let temp = tempfile::tempdir().unwrap();
        let holder = if town.new.get(who).is_some() { who } else { 1 };
        copy(town.disks[&holder].dir.path(), &temp.path().join("c"));
        let dir = CustodianDir::open(&temp.path().join("c")).unwrap();
        dir.erase_shares_but(Some(activation.transcript)).unwrap();
        let names = |path: &std::path::Path| -> Vec<String> {
            let all = std::fs::read_dir(path).unwrap();
            all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let shares = names(dir.path()).into_iter().filter(|name| name.contains("share")).count();
        assert_eq!(shares, 1, "{operation}: {:?}", names(dir.path()));
        if !process.dead {
            return row;
        }
        for disk in town.disks.values() {
            for name in names(disk.dir.path()).iter().filter(|name| name.contains("share-")) {
                std::fs::remove_file(disk.dir.file(name)).unwrap();
            }
        }
    }
}
