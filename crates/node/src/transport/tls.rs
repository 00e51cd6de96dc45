//! TLS between custodians: version 1.3 only, both sides show a certificate, and only pinned ones pass.
//!
//! The provider is given to each configuration, so that nothing depends on what else the process installed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};

use super::certificate::{Certificate, Pin, pin};

/// A TLS configuration can't be made of the certificate.
#[derive(Debug, thiserror::Error)]
#[error("the custodian's certificate and key don't make a TLS configuration: {0}")]
pub struct TlsError(#[from] Error);

/// Whose certificate is whose: the pins of the rosters in force. Shared and changed while connections stand.
#[derive(Clone, Debug, Default)]
pub struct Pins(Arc<RwLock<BTreeMap<u16, Pin>>>);

impl Pins {
    /// Of these members.
    pub fn new(members: impl IntoIterator<Item = (u16, Pin)>) -> Self {
        Self(Arc::new(RwLock::new(members.into_iter().collect())))
    }

    /// Puts others in force. Open connections of those who are no longer in it end with their next message.
    pub fn set(&self, members: impl IntoIterator<Item = (u16, Pin)>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = members.into_iter().collect();
    }

    /// The pin of a member.
    pub fn of(&self, number: u16) -> Option<Pin> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&number).copied()
    }

    /// The member whose certificate this is.
    pub fn member(&self, pin: &Pin) -> Option<u16> {
        let members = self.0.read().unwrap_or_else(PoisonError::into_inner);
        members.iter().find(|(_, held)| *held == pin).map(|(number, _)| *number)
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

/// Accepts the one certificate pinned for the member that was dialled.
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
        if self.pins.of(self.number) != Some(pin(end_entity)) {
            return Err(stranger());
        }
        Ok(ServerCertVerified::assertion())
    }

    signature_checks!();
}

/// Accepts the certificate of any member.
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
        self.pins.member(&pin(end_entity)).map(|_| ClientCertVerified::assertion()).ok_or_else(stranger)
    }

    signature_checks!();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// For connections to member `number`.
pub(super) fn client(own: &Certificate, pins: Pins, number: u16) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Dialled { provider: provider.clone(), pins, number };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(own.chain(), own.private_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // The name is the same for all; a session resumed would skip the pin.
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// For connections of any member.
pub(super) fn server(own: &Certificate, pins: Pins) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = AnyMember { provider: provider.clone(), pins };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(own.chain(), own.private_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
