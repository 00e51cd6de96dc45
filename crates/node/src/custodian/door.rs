//! What peers may ask: consensus messages, Raft requests, a sign of life, a ceremony that is still going on for them.

use std::sync::Arc;

use bytes::Bytes;
use concordat_finality::Context;

use super::Process;
use super::desk::Desk;
use crate::ceremony::{CeremonyDoor, Session};
use crate::engine::{self, Groups, Inbox};
use crate::handover::Handover;
use crate::transport::{HandlerError, PeerHandler, RaftCall};

/// See the module's header.
pub(crate) struct Door {
    context: Arc<Context>,
    desk: Desk,
    groups: Groups<Process>,
    /// The ceremony of this run, for founders that haven't finished.
    session: Option<Arc<Session>>,
    /// The change of roster that its operator has accepted.
    handover: Option<Arc<Handover>>,
}

impl Door {
    pub fn new(
        context: Arc<Context>,
        desk: Desk,
        groups: Groups<Process>,
        session: Option<Arc<Session>>,
        handover: Option<Arc<Handover>>,
    ) -> Self {
        Door { context, desk, groups, session, handover }
    }
}

impl PeerHandler for Door {
    async fn deliver(&self, from: u16, message: Bytes) {
        match engine::received(&self.context, from, &message) {
            Ok(input) => self.desk.input(input).await,
            Err(error) => tracing::warn!(from, %error, "a message was refused"),
        }
    }

    async fn raft(&self, from: u16, call: RaftCall, request: Bytes) -> Result<Bytes, HandlerError> {
        self.groups.raft(from, call, request).await.map_err(HandlerError::Unavailable)
    }

    /// A sign of life: everything else that is fetched travels in signed messages.
    async fn fetch(&self, _from: u16, request: Bytes) -> Result<Bytes, HandlerError> {
        if request.is_empty() {
            Ok(Bytes::new())
        } else {
            Err(HandlerError::Refused("nothing is fetched here".into()))
        }
    }

    async fn ceremony(&self, from: u16, message: Bytes) -> Result<Bytes, HandlerError> {
        let named = crate::ceremony::message::proposal_of(&message);
        match (&self.handover, &self.session) {
            (Some(handover), _) if named == Some(handover.proposal()) => {
                let answer = handover.answer(from, message).await;
                answer.map(Bytes::from).map_err(|error| HandlerError::Refused(error.to_string()))
            }
            (_, Some(session)) => CeremonyDoor::answer(session, from, message).await,
            (_, None) => Err(HandlerError::Unavailable(
                "this custodian holds no such ceremony: it is over, or its operator hasn't accepted it"
                    .into(),
            )),
        }
    }
}
