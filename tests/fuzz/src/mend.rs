//! Makes what a fuzzer bent pass the first checks: signs events, envelopes and claims anew and puts right the hashes that
//! bind attachments. It keeps everything else as it came, so that the checks behind are the ones that are tested.

use concordat_events::batch::batch_hash;
use concordat_events::hash::Hash;
use concordat_events::head::{Outcome, Reason};
use concordat_events::{Head, PublicKey, Template, ValidEvent};
use concordat_finality::message::{Kind, attachment_hash, seal};
use concordat_finality::wire;
use prost::Message;
use serde_json::Value;

use super::world::{START, public, sign, signature, world};

/// Kinds by their numbers, from 1.
pub const KINDS: [Kind; 26] = [
    Kind::Requests,
    Kind::Wrapper,
    Kind::Propose,
    Kind::Prepare,
    Kind::Certify,
    Kind::Lock,
    Kind::Refuse,
    Kind::Shown,
    Kind::Share,
    Kind::Again,
    Kind::Certificate,
    Kind::Complaint,
    Kind::Grant,
    Kind::EpochStart,
    Kind::Evidence,
    Kind::Question,
    Kind::Answer,
    Kind::FetchHeads,
    Kind::Heads,
    Kind::FetchBatches,
    Kind::Batches,
    Kind::Nudge,
    Kind::FetchState,
    Kind::State,
    Kind::Report,
    Kind::Resume,
];

/// Nested messages that are mended; the rest stays as it came. Mending costs a signature each.
const MENDED: usize = 5;

