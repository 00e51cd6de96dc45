//! Changes of what is in force: who the custodians are, and which versions they speak (PROTOCOL 9). A change is proposed by one
//! custodian and activated with the confirmations of those who will carry it; both are requests like any other, in the log.

use std::collections::BTreeMap;

use nostr::PublicKey;
use secp256k1::schnorr::Signature;
use secp256k1::{Message, SECP256K1};
use serde::{Deserialize, Serialize};

use crate::event::ValidEvent;
use crate::genesis::Genesis;
use crate::hash::{Hash, tagged};
use crate::json;
use crate::limits::{ENGINES, NAME_BYTES};
use crate::request::RequestError;
use crate::roster::{Custodian, Roster};

/// What every custodian goes by after a head; it stands in certified state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charter {
    /// Who the custodians are.
    pub roster: Roster,
    /// The roster's hash.
    pub roster_hash: Hash,
    /// How and when it came into force.
    pub office: Office,
    /// Which rules and engines execute.
    pub versions: Versions,
}

/// How a roster came into force. It stands for the key shares that its custodians have: the same custodians with fresh shares are in
/// another office.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Office {
    /// The height of the head that put the roster in force; 0 for the founders.
    pub since: u64,
    /// Hash of what the ceremony of its shares ended with; zero for the founders.
    pub transcript: Hash,
    /// Where its custodians reach each other, as its proposal said; what is missing stays as it was.
    pub addresses: BTreeMap<u16, String>,
}

impl Charter {
    /// What a genesis puts in force.
    pub fn founded(genesis: &Genesis) -> Result<Self, json::JsonError> {
        let versions = Versions { protocol: genesis.version, engines: genesis.engines.clone() };
        Charter::new(genesis.roster.clone(), Office::default(), versions)
    }

    /// Puts them together.
    pub fn new(roster: Roster, office: Office, versions: Versions) -> Result<Self, json::JsonError> {
        Ok(Charter { roster_hash: roster.hash()?, roster, office, versions })
    }
}

/// The versions that execute heads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Protocol version.
    pub protocol: u32,
    /// Engines that run machines, at most [`ENGINES`], each named once.
    pub engines: Vec<String>,
}

/// The versions that a build can execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Protocol versions.
    pub protocols: Vec<u32>,
    /// Engines.
    pub engines: Vec<String>,
}

impl Default for Build {
    /// This build.
    fn default() -> Self {
        Build {
            protocols: vec![crate::genesis::PROTOCOL_VERSION],
            engines: vec![crate::genesis::CEL_ENGINE.to_owned()],
        }
    }
}

impl Build {
    /// What of these versions this build lacks; `None` if it has all.
    pub fn lacks(&self, versions: &Versions) -> Option<String> {
        if !self.protocols.contains(&versions.protocol) {
            return Some(format!("protocol version {}", versions.protocol));
        }
        versions.engines.iter().find(|engine| !self.engines.contains(engine)).cloned()
    }
}

/// The content of a change request (kind 7510).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A custodian proposes; takes the place of what it proposed before.
    Propose(Proposal),
    /// A proposal that was certified comes into force.
    Activate(Activation),
}

/// What is to be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proposal {
    /// This roster; the same one for fresh shares.
    Roster(Seats),
    /// These versions.
    Versions(Versions),
}

/// Who is to be in office.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seats {
    /// The custodians.
    pub roster: Roster,
    /// Where they reach each other, `host:port`, of those for whom it is new.
    #[serde(default)]
    pub addresses: BTreeMap<u16, String>,
}

impl From<Roster> for Seats {
    fn from(roster: Roster) -> Self {
        Seats { roster, addresses: BTreeMap::new() }
    }
}

/// The proof that those who will carry a change are ready for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// The request that proposed it.
    pub proposal: Hash,
    /// Of a roster: hash of what its ceremony ended with. Zero for versions.
    pub transcript: Hash,
    /// Confirmations by number, rising.
    pub confirmations: Vec<(u16, String)>,
    /// Of a roster: the group's signature, made with the new shares. Empty for versions.
    pub proof: String,
}

/// What a confirmation and the group's proof are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirming {
    /// The cluster.
    pub cluster: Hash,
    /// The roster in force.
    pub roster: Hash,
    /// The request that proposed the change.
    pub proposal: Hash,
    /// Hash of what the ceremony ended with; zero for versions.
    pub transcript: Hash,
}

impl Confirming {
    fn tagged(&self, tag: &str) -> Hash {
        let parts = [&self.cluster, &self.roster, &self.proposal, &self.transcript];
        tagged(tag, &parts.map(|part| part.as_bytes().as_slice()))
    }

    /// The same change with what its ceremony ended with.
    pub fn ended_with(self, transcript: Hash) -> Self {
        Confirming { transcript, ..self }
    }

