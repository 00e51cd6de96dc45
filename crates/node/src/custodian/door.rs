//! What peers may ask: consensus messages, Raft requests, a sign of life, a ceremony that is still going on for them.

use std::sync::Arc;

use bytes::Bytes;
use concordat_finality::Context;

use super::Process;
use super::desk::Desk;
use crate::ceremony::{CeremonyDoor, Session};
use crate::engine::{self, Groups, Inbox};
use crate::transport::{HandlerError, PeerHandler, RaftCall};

/// See the module's header.
pub(crate) struct Door {
    context: Arc<Context>,
    desk: Desk,
    groups: Groups<Process>,
    /// The ceremony of this run, for founders that haven't finished.
    session: Option<Arc<Session>>,
}

impl Door {
    pub fn new(
        context: Arc<Context>,
        desk: Desk,
        groups: Groups<Process>,
        session: Option<Arc<Session>>,
    ) -> Self {
        Door { context, desk, groups, session }
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
        match &self.session {
            Some(session) => CeremonyDoor::answer(session, from, message).await,
            None => Err(HandlerError::Unavailable("this custodian's ceremony is over".into())),
        }
    }
}
