//! A custodian's own keys: who it is ([`CustodianKeys::keypair`]), its TLS key, and the key to which everything else that
//! is secret here is sealed. One file, `keys.age`, under a passphrase; one scrypt per start.
//!
//! Promises: nothing here prints, copies or serialises a secret; what a type holds is wiped when it is dropped; success
//! is reported only after the sealed file was read back and opened. Refuses: to overwrite a key, and a passphrase file
//! that others may read.

pub mod file;
pub mod seal;

use std::path::Path;

use age::secrecy::ExposeSecret;
use age::x25519;
use concordat_events::{Hash, PublicKey};
use secp256k1::schnorr::Signature;
use secp256k1::{Keypair, Message, SECP256K1};
use zeroize::{Zeroize, Zeroizing};

use crate::transport::{self, Certificate, CertificateError};

pub use file::FileError;
pub use seal::{Passphrase, SealError};

/// First line of the opened file.
const HEADER: &str = "concordat keys 1";

/// Why keys can't be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Sealing, opening, or the file.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The certificate couldn't be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It opened, but isn't what this version writes.
    #[error("{path} opened, but {what}; it was written by another program or version")]
    Contents {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, without what was found.
        what: &'static str,
    },
}

impl From<FileError> for KeysError {
    fn from(error: FileError) -> Self {
        KeysError::Seal(SealError::File(error))
    }
}

/// The secrets of one custodian. No `Debug`, no `Clone`, no `Serialize`; wiped when dropped.
///
/// ```compile_fail,E0277
/// fn print<T: std::fmt::Debug>() {}
/// print::<concordat_node::keys::CustodianKeys>();
/// ```
/// ```compile_fail,E0277
/// fn copy<T: Clone>() {}
/// copy::<concordat_node::keys::CustodianKeys>();
/// ```
pub struct CustodianKeys {
    keypair: Keypair,
    tls: Zeroizing<Vec<u8>>,
    storage: x25519::Identity,
}

impl Drop for CustodianKeys {
    fn drop(&mut self) {
        self.keypair.non_secure_erase();
    }
}

impl CustodianKeys {
    /// Makes new keys and the certificate that goes with them, from the system's randomness.
    pub fn generate() -> Result<(Self, Certificate), KeysError> {
        let made = Certificate::generate()?;
        // libsecp256k1 wants a scalar in range; one try in 2^128 isn't.
        let keypair = loop {
            let mut secret = Zeroizing::new([0u8; 32]);
            rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, secret.as_mut());
            if let Ok(keypair) = Keypair::from_seckey_slice(SECP256K1, secret.as_ref()) {
                break keypair;
            }
        };
        let keys =
            CustodianKeys { keypair, tls: made.key_der().clone(), storage: x25519::Identity::generate() };
        Ok((keys, made))
    }

    /// Seals the keys into a new file, reads it back and opens it.
    pub fn write_new(&self, path: &Path, passphrase: &Passphrase) -> Result<(), KeysError> {
        let sealed = seal::seal_with_passphrase(path, passphrase, self.to_plain().as_bytes())?;
        file::write_new(path, &sealed)?;
        let back = Self::open(path, passphrase)?;
        if back.public_key() != self.public_key() || *back.tls != *self.tls {
            return Err(FileError::ReadBack { path: path.to_owned() }.into());
        }
        Ok(())
    }

    /// Seals the keys under another passphrase in place of the file, reads it back and opens it. The old file stays until
    /// the new one is whole.
    pub fn reseal(&self, path: &Path, passphrase: &Passphrase) -> Result<(), KeysError> {
        let sealed = seal::seal_with_passphrase(path, passphrase, self.to_plain().as_bytes())?;
        file::replace(path, &sealed)?;
        let back = Self::open(path, passphrase)?;
        if back.public_key() != self.public_key() || *back.tls != *self.tls {
            return Err(FileError::ReadBack { path: path.to_owned() }.into());
        }
        Ok(())
    }

    /// Opens the keys in a file.
    pub fn open(path: &Path, passphrase: &Passphrase) -> Result<Self, KeysError> {
        let sealed = file::read(path, "it was made with the custodian's directory and can't be made again")?;
        file::check_private(path)?;
        let plain = seal::open_with_passphrase(path, passphrase, &sealed)?;
        Self::from_plain(&plain).map_err(|what| KeysError::Contents { path: path.to_owned(), what })
    }

    /// The identity's key pair, which signs every message between custodians.
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The identity's public key.
    pub fn public_key(&self) -> PublicKey {
        self.keypair.x_only_public_key().0.into()
    }

    /// Signs a hash with the identity key (BIP340). What is hashed must be a tagged hash that says what it is for.
    pub fn sign(&self, hash: &Hash) -> [u8; 64] {
        self.keypair.sign_schnorr(Message::from_digest(*hash.as_bytes())).serialize()
    }

    /// The TLS private key, PKCS#8 DER.
    pub fn tls_key(&self) -> &[u8] {
        &self.tls
    }

    /// The first TLS certificate (DER, from the card) with its key.
    pub fn certificate(&self, der: Vec<u8>) -> Certificate {
        Certificate::from_der(der, self.tls.clone())
    }

    /// Seals bytes so that only these keys open them, writes them to a new file, reads it back and opens it.
    pub fn seal_new(&self, path: &Path, plain: &[u8]) -> Result<(), SealError> {
        file::write_new(path, &seal::seal_to(path, &self.storage.to_public(), plain)?)?;
        if *self.unseal(path, "it was written a moment ago")? != plain {
            return Err(FileError::ReadBack { path: path.to_owned() }.into());
        }
        Ok(())
    }

    /// Seals bytes so that only these keys open them and writes them in the place of what the file may hold, reads it back and opens it.
    pub fn seal_in_place(&self, path: &Path, plain: &[u8]) -> Result<(), SealError> {
        file::replace(path, &seal::seal_to(path, &self.storage.to_public(), plain)?)?;
        if *self.unseal(path, "it was written a moment ago")? != plain {
            return Err(FileError::ReadBack { path: path.to_owned() }.into());
        }
        Ok(())
    }

    /// Opens a file that [`CustodianKeys::seal_new`] wrote. `hint` says what makes it, if it isn't there.
    pub fn unseal(&self, path: &Path, hint: &'static str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let sealed = file::read(path, hint)?;
        file::check_private(path)?;
        seal::open_with(path, &self.storage, &sealed)
    }

    /// The opened form: lines of text, so that `age -d` shows an operator what a backup holds.
    fn to_plain(&self) -> Zeroizing<String> {
        let mut secret = self.keypair.secret_bytes();
        let identity = Zeroizing::new(hex::encode(secret));
        secret.zeroize();
        let tls = Zeroizing::new(hex::encode(&*self.tls));
        let storage = self.storage.to_string();
        let storage = storage.expose_secret();
        // Room for all of it at once: a growing string would leave copies behind.
        let length = HEADER.len() + identity.len() + tls.len() + storage.len() + 64;
        let mut text = Zeroizing::new(String::with_capacity(length));
        for part in [HEADER, "\nidentity ", &identity, "\ntls ", &tls, "\nstorage ", storage, "\n"] {
            text.push_str(part);
        }
        text
    }

    fn from_plain(plain: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(plain).map_err(|_| "isn't text")?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err("its first line isn't `concordat keys 1`");
        }
        let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name));
        let identity = field("identity ").ok_or("its second line isn't `identity`")?;
        let tls = field("tls ").ok_or("its third line isn't `tls`")?;
        let storage = field("storage ").ok_or("its fourth line isn't `storage`")?;
        let secret = Zeroizing::new(hex::decode(identity).map_err(|_| "the identity isn't hex")?);
        Ok(CustodianKeys {
            keypair: Keypair::from_seckey_slice(SECP256K1, &secret)
                .map_err(|_| "the identity is no secp256k1 key")?,
            tls: Zeroizing::new(hex::decode(tls).map_err(|_| "the TLS key isn't hex")?),
            storage: storage.parse().map_err(|_| "the storage key is no age identity")?,
        })
    }
}

