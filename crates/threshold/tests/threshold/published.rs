//! Published vectors of signing: RFC 9591 appendix E.5 through the library, the same
//! structure for the Taproot suite, BIP340's keys and BIP341's wallet as FROST groups.
//! Every signature made here is verified by libsecp256k1 (`aggregate` does nothing
//! less; the RFC's suite makes none that it could verify).

use std::collections::BTreeMap;

use concordat_threshold::{GroupKey, KeyShare, Session, aggregate, commit, sign, verify};
use frost_core::keys::{KeyPackage, PublicKeyPackage, SigningShare, VerifyingShare};
use frost_core::round1::{Nonce, SigningNonces};
use frost_core::{Ciphersuite, Field, Group as _, Identifier, SigningPackage, VerifyingKey};
use frost_secp256k1_tr::keys::Tweak;
use frost_secp256k1_tr::{Secp256K1Group, Secp256K1ScalarField as Scalars, Secp256K1Sha256TR};
use rand::{CryptoRng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde_json::Value;

const RFC_9591: &str = include_str!("../vectors/rfc9591-secp256k1.json");
const TAPROOT: &str = include_str!("../vectors/frost-secp256k1-tr.json");
const BIP_340: &str = include_str!("../vectors/bip340.csv");
const BIP_341: &str = include_str!("../vectors/bip341-wallet.json");

type Scalar = <Scalars as Field>::Scalar;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn number(value: &Value) -> u16 {
    u16::try_from(value["identifier"].as_u64().unwrap()).unwrap()
}

/// Gives the bytes of a script, in place of randomness.
struct Script(Vec<u8>);

impl RngCore for Script {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }
    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        let rest = self.0.split_off(dest.len());
        dest.copy_from_slice(&std::mem::replace(&mut self.0, rest));
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Script {}

fn randomness(output: &Value) -> Script {
    Script([bytes(&output["hiding_nonce_randomness"]), bytes(&output["binding_nonce_randomness"])].concat())
}

/// Runs all of a vector through the library: nonces, shares, signature.
fn through_the_library<C: Ciphersuite>(text: &str) {
    let all: Value = serde_json::from_str(text).unwrap();
    let (inputs, config) = (&all["inputs"], &all["config"]);
    let t: u16 = config["MIN_PARTICIPANTS"].as_str().unwrap().parse().unwrap();
    let key = VerifyingKey::<C>::deserialize(&bytes(&inputs["verifying_key_key"])).unwrap();
    let message = bytes(&inputs["message"]);
    let mut packages = BTreeMap::new();
    let mut public = BTreeMap::new();
    for share in inputs["participant_shares"].as_array().unwrap() {
        let id = Identifier::<C>::try_from(number(share)).unwrap();
        let secret = SigningShare::<C>::deserialize(&bytes(&share["participant_share"])).unwrap();
        let verifying = VerifyingShare::from(secret);
        public.insert(id, verifying);
        packages.insert(id, KeyPackage::new(id, secret, verifying, key, t));
    }

    let (mut nonces, mut commitments) = (BTreeMap::new(), BTreeMap::new());
    for output in all["round_one_outputs"]["outputs"].as_array().unwrap() {
        let id = Identifier::<C>::try_from(number(output)).unwrap();
        let nonce = |name: &str| Nonce::<C>::deserialize(&bytes(&output[name])).unwrap();
        let expected = SigningNonces::from_nonces(nonce("hiding_nonce"), nonce("binding_nonce"));
        let (made, commitment) =
            frost_core::round1::commit(packages[&id].signing_share(), &mut randomness(output));
        assert!(made == expected, "the nonces of {}", number(output));
        assert_eq!(commitment.hiding().serialize().unwrap(), bytes(&output["hiding_nonce_commitment"]));
        assert_eq!(commitment.binding().serialize().unwrap(), bytes(&output["binding_nonce_commitment"]));
        nonces.insert(id, made);
        commitments.insert(id, commitment);
    }
    let session = SigningPackage::new(commitments, &message);
    let mut shares = BTreeMap::new();
    for output in all["round_two_outputs"]["outputs"].as_array().unwrap() {
        let id = Identifier::<C>::try_from(number(output)).unwrap();
        let share = frost_core::round2::sign(&session, &nonces[&id], &packages[&id]).unwrap();
        assert_eq!(share.serialize(), bytes(&output["sig_share"]), "the share of {}", number(output));
        shares.insert(id, share);
    }
    let group = PublicKeyPackage::new(public, key, Some(t));
    let signature = frost_core::aggregate(&session, &shares, &group).unwrap();
    assert_eq!(signature.serialize().unwrap(), bytes(&all["final_output"]["sig"]));
    key.verify(&message, &signature).unwrap();
}

#[test]
fn rfc_9591_secp256k1_through_the_library() {
    through_the_library::<frost_secp256k1::Secp256K1Sha256>(RFC_9591);
}

#[test]
fn the_taproot_suite_through_the_library() {
    through_the_library::<Secp256K1Sha256TR>(TAPROOT);
}

#[test]
fn the_two_suites_differ_in_every_hash_and_share_the_keys() {
    // The same key, shares and randomness: other nonces, so another signature.
    let (plain, taproot): (Value, Value) =
        (serde_json::from_str(RFC_9591).unwrap(), serde_json::from_str(TAPROOT).unwrap());
    assert_eq!(plain["inputs"], taproot["inputs"]);
    for name in ["hiding_nonce", "binding_nonce", "binding_factor"] {
        let of = |all: &Value| all["round_one_outputs"]["outputs"][0][name].clone();
        assert_ne!(of(&plain), of(&taproot), "{name}");
    }
    assert_eq!(bytes(&plain["final_output"]["sig"]).len(), 65);
    assert_eq!(bytes(&taproot["final_output"]["sig"]).len(), 64);
}

fn scalar(bytes: &[u8]) -> Scalar {
    Scalars::deserialize(bytes.try_into().unwrap()).unwrap()
}

fn point(secret: &Scalar) -> [u8; 33] {
    Secp256K1Group::serialize(&(Secp256K1Group::generator() * *secret)).unwrap()
}

/// A sealed share as this crate writes it, from secrets that only a test knows.
fn sealed(number: u16, t: u16, key: &[u8], shares: &BTreeMap<u16, Scalar>) -> KeyShare {
    let mut bytes = [&[1][..], &number.to_be_bytes(), &Scalars::serialize(&shares[&number])].concat();
    bytes.extend([&[1][..], &t.to_be_bytes(), &(shares.len() as u16).to_be_bytes(), key].concat());
    for (number, secret) in shares {
        bytes.extend(number.to_be_bytes());
        bytes.extend(point(secret));
    }
    KeyShare::from_sealed_bytes(&bytes).unwrap()
}

/// Shares of a secret for `n` holders, `t` of which sign.
fn split(secret: &Scalar, t: u16, n: u16, rng: &mut ChaCha20Rng) -> BTreeMap<u16, Scalar> {
    let mut coefficients = vec![*secret];
    coefficients.extend((1..t).map(|_| Scalars::random(rng)));
    let at = |x: u16| {
        let x = Scalar::from(u64::from(x));
        coefficients.iter().rev().fold(Scalars::zero(), |sum, c| sum * x + c)
    };
    (1..=n).map(|number| (number, at(number))).collect()
}

/// Signs with all these shares, as custodians do; libsecp256k1 has verified it.
fn sign_with(shares: &[KeyShare], message: &[u8; 32], rng: &mut ChaCha20Rng) -> [u8; 64] {
    let made: Vec<_> = shares.iter().map(|share| commit(share, rng)).collect();
    let session: Session = shares.iter().zip(&made).map(|(s, (_, c))| (s.number(), c.clone())).collect();
    let one = |(share, (nonce, _)): (&KeyShare, _)| {
        (share.number(), sign(share, nonce, message, &session).unwrap())
    };
    let parts = shares.iter().zip(made).map(one).collect();
    aggregate(shares[0].keys(), message, &session, &parts).unwrap()
}

#[test]
fn our_commitments_are_those_of_the_taproot_vector() {
    let all: Value = serde_json::from_str(TAPROOT).unwrap();
    let shares: BTreeMap<u16, Scalar> = all["inputs"]["participant_shares"]
        .as_array()
        .unwrap()
        .iter()
        .map(|share| (number(share), scalar(&bytes(&share["participant_share"]))))
        .collect();
    let key = bytes(&all["inputs"]["verifying_key_key"]);
    for output in all["round_one_outputs"]["outputs"].as_array().unwrap() {
        let share = sealed(number(output), 2, &key, &shares);
        let (_, commitment) = commit(&share, &mut randomness(output));
        let expected =
            [bytes(&output["hiding_nonce_commitment"]), bytes(&output["binding_nonce_commitment"])];
        assert_eq!(commitment.to_bytes()[..], expected.concat());
    }
}

#[test]
fn groups_with_the_keys_of_bip340_sign_its_messages() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let (mut seen, mut parities) = (0, [0, 0]);
    for row in BIP_340.lines().skip(1) {
        let cells: Vec<&str> = row.splitn(8, ',').collect();
        let Ok(message) = <[u8; 32]>::try_from(hex::decode(cells[4]).unwrap()) else { continue };
        if cells[1].is_empty() {
            continue;
        }
        let secret = scalar(&hex::decode(cells[1]).unwrap());
        let key = point(&secret);
        parities[usize::from(key[0] == 3)] += 1;
        let shares = split(&secret, 3, 4, &mut rng);
        let three: Vec<_> = [1, 2, 4].map(|number| sealed(number, 3, &key, &shares)).into();
        let signature = sign_with(&three, &message, &mut rng);
        let published: [u8; 32] = hex::decode(cells[2]).unwrap().try_into().unwrap();
        assert!(verify(&GroupKey::from_bytes(&published).unwrap(), &message, &signature));
        seen += 1;
    }
    assert_eq!(seen, 4);
    assert!(parities[0] > 0 && parities[1] > 0, "{parities:?}");
}

