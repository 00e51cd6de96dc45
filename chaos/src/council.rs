//! Rosters that come after the founders': who they are, their shares of the same group key (each handed over by a real reshare), and
//! the requests that put them in force (PROTOCOL 9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, anyhow, bail};
use concordat_events::change::change_tags;
use concordat_events::hash::{Hash, tagged};
use concordat_events::{Activation, Change, Confirming, Custodian, Proposal, Roster, ValidEvent, kinds};
use concordat_threshold::dkg::{Message, Outgoing, To};
use concordat_threshold::reshare::{Plan, Reshare};
use concordat_threshold::{KeyShare, Session, aggregate, commit, sign};
use nostr::{EventBuilder, Keys, Kind, SecretKey, Tag, Timestamp};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::cluster::{Cluster, Member, WALL, custodian};

/// Founders of a cluster that changes its roster.
pub const FOUNDERS: u16 = 4;

/// Who is in office, and whose shares are handed over: nothing, the founders'.
type Term = (&'static str, &'static [u16], Option<&'static str>);

/// All offices.
const TERMS: [Term; 3] = [
    ("one replaced", &[1, 3, 4, 5], None),
    ("seven", &[1, 2, 3, 4, 5, 6, 7], None),
    ("four again", &[1, 5, 6, 7], Some("seven")),
];

/// What a cluster may go through: one custodian replaced, or seven and four again.
pub const WAYS: [&[&str]; 2] = [&["one replaced"], &["seven", "four again"]];

/// A roster after the founders', with its shares.
pub struct Office {
    /// What it is called.
    pub name: &'static str,
    /// Who.
    pub roster: Roster,
    /// Its hash.
    pub hash: Hash,
    shares: BTreeMap<u16, Vec<u8>>,
}

impl Office {
    /// A custodian's share, if it has one.
    ///
    /// # Errors
    /// None but a defect.
    pub fn share(&self, number: u16) -> Result<Option<KeyShare>> {
        let read = |bytes: &Vec<u8>| KeyShare::from_sealed_bytes(bytes).map_err(|error| anyhow!("{error}"));
        self.shares.get(&number).map(read).transpose()
    }
}

/// The cluster of four that changes its roster, made once in a process.
///
/// # Errors
/// None but a defect.
pub fn changing() -> Result<Arc<Cluster>> {
    static CHANGING: OnceLock<Result<Arc<Cluster>, String>> = OnceLock::new();
    let made = CHANGING.get_or_init(|| make().map(Arc::new).map_err(|error| format!("{error:#}")));
    made.clone().map_err(|error| anyhow!("{error}"))
}

fn make() -> Result<Cluster> {
    let mut cluster = Cluster::found(FOUNDERS)?;
    let mut rng = ChaCha20Rng::seed_from_u64(0x436f_756e_6369_6c00);
    let mut everybody = cluster.context.roster.members().to_vec();
    let last = TERMS.iter().flat_map(|(_, numbers, _)| numbers.iter()).max().copied().unwrap_or(FOUNDERS);
    for number in FOUNDERS + 1..=last {
        let keys = Keys::generate_with_rng(&mut rng);
        everybody.push(custodian(number, &keys));
        cluster.members.insert(number, Member::guest(&keys));
    }
    let founders: BTreeMap<u16, KeyShare> = (1..=FOUNDERS)
        .map(|number| {
            Ok((number, cluster.members.get(&number).context("a founder")?.share()?.context("a share")?))
        })
        .collect::<Result<_>>()?;
    for (name, numbers, from) in TERMS {
        let members: Vec<Custodian> =
            everybody.iter().filter(|member| numbers.contains(&member.number)).cloned().collect();
        let roster = Roster::new(members)?;
        let before = from.map(|from| cluster.office_named(from).context("an office")).transpose()?;
        let held: BTreeMap<u16, KeyShare> = match before {
            None => BTreeMap::new(),
            Some(office) => {
                let share = |number: &u16| Some((*number, office.share(*number).ok().flatten()?));
                office.shares.keys().filter_map(share).collect()
            }
        };
        let shares = reshare(if held.is_empty() { &founders } else { &held }, &roster, &mut rng)?;
        cluster.offices.push(Office { name, hash: roster.hash()?, roster, shares });
    }
    cluster.guests = everybody;
    Ok(cluster)
}

/// The key handed over to another roster, every message through its bytes.
fn reshare(
    old: &BTreeMap<u16, KeyShare>,
    roster: &Roster,
    rng: &mut ChaCha20Rng,
) -> Result<BTreeMap<u16, Vec<u8>>> {
    let keys = old.values().next().context("shares of none")?.keys().clone();
    let (group, to) = (keys.group_key(), roster.numbers().collect::<BTreeSet<u16>>());
    let dealers: BTreeSet<u16> = old.keys().copied().take(usize::from(keys.threshold())).collect();
    let threshold = u16::try_from(roster.q())?;
    let zero = Hash::ZERO;
    let change = Confirming { cluster: zero, roster: zero, proposal: zero, transcript: zero };
    let plan = Plan { change, attempt: zero, keys, dealers: dealers.clone(), roster: to.clone(), threshold };
    let all: BTreeSet<u16> = dealers.union(&to).copied().collect();
    let mut members = BTreeMap::new();
    let mut wire: Vec<(u16, Outgoing)> = Vec::new();
    for number in &all {
        let share = old.get(number).filter(|_| dealers.contains(number));
        let (member, out) = Reshare::new(plan.clone(), *number, share, rng).map_err(|e| anyhow!("{e}"))?;
        members.insert(*number, member);
        wire.extend(out.into_iter().map(|out| (*number, out)));
    }
    while !wire.is_empty() {
        while let Some((from, out)) = wire.pop() {
            let bytes = out.message.encode();
            for number in all.iter().filter(|number| **number != from) {
                if out.to != To::All && out.to != To::One(*number) {
                    continue;
                }
                let member = members.get_mut(number).context("a message for a stranger")?;
                let message = Message::decode(&bytes).map_err(|e| anyhow!("{e}"))?;
                let more = member.on_message(from, message, rng).map_err(|e| anyhow!("{e}"))?;
                wire.extend(more.into_iter().map(|out| (*number, out)));
            }
        }
        for (number, member) in &mut members {
            if member.to_store().is_some() {
                let more = member.stored(rng).map_err(|e| anyhow!("{e}"))?;
                wire.extend(more.into_iter().map(|out| (*number, out)));
            }
        }
    }
    let mut shares = BTreeMap::new();
    for (number, member) in members {
        let done = member.finish().map_err(|_| anyhow!("the reshare of custodian {number} isn't over"))?;
        if done.keys.group_key() != group {
            bail!("a reshare gave another group key");
        }
        shares.extend(done.share.map(|share| (number, share.to_sealed_bytes().to_vec())));
    }
    if !shares.keys().copied().eq(to) {
        bail!("a new custodian has no share");
    }
    Ok(shares)
}

impl Cluster {
    /// An office by its name.
    pub fn office_named(&self, name: &str) -> Option<&Office> {
        self.offices.iter().find(|office| office.name == name)
    }

    /// Signs a change as a custodian, so many ms after the run's beginning.
    ///
    /// # Errors
    /// When there is no such custodian.
    pub fn change(&self, by: u16, change: &Change, at: u64) -> Result<ValidEvent> {
        let member = self.members.get(&by).with_context(|| format!("no custodian {by}"))?;
        let keys = Keys::new(SecretKey::from(member.identity.secret_key()));
        let tags = change_tags(&self.context.group());
        let tags = tags.iter().map(Tag::parse).collect::<Result<Vec<Tag>, _>>()?;
        let mut rng = ChaCha20Rng::seed_from_u64(at ^ u64::from(by));
        let event = EventBuilder::new(Kind::from_u16(kinds::CHANGE), serde_json::to_string(change)?)
            .tags(tags)
            .custom_created_at(Timestamp::from_secs((WALL + at) / 1000))
            .build(keys.public_key())
            .sign_with_ctx(secp256k1::SECP256K1, &mut rng, &keys)?;
        Ok(ValidEvent::check(event)?)
    }

    /// The proposal of an office.
    ///
    /// # Errors
    /// As [`Cluster::change`].
    pub fn proposal(&self, by: u16, office: &Office, at: u64) -> Result<ValidEvent> {
        self.change(by, &Change::Propose(Proposal::Roster(office.roster.clone().into())), at)
    }

    /// The activation of an office: confirmed by all of it, and signed by the group with its shares.
    ///
    /// # Errors
    /// As [`Cluster::change`].
    pub fn activation(
        &self,
        by: u16,
        proposal: Hash,
        in_force: Hash,
        office: &Office,
        at: u64,
    ) -> Result<ValidEvent> {
        let transcript = tagged("chaos/transcript", &[office.name.as_bytes()]);
        let confirming = Confirming { cluster: self.context.cluster, roster: in_force, proposal, transcript };
        let digest = secp256k1::Message::from_digest(*confirming.digest().as_bytes());
        let mut confirmations = Vec::new();
        for number in office.roster.numbers() {
            let identity = &self.members.get(&number).context("a member of the office")?.identity;
            let signature = secp256k1::SECP256K1.sign_schnorr_no_aux_rand(&digest, identity);
            confirmations.push((number, signature.to_string()));
        }
        let mut rng = ChaCha20Rng::seed_from_u64(at);
        let message = *confirming.proof_digest().as_bytes();
        let (mut held, mut session) = (Vec::new(), Session::new());
        for number in office.roster.numbers().take(office.roster.q()) {
            let share = office.share(number)?.context("a share of the office")?;
            let (nonce, commitment) = commit(&share, &mut rng);
            session.insert(number, commitment);
            held.push((share, nonce));
        }
        let keys = held.first().context("an office of none")?.0.keys().clone();
        let mut signed = BTreeMap::new();
        for (share, nonce) in held {
            let part = sign(&share, nonce, &message, &session).map_err(|error| anyhow!("{error}"))?;
            signed.insert(share.number(), part);
        }
        let proof = aggregate(&keys, &message, &session, &signed).map_err(|error| anyhow!("{error}"))?;
        let proof = secp256k1::schnorr::Signature::from_slice(&proof)?.to_string();
        let change = Change::Activate(Activation { proposal, transcript, confirmations, proof });
        self.change(by, &change, at)
    }
}
