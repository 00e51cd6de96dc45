//! The vectors of dlcspecs, samples of both kinds of hashing, and what is refused for which reason.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

#[path = "../../tests/machine/dlc_oracle.rs"]
mod oracle;

use oracle::{Event, Oracle, number, one_of, secret, sign, string, tlv};

const MODES: [(bool, Hashing, Hashing); 2] =
    [(true, Hashing::Tagged, Hashing::LegacyUntagged), (false, Hashing::LegacyUntagged, Hashing::Tagged)];

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

#[test]
fn signatures_of_dlcspecs() {
    let vectors = vectors(include_str!("../../tests/vectors/dlc_schnorr_test.json"));
    assert_eq!(vectors.as_array().unwrap().len(), 5);
    for vector in vectors.as_array().unwrap() {
        let (key, message) = (array(&vector["pubKey"]), array(&vector["inputs"]["msgHash"]));
        let signature: [u8; 64] = array(&vector["signature"]);
        assert_eq!(verify(&key, message, &signature), Ok(()));
        assert!(signature.starts_with(&bytes(&vector["pubNonce"])));
        // And the oracle of these tests signs as they do.
        let secret = |name: &str| secp256k1::SecretKey::from_slice(&bytes(&vector["inputs"][name])).unwrap();
        assert_eq!(sign(&secret("privKey"), &secret("privNonce"), &message), signature);
    }
}

/// The announcement in the offer of dlcspecs: an oracle that signed before hashes were tagged.
fn published() -> (Value, Vec<u8>) {
    let vectors = vectors(include_str!("../../tests/vectors/dlc_enum_single_oracle_test.json"));
    let offer = &vectors["offer_message"];
    let whole = bytes(&offer["serialized"]);
    let at = whole.windows(3).position(|window| window == [0xfd, 0xd8, 0x24]).unwrap();
    let length = usize::from(whole[at + 3]);
    let info = &offer["message"]["contractInfo"]["singleContractInfo"]["contractInfo"]["oracleInfo"];
    (info["single"]["oracleAnnouncement"].clone(), whole[at..at + 4 + length].to_vec())
}

#[test]
fn the_announcement_of_dlcspecs() {
    let (expected, whole) = published();
    let read = Announcement::parse(&whole).unwrap();
    let event = &expected["oracleEvent"];
    assert_eq!(read.key.to_vec(), bytes(&expected["oraclePublicKey"]));
    assert_eq!(read.signature.to_vec(), bytes(&expected["announcementSignature"]));
    assert_eq!(read.nonces, [array::<32>(&event["oracleNonces"][0])]);
    assert_eq!(u64::from(read.maturity()), event["eventMaturityEpoch"].as_u64().unwrap());
    assert_eq!(read.event_id(), event["eventId"]);
    let outcomes = serde_json::to_value(["a", "b", "c", "d"]).unwrap();
    assert_eq!(event["eventDescriptor"]["enumEvent"]["outcomes"], outcomes);
    assert_eq!(read.descriptor(), &Descriptor::Enum(["a", "b", "c", "d"].map(str::to_owned).to_vec()));
    // It passes in its own mode only.
    assert_eq!(read.check(Hashing::LegacyUntagged), Ok(()));
    assert_eq!(read.check(Hashing::Tagged), Err(Fault::Signature));
    // Without its head it is the same one.
    assert_eq!(Announcement::parse(&whole[4..]), Ok(read));
}