/// Reads the JSON of an event that needn't have id or signature. `pubkey` may also be `g` for the group, `0` or `1` for a
/// user; other authors are the first user.
pub fn template(json: &[u8]) -> Option<Template> {
    let value: Value = serde_json::from_slice(json).ok()?;
    value.as_object()?;
    let world = world();
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let known = [("g", public(&world.group)), ("1", public(&world.users[1]))];
    let author = text("pubkey")
        .and_then(|name| known.iter().find(|(short, key)| *short == name || key.to_hex() == name))
        .map_or_else(|| public(&world.users[0]), |(_, key)| *key);
    let tags = value.get("tags").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tag = |tag: &Value| -> Vec<String> {
        tag.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Some(Template {
        author,
        created_at: value.get("created_at").and_then(Value::as_u64).unwrap_or(START / 1000),
        kind: value.get("kind").and_then(Value::as_u64).unwrap_or_default() as u16,
        tags: tags.iter().map(tag).filter(|tag| !tag.is_empty()).collect(),
        content: text("content").unwrap_or_default().to_owned(),
    })
}

/// Signs an event's JSON; `None` if it is none or over the limits.
pub fn signed(json: &[u8]) -> Option<ValidEvent> {
    sign(&template(json)?)?.ok()
}

/// A log event of the group's: its fields are taken where they fit, the rest follows from the cluster.
pub fn logged(json: &[u8]) -> Option<ValidEvent> {
    let from = template(json)?;
    let content: Value = serde_json::from_str(&from.content).unwrap_or_default();
    let hash = |name: &str| content.get(name).and_then(Value::as_str).and_then(Hash::from_hex);
    let number = |name: &str| content.get(name).and_then(Value::as_u64);
    let pair = |value: &Value| Some((value.get(0)?.as_u64()?, u32::try_from(value.get(1)?.as_u64()?).ok()?));
    let batches = content.get("batches").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let outcome = |tag: &Vec<String>| {
        let id = Hash::from_hex(tag.get(1)?)?;
        let reason = tag.get(4).and_then(|code| Reason::new(code));
        Some((id, reason.map_or(Outcome::Ok, Outcome::Rejected)))
    };
    let context = &world().context;
    let height = number("height").unwrap_or_default();
    let mut head = Head {
        cluster: context.cluster,
        height,
        parent: hash("parent").unwrap_or_default(),
        batches_root: Hash::ZERO,
        state_root: hash("state_root").unwrap_or_default(),
        time_ms: number("time").unwrap_or(START),
        roster: context.roster_hash,
        batches: batches.iter().filter_map(pair).collect(),
        outcomes: from.tags.iter().filter(|tag| tag[0] == "e").filter_map(outcome).collect(),
        genesis: (height == 0).then(|| Box::new(context.genesis.clone())),
    };
    head.batches_root = head.computed_batches_root().unwrap_or_default();
    sign(&head.log_event(context.group(), context.genesis.kinds.log).ok()?)?.ok()
}

/// The group's key, in hex.
pub fn group() -> PublicKey {
    public(&world().group)
}

fn event(bytes: &mut Vec<u8>) {
    if ValidEvent::parse(bytes).is_err()
        && let Some(event) = signed(bytes)
    {
        *bytes = event.json().as_bytes().to_vec();
    }
}

fn log_event(bytes: &mut Vec<u8>) {
    if !bytes.is_empty()
        && let Some(event) = logged(bytes)
    {
        *bytes = event.json().as_bytes().to_vec();
    }
}

fn hash(bytes: &mut Vec<u8>) {
    bytes.resize(32, 0);
}

fn batch(batch: &mut wire::Batch) {
    batch.requests.iter_mut().take(MENDED).for_each(event);
}

/// Mends a stored or travelling certified head.
pub fn certified_head(head: &mut wire::CertifiedHead) {
    if let Some(inner) = &mut head.certificate {
        certificate(inner);
    }
    head.batches.iter_mut().take(MENDED).for_each(batch);
    for bytes in head.events.iter_mut().take(MENDED) {
        if let Some(mut template) = template(bytes) {
            template.author = group();
            if let Some(Ok(event)) = sign(&template) {
                *bytes = event.json().as_bytes().to_vec();
            }
        }
    }
}

/// Mends a stored batch.
pub fn stored_batch(bytes: &[u8]) -> Vec<u8> {
    redo(bytes, batch)
}

fn certificate(certificate: &mut wire::Certificate) {
    log_event(&mut certificate.log_event);
    certificate.signatures.iter_mut().for_each(|signature| signature.resize(64, 0));
    if let (Some(first), Ok(event)) =
        (certificate.signatures.first_mut(), ValidEvent::parse(&certificate.log_event))
    {
        *first = event.signature().to_vec();
    }
}

/// Mends a prepare certificate: its prepares are by distinct custodians and for its head.
pub fn cert(cert: &mut wire::PrepareCert) {
    hash(&mut cert.id);
    for (place, prepare) in cert.prepares.iter_mut().enumerate().take(MENDED) {
        vote(prepare, place, cert.epoch, cert.height, &cert.id);
    }
    cert.batch_hashes.iter_mut().for_each(hash);
}

fn vote(envelope: &mut wire::Envelope, place: usize, epoch: u64, height: u64, id: &[u8]) {
    envelope.kind = Kind::Prepare as u32;
    envelope.sender = place as u32 + 1;
    envelope.body = redo(&envelope.body, |prepare: &mut wire::Prepare| {
        (prepare.epoch, prepare.height, prepare.id) = (epoch, height, id.to_vec());
        hash(&mut prepare.commitments);
    });
    message(envelope);
}

/// Mends a claim to a seq.
pub fn claim(claim: &mut wire::Claim) {
    claim.sender = number(claim.sender);
    hash(&mut claim.body_hash);
    let body = Hash::from_slice(&claim.body_hash).unwrap();
    let sender = claim.sender as u16;
    let digest = world().context.digest(sender, claim.seq, claim.kind, &body);
    claim.signature = signature(&world().custodians[&sender], &digest).to_vec();
}

/// Mends evidence: all of it is signed by one custodian.
pub fn evidence(evidence: &mut wire::Evidence) {
    let culprit = evidence.messages.first().map_or(1, |message| message.sender);
    for envelope in evidence.messages.iter_mut().take(2) {
        envelope.sender = culprit;
        if envelope.kind == Kind::Wrapper as u32
            && let Ok(outline) = wire::Outline::decode(envelope.attachment.as_slice())
        {
            let ids = outline.ids.as_chunks::<32>().0.iter().map(|id| Hash::from_bytes(*id));
            let hash = batch_hash(outline.time_ms, ids);
            envelope.body =
                redo(&envelope.body, |entry: &mut wire::Wrapper| entry.batch = hash.as_bytes().to_vec());
        }
        resign(envelope);
    }
}

/// A custodian's number.
fn number(sender: u32) -> u32 {
    sender.wrapping_sub(1) % 4 + 1
}

fn resign(envelope: &mut wire::Envelope) {
    envelope.sender = number(envelope.sender);
    let kind = KINDS[envelope.kind.wrapping_sub(1) as usize % KINDS.len()];
    let sender = envelope.sender as u16;
    let (body, attachment) = (std::mem::take(&mut envelope.body), std::mem::take(&mut envelope.attachment));
    let key = &world().custodians[&sender];
    *envelope = seal(&world().context, key, sender, envelope.seq, kind, body, attachment);
}

/// Decodes, changes and encodes; bytes that don't decode stay as they are.
fn redo<T: Message + Default>(bytes: &[u8], change: impl FnOnce(&mut T)) -> Vec<u8> {
    match T::decode(bytes) {
        Ok(mut value) => {
            change(&mut value);
            value.encode_to_vec()
        }
        Err(_) => bytes.to_vec(),
    }
}

/// Mends a message and what is nested in it.
pub fn message(envelope: &mut wire::Envelope) {
    let kind = KINDS[envelope.kind.wrapping_sub(1) as usize % KINDS.len()];
    let body = envelope.body.clone();
    let attachment = &mut envelope.attachment;
    envelope.body = match kind {
        Kind::Requests => {
            redo(&body, |body: &mut wire::Requests| body.events.iter_mut().take(MENDED).for_each(event))
        }
        Kind::Wrapper => redo(&body, |body: &mut wire::Wrapper| {
            hash(&mut body.previous);
            hash(&mut body.batch);
            *attachment = redo(attachment, batch);
            let Ok(batch) = wire::Batch::decode(attachment.as_slice()) else { return };
            let ids: Option<Vec<Hash>> =
                batch.requests.iter().map(|bytes| Some(ValidEvent::parse(bytes).ok()?.id())).collect();
            if let Some(ids) = ids {
                body.batch = batch_hash(batch.time_ms, ids.into_iter()).as_bytes().to_vec();
            }
        }),
        Kind::Propose => redo(&body, |body: &mut wire::Propose| hash(&mut body.id)),
        Kind::Prepare => redo(&body, |body: &mut wire::Prepare| {
            hash(&mut body.id);
            hash(&mut body.commitments);
            if !attachment.is_empty() {
                body.commitments = attachment_hash(attachment).as_bytes().to_vec();
            }
        }),
        Kind::Certify => redo(&body, |body: &mut wire::Certify| {
            let Some(inner) = &mut body.cert else { return };
            cert(inner);
            for (place, prepare) in body.signers.iter_mut().enumerate().take(MENDED) {
                vote(prepare, place, inner.epoch, inner.height, &inner.id);
            }
        }),
        Kind::Lock => redo(&body, |body: &mut wire::Lock| body.cert.iter_mut().for_each(cert)),
        Kind::Refuse => redo(&body, |body: &mut wire::Refuse| {
            hash(&mut body.id);
            body.lock.iter_mut().for_each(cert);
        }),
        Kind::Shown => redo(&body, |body: &mut wire::Shown| {
            for prepare in body.prepares.iter_mut().take(MENDED) {
                prepare.kind = Kind::Prepare as u32;
                message(prepare);
            }
        }),
        Kind::Share => redo(&body, |body: &mut wire::Share| {
            hash(&mut body.id);
            hash(&mut body.session);
        }),
        Kind::Again => redo(&body, |body: &mut wire::Again| hash(&mut body.id)),
        Kind::Certificate => redo(&body, certificate),
        Kind::Complaint => {
            let epoch = wire::Complaint::decode(body.as_slice()).map(|body| body.epoch).unwrap_or_default();
            *attachment = redo(attachment, |proof: &mut wire::Proof| {
                for grant in proof.messages.iter_mut().take(MENDED) {
                    inner(grant, Kind::Grant, epoch);
                }
            });
            body
        }
        Kind::Grant => redo(&body, |body: &mut wire::Grant| {
            log_event(&mut body.certified);
            body.lock.iter_mut().for_each(cert);
            body.evidence.iter_mut().take(MENDED).for_each(evidence);
            *attachment = redo(attachment, |proof: &mut wire::Proof| {
                for complaint in proof.messages.iter_mut().take(MENDED) {
                    inner(complaint, Kind::Complaint, body.epoch);
                }
            });
        }),
        Kind::EpochStart => redo(&body, |body: &mut wire::EpochStart| {
            *attachment = redo(attachment, |opening: &mut wire::Opening| {
                for (place, grant) in opening.grants.iter_mut().enumerate().take(MENDED) {
                    grant.sender = place as u32 + 1;
                    inner(grant, Kind::Grant, body.epoch);
                }
                opening.evidence.iter_mut().take(MENDED).for_each(evidence);
                let first = opening.resume.first().map(|resume| resume.body.clone()).unwrap_or_default();
                for (place, resume) in opening.resume.iter_mut().enumerate().take(MENDED) {
                    (resume.sender, resume.body) = (place as u32 + 1, first.clone());
                    inner(resume, Kind::Resume, body.epoch);
                }
            });
            body.opening = attachment_hash(attachment).as_bytes().to_vec();
        }),
        Kind::Evidence => redo(&body, evidence),
        Kind::Question => redo(&body, |body: &mut wire::Question| hash(&mut body.nonce)),
        Kind::Answer => redo(&body, |body: &mut wire::Answer| {
            hash(&mut body.nonce);
            body.highest.iter_mut().for_each(claim);
            log_event(&mut body.certified);
        }),
        Kind::FetchHeads | Kind::Nudge => body,
        Kind::Heads => redo(&body, |body: &mut wire::Heads| {
            body.heads.iter_mut().take(MENDED).for_each(certified_head);
            log_event(&mut body.newest);
        }),
        Kind::FetchState => redo(&body, |body: &mut wire::FetchState| hash(&mut body.place)),
        Kind::State => redo(&body, |body: &mut wire::State| {
            hash(&mut body.place);
            body.beside.iter_mut().for_each(hash);
        }),
        Kind::Report => redo(&body, |body: &mut wire::Report| {
            log_event(&mut body.certified);
            body.lock.iter_mut().for_each(cert);
            body.prepared.iter_mut().for_each(|vote| hash(&mut vote.id));
            body.batch_hashes.iter_mut().for_each(hash);
        }),
        Kind::Resume => redo(&body, |body: &mut wire::Resume| {
            log_event(&mut body.certified);
            body.lock.iter_mut().for_each(cert);
            body.possible.iter_mut().for_each(|vote| hash(&mut vote.id));
            body.batch_hashes.iter_mut().for_each(hash);
        }),
        Kind::FetchBatches => {
            redo(&body, |body: &mut wire::FetchBatches| body.hashes.iter_mut().for_each(hash))
        }
        Kind::Batches => {
            redo(&body, |body: &mut wire::Batches| body.batches.iter_mut().take(MENDED).for_each(batch))
        }
    };
    resign(envelope);
}

/// A grant, a complaint or a Resume inside another message: what is attached to it doesn't count there.
fn inner(envelope: &mut wire::Envelope, kind: Kind, epoch: u64) {
    envelope.kind = kind as u32;
    envelope.attachment.clear();
    if kind == Kind::Grant {
        envelope.body = redo(&envelope.body, |grant: &mut wire::Grant| grant.epoch = epoch);
    }
    if kind == Kind::Resume {
        envelope.body = redo(&envelope.body, |resume: &mut wire::Resume| resume.epoch = epoch);
    }
    message(envelope);
}
