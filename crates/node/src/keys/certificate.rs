//! The TLS certificate of a custodian: self-signed, known to others by the SHA-256 of its DER (its pin), not by a name,
//! an authority or a date. So it doesn't expire behind anybody's back; it changes with the roster.

use concordat_events::Hash;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The certificate couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("making a TLS certificate failed: {0}")]
pub struct CertificateError(String);

/// A new certificate and its key.
pub struct MadeCertificate {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
}

/// The name in every custodian's certificate. Nobody checks it: the pin says who it is.
const NAME: &str = "custodian.concordat.invalid";

/// Makes a P-256 key and a certificate for it.
pub fn make_certificate() -> Result<MadeCertificate, CertificateError> {
    let error = |error: rcgen::Error| CertificateError(error.to_string());
    let key = rcgen::KeyPair::generate().map_err(error)?;
    let params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).map_err(error)?;
    let certificate = params.self_signed(&key).map_err(error)?;
    Ok(MadeCertificate { certificate: certificate.der().to_vec(), key: Zeroizing::new(key.serialize_der()) })
}

/// The pin of a certificate: the SHA-256 of its DER, as in the roster.
pub fn pin_of(der: &[u8]) -> Hash {
    Hash::from_bytes(Sha256::digest(der).into())
}