/// Older messages of dlcspecs hold other records in the same encoding.
#[test]
fn the_records_of_dlcspecs() {
    let vectors = vectors(include_str!("../../tests/vectors/dlc_message_test.json"));
    let mut seen = 0;
    for vector in vectors.as_array().unwrap() {
        let (input, fields) = (bytes(&vector["input"]), &vector["fields"]);
        let kind = Reader::new(&bytes(&fields["tpe"])).bigsize();
        assert!(Announcement::parse(&input).is_err());
        let Some(length) = fields["length"].as_str() else { continue };
        let length = Reader::new(&hex::decode(length).unwrap()).bigsize().unwrap();
        let mut whole = Reader::new(&input);
        let (found, inner) = whole.tlv().unwrap();
        assert_eq!((Ok(found), inner.rest().len() as u64, whole.end()), (kind, length, Ok(())));
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn samples_pass_in_their_own_mode_only() {
    for (tagged, own, other) in MODES {
        let oracle = Oracle::new("an oracle", tagged);
        let match_ = Event::new("match", one_of(&["red", "blue", "draw"]), 1);
        let price = Event::new("price", number(10, false, false, 4), 4);
        let wide = Event::new("wide", number(2, true, false, 20), 20);
        let degrees = Event::new("degrees", number(300, false, true, 2), 3);
        let twenty: Vec<&str> = "00000000001111101000".split("").filter(|bit| !bit.is_empty()).collect();
        let cases: [(&Event, &[&str], &str, Option<i64>); 5] = [
            (&match_, &["blue"], "blue", None),
            (&price, &["0", "0", "4", "2"], "42", Some(42)),
            (&wide, &twenty, "1000", Some(1000)),
            (&degrees, &["-", "1", "299"], "-599", Some(-599)),
            (&degrees, &["+", "0", "0"], "0", Some(0)),
        ];
        for (event, signed, text, value) in cases {
            let announcement = Announcement::parse(&oracle.announces(event)).unwrap();
            let attestation = Attestation::parse(&oracle.attests(event, signed)).unwrap();
            assert_eq!(announcement.check(own), Ok(()));
            assert_eq!(announcement.check(other), Err(Fault::Signature));
            let outcome = Outcome { text: text.to_owned(), value };
            assert_eq!(announcement.attested(&attestation, own), Ok(outcome));
            assert_eq!(announcement.attested(&attestation, other), Err(Fault::Signature));
        }
    }
}

#[test]
fn each_fault_has_its_reason() {
    for (tagged, own, _) in MODES {
        let oracle = Oracle::new("an oracle", tagged);
        let event = Event::new("match", one_of(&["red", "blue"]), 1);
        let announcement = Announcement::parse(&oracle.announces(&event)).unwrap();
        let attested = |bytes: &[u8]| announcement.attested(&Attestation::parse(bytes)?, own).map(|o| o.text);
        assert_eq!(attested(&oracle.attests(&event, &["red"])), Ok("red".to_owned()));

        let liar = Oracle::new("another oracle", tagged);
        assert_eq!(attested(&liar.attests(&event, &["red"])), Err(Fault::Key));
        assert_eq!(attested(&oracle.attests_with("rematch", &event.nonces, &["red"])), Err(Fault::Event));
        // A good signature of this oracle over an announced outcome, but not with the nonce of this event.
        let other = secret("another nonce");
        assert_eq!(attested(&oracle.attests_with("match", &[other], &["red"])), Err(Fault::Nonce));
        let twice = [event.nonces[0], other];
        assert_eq!(attested(&oracle.attests_with("match", &twice, &["red", "red"])), Err(Fault::Nonce));
        assert_eq!(attested(&oracle.attests_with("match", &[], &[])), Err(Fault::Nonce));
        assert_eq!(attested(&oracle.attests(&event, &["green"])), Err(Fault::Outcome));
        // The nonce is right, what is signed isn't what is said.
        let mut forged = oracle.attests(&event, &["red"]);
        let at = forged.len() - 4;
        forged.splice(at.., string("blue"));
        forged[3] += 1;
        assert_eq!(attested(&forged), Err(Fault::Signature));

        // As some libraries write them, and without a head.
        let whole = oracle.attests(&event, &["red"]);
        let (head, outcome) = (whole[4..whole.len() - 4].to_vec(), string("red"));
        assert_eq!(attested(&[&head[..], &outcome].concat()), Ok("red".to_owned()));
        assert_eq!(attested(&[&head[..], &[0, 1], &outcome].concat()), Ok("red".to_owned()));
        let malformed = |bytes: &[u8]| assert!(matches!(attested(bytes), Err(Fault::Malformed(_))));
        malformed(&[&head[..], &[0, 2], &outcome].concat());
        malformed(&[&whole[..], &[0]].concat());
        malformed(&whole[..whole.len() - 1]);
        malformed(b"");
    }
}

#[test]
fn numbers_have_one_spelling() {
    let oracle = Oracle::new("an oracle", true);
    let event = Event::new("degrees", number(10, false, true, 2), 3);
    let announcement = Announcement::parse(&oracle.announces(&event)).unwrap();
    let attested = |signed: &[&str]| {
        let attestation = Attestation::parse(&oracle.attests(&event, signed)).unwrap();
        announcement.attested(&attestation, Hashing::Tagged).map(|outcome| outcome.value)
    };
    assert_eq!(attested(&["-", "0", "7"]), Ok(Some(-7)));
    for wrong in [
        ["-", "0", "0"],
        ["0", "0", "7"],
        ["+", "00", "7"],
        ["+", "+1", "7"],
        ["+", "0", "10"],
        ["+", "", "7"],
    ] {
        assert_eq!(attested(&wrong), Err(Fault::Outcome), "{wrong:?}");
    }
}

#[test]
fn announcements_that_nobody_could_settle_are_malformed() {
    let oracle = Oracle::new("an oracle", true);
    let read = |event: &Event| Announcement::parse(&oracle.announces(event));
    let malformed = |event: &Event| assert!(matches!(read(event), Err(Fault::Malformed(_))), "{}", event.id);
    assert!(read(&Event::new("a", one_of(&["x"]), 1)).is_ok());
    malformed(&Event::new("two nonces for one outcome", one_of(&["x"]), 2));
    malformed(&Event::new("no nonce", one_of(&["x"]), 0));
    malformed(&Event::new("a nonce too few", number(2, false, true, 5), 5));
    let mut twice = Event::new("a nonce twice", number(2, false, false, 2), 2);
    twice.nonces[1] = twice.nonces[0];
    malformed(&twice);
    malformed(&Event::new("base 1", number(1, false, false, 2), 2));
    malformed(&Event::new("beyond 2^53", number(10, false, false, 16), 16));
    assert!(read(&Event::new("below", number(10, false, false, 15), 15)).is_ok());
    malformed(&Event::new("too many digits", number(2, false, false, 25), 25));
    malformed(&Event::new("unknown", tlv(55304, &[0, 0]), 1));
    let many: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    malformed(&Event::new("300", one_of(&many.iter().map(String::as_str).collect::<Vec<_>>()), 1));
    malformed(&Event::new(&"x".repeat(300), one_of(&["x"]), 1));
    // A length in more bytes than it needs.
    let long = [&[0xfd, 0, 1][..], b"x"].concat();
    assert!(Reader::new(&long).string().is_err());
    assert!(Reader::new(&[2, 0xff, 0xfe]).string().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (Announcement::parse(&bytes), Attestation::parse(&bytes));
    }

    /// Whatever bit of them is turned, an oracle's words don't say anything else.
    #[test]
    fn no_bit_can_be_turned(tagged: bool, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let (_, own, _) = MODES[usize::from(!tagged)];
        let oracle = Oracle::new("an oracle", tagged);
        let event = Event::new("price", number(10, true, false, 2), 2);
        let (announced, attested) = (oracle.announces(&event), oracle.attests(&event, &["4", "2"]));
        let whole = Announcement::parse(&announced).unwrap();
        let turned = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        let read = Announcement::parse(&turned(&announced)).and_then(|read| read.check(own));
        prop_assert!(read.is_err());
        let read = Attestation::parse(&turned(&attested)).and_then(|read| whole.attested(&read, own));
        prop_assert!(read.is_err());
    }
}
