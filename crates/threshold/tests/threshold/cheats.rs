//! One liar in each step of a ceremony: every honest member ends it and names the
//! liar, and nobody finishes.

use std::collections::BTreeSet;

use concordat_events::Hash;
use concordat_threshold::Share;
use concordat_threshold::dkg::{
    Alarm, Body, Ceremony, Kind, Message, Reason, Round1Package, SecretShare, View,
};
use frost_core::Field;
use frost_secp256k1_tr::Secp256K1ScalarField as Scalars;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::net::{Lie, Net, params};

const NUMBERS: [u16; 4] = [1, 2, 3, 4];
const LIAR: u16 = 3;
const VICTIM: u16 = 1;

fn copy(message: &Message) -> Message {
    Message::decode(&message.encode()).unwrap()
}

/// The liar's messages of this kind are replaced by what `lie` makes of them. It
/// keeps quiet about what its own ceremony makes of the lie.
fn replace(kind: Kind, mut lie: impl FnMut(u16, Message) -> Vec<Message> + 'static) -> Lie {
    Box::new(move |from, to, message| match message.kind() {
        is if from == LIAR && is == kind => lie(to, message).into_iter().map(|m| (from, m)).collect(),
        Kind::Abort if from == LIAR => Vec::new(),
        _ => vec![(from, message)],
    })
}

/// As `lie`, but the liar echoes what an honest member echoes: it holds what it
/// sent, not what its own ceremony made.
fn echoing(mut lie: Lie) -> Lie {
    Box::new(move |from, to, message| {
        let honest = if to == 1 { 2 } else { 1 };
        match message.kind() {
            Kind::Echo if from == LIAR => Vec::new(),
            Kind::Echo if from == honest && to != LIAR => vec![(LIAR, copy(&message)), (from, message)],
            _ => lie(from, to, message),
        }
    })
}

/// Runs until all is delivered. Nobody honest may finish, all must have an alarm
/// that names the liar, and those that saw the lie itself name nobody else.
fn caught(seed: u64, lie: Lie, saw: impl Fn(&Alarm) -> bool) -> Net {
    let mut net = Net::lying(&NUMBERS, 3, seed, lie);
    net.run();
    let alarms = net.alarms();
    let mut witnesses = 0;
    for honest in NUMBERS.into_iter().filter(|n| *n != LIAR) {
        let alarm = alarms.get(&honest).unwrap_or_else(|| panic!("{honest} saw nothing"));
        assert!(alarm.suspects().contains(&LIAR), "{honest}: {alarm}");
        if saw(alarm) {
            witnesses += 1;
        } else {
            assert!(matches!(alarm, Alarm::Aborted { .. }), "{honest}: {alarm}");
        }
        let notice = net.members[&honest].repeat();
        assert!(matches!(notice, [out] if out.message.kind() == Kind::Abort));
    }
    assert!(witnesses > 0);
    net
}

