//! A custodian's self-signed certificate, and the pin by which the others know it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::vouched::{self, Term};
use crate::keys::CustodianKeys;

/// The name in every custodian's certificate. It means nothing: pins identify.
pub(super) const NAME: &str = "custodian";

/// SHA-256 of a certificate's DER: what the roster holds of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The pin of a certificate.
pub fn pin(der: &[u8]) -> Pin {
    Pin(Sha256::digest(der).into())
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It couldn't be made.
    #[error("no certificate could be made: {0}")]
    Make(String),
    /// A stored one can't be read. Says nothing of the key.
    #[error("{what} can't be read: expected {expected}")]
    Read {
        /// Which part.
        what: &'static str,
        /// In which form it should be.
        expected: &'static str,
    },
}

/// A certificate with its private key. The key is wiped from memory when this is dropped.
pub struct Certificate {
    der: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
}

impl Certificate {
    /// Makes a key and a certificate for it, signed by itself. Uses the system's randomness and clock.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn generate() -> Result<Self, CertificateError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (params, key) = begin(Term::beginning(now, None))?;
        finish(&params, &key)
    }

    /// Makes a key and a certificate for it that the identity of these keys vouches for. Uses the system's randomness.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn vouched_for(keys: &CustodianKeys, term: Term) -> Result<Self, CertificateError> {
        let (mut params, key) = begin(term)?;
        let signature = keys.sign(&vouched::digest(&key.subject_public_key_info(), term));
        params.custom_extensions.push(vouched::extension(&keys.public_key(), &signature));
        finish(&params, &key)
    }

    /// A stored certificate: DER, and its key as PKCS#8 DER.
    pub fn from_der(certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Self {
        Self { der: certificate.into(), key }
    }

    /// A stored certificate with its key, both as PEM.
    ///
    /// # Errors
    /// [`CertificateError::Read`].
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| {
            CertificateError::Read { what: "the certificate", expected: "one PEM CERTIFICATE" }
        })?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateError::Read {
            what: "its key",
            expected: "one PEM PRIVATE KEY (PKCS#8)",
        })?;
        Ok(Self { der, key: Zeroizing::new(key.secret_pkcs8_der().to_vec()) })
    }

    /// From when to when it is meant to be used. `None` if it isn't X.509 with such dates.
    pub fn term(&self) -> Option<Term> {
        vouched::term(&self.der)
    }

    /// Does the identity of these keys vouch for it?
    pub fn is_vouched_for(&self, keys: &CustodianKeys) -> bool {
        vouched::vouched(&self.der).is_some_and(|vouched| vouched.identity == keys.public_key())
    }

    /// What goes into the roster.
    pub fn pin(&self) -> Pin {
        pin(&self.der)
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The private key as PKCS#8 DER, to be sealed.
    pub fn key_der(&self) -> &Zeroizing<Vec<u8>> {
        &self.key
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.der.clone()]
    }

    /// A copy for rustls, which keeps it as long as the configuration lives.
    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

fn make(error: rcgen::Error) -> CertificateError {
    CertificateError::Make(error.to_string())
}

fn begin(term: Term) -> Result<(CertificateParams, KeyPair), CertificateError> {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(make)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // X.509 knows no year after 9999.
    let most = rcgen::date_time_ymd(9999, 12, 31);
    let date = |seconds: u64| {
        let from = i64::try_from(seconds).ok().filter(|seconds| *seconds < (most - epoch).whole_seconds());
        from.map_or(most, |_| epoch + Duration::from_secs(seconds))
    };
    (params.not_before, params.not_after) = (date(term.since), date(term.until));
    Ok((params, KeyPair::generate().map_err(make)?))
}

fn finish(params: &CertificateParams, key: &KeyPair) -> Result<Certificate, CertificateError> {
    let made = params.self_signed(key).map_err(make)?;
    Ok(Certificate { der: made.der().clone(), key: Zeroizing::new(key.serialize_der()) })
}
