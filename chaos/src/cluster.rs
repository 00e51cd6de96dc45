//! A founded cluster: custodians with identity keys and shares of one group key, made by the key ceremony that founders run.
//!
//! Everything comes from a number, so that a seed means the same cluster on every machine. The keys guard nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use concordat_events::genesis::{CEL_ENGINE, PROTOCOL_VERSION};
use concordat_events::hash::{Hash, tagged};
use concordat_events::{Custodian, Genesis, PublicKey, Roster};
use concordat_finality::Context;
use concordat_threshold::KeyShare;
use concordat_threshold::dkg::{Ceremony, Params, To};
use nostr::Keys;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::council::Office;

/// When every run begins, ms since 1970.
pub const WALL: u64 = 1_800_000_000_000;

/// One custodian's keys.
pub struct Member {
    /// Its identity key.
    pub identity: secp256k1::Keypair,
    sealed: Option<Vec<u8>>,
}

impl Member {
    /// One who comes later.
    pub fn guest(keys: &Keys) -> Self {
        Member { identity: keypair(keys), sealed: None }
    }

    /// Its share of the group's key as a founder. A new copy each time: a share can't be cloned.
    ///
    /// # Errors
    /// None but a defect.
    pub fn share(&self) -> Result<Option<KeyShare>> {
        let read = |bytes: &Vec<u8>| KeyShare::from_sealed_bytes(bytes).map_err(|error| anyhow!("{error}"));
        self.sealed.as_ref().map(read).transpose()
    }
}

fn keypair(keys: &Keys) -> secp256k1::Keypair {
    secp256k1::Keypair::from_secret_key(secp256k1::SECP256K1, keys.secret_key())
}

/// A custodian as rosters name it.
pub fn custodian(number: u16, keys: &Keys) -> Custodian {
    Custodian {
        number,
        name: format!("custodian {number}"),
        identity: keys.public_key(),
        certificate: tagged("chaos/certificate", &[&number.to_be_bytes()]),
    }
}

/// A founded cluster.
pub struct Cluster {
    /// What all custodians know.
    pub context: Arc<Context>,
    /// The custodians by number, from 1; those who come later as well.
    pub members: BTreeMap<u16, Member>,
    /// Everybody who is ever a custodian, where rosters change.
    pub guests: Vec<Custodian>,
    /// The rosters that may come after the founders'.
    pub offices: Vec<Office>,
}

impl Cluster {
    /// Founds a cluster of `n` custodians.
    ///
    /// # Errors
    /// When no group of that size can be founded.
    pub fn found(n: u16) -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(u64::from(n));
        let keys: BTreeMap<u16, Keys> =
            (1..=n).map(|number| (number, Keys::generate_with_rng(&mut rng))).collect();
        let members = keys.iter().map(|(number, keys)| custodian(*number, keys));
        let roster = Roster::new(members.collect())?;
        let threshold = u16::try_from(roster.q())?;
        let shares = ceremony(n, threshold, &mut rng)?;
        let group = shares.get(&1).context("a cluster of none")?.group_key().to_bytes();
        let genesis = Genesis {
            version: PROTOCOL_VERSION,
            name: "chaos".into(),
            description: String::new(),
            time_ms: WALL - 1_000,
            ceremony: Hash::ZERO,
            group_key: PublicKey::from_byte_array(group),
            threshold,
            roster,
            relays: vec!["ws://relay.invalid".into()],
            kinds: Default::default(),
            admission: Default::default(),
            engines: vec![CEL_ENGINE.into()],
        };
        let members = keys
            .iter()
            .zip(shares.values())
            .map(|((number, keys), share)| {
                let sealed = Some(share.to_sealed_bytes().to_vec());
                (*number, Member { identity: keypair(keys), sealed })
            })
            .collect();
        let context = Arc::new(Context::new(genesis)?);
        Ok(Cluster { context, members, guests: Vec::new(), offices: Vec::new() })
    }

    /// A custodian's share under a roster; nothing where it has none.
    ///
    /// # Errors
    /// None but a defect.
    pub fn share(&self, number: u16, roster: &Hash) -> Result<Option<KeyShare>> {
        match self.offices.iter().find(|office| office.hash == *roster) {
            Some(office) => office.share(number),
            None => self.members.get(&number).context("no such custodian")?.share(),
        }
    }

    /// How many custodians founded it.
    pub fn n(&self) -> usize {
        self.context.roster.n()
    }

    /// How many may lie.
    pub fn f(&self) -> usize {
        (self.n() - 1) / 3
    }
}

/// Distributed key generation among `n`, every message through its bytes.
fn ceremony(n: u16, threshold: u16, rng: &mut ChaCha20Rng) -> Result<BTreeMap<u16, KeyShare>> {
    let numbers: BTreeSet<u16> = (1..=n).collect();
    let mut ceremonies = BTreeMap::new();
    let mut queue = Vec::new();
    for number in 1..=n {
        let params =
            Params::new(Hash::ZERO, numbers.clone(), number, threshold).map_err(|e| anyhow!("{e}"))?;
        let (ceremony, first) = Ceremony::new(params, rng).map_err(|e| anyhow!("{e}"))?;
        ceremonies.insert(number, ceremony);
        queue.extend(first.into_iter().map(|out| (number, out)));
    }
    while let Some((from, out)) = queue.pop() {
        let to: Vec<u16> = match out.to {
            To::All => numbers.iter().copied().filter(|number| *number != from).collect(),
            To::One(number) => vec![number],
        };
        let bytes = out.message.encode();
        for to in to {
            let message = concordat_threshold::dkg::Message::decode(&bytes).map_err(|e| anyhow!("{e}"))?;
            let ceremony = ceremonies.get_mut(&to).context("a message for a stranger")?;
            let more = ceremony.on_message(from, message, rng).map_err(|e| anyhow!("{e}"))?;
            queue.extend(more.into_iter().map(|out| (to, out)));
        }
    }
    let finished = ceremonies.into_iter().map(|(number, ceremony)| {
        let done = ceremony.finish().map_err(|_| anyhow!("the ceremony of custodian {number} isn't over"))?;
        Ok((number, done.share))
    });
    finished.collect()
}
