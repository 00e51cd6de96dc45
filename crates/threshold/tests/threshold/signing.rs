//! Certificates: what signs, what does not, and who is named.

use std::collections::BTreeMap;

use concordat_threshold::limits::MAX_MESSAGES;
use concordat_threshold::{
    AggregateError, Commitment, Nonce, Session, SessionError, Sessions, Share, ShareError, SignError,
    aggregate, aggregate_many, check_own, commit, commit_many, sign, sign_many, verify, verify_share,
    verify_shares,
};
use nostr::{Event, EventId, Kind, PublicKey, Tags, Timestamp};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::net::{Group, groups};

type Nonces = BTreeMap<u16, Nonce>;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(rand::random())
}

/// Round 1 of `count` signers at random.
fn round1(group: &Group, count: usize, rng: &mut ChaCha20Rng) -> (Nonces, Session) {
    let (mut nonces, mut session) = (BTreeMap::new(), BTreeMap::new());
    for share in group.signers(count, rng) {
        let (nonce, commitment) = commit(share, rng);
        nonces.insert(share.number(), nonce);
        session.insert(share.number(), commitment);
    }
    (nonces, session)
}

fn round2(group: &Group, nonces: Nonces, message: &[u8; 32], session: &Session) -> BTreeMap<u16, Share> {
    let one = |(n, nonce)| (n, sign(&group.shares[&n], nonce, message, session).unwrap());
    nonces.into_iter().map(one).collect()
}

fn t(group: &Group) -> usize {
    usize::from(group.keys.threshold())
}

/// Another valid share than this one. Errors of different `by` never cancel out.
fn spoil(share: &Share, by: usize) -> Share {
    let mut bytes = share.to_bytes();
    bytes[31 - by] ^= 1;
    Share::from_bytes(&bytes).unwrap()
}

#[test]
fn both_parities_of_both_sizes_are_there() {
    let seen: Vec<_> = groups().iter().map(|g| (g.shares.len(), t(g), g.keys.has_odd_y())).collect();
    assert_eq!(seen, [(4, 3, false), (4, 3, true), (7, 5, false), (7, 5, true)]);
}