/// The pin of a certificate, SHA-256 of its DER, as the roster holds it.
pub fn pin_of(der: &[u8]) -> Hash {
    Hash::from_bytes(transport::pin(der).0)
}

/// Checks a BIP340 signature over a hash.
pub fn verify(key: &PublicKey, hash: &Hash, signature: &[u8]) -> bool {
    let Ok(signature) = Signature::from_slice(signature) else { return false };
    let Ok(key) = key.xonly() else { return false };
    SECP256K1.verify_schnorr(&signature, &Message::from_digest(*hash.as_bytes()), &key).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use concordat_events::hash::tagged;

    use super::*;

    fn passphrase(dir: &Path, name: &str) -> Passphrase {
        let path = dir.join(name);
        let text: [u8; 16] = rand::random();
        file::write_new(&path, format!("{}\n", hex::encode(text)).as_bytes()).unwrap();
        Passphrase::read(&path).unwrap()
    }

    #[test]
    fn keys_come_back_and_only_with_their_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let (right, wrong) = (passphrase(dir.path(), "right"), passphrase(dir.path(), "wrong"));
        let path = dir.path().join("keys.age");
        let (keys, made) = CustodianKeys::generate().unwrap();
        keys.write_new(&path, &right).unwrap();

        let back = CustodianKeys::open(&path, &right).unwrap();
        assert_eq!(back.public_key(), keys.public_key());
        assert_eq!(back.tls_key(), &made.key_der()[..]);
        let hash = tagged("concordat/test", &[b"x"]);
        assert!(verify(&keys.public_key(), &hash, &back.sign(&hash)));
        assert!(!verify(&keys.public_key(), &tagged("concordat/test", &[b"y"]), &back.sign(&hash)));

        let Err(error) = CustodianKeys::open(&path, &wrong) else { panic!("opened with another passphrase") };
        let text = error.to_string();
        assert!(text.contains("keys.age") && text.contains("wrong"), "{text}");
        assert!(matches!(
            keys.write_new(&path, &right),
            Err(KeysError::Seal(SealError::File(FileError::Exists { .. })))
        ));

        // Sealed files open with the keys that were read back, and with no others.
        let share = dir.path().join("share.age");
        keys.seal_new(&share, b"a share").unwrap();
        assert_eq!(&**back.unseal(&share, "").unwrap(), b"a share");
        let (other, _) = CustodianKeys::generate().unwrap();
        assert!(matches!(other.unseal(&share, ""), Err(SealError::WrongKey { .. })));
        let sealed = fs::read(&share).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"a share"));
    }

    #[test]
    fn damage_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, _) = CustodianKeys::generate().unwrap();
        let path = dir.path().join("share.age");
        keys.seal_new(&path, b"a share").unwrap();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(keys.unseal(&path, ""), Err(SealError::Damaged { .. })));
        fs::write(&path, b"no age file").unwrap();
        assert!(matches!(keys.unseal(&path, ""), Err(SealError::Damaged { .. })));
    }

    #[test]
    fn short_passphrases_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        file::write_new(&path, b"hunter2\n").unwrap();
        assert!(matches!(Passphrase::read(&path), Err(SealError::ShortPassphrase { got: 7, .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_passphrase_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        file::write_new(&path, b"0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let Err(error) = Passphrase::read(&path) else { panic!() };
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