fn spoiled(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// An honest round-1 message of the liar, but from another run.
fn another_round1(threshold: u16) -> Message {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let (_, out) = Ceremony::new(params(7, &NUMBERS, LIAR, threshold), &mut rng).unwrap();
    copy(&out[0].message)
}

/// The view with one entry changed.
fn change(view: &View, at: usize) -> View {
    let message = Message::new(Hash::ZERO, Body::Echo(view.clone()));
    let mut bytes = message.encode().to_vec();
    let start = bytes.len() - 34 * (NUMBERS.len() - at) + 2;
    bytes[start] ^= 1;
    match Message::decode(&bytes).unwrap().body() {
        Body::Echo(view) => view.clone(),
        _ => panic!("not a view"),
    }
}

fn is_views_differ(alarm: &Alarm) -> bool {
    matches!(alarm, Alarm::ViewsDiffer { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn two_round1_packages_to_two_receivers(seed in any::<u64>()) {
        let other = another_round1(3);
        let lie = replace(Kind::Round1, move |to, message| {
            vec![if to == VICTIM { copy(&other) } else { message }]
        });
        let net = caught(seed, lie, is_views_differ);
        for alarm in net.alarms().values().filter(|a| is_views_differ(a)) {
            if let Alarm::ViewsDiffer { kind, about, .. } = alarm {
                prop_assert_eq!(*kind, Kind::Round1);
                prop_assert_eq!(about, &BTreeSet::from([LIAR]));
            }
        }
    }

    #[test]
    fn two_messages_of_one_kind_to_one_receiver(seed in any::<u64>()) {
        let other = another_round1(3);
        let lie = replace(Kind::Round1, move |to, message| {
            if to == VICTIM { vec![message, copy(&other)] } else { vec![message] }
        });
        // Which of the two came first decides how it shows: as two messages, or
        // as views that differ.
        caught(seed, lie, |a| {
            *a == Alarm::Equivocation { culprit: LIAR, kind: Kind::Round1 } || is_views_differ(a)
        });
    }

    #[test]
    fn a_package_for_another_threshold(seed in any::<u64>()) {
        let other = another_round1(2);
        let lie = replace(Kind::Round1, move |_, _| vec![copy(&other)]);
        caught(seed, lie, |a| *a == Alarm::Misfit { culprit: LIAR, kind: Kind::Round1 });
    }

    #[test]
    fn a_proof_that_does_not_hold(seed in any::<u64>()) {
        let lie = replace(Kind::Round1, |_, message| {
            let Body::Round1(package) = message.body() else { panic!("not round 1") };
            let bytes = spoiled(package.to_bytes(), package.to_bytes().len() - 1);
            let package = Round1Package::from_bytes(&bytes).unwrap();
            vec![Message::new(message.ceremony(), Body::Round1(package))]
        });
        caught(seed, echoing(lie), |a| *a == Alarm::BadProof { culprit: LIAR });
    }

    #[test]
    fn a_package_stolen_from_another_member(seed in any::<u64>()) {
        // The liar repeats number 2's package as its own: its key would cancel.
        let mut stolen = None;
        let lie: Lie = Box::new(move |from, _, message| match message.kind() {
            Kind::Abort if from == LIAR => Vec::new(),
            Kind::Round1 if from == 2 => {
                stolen = Some(copy(&message));
                vec![(from, message)]
            }
            Kind::Round1 if from == LIAR => vec![(from, copy(stolen.as_ref().unwrap()))],
            _ => vec![(from, message)],
        });
        caught(seed, echoing(lie), |a| *a == Alarm::BadProof { culprit: LIAR });
    }

    #[test]
    fn an_echo_that_lies_about_the_receivers_own_package(seed in any::<u64>()) {
        let lie = replace(Kind::Echo, |to, message| {
            let Body::Echo(view) = message.body() else { panic!("not an echo") };
            let at = NUMBERS.iter().position(|n| *n == to).unwrap();
            vec![Message::new(message.ceremony(), Body::Echo(change(view, at)))]
        });
        let net = caught(seed, lie, is_views_differ);
        for (_, alarm) in net.alarms().iter().filter(|(n, a)| **n != LIAR && is_views_differ(a)) {
            prop_assert_eq!(alarm.suspects(), BTreeSet::from([LIAR]));
        }
    }

    #[test]
    fn an_echo_that_lies_about_a_third(seed in any::<u64>()) {
        let lie = replace(Kind::Echo, |_, message| {
            let Body::Echo(view) = message.body() else { panic!("not an echo") };
            vec![Message::new(message.ceremony(), Body::Echo(change(view, 1)))]
        });
        let net = caught(seed, lie, is_views_differ);
        for (number, alarm) in net.alarms() {
            let seen_by_third_party = is_views_differ(&alarm) && number != LIAR && number != 2;
            if seen_by_third_party {
                // Who was not there can't tell the liar from its victim.
                prop_assert_eq!(alarm.suspects(), BTreeSet::from([2, LIAR]));
            }
        }
    }

    #[test]
    fn a_secret_share_off_the_polynomial(seed in any::<u64>()) {
        let lie = replace(Kind::Round2, |to, message| {
            if to != VICTIM {
                return vec![message];
            }
            let share = SecretShare::from_bytes(&[1; 32]).unwrap();
            vec![Message::new(message.ceremony(), Body::Round2 { to, share })]
        });
        caught(seed, lie, |a| *a == Alarm::BadSecretShare { culprit: LIAR });
    }

    #[test]
    fn a_secret_share_sent_to_another_one(seed in any::<u64>()) {
        let lie = replace(Kind::Round2, |_, message| {
            let share = SecretShare::from_bytes(&[1; 32]).unwrap();
            vec![Message::new(message.ceremony(), Body::Round2 { to: LIAR, share })]
        });
        caught(seed, lie, |a| *a == Alarm::Misdirected { culprit: LIAR, meant_for: LIAR });
    }

    #[test]
    fn a_confirmation_of_other_keys(seed in any::<u64>()) {
        let lie = replace(Kind::Confirm, |to, message| {
            if to != VICTIM {
                return vec![message];
            }
            vec![Message::new(message.ceremony(), Body::Confirm(Hash::ZERO))]
        });
        caught(seed, lie, |a| *a == Alarm::WrongConfirmation { culprit: LIAR });
    }

    #[test]
    fn two_nonce_commitments_to_two_receivers(seed in any::<u64>()) {
        // Any other valid commitment will do: that of another ceremony.
        let other = foreign_commitment();
        let lie = replace(Kind::TestCommit, move |to, message| {
            if to != VICTIM {
                return vec![message];
            }
            vec![Message::new(message.ceremony(), Body::TestCommit(other.clone()))]
        });
        let net = caught(seed, lie, is_views_differ);
        for alarm in net.alarms().values().filter(|a| is_views_differ(a)) {
            if let Alarm::ViewsDiffer { kind, about, .. } = alarm {
                prop_assert_eq!(*kind, Kind::TestCommit);
                prop_assert_eq!(about, &BTreeSet::from([LIAR]));
            }
        }
    }

    #[test]
    fn a_bad_share_of_the_test_signature(seed in any::<u64>(), all in any::<bool>()) {
        let lie = replace(Kind::TestShare, move |to, message| {
            if !all && to != VICTIM {
                return vec![message];
            }
            let Body::TestShare { session, .. } = message.body() else { panic!("not a share") };
            let share = Share::from_bytes(&[1; 32]).unwrap();
            let body = Body::TestShare { session: session.clone(), share };
            vec![Message::new(message.ceremony(), body)]
        });
        caught(seed, lie, |a| *a == Alarm::BadTestShare { culprits: BTreeSet::from([LIAR]) });
    }

    #[test]
    fn another_test_signature(seed in any::<u64>()) {
        let lie = replace(Kind::Done, |_, message| {
            vec![Message::new(message.ceremony(), Body::Done([1; 64]))]
        });
        caught(seed, lie, |a| *a == Alarm::WrongSignature { culprit: LIAR });
    }

    #[test]
    fn a_false_accusation_names_the_accuser_too(seed in any::<u64>()) {
        let lie = replace(Kind::Echo, |_, message| {
            let suspects = BTreeSet::from([2]);
            let body = Body::Abort { reason: Reason::BadProof, suspects };
            vec![Message::new(message.ceremony(), body)]
        });
        caught(seed, lie, |a| matches!(a, Alarm::Aborted { .. }));
    }
}

fn foreign_commitment() -> concordat_threshold::Commitment {
    let mut net = Net::new(&[1, 2], 2, rand::random());
    net.run();
    let commitment = net.members[&1].repeat().iter().find_map(|out| match out.message.body() {
        Body::TestCommit(commitment) => Some(commitment.clone()),
        _ => None,
    });
    commitment.unwrap()
}

#[test]
fn two_liars_whose_bad_test_shares_cancel_out_are_both_named() {
    // One adds to its share what the other takes away: their sum is right. To each
    // other they tell the truth, so that neither stops.
    let lie: Lie = Box::new(|from, to, message| {
        let error = match from {
            2 if to != LIAR => Scalars::one(),
            LIAR if to != 2 => -Scalars::one(),
            _ => return vec![(from, message)],
        };
        let Body::TestShare { session, share } = message.body() else {
            let quiet = message.kind() == Kind::Abort;
            return if quiet { Vec::new() } else { vec![(from, message)] };
        };
        let share = Scalars::deserialize(&share.to_bytes()).unwrap();
        let share = Share::from_bytes(&Scalars::serialize(&(share + error))).unwrap();
        let body = Body::TestShare { session: session.clone(), share };
        vec![(from, Message::new(message.ceremony(), body))]
    });
    let mut net = Net::lying(&NUMBERS, 3, rand::random(), lie);
    net.run();
    let both = BTreeSet::from([2, LIAR]);
    for honest in [1, 4] {
        let alarm = &net.alarms()[&honest];
        assert!(alarm.suspects().is_superset(&both), "{alarm}");
    }
    assert!(net.alarms().values().any(|a| *a == Alarm::BadTestShare { culprits: both.clone() }));
}

#[test]
fn a_silent_member_is_waited_on_by_name() {
    for kind in [Kind::Round1, Kind::Echo, Kind::Confirm, Kind::TestCommit, Kind::TestShare, Kind::Done] {
        let mut net = Net::lying(&NUMBERS, 3, rand::random(), replace(kind, |_, _| Vec::new()));
        net.run();
        assert!(net.alarms().is_empty());
        for honest in [1, 2, 4] {
            assert_eq!(net.members[&honest].waiting_on(), BTreeSet::from([LIAR]), "{kind}");
        }
    }
}

#[test]
fn an_alarm_is_the_end() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let (mut one, _) = Ceremony::new(params(7, &NUMBERS, 1, 3), &mut rng).unwrap();
    let alarm = one.on_message(LIAR, another_round1(2), &mut rng).unwrap_err();
    let again = one.on_message(2, another_round1(3), &mut rng).unwrap_err();
    assert_eq!(again, alarm);
    assert!(one.finish().is_err());
}
