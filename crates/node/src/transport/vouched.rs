//! Which certificates are a custodian's beside the one that the roster pins: those that its identity vouches for, newest only.
//!
//! The roster names an identity key and a certificate. The identity signs every message; the certificate only keeps strangers off
//! the wire. So the identity alone may put another certificate in its place: the new one carries the identity's signature over its
//! key and its dates, in an extension that nobody else reads. Who has seen a newer one takes no older one any more.

use concordat_events::hash::tagged;
use concordat_events::{Hash, PublicKey};
use rcgen::CustomExtension;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid::Oid;

use crate::keys;

/// The extension: under 2.25, where anybody may name things by a random number (X.667). Not critical, and nothing for others.
const OID: [u64; 3] = [2, 25, 11_836_403_942_118_064_511];

/// Bytes in it: the identity, and its signature.
const BYTES: usize = 32 + 64;

/// From when to when a certificate is meant to be used, seconds since 1970. Nobody refuses one for its dates: a forgotten one must
/// not stop a group. Who holds it is told ahead of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Made at.
    pub since: u64,
    /// To be replaced by.
    pub until: u64,
}

/// How a certificate stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Long before its end.
    Valid {
        /// Whole days that are left.
        days: u64,
    },
    /// Its end is near: [`NOTICE_DAYS`].
    Soon {
        /// Whole days that are left.
        days: u64,
    },
    /// Over.
    Past {
        /// Whole days since.
        days: u64,
    },
}

/// How long a certificate is good for, days: a renewal is one command, and should be done often enough to be remembered.
pub const TERM_DAYS: u64 = 730;

/// How long before its end its operator is told, days: longer than a holiday.
pub const NOTICE_DAYS: u64 = 45;

/// Seconds of a day.
pub(super) const DAY: u64 = 86_400;

impl Term {
    /// The term of a certificate made at `now`, in seconds since 1970, after one made at `before`: always later than that one, also
    /// when the clock has gone back.
    pub fn beginning(now: u64, before: Option<u64>) -> Self {
        let since = before.map_or(now, |before| now.max(before.saturating_add(1)));
        Term { since, until: since.saturating_add(TERM_DAYS * DAY) }
    }

    /// How it stands at `now`.
    pub fn at(&self, now: u64) -> Expiry {
        match self.until.checked_sub(now) {
            None | Some(0) => Expiry::Past { days: now.saturating_sub(self.until) / DAY },
            Some(left) if left <= NOTICE_DAYS * DAY => Expiry::Soon { days: left / DAY },
            Some(left) => Expiry::Valid { days: left / DAY },
        }
    }
}

impl Expiry {
    /// In a word, for scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Expiry::Valid { .. } => "valid",
            Expiry::Soon { .. } => "expires_soon",
            Expiry::Past { .. } => "expired",
        }
    }

    /// What the operator must know; nothing if all is well.
    pub fn warning(&self) -> Option<String> {
        let command = "`key certificate` makes a new one while the custodian runs";
        match self {
            Expiry::Valid { .. } => None,
            Expiry::Soon { days } => {
                Some(format!("this custodian's TLS certificate ends in {days} days; {command}"))
            }
            Expiry::Past { days } => {
                Some(format!("this custodian's TLS certificate ended {days} days ago; {command}"))
            }
        }
    }
}

/// Who vouches for a certificate, and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    pub identity: PublicKey,
    pub since: u64,
}

/// What the identity signs. The key is there as its whole SubjectPublicKeyInfo.
pub(super) fn digest(key_info: &[u8], term: Term) -> Hash {
    let (since, until) = (term.since.to_be_bytes(), term.until.to_be_bytes());
    tagged("concordat/tls/certificate", &[key_info, &since, &until])
}

/// The extension with an identity's signature.
pub(super) fn extension(identity: &PublicKey, signature: &[u8; 64]) -> CustomExtension {
    CustomExtension::from_oid_content(&OID, [&identity.to_bytes()[..], signature].concat())
}

/// A certificate's dates. `None` if it is none, or begins before 1970.
pub fn term(der: &[u8]) -> Option<Term> {
    term_of(&parse(der)?)
}

