//! What custodians say about a proposal before the ceremony: the offer is the proposal signed by who makes it, a decision is
//! one founder's signed yes or no. Both are files that people send each other; the ceremony itself needs neither.

use concordat_events::hash::tagged;
use concordat_events::json::{self, JsonError};
use concordat_events::{Hash, PublicKey};
use serde::{Deserialize, Serialize};

use super::proposal::{Proposal, ProposalError};
use crate::keys::{self, CustodianKeys};

/// Bytes of a reason: a sentence or two.
const REASON_BYTES: usize = 512;

/// A signed proposal. Always whole, by one of its own founders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    proposal: Proposal,
    by: PublicKey,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    proposal: Proposal,
    by: PublicKey,
    signature: String,
}

/// A founder's decision about a proposal, signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The proposal's id.
    pub proposal: Hash,
    /// Who decided.
    pub by: PublicKey,
    /// Yes or no.
    pub accepted: bool,
    /// Why not, for people.
    pub reason: String,
    signature: String,
}

/// Why an offer or a decision is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not JSON of this shape.
    #[error("not an offer: {0}")]
    Json(#[from] JsonError),
    /// What is offered.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
    /// Who signed isn't to be a custodian.
    #[error("the proposal is offered by {0}, which is none of its custodians")]
    Stranger(String),
    /// Not signed by who it says.
    #[error("the signature isn't that of {0}: it was altered on its way; ask for it again")]
    Signature(String),
    /// A reason too long to be one.
    #[error("a reason has at most {REASON_BYTES} bytes")]
    Reason,
}

impl Offer {
    /// Signs a proposal as one of its founders.
    pub fn make(keys: &CustodianKeys, proposal: Proposal) -> Result<Self, OfferError> {
        let signature = hex::encode(keys.sign(&offered(&proposal)?));
        let offer = Offer { proposal, by: keys.public_key(), signature };
        offer.check()?;
        Ok(offer)
    }

    /// Reads an offer and checks it.
    pub fn parse(text: &str) -> Result<Self, OfferError> {
        let Signed { proposal, by, signature } = json::typed(text)?;
        // Parsed again for its own checks.
        let proposal = Proposal::parse(&proposal.to_json()?)?;
        let offer = Offer { proposal, by, signature };
        offer.check()?;
        Ok(offer)
    }

    /// The offer as JSON.
    pub fn to_json(&self) -> Result<String, OfferError> {
        let Offer { proposal, by, signature } = self.clone();
        Ok(json::canonical(&Signed { proposal, by, signature })?)
    }

    /// What is offered.
    pub fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// The number of who offers it.
    pub fn by(&self) -> Option<u16> {
        self.proposal.number_of(&self.by)
    }

    fn check(&self) -> Result<(), OfferError> {
        if self.by().is_none() {
            return Err(OfferError::Stranger(self.by.to_hex()));
        }
        let signature = hex::decode(&self.signature).unwrap_or_default();
        match keys::verify(&self.by, &offered(&self.proposal)?, &signature) {
            true => Ok(()),
            false => Err(OfferError::Signature(self.by.to_hex())),
        }
    }
}

fn offered(proposal: &Proposal) -> Result<Hash, ProposalError> {
    Ok(tagged("concordat/ceremony/offer", &[proposal.id()?.as_bytes()]))
}

impl Decision {
    /// Decides about a proposal.
    pub fn make(
        keys: &CustodianKeys,
        proposal: Hash,
        accepted: bool,
        reason: &str,
    ) -> Result<Self, OfferError> {
        if reason.len() > REASON_BYTES {
            return Err(OfferError::Reason);
        }
        let (by, reason) = (keys.public_key(), reason.to_owned());
        let mut decision = Decision { proposal, by, accepted, reason, signature: String::new() };
        decision.signature = hex::encode(keys.sign(&decision.hash()));
        Ok(decision)
    }

    /// Reads a decision and checks its signature.
    pub fn parse(text: &str) -> Result<Self, OfferError> {
        let decision: Decision = json::typed(text)?;
        if decision.reason.len() > REASON_BYTES {
            return Err(OfferError::Reason);
        }
        let signature = hex::decode(&decision.signature).unwrap_or_default();
        match keys::verify(&decision.by, &decision.hash(), &signature) {
            true => Ok(decision),
            false => Err(OfferError::Signature(decision.by.to_hex())),
        }
    }

    /// The decision as JSON.
    pub fn to_json(&self) -> Result<String, OfferError> {
        Ok(json::canonical(self)?)
    }

    fn hash(&self) -> Hash {
        let accepted: &[u8] = if self.accepted { b"accepted" } else { b"rejected" };
        tagged("concordat/ceremony/decision", &[self.proposal.as_bytes(), accepted, self.reason.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use concordat_events::Admission;

    use super::*;
    use crate::ceremony::Card;

    #[test]
    fn offers_and_decisions_are_whole_or_refused() {
        let founders: Vec<(CustodianKeys, Card)> = ["a", "b", "c"]
            .map(|name| {
                let (keys, made) = CustodianKeys::generate().unwrap();
                let card = Card::make(&keys, name, made.der(), "localhost:7400").unwrap();
                (keys, card)
            })
            .into();
        let cards: Vec<Card> = founders.iter().take(2).map(|(_, card)| card.clone()).collect();
        let relays = vec!["wss://relay.example.org".to_owned()];
        let proposal = Proposal::from_cards("ours", "", 1, &cards, relays, Admission::default()).unwrap();

        let offer = Offer::make(&founders[1].0, proposal.clone()).unwrap();
        let text = offer.to_json().unwrap();
        assert_eq!(Offer::parse(&text).unwrap(), offer);
        assert_eq!(offer.by(), Some(2));
        let altered = text.replace("relay.example.org", "relay.example.com");
        assert!(matches!(Offer::parse(&altered), Err(OfferError::Signature(_))));
        assert!(matches!(Offer::make(&founders[2].0, proposal.clone()), Err(OfferError::Stranger(_))));

        let id = proposal.id().unwrap();
        let no = Decision::make(&founders[0].0, id, false, "not these relays").unwrap();
        let text = no.to_json().unwrap();
        assert_eq!(Decision::parse(&text).unwrap(), no);
        let altered = text.replace("false", "true");
        assert!(matches!(Decision::parse(&altered), Err(OfferError::Signature(_))));
        assert_eq!(Decision::make(&founders[0].0, id, false, &"x".repeat(513)), Err(OfferError::Reason));
    }
}
