//! TLS between custodians: version 1.3 only, both sides show a certificate, and only those of members pass.
//!
//! The provider is given to each configuration, so that nothing depends on what else the process installed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use concordat_events::PublicKey;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};
use tokio::sync::watch;

use super::certificate::{Certificate, Pin, pin};
use super::listener::PeerConnection;
use super::vouched::vouched;

/// A TLS configuration can't be made of the certificate.
#[derive(Debug, thiserror::Error)]
#[error("the custodian's certificate and key don't make a TLS configuration: {0}")]
pub struct TlsError(#[from] Error);

/// What is known of one member.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The certificate in the roster.
    pin: Pin,
    /// Who may put another in its place.
    identity: Option<PublicKey>,
    /// When the newest one was made that its identity vouches for and that was seen here, seconds since 1970; zero for the roster's.
    newest: u64,
}

impl Known {
    /// When a certificate of this member was made; `None` if it is none of its, or an older one than one that was seen.
    fn takes(&self, der: &[u8]) -> Option<u64> {
        let own = |identity| Some(identity) == self.identity;
        let since = match vouched(der).filter(|vouched| own(vouched.identity)) {
            Some(vouched) => vouched.since,
            None if pin(der) == self.pin => 0,
            None => return None,
        };
        (since >= self.newest).then_some(since)
    }
}

/// Whose certificate is whose: the pins of the rosters in force, and what their identities vouch for. Shared and changed while
/// connections stand.
#[derive(Clone, Debug)]
pub struct Pins {
    members: Arc<RwLock<BTreeMap<u16, Known>>>,
    newest: watch::Sender<BTreeMap<u16, u64>>,
}

impl Pins {
    /// Of these members, each with this certificate and no other.
    pub fn new(members: impl IntoIterator<Item = (u16, Pin)>) -> Self {
        Self::known(
            members.into_iter().map(|(number, pin)| (number, Known { pin, identity: None, newest: 0 })),
        )
    }

    /// Of these members, whose identities may put another certificate in the place of the pinned one. `newest`: when the newest ones
    /// were made that were seen before ([`Pins::newest`]).
    pub fn vouched(
        members: impl IntoIterator<Item = (u16, Pin, PublicKey)>,
        newest: &BTreeMap<u16, u64>,
    ) -> Self {
        Self::known(members.into_iter().map(|(number, pin, identity)| {
            let newest = newest.get(&number).copied().unwrap_or_default();
            (number, Known { pin, identity: Some(identity), newest })
        }))
    }

    fn known(members: impl IntoIterator<Item = (u16, Known)>) -> Self {
        let members: BTreeMap<u16, Known> = members.into_iter().collect();
        let newest = watch::Sender::new(newest(&members));
        Self { members: Arc::new(RwLock::new(members)), newest }
    }

    /// Puts others in force. Open connections of those who are no longer in it end with their next message.
    pub fn set(&self, members: impl IntoIterator<Item = (u16, Pin)>) {
        let known = |(number, pin)| (number, Known { pin, identity: None, newest: 0 });
        *self.members.write().unwrap_or_else(PoisonError::into_inner) =
            members.into_iter().map(known).collect();
    }

    /// When the newest certificates were made that their identities vouch for. Whoever keeps it takes no older one after a restart.
    pub fn newest(&self) -> watch::Receiver<BTreeMap<u16, u64>> {
        self.newest.subscribe()
    }

    /// Is this a certificate of that member?
    pub(super) fn admits(&self, number: u16, der: &[u8]) -> bool {
        self.note(number, |known| known.takes(der)).is_some()
    }

    /// The member whose certificate this is.
    pub(super) fn member(&self, der: &[u8]) -> Option<PeerConnection> {
        let all: Vec<u16> = {
            let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
            let (pin, vouched) = (pin(der), vouched(der).map(|vouched| vouched.identity));
            let own = |known: &Known| known.pin == pin || vouched.is_some() && vouched == known.identity;
            members.iter().filter(|(_, known)| own(known)).map(|(number, _)| *number).collect()
        };
        all.into_iter().find_map(|number| {
            let since = self.note(number, |known| known.takes(der))?;
            Some(PeerConnection { number, pin: pin(der), since })
        })
    }

    /// Does an open connection still stand?
    pub(super) fn stands(&self, connection: &PeerConnection) -> bool {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.get(&connection.number).is_some_and(|known| match connection.since {
            0 => known.pin == connection.pin && known.newest == 0,
            since => known.identity.is_some() && since >= known.newest,
        })
    }

    fn note(&self, number: u16, takes: impl FnOnce(&Known) -> Option<u64>) -> Option<u64> {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        let known = members.get_mut(&number)?;
        let since = takes(known)?;
        if since > known.newest {
            known.newest = since;
            self.newest.send_replace(newest(&members));
        }
        Some(since)
    }
}

fn newest(members: &BTreeMap<u16, Known>) -> BTreeMap<u16, u64> {
    let vouched = members.iter().filter(|(_, known)| known.newest > 0);
    vouched.map(|(number, known)| (*number, known.newest)).collect()
}

/// The certificate that is shown on all connections made or taken from now on. Copies share it.
#[derive(Clone, Debug)]
pub struct Shown(Arc<RwLock<Arc<CertifiedKey>>>);

impl Shown {
    /// This one.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key don't fit.
    pub fn new(own: &Certificate) -> Result<Self, TlsError> {
        Ok(Shown(Arc::new(RwLock::new(certified(own)?))))
    }

    /// Another one from now on. Open connections stay as they are.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key don't fit; then all stays as it was.
    pub fn show(&self, own: &Certificate) -> Result<(), TlsError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(own)?;
        Ok(())
    }

    fn now(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn certified(own: &Certificate) -> Result<Arc<CertifiedKey>, TlsError> {
    Ok(Arc::new(CertifiedKey::from_der(own.chain(), own.private_key(), &provider())?))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How both verifiers check the handshake's signature; rustls has a trait for each side, with the same three methods.
macro_rules! signature_checks {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

fn stranger() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Accepts a certificate of the member that was dialled.
#[derive(Debug)]
struct Dialled {
    provider: Arc<CryptoProvider>,
    pins: Pins,
    number: u16,
}

impl ServerCertVerifier for Dialled {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.pins.admits(self.number, end_entity) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(stranger()),
        }
    }

    signature_checks!();
}

/// Accepts a certificate of any member.
#[derive(Debug)]
struct AnyMember {
    provider: Arc<CryptoProvider>,
    pins: Pins,
}

impl ClientCertVerifier for AnyMember {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.pins.member(end_entity).map(|_| ClientCertVerified::assertion()).ok_or_else(stranger)
    }

    signature_checks!();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// For connections to member `number`.
pub(super) fn client(own: Shown, pins: Pins, number: u16) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Dialled { provider: provider.clone(), pins, number };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // The name is the same for all; a session resumed would skip the pin.
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// For connections of any member.
pub(super) fn server(own: Shown, pins: Pins) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = AnyMember { provider: provider.clone(), pins };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