#[test]
fn the_tweak_of_a_ceremony_is_that_of_bip341() {
    let all: Value = serde_json::from_str(BIP_341).unwrap();
    let mut without_scripts = 0;
    for case in all["scriptPubKey"].as_array().unwrap() {
        let internal = [&[2][..], &bytes(&case["given"]["internalPubkey"])].concat();
        let key = VerifyingKey::<Secp256K1Sha256TR>::deserialize(&internal).unwrap();
        let root = &case["intermediary"]["merkleRoot"];
        let root = (!root.is_null()).then(|| bytes(root));
        without_scripts += u32::from(root.is_none());
        let package = PublicKeyPackage::new(BTreeMap::new(), key, Some(2)).tweak(root.as_deref());
        let tweaked = package.verifying_key().serialize().unwrap();
        assert_eq!(tweaked[1..], bytes(&case["intermediary"]["tweakedPubkey"]));
    }
    // A ceremony's key is tweaked like these: without a script path.
    assert!(without_scripts > 0);
}

#[test]
fn groups_with_the_keys_of_bip341_spend_by_the_key_path() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let all: Value = serde_json::from_str(BIP_341).unwrap();
    let inputs = all["keyPathSpending"][0]["inputSpending"].as_array().unwrap();
    assert_eq!(inputs.len(), 7);
    for input in inputs {
        let secret = scalar(&bytes(&input["given"]["internalPrivkey"]));
        let root = &input["given"]["merkleRoot"];
        let root = (!root.is_null()).then(|| bytes(root));
        let message: [u8; 32] = bytes(&input["intermediary"]["sigHash"]).try_into().unwrap();
        let tweaked = scalar(&bytes(&input["intermediary"]["tweakedPrivkey"]));
        let group = GroupKey::from_bytes(point(&tweaked)[1..].try_into().unwrap()).unwrap();

        // Shares of the internal key, tweaked each by itself as `part3` does.
        let key = VerifyingKey::<Secp256K1Sha256TR>::deserialize(&point(&secret)).unwrap();
        let mut made = BTreeMap::new();
        let mut tweaked_key = Vec::new();
        for (number, share) in split(&secret, 2, 3, &mut rng) {
            let id = Identifier::try_from(number).unwrap();
            let share = SigningShare::deserialize(&Scalars::serialize(&share)).unwrap();
            let package =
                KeyPackage::new(id, share, VerifyingShare::from(share), key, 2).tweak(root.as_deref());
            tweaked_key = package.verifying_key().serialize().unwrap();
            made.insert(number, scalar(&package.signing_share().serialize()));
        }
        let two: Vec<_> = [1, 3].map(|number| sealed(number, 2, &tweaked_key, &made)).into();
        assert_eq!(two[0].group_key(), group);
        assert!(verify(&group, &message, &sign_with(&two, &message, &mut rng)));

        // And the published signature is one of this key and message.
        let witness = bytes(&input["expected"]["witness"][0]);
        assert!(verify(&group, &message, witness[..64].try_into().unwrap()));
    }
}
