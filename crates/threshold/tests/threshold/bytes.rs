//! Bytes from outside: one encoding each, nothing invalid gets in.

use std::collections::BTreeSet;

use concordat_events::Hash;
use concordat_threshold::dkg::{Body, Ceremony, DecodeError, Message, Reason, Round1Package, SecretShare};
use concordat_threshold::limits::MAX_CEREMONY_MESSAGE;
use concordat_threshold::{
    Commitment, CommitmentError, GroupKeys, KeyError, KeyShare, Nonce, Share, ShareError, commit,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::net::{Net, groups, params};

/// Compiles only if the type lacks the trait: else the path has two meanings.
macro_rules! lacks {
    ($type:ty: $($trait:path),+) => {$({
        trait Ambiguous<A> { fn it() {} }
        impl<T: ?Sized> Ambiguous<()> for T {}
        struct Has;
        impl<T: ?Sized + $trait> Ambiguous<Has> for T {}
        let _ = <$type as Ambiguous<_>>::it;
    })+};
}

#[test]
fn secrets_can_not_be_copied_printed_or_stored_by_accident() {
    lacks!(Nonce: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize, PartialEq);
    lacks!(KeyShare: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize, PartialEq);
    lacks!(SecretShare: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize, PartialEq);
    lacks!(Message: Clone, serde::Serialize);
    lacks!(Ceremony: Clone, std::fmt::Debug, serde::Serialize);
}

#[test]
fn a_secret_message_prints_its_kind_only() {
    let message = Message::new(
        Hash::ZERO,
        Body::Round2 { to: 2, share: SecretShare::from_bytes(&[0x5a; 32]).unwrap() },
    );
    assert_eq!(format!("{message:?}"), "Message(round 2 of ceremony 00000000)");
}

#[test]
fn keys_come_back_as_they_were() {
    for group in groups() {
        assert_eq!(&GroupKeys::from_bytes(group.keys.to_bytes()).unwrap(), &group.keys);
        for share in group.shares.values() {
            let bytes = share.to_sealed_bytes();
            let again = KeyShare::from_sealed_bytes(&bytes).unwrap();
            assert_eq!(*again.to_sealed_bytes(), *bytes);
            assert_eq!((again.number(), again.keys()), (share.number(), &group.keys));
        }
    }
}

#[test]
fn the_layout_of_keys_is_pinned() {
    let group = &groups()[1];
    let public = group.keys.to_bytes();
    assert_eq!(public[..6], [1, 0, 3, 0, 4, 0x03]);
    assert_eq!(public[6..38], group.keys.group_key().to_bytes());
    assert_eq!((public.len(), &public[38..40], &public[73..75]), (38 + 4 * 35, &[0, 1][..], &[0, 2][..]));
    let sealed = group.shares[&2].to_sealed_bytes();
    assert_eq!((&sealed[..3], &sealed[35..]), (&[1, 0, 2][..], public));
}

#[test]
fn every_altered_byte_of_a_sealed_share_is_noticed() {
    let share = groups()[0].shares.values().next().unwrap();
    let bytes = share.to_sealed_bytes();
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1 << (at % 8);
        assert!(KeyShare::from_sealed_bytes(&altered).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(KeyShare::from_sealed_bytes(&bytes[..length]).is_err());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(KeyShare::from_sealed_bytes(&longer).err(), Some(KeyError::Length));
}

#[test]
fn a_share_under_another_custodians_number_is_refused() {
    let group = &groups()[0];
    let mut bytes = group.shares[&1].to_sealed_bytes();
    bytes[2] = 2;
    assert_eq!(KeyShare::from_sealed_bytes(&bytes).err(), Some(KeyError::Mismatch { number: 2 }));
    bytes[2] = 9;
    assert_eq!(KeyShare::from_sealed_bytes(&bytes).err(), Some(KeyError::NotMember { number: 9 }));
}

#[test]
fn public_keys_off_the_polynomial_are_refused() {
    let (one, two) = (groups()[0].keys.to_bytes(), groups()[1].keys.to_bytes());
    let (entry, header) = (35, 38);
    // A public share of another group; another group key; a threshold too low or too high.
    let mut mixed = one.to_vec();
    mixed[header + 3 * entry..].copy_from_slice(&two[header + 3 * entry..]);
    assert_eq!(GroupKeys::from_bytes(&mixed), Err(KeyError::Polynomial));
    let mut mixed = one.to_vec();
    mixed[5..header].copy_from_slice(&two[5..header]);
    assert_eq!(GroupKeys::from_bytes(&mixed), Err(KeyError::Polynomial));
    for threshold in [2, 4] {
        let mut mixed = one.to_vec();
        mixed[2] = threshold;
        assert_eq!(GroupKeys::from_bytes(&mixed), Err(KeyError::Polynomial));
    }
    let mut repeated = one.to_vec();
    repeated.copy_within(header..header + entry, header + entry);
    assert_eq!(GroupKeys::from_bytes(&repeated), Err(KeyError::Order { number: 1 }));
}

#[test]
fn a_commitment_has_one_encoding() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let share = groups()[0].shares.values().next().unwrap();
    let (nonce, commitment) = commit(share, &mut rng);
    assert_eq!(nonce.commitment(), &commitment);
    let bytes = commitment.to_bytes();
    assert_eq!(Commitment::from_bytes(&bytes).unwrap(), commitment);
    for at in [0, 33] {
        // 0x05 is the "compact" form, which the curve library would take.
        for prefix in [0x00, 0x04, 0x05, 0x06] {
            let mut other = bytes;
            other[at] = prefix;
            assert_eq!(Commitment::from_bytes(&other), Err(CommitmentError::Point));
        }
    }
    assert_eq!(Commitment::from_bytes(&[0; 66]), Err(CommitmentError::Point));
    assert_eq!(Commitment::from_bytes(&bytes[..65]), Err(CommitmentError::Length { got: 65 }));
}

#[test]
fn a_share_is_a_scalar_below_the_order() {
    let order = hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").unwrap();
    assert_eq!(Share::from_bytes(&order), Err(ShareError::Scalar));
    assert_eq!(Share::from_bytes(&[0xff; 32]), Err(ShareError::Scalar));
    assert_eq!(Share::from_bytes(&[1; 31]), Err(ShareError::Length { got: 31 }));
    assert!(SecretShare::from_bytes(&order).is_err());
    assert_eq!(Share::from_bytes(&[1; 32]).unwrap().to_bytes(), [1; 32]);
}

#[test]
fn the_encoding_of_messages_is_pinned() {
    let hash = Hash::from_bytes([0xab; 32]);
    let bytes = Message::new(hash, Body::Confirm(Hash::from_bytes([0xcd; 32]))).encode();
    let expected = ["08011220", &"ab".repeat(32), "6a20", &"cd".repeat(32)].concat();
    assert_eq!(hex::encode(&bytes[..]), expected);
    let suspects = BTreeSet::from([1, 300]);
    let bytes = Message::new(hash, Body::Abort { reason: Reason::BadProof, suspects }).encode();
    let expected = ["08011220", &"ab".repeat(32), "8a0107080512", "0301ac02"].concat();
    assert_eq!(hex::encode(&bytes[..]), expected);
}

#[test]
fn a_message_has_one_encoding() {
    let bytes = Message::new(Hash::ZERO, Body::Confirm(Hash::ZERO)).encode();
    assert!(Message::decode(&bytes).is_ok());
    // An unknown field, a field twice, a number in more bytes than it needs.
    let unknown = [&bytes[..], &[0xf8, 0x01, 0x01]].concat();
    let twice = [&[0x08, 0x01], &bytes[..]].concat();
    let long = [&[0x08, 0x81, 0x00], &bytes[2..]].concat();
    for other in [unknown, twice, long] {
        assert_eq!(Message::decode(&other).err(), Some(DecodeError::NotCanonical));
    }
    let version = [&[0x08, 0x02], &bytes[2..]].concat();
    assert_eq!(Message::decode(&version).err(), Some(DecodeError::Version { got: 2 }));
    let bodiless = &bytes[..36];
    assert_eq!(Message::decode(bodiless).err(), Some(DecodeError::Field { what: "body" }));
    let got = MAX_CEREMONY_MESSAGE + 1;
    assert_eq!(Message::decode(&vec![0; got]).err(), Some(DecodeError::TooLong { got }));
}

#[test]
fn the_largest_ceremony_fits_the_limit() {
    let numbers: Vec<u16> = (65_472..=65_535).collect();
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let (_, out) = Ceremony::new(params(1, &numbers, 65_535, 64), &mut rng).unwrap();
    let round1 = out[0].message.encode();
    assert!(round1.len() <= MAX_CEREMONY_MESSAGE);
    assert!(Message::decode(&round1).is_ok());
    // A view is the other large message; its size is the same for any hashes.
    const { assert!(64 * 34 + 32 + 64 <= MAX_CEREMONY_MESSAGE) };
}

#[test]
fn a_round1_package_has_one_encoding() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let (_, out) = Ceremony::new(params(1, &[1, 2, 3], 1, 2), &mut rng).unwrap();
    let Body::Round1(package) = out[0].message.body() else { panic!("not round 1") };
    let bytes = package.to_bytes().to_vec();
    assert_eq!((bytes.len(), package.threshold()), (2 * 33 + 64, 2));
    assert!(Round1Package::from_bytes(&bytes).is_ok());
    let mut compact = bytes.clone();
    compact[33] = 0x05;
    assert!(Round1Package::from_bytes(&compact).is_err());
    for length in [0, 63, 64, 64 + 33, bytes.len() - 1] {
        assert!(Round1Package::from_bytes(&bytes[..length]).is_err());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
        let _ = GroupKeys::from_bytes(&bytes);
        let _ = KeyShare::from_sealed_bytes(&bytes);
        let _ = Commitment::from_bytes(&bytes);
        let _ = Share::from_bytes(&bytes);
        let _ = Round1Package::from_bytes(&bytes);
    }

    #[test]
    fn an_altered_message_is_refused_or_another_message(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        static REAL: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
        let real = REAL.get_or_init(|| {
            let mut net = Net::new(&[1, 2], 2, rand::random());
            net.run();
            net.members[&1].repeat().iter().map(|out| out.message.encode().to_vec()).collect()
        });
        for bytes in real {
            let mut altered = bytes.clone();
            *at.get_mut(&mut altered) ^= flip;
            if let Ok(message) = Message::decode(&altered) {
                prop_assert_eq!(message.encode().to_vec(), altered);
            }
        }
    }
}
