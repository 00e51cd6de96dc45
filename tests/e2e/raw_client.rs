//! A user that sends what our own client never would: raw bytes at a custodian's client port.

use std::sync::Arc;

use concordat_node::client::CustodianAddress;
use concordat_node::proto::client::client_client::ClientClient;
use concordat_node::proto::client::{SendRequest, send_update::Update};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// Takes any certificate: this user checks nothing.
#[derive(Debug)]
struct Anyone(rustls::crypto::CryptoProvider);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to a custodian's client port.
pub async fn connect(address: &CustodianAddress) -> ClientClient<Channel> {
    let provider = rustls::crypto::ring::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (tls, target) = (Arc::new(config), address.address.clone());
    let connector = tower::service_fn(move |_| {
        let (tls, target) = (Arc::clone(&tls), target.clone());
        async move {
            let stream = TcpStream::connect(&target).await?;
            let name = ServerName::try_from("anyone.invalid").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(
                tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?,
            ))
        }
    });
    let channel =
        Endpoint::from_static("http://anyone.invalid").connect_with_connector(connector).await.unwrap();
    ClientClient::new(channel)
}

/// Sends a text as a request: the outcome's reason (`None` if accepted), or the refusal's text.
pub async fn send(client: &ClientClient<Channel>, event: String) -> Result<Option<String>, String> {
    let wrong = |status: tonic::Status| status.message().to_owned();
    let mut updates = client.clone().send(SendRequest { event }).await.map_err(wrong)?.into_inner();
    while let Some(update) = updates.message().await.map_err(wrong)? {
        if let Some(Update::Certified(certified)) = update.update {
            return Ok(Some(certified.reason).filter(|_| !certified.ok));
        }
    }
    Err("it ended without an outcome".to_owned())
}
