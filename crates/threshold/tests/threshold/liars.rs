//! Reshares with f members that lie: a reshare ends with all honest members holding
//! shares of one key, or ended, naming a liar. Never with a split.

use std::collections::BTreeSet;

use concordat_threshold::KeyShare;
use concordat_threshold::dkg::{Alarm, Body, Kind, Message, Phase, Reason, SecretShare, View};
use concordat_threshold::reshare::{Deal, Reshare};
use concordat_threshold::{Share, commit};
use proptest::prelude::*;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::handover::{Handover, certify, hash, plan};
use crate::net::{Group, Lie};

/// What a liar does.
#[derive(Clone, Copy, Debug)]
enum Trick {
    /// Another right commitment to some.
    OtherDeal,
    /// A commitment to another secret.
    WrongSecret,
    /// A commitment for another threshold.
    OtherThreshold,
    /// A value that isn't on the polynomial.
    BadValue,
    /// A value for another one.
    Misaddressed,
    /// A message that only others send.
    WrongRole,
    /// What it sent in an earlier run, as it was.
    Replayed,
    /// The same under this run's id.
    Relabelled,
    /// An echo of something else.
    WrongEcho,
    /// A confirmation of other keys.
    WrongConfirm,
    /// Another nonce commitment to some.
    OtherCommit,
    /// A bad share of the test signature.
    BadTestShare,
    /// Another test signature.
    FalseDone,
    /// A false accusation.
    FalseAbort,
    /// Nothing of this kind.
    Silent(Kind),
}

const TRICKS: [Trick; 21] = [
    Trick::OtherDeal,
    Trick::WrongSecret,
    Trick::OtherThreshold,
    Trick::BadValue,
    Trick::Misaddressed,
    Trick::WrongRole,
    Trick::Replayed,
    Trick::Relabelled,
    Trick::WrongEcho,
    Trick::WrongConfirm,
    Trick::OtherCommit,
    Trick::BadTestShare,
    Trick::FalseDone,
    Trick::FalseAbort,
    Trick::Silent(Kind::Round1),
    Trick::Silent(Kind::Echo),
    Trick::Silent(Kind::Round2),
    Trick::Silent(Kind::Confirm),
    Trick::Silent(Kind::TestCommit),
    Trick::Silent(Kind::TestShare),
    Trick::Silent(Kind::Done),
];

impl Trick {
    /// The kind of message that is replaced.
    fn kind(self) -> Kind {
        match self {
            Self::OtherDeal | Self::WrongSecret | Self::OtherThreshold | Self::Relabelled => Kind::Round1,
            Self::BadValue | Self::Misaddressed => Kind::Round2,
            Self::WrongRole | Self::WrongEcho | Self::FalseAbort => Kind::Echo,
            Self::WrongConfirm | Self::Replayed => Kind::Confirm,
            Self::OtherCommit => Kind::TestCommit,
            Self::BadTestShare => Kind::TestShare,
            Self::FalseDone => Kind::Done,
            Self::Silent(kind) => kind,
        }
    }

    fn is_a_dealers(self) -> bool {
        matches!(self.kind(), Kind::Round1 | Kind::Round2)
    }

    /// Whether it ends the reshare: never, always, or only if it comes before the end.
    fn ends(self) -> Option<bool> {
        match self {
            Self::Silent(Kind::Done) => Some(false),
            // Of two commitments the second may come when all is over.
            Self::FalseDone | Self::Relabelled => None,
            _ => Some(true),
        }
    }
}

fn f(n: usize) -> usize {
    (n - 1) / 3
}

fn q(n: usize) -> u16 {
    ((n + f(n)) / 2 + 1) as u16
}

/// A reshare of real rosters with `f` liars that all do the same, to all or to some.
struct Story {
    old: Group,
    net: Handover,
    happened: std::rc::Rc<std::cell::Cell<bool>>,
}