    /// What a custodian signs with its identity key once it is ready: of a new roster, when its share is stored, was read back, and
    /// the test signature is made; of versions, when its build has them.
    pub fn digest(&self) -> Hash {
        self.tagged("concordat/confirmation")
    }

    /// What the group's key signs with the new shares as their test. It is no event's id.
    pub fn proof_digest(&self) -> Hash {
        self.tagged("concordat/roster-proof")
    }
}

/// Why an activation doesn't activate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// Too few of those who will carry it.
    #[error("{got} confirmations, {expected} are needed")]
    Few {
        /// Valid ones.
        got: usize,
        /// The quorum.
        expected: usize,
    },
    /// A confirmation that isn't one.
    #[error("the confirmation of custodian {0} doesn't verify, is out of order or is no custodian's")]
    Confirmation(u16),
    /// The group's signature is missing or wrong.
    #[error("the proof isn't the group's signature over this change: the new shares don't sign")]
    Proof,
}

impl Activation {
    /// Checks that a quorum of `carriers` has confirmed and, for a roster, that their shares are those of `group`.
    ///
    /// # Errors
    /// See [`ActivationError`]. One bad confirmation spoils all: whoever brings an activation can leave it out.
    pub fn check(
        &self,
        confirming: &Confirming,
        carriers: &Roster,
        group: Option<&PublicKey>,
    ) -> Result<(), ActivationError> {
        if self.confirmations.len() < carriers.q() {
            return Err(ActivationError::Few { got: self.confirmations.len(), expected: carriers.q() });
        }
        let digest = confirming.digest();
        let mut last = 0;
        for (number, text) in &self.confirmations {
            let wrong = ActivationError::Confirmation(*number);
            let member = carriers.get(*number).filter(|_| *number > last).ok_or(wrong.clone())?;
            if !verifies(text, &digest, &member.identity) {
                return Err(wrong);
            }
            last = *number;
        }
        match group {
            None if self.proof.is_empty() => Ok(()),
            Some(group) if verifies(&self.proof, &confirming.proof_digest(), group) => Ok(()),
            None | Some(_) => Err(ActivationError::Proof),
        }
    }
}

/// Is this text, 128 hex digits, a BIP340 signature?
fn verifies(text: &str, digest: &Hash, key: &PublicKey) -> bool {
    let signature = text.parse::<Signature>().ok().zip(key.xonly().ok());
    signature.is_some_and(|(signature, key)| {
        SECP256K1.verify_schnorr(&signature, &Message::from_digest(*digest.as_bytes()), &key).is_ok()
    })
}

/// May `next` follow `roster`? A number is never reused: a custodian that isn't in the roster in force has one above `highest`,
/// the highest that any roster ever had.
pub fn follows(next: &Roster, roster: &Roster, highest: u16) -> bool {
    next.members().iter().all(|member| member.number > highest || roster.get(member.number).is_some())
}

/// The highest number of a roster.
pub fn highest(roster: &Roster) -> u16 {
    roster.members().last().map_or(0, |member: &Custodian| member.number)
}

/// Reads a change request: it names the group in a `p` tag.
pub(crate) fn read(event: &ValidEvent, group: &PublicKey) -> Result<Change, RequestError> {
    let id = event.id();
    if event.tag("p") != Some(group.to_hex().as_str()) {
        return Err(RequestError::NotForUs { id });
    }
    let content = |error| RequestError::Content { id, error };
    let change: Change = json::typed(event.content()).map_err(content)?;
    if let Change::Propose(Proposal::Versions(versions)) = &change {
        let mut named = std::collections::BTreeSet::new();
        let engines = &versions.engines;
        let good = |engine: &String| (1..=NAME_BYTES).contains(&engine.len()) && named.insert(engine.clone());
        if engines.is_empty() || engines.len() > ENGINES || !engines.iter().all(good) {
            let text = format!("expected 1 to {ENGINES} engines, each named once");
            return Err(content(json::JsonError::Syntax(text)));
        }
    }
    if let Change::Propose(Proposal::Roster(seats)) = &change {
        let known = |number: &u16| seats.roster.get(*number).is_some();
        let good =
            |(number, address): (&u16, &String)| known(number) && (1..=NAME_BYTES).contains(&address.len());
        if !seats.addresses.iter().all(good) {
            let text = format!("expected addresses of 1 to {NAME_BYTES} bytes, of custodians of the roster");
            return Err(content(json::JsonError::Syntax(text)));
        }
    }
    Ok(change)
}

/// The tags of a change request.
pub fn change_tags(group: &PublicKey) -> Vec<Vec<String>> {
    vec![vec!["p".into(), group.to_hex()]]
}

#[cfg(test)]
mod tests {
    use nostr::Keys;

    use super::*;

    fn sign(keys: &Keys, digest: Hash) -> String {
        keys.sign_schnorr(&Message::from_digest(*digest.as_bytes())).to_string()
    }

