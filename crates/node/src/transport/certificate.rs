//! A custodian's self-signed certificate, and the pin by which the others know it.

use std::fmt;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

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
    /// Makes a key and a certificate for it, signed by itself. Uses the system's randomness.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn generate() -> Result<Self, CertificateError> {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])
            .map_err(|error| CertificateError::Make(error.to_string()))?;
        let key = Zeroizing::new(made.signing_key.serialize_der());
        Ok(Self { der: made.cert.der().clone(), key })
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
