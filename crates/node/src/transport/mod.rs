//! Custodian to custodian: gRPC with mutual TLS, certificates that follow from the roster.
//!
//! * There is no authority: a connection stands only if the other side shows the certificate pinned for a member, or a later
//!   one that the member's identity vouches for. Its number comes from that certificate, never from a body.
//! * [`Listener`] binds first and reports its port, then serves a [`PeerHandler`]; [`Peers`] reaches the others.
//! * Everything is bounded: sizes, queues, calls at a time, messages per second, connections, handshakes, waiting.
//!
//! That a message is signed by the peer whose connection carried it is the concern of whoever understands the message.

mod certificate;
mod link;
mod listener;
mod peers;
mod queue;
mod rate;
mod service;
mod tls;
mod traffic;
mod vouched;

use std::future::Future;

use bytes::Bytes;

pub use certificate::{Certificate, CertificateError, Pin, pin};
pub use listener::{BindError, Listener, Serving};
pub use peers::{CallError, Member, Peers};
pub use queue::QueueCounts;
pub use tls::{Pins, Shown, TlsError};
pub use traffic::{Count, Sent};
pub use vouched::{Expiry, NOTICE_DAYS, TERM_DAYS, Term, term};

/// Which request a log group gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftCall {
    /// For `order::Group::on_append`.
    Append,
    /// For `order::Group::on_vote`.
    Vote,
}

/// Why a call isn't answered, told to the peer in these words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// The peer asked for something it may not, or in a wrong form.
    #[error("refused: {0}")]
    Refused(String),
    /// Not here, or not now.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// What a custodian does with what its peers send. `from` is the number that the connection's certificate is pinned to.
///
/// A handler that takes long holds up its peer's next messages, nobody else's.
pub trait PeerHandler: Send + Sync + 'static {
    /// A consensus message; messages of one peer come one at a time, in the order sent.
    fn deliver(&self, from: u16, message: Bytes) -> impl Future<Output = ()> + Send;

    /// A log group's request.
    fn raft(
        &self,
        from: u16,
        call: RaftCall,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, HandlerError>> + Send;

    /// A request for something stored.
    fn fetch(&self, from: u16, request: Bytes) -> impl Future<Output = Result<Bytes, HandlerError>> + Send;

    /// A step of a key ceremony.
    fn ceremony(&self, from: u16, message: Bytes)
    -> impl Future<Output = Result<Bytes, HandlerError>> + Send;
}

#[cfg(test)]
mod tests;