#[test]
fn a_certificate_is_an_ordinary_nostr_signature() {
    let mut rng = rng();
    for group in groups() {
        let key = group.keys.group_key().to_bytes();
        let author = PublicKey::from_byte_array(key);
        let (at, kind, tags) = (Timestamp::from(1_700_000_000), Kind::from(400), Tags::new());
        let id = EventId::new(&author, &at, &kind, &tags, "head");
        let message = id.to_bytes();

        let (nonces, session) = round1(group, t(group), &mut rng);
        let shares = round2(group, nonces, &message, &session);
        let signature = aggregate(&group.keys, &message, &session, &shares).unwrap();

        let signed = secp256k1::schnorr::Signature::from_slice(&signature).unwrap();
        let x_only = secp256k1::XOnlyPublicKey::from_slice(&key).unwrap();
        let digest = secp256k1::Message::from_digest(message);
        secp256k1::SECP256K1.verify_schnorr(&signed, &digest, &x_only).unwrap();

        let event = Event::new(id, author, at, kind, [], "head", signed);
        event.verify().unwrap();
        let altered = Event::new(id, author, at, kind, [], "another head", signed);
        assert!(altered.verify().is_err());
        assert!(!verify(&group.keys.group_key(), &[0; 32], &signature));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_t_signers_sign_any_messages(
        which in 0_usize..4,
        messages in prop::collection::vec(any::<[u8; 32]>(), 1..5),
        seed in any::<u64>(),
    ) {
        let group = &groups()[which];
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let (nonces, sessions) = many(group, messages.len(), &mut rng);
        let shares = sign_all(group, nonces, &messages, &sessions);
        for (number, list) in &shares {
            verify_shares(&group.keys, *number, &messages, &sessions, list).unwrap();
        }
        let signatures = aggregate_many(&group.keys, &messages, &sessions, &shares).unwrap();
        for (message, signature) in messages.iter().zip(&signatures) {
            prop_assert!(verify(&group.keys.group_key(), message, signature));
        }
    }

    #[test]
    fn any_cheaters_are_all_named_and_nobody_else(
        which in 0_usize..4,
        bad in prop::collection::vec(any::<bool>(), 5),
        seed in any::<u64>(),
    ) {
        let group = &groups()[which];
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let message = [seed as u8; 32];
        let (nonces, session) = round1(group, t(group), &mut rng);
        let mut shares = round2(group, nonces, &message, &session);
        let mut cheaters = Vec::new();
        for (by, ((number, share), bad)) in shares.iter_mut().zip(&bad).enumerate() {
            if *bad {
                *share = spoil(share, by);
                cheaters.push(*number);
            }
            let checked = verify_share(&group.keys, *number, &message, &session, share);
            prop_assert_eq!(checked.is_err(), *bad);
        }
        match aggregate(&group.keys, &message, &session, &shares) {
            Ok(_) => prop_assert!(cheaters.is_empty()),
            Err(error) => prop_assert_eq!(error.culprits(), cheaters),
        }
    }
}

type NonceLists = BTreeMap<u16, Vec<Nonce>>;

fn many(group: &Group, messages: usize, rng: &mut ChaCha20Rng) -> (NonceLists, Sessions) {
    let (mut nonces, mut sessions) = (BTreeMap::new(), BTreeMap::new());
    for share in group.signers(t(group), rng) {
        let (secret, public) = commit_many(share, messages, rng).unwrap();
        nonces.insert(share.number(), secret);
        sessions.insert(share.number(), public);
    }
    (nonces, sessions)
}

fn sign_all(
    group: &Group,
    nonces: NonceLists,
    messages: &[[u8; 32]],
    sessions: &Sessions,
) -> BTreeMap<u16, Vec<Share>> {
    let one = |(n, nonces)| (n, sign_many(&group.shares[&n], nonces, messages, sessions).unwrap());
    nonces.into_iter().map(one).collect()
}

#[test]
fn two_cheaters_in_different_messages_are_both_named() {
    let (group, mut rng) = (&groups()[2], rng());
    let messages = [[1; 32], [2; 32], [3; 32]];
    let (nonces, sessions) = many(group, 3, &mut rng);
    let mut shares = sign_all(group, nonces, &messages, &sessions);
    let numbers: Vec<u16> = shares.keys().copied().collect();
    let (first, second) = (numbers[0], numbers[3]);
    for (number, at) in [(first, 0), (second, 2)] {
        let list = shares.get_mut(&number).unwrap();
        list[at] = spoil(&list[at], at);
    }
    let error = aggregate_many(&group.keys, &messages, &sessions, &shares).unwrap_err();
    assert_eq!(error.culprits(), [first, second]);
    let wrong = verify_shares(&group.keys, second, &messages, &sessions, &shares[&second]);
    assert_eq!(wrong, Err(ShareError::Wrong { number: second }));

    // Too few shares are as bad as bad ones.
    shares.get_mut(&first).unwrap().pop();
    let error = aggregate_many(&group.keys, &messages, &sessions, &shares).unwrap_err();
    assert_eq!(error.culprits(), [first]);
}

#[test]
fn fewer_or_more_than_t_signers_are_refused() {
    let mut rng = rng();
    for group in groups() {
        for count in [t(group) - 1, t(group) + 1] {
            let expected = SessionError::SignerCount { expected: t(group), got: count };
            let (nonces, session) = round1(group, count, &mut rng);
            let mut shares = BTreeMap::new();
            for (number, nonce) in nonces {
                let share = &group.shares[&number];
                assert_eq!(check_own(share, &nonce, &session), Err(expected.clone().into()));
                assert_eq!(sign(share, nonce, &[1; 32], &session), Err(expected.clone().into()));
                shares.insert(number, Share::from_bytes(&[1; 32]).unwrap());
            }
            let refused = aggregate(&group.keys, &[1; 32], &session, &shares);
            assert_eq!(refused, Err(expected.into()));
        }
    }
}

#[test]
fn a_session_without_the_own_commitment_or_with_a_stranger_is_refused() {
    let (group, mut rng) = (&groups()[0], rng());
    let (mut nonces, session) = round1(group, 3, &mut rng);
    let (number, nonce) = nonces.pop_first().unwrap();
    let share = &group.shares[&number];
    let absent = *group.shares.keys().find(|n| !session.contains_key(n)).unwrap();
    let theirs = session[nonces.first_key_value().unwrap().0].clone();

    let mut altered = session.clone();
    altered.insert(number, theirs.clone());
    assert_eq!(check_own(share, &nonce, &altered), Err(SignError::OwnAltered { number }));

    let mut without = session.clone();
    without.remove(&number);
    without.insert(absent, theirs.clone());
    assert_eq!(check_own(share, &nonce, &without), Err(SignError::OwnMissing { number }));

    for stranger in [0, 99] {
        let mut strange = session.clone();
        strange.remove(nonces.first_key_value().unwrap().0);
        strange.insert(stranger, theirs.clone());
        let expected = SessionError::UnknownSigner { number: stranger };
        assert_eq!(check_own(share, &nonce, &strange), Err(expected.into()));
    }
    assert_eq!(check_own(share, &nonce, &session), Ok(()));
    assert_eq!(sign(share, nonce, &[1; 32], &altered), Err(SignError::OwnAltered { number }));
}

#[test]
fn shares_of_different_sessions_do_not_combine() {
    let mut rng = rng();
    for group in groups() {
        let message = [5; 32];
        let (nonces_a, session_a) = round1(group, t(group), &mut rng);
        // The same signers once more, with fresh commitments.
        let (mut nonces_b, mut session_b) = (BTreeMap::new(), BTreeMap::new());
        for number in session_a.keys() {
            let (nonce, commitment) = commit(&group.shares[number], &mut rng);
            nonces_b.insert(*number, nonce);
            session_b.insert(*number, commitment);
        }
        let a = round2(group, nonces_a, &message, &session_a);
        let b = round2(group, nonces_b, &message, &session_b);
        assert!(aggregate(&group.keys, &message, &session_b, &b).is_ok());
        let (odd_one, _) = a.last_key_value().unwrap();
        let mut mixed = a.clone();
        mixed.insert(*odd_one, b[odd_one]);
        let error = aggregate(&group.keys, &message, &session_a, &mixed).unwrap_err();
        assert_eq!(error.culprits(), [*odd_one]);
        // Nor does one commitment exchanged in the session: every share is bound to all.
        let mut session_c = session_a.clone();
        session_c.insert(*odd_one, session_b[odd_one].clone());
        let error = aggregate(&group.keys, &message, &session_c, &mixed).unwrap_err();
        assert_eq!(error.culprits(), session_a.keys().copied().collect::<Vec<_>>());
    }
}

#[test]
fn a_share_is_bound_to_its_signer_its_message_and_its_place() {
    let (group, mut rng) = (&groups()[1], rng());
    let messages = [[1; 32], [2; 32]];
    let (nonces, sessions) = many(group, 2, &mut rng);
    let shares = sign_all(group, nonces, &messages, &sessions);
    let numbers: Vec<u16> = shares.keys().copied().collect();

    let mut lent = shares.clone();
    lent.insert(numbers[0], shares[&numbers[1]].clone());
    let error = aggregate_many(&group.keys, &messages, &sessions, &lent).unwrap_err();
    assert_eq!(error.culprits(), [numbers[0]]);

    let turned = [messages[1], messages[0]];
    let error = aggregate_many(&group.keys, &turned, &sessions, &shares).unwrap_err();
    assert_eq!(error.culprits(), numbers);

    let mut reversed = shares.clone();
    reversed.get_mut(&numbers[2]).unwrap().reverse();
    let error = aggregate_many(&group.keys, &messages, &sessions, &reversed).unwrap_err();
    assert_eq!(error.culprits(), [numbers[2]]);
}

#[test]
fn bad_shares_that_cancel_out_give_a_valid_signature_but_none_of_them_passes_alone() {
    let (group, mut rng) = (&groups()[1], rng());
    let (nonces, session) = round1(group, 3, &mut rng);
    let mut shares = round2(group, nonces, &[1; 32], &session);
    let numbers: Vec<u16> = shares.keys().copied().collect();
    let (first, second) = (shares[&numbers[0]], shares[&numbers[1]]);
    shares.insert(numbers[0], second);
    shares.insert(numbers[1], first);
    let signature = aggregate(&group.keys, &[1; 32], &session, &shares).unwrap();
    assert!(verify(&group.keys.group_key(), &[1; 32], &signature));
    for number in &numbers[..2] {
        let wrong = verify_share(&group.keys, *number, &[1; 32], &session, &shares[number]);
        assert_eq!(wrong, Err(ShareError::Wrong { number: *number }));
    }
}

#[test]
fn own_commitments_in_another_order_are_refused() {
    let (group, mut rng) = (&groups()[0], rng());
    let messages = [[1; 32], [2; 32]];
    let (mut nonces, sessions) = many(group, 2, &mut rng);
    let (number, own) = nonces.pop_first().unwrap();
    let mut turned = sessions.clone();
    turned.get_mut(&number).unwrap().reverse();
    let refused = sign_many(&group.shares[&number], own, &messages, &turned);
    assert_eq!(refused, Err(SignError::OwnAltered { number }));

    // The other signers' order is theirs to know: their shares show it.
    let (number, own) = nonces.pop_first().unwrap();
    assert!(sign_many(&group.shares[&number], own, &messages, &turned).is_ok());
}

#[test]
fn counts_that_do_not_match_are_refused() {
    let (group, mut rng) = (&groups()[0], rng());
    let (mut nonces, mut sessions) = many(group, 2, &mut rng);
    let (number, own) = nonces.pop_first().unwrap();
    let share = &group.shares[&number];
    let expected = SignError::NonceCount { expected: 2, got: 0 };
    assert_eq!(sign_many(share, Vec::new(), &[[1; 32]; 2], &sessions), Err(expected));
    sessions.get_mut(&number).unwrap().pop();
    let short = SessionError::CommitmentCount { signer: number, expected: 2, got: 1 };
    assert_eq!(sign_many(share, own, &[[1; 32]; 2], &sessions), Err(short.into()));
    for got in [0, MAX_MESSAGES + 1] {
        let messages = vec![[1; 32]; got];
        let refused = sign_many(share, Vec::new(), &messages, &sessions);
        assert_eq!(refused, Err(SessionError::MessageCount { got }.into()));
        assert!(commit_many(share, got, &mut rng).is_none());
    }
}

#[test]
fn missing_shares_and_those_of_strangers_are_no_accusation() {
    let (group, mut rng) = (&groups()[0], rng());
    let (nonces, session) = round1(group, 3, &mut rng);
    let mut shares = round2(group, nonces, &[1; 32], &session);
    let absent = *group.shares.keys().find(|n| !session.contains_key(n)).unwrap();
    let (number, share) = shares.pop_first().unwrap();
    let error = aggregate(&group.keys, &[1; 32], &session, &shares).unwrap_err();
    assert_eq!(error, AggregateError::Missing { numbers: vec![number] });
    assert!(error.culprits().is_empty());
    shares.insert(absent, share);
    let error = aggregate(&group.keys, &[1; 32], &session, &shares).unwrap_err();
    assert_eq!(error, AggregateError::Stranger { number: absent });
    let refused = verify_share(&group.keys, absent, &[1; 32], &session, &share);
    assert_eq!(refused, Err(ShareError::NotInSession { number: absent }));
}

#[test]
fn a_share_of_another_group_names_its_sender() {
    let (group, other, mut rng) = (&groups()[0], &groups()[1], rng());
    let (mut nonces, mut session) = round1(group, 3, &mut rng);
    let (number, _) = nonces.pop_first().unwrap();
    let (foreign, commitment) = commit(&other.shares[&number], &mut rng);
    session.insert(number, commitment);
    let mut shares = round2(group, nonces, &[1; 32], &session);
    shares.insert(number, sign(&other.shares[&number], foreign, &[1; 32], &session).unwrap());
    let error = aggregate(&group.keys, &[1; 32], &session, &shares).unwrap_err();
    assert_eq!(error.culprits(), [number]);
}

#[test]
fn nonces_are_fresh_even_from_a_repeated_generator() {
    // The share is mixed in: equal randomness at two custodians gives no equal nonces.
    let group = &groups()[0];
    let commitments: Vec<Commitment> =
        group.shares.values().map(|share| commit(share, &mut ChaCha20Rng::seed_from_u64(1)).1).collect();
    assert!(commitments.iter().all(|one| commitments.iter().filter(|c| *c == one).count() == 1));
}
