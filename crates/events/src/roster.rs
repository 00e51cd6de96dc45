//! Who the custodians are, and the two numbers that follow: faults tolerated and quorum (PROTOCOL 1).

use nostr::PublicKey;
use serde::{Deserialize, Serialize};

use crate::hash::{Hash, tagged};
use crate::json;
use crate::limits::{CUSTODIANS, NAME_BYTES};

/// One custodian as the others know it. Addresses aren't here: they are local configuration and decide nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custodian {
    /// Its number, from 1, never reused: FROST identifier, place in the roster and Raft node id.
    pub number: u16,
    /// A name for people.
    pub name: String,
    /// Identity key (x-only, hex): signs every message between custodians.
    pub identity: PublicKey,
    /// SHA-256 of its TLS certificate's DER.
    pub certificate: Hash,
}

/// The custodians of a cluster in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Roster {
    members: Vec<Custodian>,
}

/// Why a list of custodians is no roster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// None, or more than [`CUSTODIANS`].
    #[error("a roster has 1 to {CUSTODIANS} custodians, this one has {0}")]
    Size(usize),
    /// Numbers start at 1 and rise.
    #[error("custodian {0} is out of order: numbers start at 1 and rise")]
    Order(u16),
    /// Two custodians share a key, a certificate or a name.
    #[error("custodians {first} and {second} have the same {what}")]
    Shared {
        /// What they share.
        what: &'static str,
        /// The first.
        first: u16,
        /// The second.
        second: u16,
    },
    /// A name is empty or too long.
    #[error("custodian {0}'s name must have 1 to {NAME_BYTES} bytes")]
    Name(u16),
}

impl Roster {
    /// Checks a list of custodians.
    pub fn new(members: Vec<Custodian>) -> Result<Self, RosterError> {
        if members.is_empty() || members.len() > CUSTODIANS {
            return Err(RosterError::Size(members.len()));
        }
        let mut last = 0;
        for (place, member) in members.iter().enumerate() {
            if member.number <= last {
                return Err(RosterError::Order(member.number));
            }
            last = member.number;
            if member.name.is_empty() || member.name.len() > NAME_BYTES {
                return Err(RosterError::Name(member.number));
            }
            for other in members.iter().take(place) {
                let what = if other.identity == member.identity {
                    "identity key"
                } else if other.certificate == member.certificate {
                    "certificate"
                } else if other.name == member.name {
                    "name"
                } else {
                    continue;
                };
                return Err(RosterError::Shared { what, first: other.number, second: member.number });
            }
        }
        Ok(Roster { members })
    }

    /// The custodians in order.
    pub fn members(&self) -> &[Custodian] {
        &self.members
    }

    /// Their numbers in order.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        self.members.iter().map(|member| member.number)
    }

    /// The custodian with this number.
    pub fn get(&self, number: u16) -> Option<&Custodian> {
        self.members.iter().find(|member| member.number == number)
    }

    /// n: how many custodians there are.
    pub fn n(&self) -> usize {
        self.members.len()
    }

    /// f: how many of them may lie, `floor((n-1)/3)`. With 1 to 3 custodians none may.
    pub fn f(&self) -> usize {
        (self.n() - 1) / 3
    }

    /// q: how many make a quorum, `floor((n+f)/2) + 1`. It is also the FROST threshold t.
    pub fn q(&self) -> usize {
        (self.n() + self.f()) / 2 + 1
    }

    /// The custodian at `place mod n`: leader of epoch `place` if no evidence skips it.
    pub fn at(&self, place: u64) -> Option<&Custodian> {
        let place = place.checked_rem(self.n() as u64)?;
        self.members.get(usize::try_from(place).ok()?)
    }

    /// The roster's hash, which stands in every head and every message.
    pub fn hash(&self) -> Result<Hash, json::JsonError> {
        Ok(tagged("concordat/roster", &[json::canonical(self)?.as_bytes()]))
    }
}

impl<'de> Deserialize<'de> for Roster {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Roster::new(Vec::<Custodian>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use nostr::Keys;

    use super::*;

    fn custodian(number: u16) -> Custodian {
        Custodian {
            number,
            name: format!("c{number}"),
            identity: Keys::generate().public_key(),
            certificate: tagged("test", &[&number.to_be_bytes()]),
        }
    }

    #[test]
    fn quorums_intersect_in_an_honest_custodian_and_survive_the_faulty_ones() {
        for n in 1..=CUSTODIANS as u16 {
            let roster = Roster::new((1..=n).map(custodian).collect()).unwrap();
            let (n, f, q) = (roster.n(), roster.f(), roster.q());
            assert!(2 * q > n + f, "two quorums share more than f");
            assert!(q <= n - f, "the honest ones alone are a quorum");
        }
        assert_eq!(Roster::new((1..=4).map(custodian).collect()).unwrap().q(), 3);
        assert_eq!(Roster::new((1..=7).map(custodian).collect()).unwrap().q(), 5);
    }

    #[test]
    fn lists_that_are_no_roster() {
        assert!(matches!(Roster::new(vec![]), Err(RosterError::Size(0))));
        assert!(matches!(Roster::new(vec![custodian(0)]), Err(RosterError::Order(0))));
        assert!(matches!(Roster::new(vec![custodian(2), custodian(1)]), Err(RosterError::Order(1))));
        let (first, mut second) = (custodian(1), custodian(2));
        second.identity = first.identity;
        assert!(matches!(
            Roster::new(vec![first, second]),
            Err(RosterError::Shared { what: "identity key", .. })
        ));
    }
}
