//! The ceremony over the transport between custodians: mutual TLS with the pins of the proposal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use concordat_events::SignedGenesis;

use super::core::CeremonyError;
use super::session::{CeremonyLink, Session};
use crate::transport::{HandlerError, Listener, Member, PeerHandler, Peers, Pin, Pins, RaftCall};

/// Longer than a session waits: its own deadline ends a call first.
const LONGEST: Duration = Duration::from_secs(60);

impl CeremonyLink for Peers {
    async fn call(&self, to: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let answer = self.ceremony(to, Bytes::from(body), LONGEST).await;
        answer.map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
    }
}

/// Answers ceremony calls and no others: there is no group yet.
pub struct CeremonyDoor(pub Arc<Session>);

impl CeremonyDoor {
    /// Answers one call. A running custodian calls this too, so that late founders can finish.
    pub async fn answer(session: &Arc<Session>, from: u16, message: Bytes) -> Result<Bytes, HandlerError> {
        let answer = session.answer(from, message.to_vec()).await;
        answer.map(Bytes::from).map_err(|error| HandlerError::Refused(error.to_string()))
    }
}

fn no_group<T>() -> Result<T, HandlerError> {
    Err(HandlerError::Unavailable(
        "the group isn't founded yet; this custodian is in its key ceremony".into(),
    ))
}

impl PeerHandler for CeremonyDoor {
    async fn deliver(&self, _from: u16, _message: Bytes) {}

    async fn raft(&self, _from: u16, _call: RaftCall, _request: Bytes) -> Result<Bytes, HandlerError> {
        no_group()
    }

    async fn fetch(&self, _from: u16, _request: Bytes) -> Result<Bytes, HandlerError> {
        no_group()
    }

    async fn ceremony(&self, from: u16, message: Bytes) -> Result<Bytes, HandlerError> {
        Self::answer(&self.0, from, message).await
    }
}

impl Session {
    /// Serves and calls the other founders until everybody has the genesis ([`Session::run`] says when it ends).
    /// `addresses` are those that differ from the proposal's here.
    pub async fn run_on(
        self: &Arc<Self>,
        listener: Listener,
        addresses: &BTreeMap<u16, String>,
        linger: Duration,
    ) -> Result<SignedGenesis, CeremonyError> {
        let link = |error: crate::transport::TlsError| CeremonyError::Link(error.to_string());
        let (certificate, pins, members) = {
            let core = self.core();
            let pin = |hash: &concordat_events::Hash| Pin(*hash.as_bytes());
            let all = core.proposal().roster.members();
            let others = all.iter().filter(|member| member.number != core.own());
            let address = |number| addresses.get(number).or_else(|| core.proposal().addresses.get(number));
            let members: Vec<Member> = others
                .filter_map(|member| {
                    let address = address(&member.number)?.clone();
                    Some(Member { number: member.number, address, pin: pin(&member.certificate) })
                })
                .collect();
            let pins = Pins::new(all.iter().map(|member| (member.number, pin(&member.certificate))));
            (core.certificate()?, pins, members)
        };
        let serving = listener
            .serve(&certificate, pins.clone(), Arc::new(CeremonyDoor(Arc::clone(self))))
            .map_err(link)?;
        let peers = Peers::new(certificate, pins, members).map_err(link)?;
        let result = self.run(peers.clone(), linger).await;
        peers.close();
        serving.shutdown().await;
        result
    }
}
