//! The door for users: `proto/concordat/v1/client.proto` over server TLS, loopback by default.
//!
//! Nobody logs in: a request is a signed event and proves itself; what comes back carries the group's signature and is
//! checked by the reader. [`serve`] is the custodian's side, [`Client`] the user's, [`ClientHandler`] what a custodian
//! implements between them.
//!
//! Refuses: a certificate whose pin the user wasn't told, events over the size limit, and more calls than a custodian
//! can serve beside its own work.

mod api;
mod connect;
mod server;
#[cfg(test)]
mod tests;
mod tls;

pub use self::api::{
    CertifiedOutcome, ClientHandler, EvidencePiece, HandlerError, MachineView, OutcomeFuture, Proven, Status,
    UpdateStream,
};
pub use self::connect::{Client, ClientError, CustodianAddress};
pub use self::server::{LEAVES, ServeError, Server, serve, service};
