//! What a message may take in memory before its counts are checked: nothing is decoded whose fields weren't counted.

use concordat_events::limits::MESSAGE_FIELDS;
use concordat_events::protobuf::Shaped;
use prost::Message as _;

use super::net::Cluster;
use crate::limits::ENVELOPE_BYTES;
use crate::message::{Kind, Message, MessageError, attachment_hash, seal};
use crate::wire;

/// More empty elements than a message may have fields: two bytes each.
const STUFFED: usize = 2 * MESSAGE_FIELDS + 2_000;

/// So many bytes of empty elements of a field, wrapped into the fields around it, the outermost first.
fn stuffed(path: &[u32], bytes: usize) -> Vec<u8> {
    let (field, around) = path.split_last().unwrap();
    let mut bytes = [*field as u8 * 8 + 2, 0].repeat(bytes / 2);
    for field in around.iter().rev() {
        let mut outer = vec![*field as u8 * 8 + 2];
        prost::encode_length_delimiter(bytes.len(), &mut outer).unwrap();
        outer.append(&mut bytes);
        bytes = outer;
    }
    bytes
}

/// Every list of `consensus.proto`, by the kind that it comes in and the fields around it.
const BODIES: &[(Kind, &[u32])] = &[
    (Kind::Requests, &[1]),
    (Kind::Certify, &[1, 4]),
    (Kind::Certify, &[1, 5]),
    (Kind::Certify, &[3]),
    (Kind::Lock, &[1, 4]),
    (Kind::Refuse, &[5, 4]),
    (Kind::Shown, &[1]),
    (Kind::Share, &[5]),
    (Kind::Certificate, &[2]),
    (Kind::Grant, &[3, 4]),
    (Kind::Grant, &[4]),
    (Kind::Grant, &[4, 1]),
    (Kind::Evidence, &[1]),
    (Kind::Heads, &[1]),
    (Kind::Heads, &[1, 1, 2]),
    (Kind::Heads, &[1, 2]),
    (Kind::Heads, &[1, 2, 2]),
    (Kind::Heads, &[1, 3]),
    (Kind::FetchBatches, &[1]),
    (Kind::Batches, &[1]),
    (Kind::Batches, &[1, 2]),
    (Kind::State, &[3]),
    (Kind::State, &[4]),
    (Kind::Report, &[3, 4]),
    (Kind::Report, &[5]),
    (Kind::Resume, &[3, 4]),
    (Kind::Resume, &[5]),
];

/// The lists of what is attached.
const ATTACHMENTS: &[(Kind, &[u32])] = &[
    (Kind::Wrapper, &[2]),
    (Kind::Prepare, &[1]),
    (Kind::Complaint, &[1]),
    (Kind::Grant, &[1]),
    (Kind::EpochStart, &[1]),
    (Kind::EpochStart, &[2]),
    (Kind::EpochStart, &[2, 1]),
    (Kind::EpochStart, &[3]),
];

/// A body that lets its attachment be read.
fn body_for(kind: Kind, attachment: &[u8]) -> Vec<u8> {
    let (id, hash) = (vec![1; 32], attachment_hash(attachment).as_bytes().to_vec());
    match kind {
        Kind::Wrapper => wire::Wrapper { batch: id, ..Default::default() }.encode_to_vec(),
        Kind::Prepare => wire::Prepare { id, commitments: hash, ..Default::default() }.encode_to_vec(),
        Kind::EpochStart => wire::EpochStart { epoch: 1, opening: hash }.encode_to_vec(),
        Kind::Complaint => wire::Complaint { cause: 1, ..Default::default() }.encode_to_vec(),
        _ => Vec::new(),
    }
}

fn refused(kind: Kind, body: Vec<u8>, attachment: Vec<u8>) {
    let cluster = Cluster::four();
    let identity = &cluster.members[&1].identity;
    let bytes = seal(&cluster.context, identity, 1, 1, kind, body, attachment).encode_to_vec();
    assert!(bytes.len() > 2 * MESSAGE_FIELDS && bytes.len() <= ENVELOPE_BYTES);
    match Message::receive(&cluster.context, 1, &bytes) {
        Err(MessageError::Malformed(text)) if text.contains("fields") => {}
        other => panic!("{kind:?}: {}", format!("{other:?}").chars().take(200).collect::<String>()),
    }
}

/// A member of the roster, with its own signature, sends millions of empty elements: see [`MESSAGE_FIELDS`] for what they took.
#[test]
fn no_list_is_decoded_before_it_is_counted() {
    for (kind, path) in BODIES {
        refused(*kind, stuffed(path, STUFFED), Vec::new());
    }
    refused(Kind::Shown, stuffed(&[1], ENVELOPE_BYTES - 1_000), Vec::new());
    for (kind, path) in ATTACHMENTS {
        let attachment = stuffed(path, STUFFED);
        refused(*kind, body_for(*kind, &attachment), attachment);
    }
}

#[test]
fn what_fits_is_decoded_within_a_bound() {
    // The largest honest message: a chunk of as many leaves as one may have, and the hashes of a full path.
    let leaf = wire::Leaf { key: vec![1; 8], value: vec![2; 8] };
    let state = wire::State {
        height: 1,
        place: vec![0; 32],
        beside: vec![vec![3; 32]; concordat_ledger::limits::PROOF_DEPTH],
        leaves: vec![leaf; concordat_ledger::limits::CHUNK_LEAVES],
    };
    let bytes = state.encode_to_vec();
    assert_eq!(wire::decode::<wire::State>(&bytes).unwrap(), state);
    let fields = wire::State::SHAPE.check(&bytes, MESSAGE_FIELDS).unwrap();
    assert!(
        fields > MESSAGE_FIELDS / 2,
        "{fields} of {MESSAGE_FIELDS}: the limit is far above what is needed"
    );
    // What the decoder makes of the most that is let through: a fraction of what came in at its largest, six times over.
    let largest = [
        size_of::<wire::Envelope>(),
        size_of::<wire::PrepareCert>(),
        size_of::<wire::CertifiedHead>(),
        size_of::<wire::Leaf>(),
        size_of::<wire::Batch>(),
        size_of::<wire::Evidence>(),
    ];
    // A list grows by doubling: what it holds, and up to as much again in vain, beside the half it was copied from.
    let most = 3 * MESSAGE_FIELDS * largest.into_iter().max().unwrap();
    assert!(most < 32 * 1024 * 1024, "{most} bytes");
}