fn term_of(certificate: &X509Certificate<'_>) -> Option<Term> {
    let validity = certificate.validity();
    let (since, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(Term { since: u64::try_from(since).ok()?, until: u64::try_from(until).ok()? })
}

/// Who vouches for a certificate: whose good signature it carries. `None` if nobody does.
pub(super) fn vouched(der: &[u8]) -> Option<Vouched> {
    let certificate = parse(der)?;
    let extension = certificate.get_extension_unique(&Oid::from(&OID).ok()?).ok()??;
    let (identity, signature) = extension.value.split_at_checked(32)?;
    let identity = PublicKey::from_slice(identity).ok()?;
    let term = term_of(&certificate)?;
    let signed = digest(certificate.public_key().raw, term);
    let good = extension.value.len() == BYTES && keys::verify(&identity, &signed, signature);
    good.then_some(Vouched { identity, since: term.since })
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    rest.is_empty().then_some(certificate)
}

#[cfg(test)]
mod tests {
    use super::super::Certificate;
    use super::*;
    use crate::keys::CustodianKeys;

    #[test]
    fn an_identity_vouches_for_its_own_certificates_only() {
        let ((keys, _), (other, _)) =
            (CustodianKeys::generate().unwrap(), CustodianKeys::generate().unwrap());
        let term = Term { since: 1_800_000_000, until: 1_900_000_000 };
        let made = Certificate::vouched_for(&keys, term).unwrap();
        let expected = Vouched { identity: keys.public_key(), since: term.since };
        assert_eq!(vouched(made.der()), Some(expected));
        assert_eq!(super::term(made.der()), Some(term));
        assert_eq!(vouched(Certificate::generate().unwrap().der()), None);

        // Another's name over one's own signature, one's own name over another's, and other dates or another key.
        let find = |der: &[u8], part: &[u8]| der.windows(part.len()).position(|at| at == part).unwrap();
        let at = find(made.der(), &keys.public_key().to_bytes());
        let mut forged = made.der().to_vec();
        forged[at..at + 32].copy_from_slice(&other.public_key().to_bytes());
        assert_eq!(vouched(&forged), None);
        let mut unsigned = made.der().to_vec();
        unsigned[at + 40] ^= 1;
        assert_eq!(vouched(&unsigned), None);
        let mut younger = made.der().to_vec();
        let dates = find(made.der(), b"270115080000Z");
        younger[dates + 1] = b'8';
        assert_eq!(super::term(&younger).unwrap().since, term.since + 365 * DAY);
        assert_eq!(vouched(&younger), None);
        let mut key = made.der().to_vec();
        let parsed = parse(made.der()).unwrap();
        let info = find(made.der(), parsed.public_key().raw);
        key[info + parsed.public_key().raw.len() - 1] ^= 1;
        assert_eq!(vouched(&key), None);
        for garbage in [&b""[..], b"no certificate", &made.der()[..made.der().len() - 1]] {
            assert_eq!((vouched(garbage), super::term(garbage)), (None, None));
        }
    }

    #[test]
    fn the_end_is_told_ahead_of_time() {
        let term = Term::beginning(1_000_000, None);
        assert_eq!((term.since, term.until), (1_000_000, 1_000_000 + TERM_DAYS * DAY));
        let at = |before_end: u64| term.at(term.until - before_end);
        for (left, expiry, word) in [
            (TERM_DAYS * DAY, Expiry::Valid { days: TERM_DAYS }, "valid"),
            (NOTICE_DAYS * DAY + 1, Expiry::Valid { days: NOTICE_DAYS }, "valid"),
            (NOTICE_DAYS * DAY, Expiry::Soon { days: NOTICE_DAYS }, "expires_soon"),
            (1, Expiry::Soon { days: 0 }, "expires_soon"),
            (0, Expiry::Past { days: 0 }, "expired"),
        ] {
            assert_eq!((at(left), at(left).word()), (expiry, word));
            assert_eq!(expiry.warning().is_some(), word != "valid");
        }
        assert_eq!(term.at(term.until + 3 * DAY), Expiry::Past { days: 3 });
        // A later one is later, whatever the clock says.
        assert_eq!(Term::beginning(5, Some(1_000)).since, 1_001);
        assert_eq!(Term::beginning(5_000, Some(1_000)).since, 5_000);
        assert_eq!(Term::beginning(u64::MAX, Some(u64::MAX)).at(0), Expiry::Valid { days: u64::MAX / DAY });
    }
}