fn story(seed: u64, n: usize, m: usize, trick: Trick, to_all: bool) -> Story {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let numbers = |count: usize, rng: &mut ChaCha20Rng| (1..=9_u16).choose_multiple(rng, count);
    let (mut from, mut to) = (numbers(n, &mut rng), numbers(m, &mut rng));
    from.sort_unstable();
    to.sort_unstable();
    let old = Group::make(&from, q(n), seed);
    let plan = plan(&old, &to, q(m), &mut rng);
    let able: BTreeSet<u16> = if trick.is_a_dealers() { plan.dealers.clone() } else { plan.roster.clone() };
    // No more than f of either roster lie.
    let liars: BTreeSet<u16> = able.into_iter().choose_multiple(&mut rng, f(n.min(m))).into_iter().collect();

    // What each liar would send in another run: of the same plan, and of an earlier one.
    let mut spare = std::collections::BTreeMap::new();
    for liar in &liars {
        let share = plan.dealers.contains(liar).then(|| &old.shares[liar]);
        let again = Reshare::new(plan.clone(), *liar, share, &mut rng).unwrap().1;
        let mut earlier = plan.clone();
        earlier.attempt = hash(1);
        let earlier = Reshare::new(earlier, *liar, share, &mut rng).unwrap().1;
        spare.insert(*liar, (again, earlier));
    }
    let commitment = commit(old.shares.values().next().unwrap(), &mut rng).1;
    let (cheats, victim) = (liars.clone(), rng.r#gen::<u16>());
    let happened = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = happened.clone();
    let lie: Lie = Box::new(move |from, to, message| {
        if !cheats.contains(&from) || cheats.contains(&to) {
            return vec![(from, message)];
        }
        let tell = |body| vec![(from, Message::new(message.ceremony(), body))];
        match message.kind() {
            // What its own machine makes of the lie it keeps to itself.
            Kind::Abort => Vec::new(),
            kind if kind == trick.kind() && (to_all || to % 2 == victim % 2) => {
                seen.set(true);
                let copy = |message: &Message| Message::decode(&message.encode()).unwrap();
                match (trick, message.body()) {
                    (Trick::OtherDeal, _) => vec![(from, copy(&spare[&from].0[0].message))],
                    (Trick::Relabelled, _) => match spare[&from].1[0].message.body() {
                        Body::Deal(deal) => {
                            let mut both = tell(Body::Deal(deal.clone()));
                            both.push((from, message));
                            both
                        }
                        _ => panic!("a dealer begins with a deal"),
                    },
                    (Trick::Replayed, _) => {
                        let mut all: Vec<_> =
                            spare[&from].1.iter().map(|out| (from, copy(&out.message))).collect();
                        all.extend(tell(Body::Confirm(hash(8))));
                        all
                    }
                    (Trick::WrongSecret, Body::Deal(deal)) => {
                        // The points in another order: each is one, the constant isn't its own.
                        let mut bytes = deal.to_bytes().to_vec();
                        bytes.rotate_left(33);
                        tell(Body::Deal(Deal::from_bytes(&bytes).unwrap()))
                    }
                    (Trick::OtherThreshold, Body::Deal(deal)) => {
                        let bytes = [deal.to_bytes(), &deal.to_bytes()[..33]].concat();
                        tell(Body::Deal(Deal::from_bytes(&bytes).unwrap()))
                    }
                    (Trick::BadValue, _) => {
                        tell(Body::Round2 { to, share: SecretShare::from_bytes(&[3; 32]).unwrap() })
                    }
                    (Trick::Misaddressed, _) => {
                        tell(Body::Round2 { to: from, share: SecretShare::from_bytes(&[3; 32]).unwrap() })
                    }
                    (Trick::WrongRole, Body::Echo(_)) => {
                        // A round-1 message of another kind of ceremony, or of no dealer.
                        let point = commitment.to_bytes();
                        tell(Body::Deal(Deal::from_bytes(&point).unwrap()))
                    }
                    (Trick::WrongEcho, Body::Echo(view)) => tell(Body::Echo(change(view))),
                    (Trick::WrongConfirm, _) => tell(Body::Confirm(hash(0))),
                    (Trick::OtherCommit, _) => tell(Body::TestCommit(commitment.clone())),
                    (Trick::BadTestShare, Body::TestShare { session, .. }) => {
                        let share = Share::from_bytes(&[1; 32]).unwrap();
                        tell(Body::TestShare { session: session.clone(), share })
                    }
                    (Trick::FalseDone, _) => tell(Body::Done([1; 64])),
                    (Trick::FalseAbort, _) => {
                        tell(Body::Abort { reason: Reason::BadProof, suspects: BTreeSet::from([to]) })
                    }
                    (Trick::Silent(_), _) => Vec::new(),
                    _ => panic!("{trick:?} replaces another kind of message"),
                }
            }
            _ => vec![(from, message)],
        }
    });
    let net = Handover::lying(&old, plan, seed, liars, lie);
    Story { old, net, happened }
}

/// A view of the same length with one other entry.
fn change(view: &View) -> View {
    let message = Message::new(hash(0), Body::Echo(view.clone()));
    let mut bytes = message.encode().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    match Message::decode(&bytes).unwrap().body() {
        Body::Echo(view) => view.clone(),
        _ => panic!("not a view"),
    }
}

/// What must hold however it ended.
fn judge(story: Story, trick: Trick, rng: &mut ChaCha20Rng) {
    let Story { old, mut net, happened } = story;
    net.run();
    net.expire();
    let liars = net.liars.clone();
    let honest: Vec<u16> = net.members.keys().copied().filter(|n| !liars.contains(n)).collect();
    let alarms = net.alarms();
    for number in &honest {
        match alarms.get(number) {
            None => assert_eq!(net.members[number].phase(), Phase::Finished, "{number}"),
            Some(alarm) => {
                assert!(!alarm.suspects().is_disjoint(&liars), "{number}: {alarm}; lie: {liars:?}")
            }
        }
    }
    let ended = honest.iter().filter(|number| alarms.contains_key(number)).count();
    match trick.ends().map(|ends| ends && happened.get()) {
        Some(true) => assert!(ended > 0, "{trick:?} went unnoticed"),
        Some(false) => assert!(alarms.is_empty(), "{alarms:?}"),
        None => {}
    }

    // Whatever was stored, was stored alike; and once one has finished, by all.
    let finished = ended < honest.len();
    let roster = net.plan.roster.clone();
    let (mut disks, plan) = (std::mem::take(&mut net.disks), net.plan.clone());
    disks.retain(|number, _| !liars.contains(number));
    for share in disks.values() {
        assert_eq!(share.keys(), disks.values().next().unwrap().keys());
        assert_eq!(share.group_key(), old.keys.group_key());
    }
    if finished {
        let missing: Vec<_> =
            roster.iter().filter(|n| !liars.contains(n) && !disks.contains_key(n)).collect();
        assert!(missing.is_empty(), "{missing:?} have no share, though others have finished");
        let signers: Vec<&KeyShare> = disks.values().take(usize::from(plan.threshold)).collect();
        certify(signers[0].keys(), &signers, rng).unwrap();
        let outcomes = net.outcomes();
        for number in honest.iter().filter_map(|number| outcomes.get(number)) {
            assert_eq!(&number.keys, signers[0].keys());
        }
    }
    // And the old group lost nothing.
    let signers = old.signers(usize::from(old.keys.threshold()), rng);
    certify(&old.keys, &signers, rng).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn reshare_with_liars_ends_whole_or_names_one(
        seed in any::<u64>(),
        n in 4_usize..=7,
        m in 4_usize..=7,
        trick in prop::sample::select(&TRICKS[..]),
        to_all in any::<bool>(),
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        judge(story(seed, n, m, trick, to_all), trick, &mut rng);
    }
}

#[test]
fn reshare_survives_each_trick_at_once() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    for trick in TRICKS {
        judge(story(rng.r#gen(), 4, 4, trick, true), trick, &mut rng);
    }
}

#[test]
fn dealers_that_agree_on_a_lower_degree_are_found_out() {
    // Two of two: the one takes away what the other adds, so that the sum of their
    // polynomials has a lower degree, and one share alone would be the key.
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let old = Group::make(&[1, 2, 3], 2, rng.r#gen());
    let mut plan = plan(&old, &[4, 5, 6], 2, &mut rng);
    plan.dealers = BTreeSet::from([1, 2]);
    let members = [4_u16, 5, 6].map(|own| (own, Reshare::new(plan.clone(), own, None, &mut rng).unwrap().0));
    let (one, two) = crate::reshare::opposite_deals(&old, &plan, &mut rng);
    for (own, mut member) in members {
        let context = member.context();
        let say = |body| Message::new(context, body);
        let mut out = Vec::new();
        for (from, deal) in [(1, &one), (2, &two)] {
            out.extend(member.on_message(from, say(Body::Deal(deal.deal.clone())), &mut rng).unwrap());
        }
        let echo = out.iter().find_map(|out| match out.message.body() {
            Body::Echo(view) => Some(view.clone()),
            _ => None,
        });
        let echo = echo.unwrap();
        for other in [4, 5, 6].into_iter().filter(|other| *other != own) {
            member.on_message(other, say(Body::Echo(echo.clone())), &mut rng).unwrap();
        }
        let value = |of: &crate::reshare::Forged| say(Body::Round2 { to: own, share: of.value(own) });
        member.on_message(1, value(&one), &mut rng).unwrap();
        let alarm = member.on_message(2, value(&two), &mut rng).unwrap_err();
        assert_eq!(alarm, Alarm::Degenerate { suspects: BTreeSet::from([1, 2]) });
        assert!(member.to_store().is_none());
    }
}