    fn four() -> (Vec<Keys>, Roster) {
        let keys: Vec<Keys> = (0..4).map(|_| Keys::generate()).collect();
        let custodian = |(place, keys): (usize, &Keys)| Custodian {
            number: place as u16 + 1,
            name: format!("c{place}"),
            identity: keys.public_key(),
            certificate: tagged("test", &[&[place as u8]]),
        };
        let roster = Roster::new(keys.iter().enumerate().map(custodian).collect()).unwrap();
        (keys, roster)
    }

    #[test]
    fn a_quorum_that_signs_and_shares_that_sign_activate() {
        let ((keys, roster), group) = (four(), Keys::generate());
        let hash = |text: &str| tagged(text, &[]);
        let confirming = Confirming {
            cluster: hash("cluster"),
            roster: hash("roster"),
            proposal: hash("proposal"),
            transcript: hash("transcript"),
        };
        let confirmations = |of: &[u16]| -> Vec<(u16, String)> {
            of.iter().map(|n| (*n, sign(&keys[usize::from(*n) - 1], confirming.digest()))).collect()
        };
        let good = Activation {
            proposal: confirming.proposal,
            transcript: confirming.transcript,
            confirmations: confirmations(&[1, 2, 4]),
            proof: sign(&group, confirming.proof_digest()),
        };
        let key = group.public_key();
        assert_eq!(good.check(&confirming, &roster, Some(&key)), Ok(()));
        let with = |change: &dyn Fn(&mut Activation)| {
            let mut other = good.clone();
            change(&mut other);
            other.check(&confirming, &roster, Some(&key))
        };
        let few = Err(ActivationError::Few { got: 2, expected: 3 });
        assert_eq!(with(&|a| a.confirmations = confirmations(&[1, 2])), few);
        let twice = Err(ActivationError::Confirmation(2));
        assert_eq!(with(&|a| a.confirmations = confirmations(&[1, 2, 2])), twice);
        let stranger = Err(ActivationError::Confirmation(9));
        assert_eq!(with(&|a| a.confirmations[2].0 = 9), stranger);
        let forged = sign(&Keys::generate(), confirming.digest());
        assert_eq!(with(&|a| a.confirmations[1].1 = forged.clone()), twice);
        // Confirmed, and yet nobody has a share that signs.
        assert_eq!(with(&|a| a.proof = String::new()), Err(ActivationError::Proof));
        assert_eq!(with(&|a| a.proof = sign(&group, confirming.digest())), Err(ActivationError::Proof));
        // Under another roster in force, or for another transcript, nothing of it holds.
        for other in [
            Confirming { roster: hash("x"), ..confirming },
            Confirming { transcript: hash("x"), ..confirming },
            Confirming { cluster: hash("x"), ..confirming },
            Confirming { proposal: hash("x"), ..confirming },
        ] {
            let refused = good.check(&other, &roster, Some(&key));
            assert_eq!(refused, Err(ActivationError::Confirmation(1)));
        }
        // Versions have no proof.
        assert_eq!(good.check(&confirming, &roster, None), Err(ActivationError::Proof));
        let versions = Activation { proof: String::new(), ..good };
        assert_eq!(versions.check(&confirming, &roster, None), Ok(()));
    }

    #[test]
    fn numbers_are_never_reused() {
        let (_, roster) = four();
        let with = |numbers: &[u16]| {
            let of = |number: &u16| Custodian {
                number: *number,
                name: format!("n{number}"),
                identity: Keys::generate().public_key(),
                certificate: tagged("other", &[&number.to_be_bytes()]),
            };
            Roster::new(numbers.iter().map(of).collect()).unwrap()
        };
        assert_eq!(highest(&roster), 4);
        assert!(follows(&with(&[1, 3, 4, 5]), &roster, 4));
        assert!(follows(&with(&[9]), &roster, 4));
        // 2 left and another 2 comes, or a number from an older roster.
        let without_two = with(&[1, 3, 4]);
        assert!(!follows(&with(&[1, 2, 3, 4]), &without_two, 4));
        assert!(!follows(&with(&[1, 3, 5]), &without_two, 7));
    }

    #[test]
    fn a_build_says_what_it_lacks() {
        let build = Build::default();
        let versions = |protocol, engines: &[&str]| Versions {
            protocol,
            engines: engines.iter().map(|engine| (*engine).to_owned()).collect(),
        };
        assert_eq!(build.lacks(&versions(1, &[crate::genesis::CEL_ENGINE])), None);
        assert_eq!(build.lacks(&versions(2, &[])).as_deref(), Some("protocol version 2"));
        let two = versions(1, &[crate::genesis::CEL_ENGINE, "concordat-wasm@1"]);
        assert_eq!(build.lacks(&two).as_deref(), Some("concordat-wasm@1"));
    }
}
