//! The log groups' way to the other custodians over [`Peers`].

use std::time::Duration;

use bytes::Bytes;

use super::{Peers, RaftCall};
use crate::order::{LinkError, RaftLink};

/// Longer than any log group waits: its own deadline ends a request first.
const LONGEST: Duration = Duration::from_secs(60);

impl RaftLink for Peers {
    async fn append(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
        let answer = self.raft(peer, RaftCall::Append, request, LONGEST).await;
        answer.map_err(|error| LinkError { peer, why: error.to_string() })
    }

    async fn vote(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
        let answer = self.raft(peer, RaftCall::Vote, request, LONGEST).await;
        answer.map_err(|error| LinkError { peer, why: error.to_string() })
    }
}
