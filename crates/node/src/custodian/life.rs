//! What happens in a custodian's life, for whoever watches, and why one ends.

use concordat_finality::Fatal;
use concordat_store::StoreError;
use serde::Serialize;

/// An event in a custodian's life.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Life {
    /// It listens.
    Listening {
        /// Its name.
        name: String,
        /// Where peers reach it.
        peers: String,
        /// Where users reach it, `host:port#pin`; nothing if they can't.
        client: Option<String>,
    },
    /// The key ceremony moves.
    Ceremony {
        /// What it is doing.
        stage: String,
        /// Whose next message is missing.
        waiting_on: Vec<u16>,
    },
    /// It takes part in consensus.
    Ready {
        /// The group's key, hex.
        group: String,
        /// Its number.
        number: u16,
        /// Its certified height; nothing before Head(0).
        height: Option<u64>,
        /// Its epoch.
        epoch: u64,
    },
    /// It entered an epoch.
    Epoch {
        /// Which.
        epoch: u64,
        /// Its leader.
        leader: u16,
    },
    /// A head was certified.
    Certified {
        /// Its height.
        height: u64,
        /// Its id.
        id: String,
        /// How many requests it has.
        requests: usize,
    },
    /// Something an operator must know.
    Alarm {
        /// In words.
        message: String,
    },
    /// How many custodians reach each other changed.
    Quorum {
        /// How many are reached, this one included.
        reachable: usize,
        /// How many it takes.
        needed: usize,
        /// Are there enough to certify anything?
        certifying: bool,
    },
    /// It has stopped.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a custodian can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its directory.
    #[error(transparent)]
    Dir(#[from] crate::dir::DirError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The key ceremony.
    #[error(transparent)]
    Ceremony(#[from] crate::ceremony::CeremonyError),
    /// The genesis.
    #[error("the genesis is refused: {0}")]
    Genesis(String),
    /// The peers' address.
    #[error(transparent)]
    Bind(#[from] crate::transport::BindError),
    /// Its certificate.
    #[error(transparent)]
    Tls(#[from] crate::transport::TlsError),
    /// The users' address.
    #[error(transparent)]
    Serve(#[from] crate::client::ServeError),
    /// A relay's address.
    #[error(transparent)]
    Relay(#[from] crate::relay::RelayError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is a key share but the ceremony's certificate is incomplete, or the other way round.
    #[error("{0}")]
    Incomplete(String),
    /// The consensus core stops.
    #[error("{0}")]
    Fatal(String),
    /// A defect, or a system that gives no threads.
    #[error("{0}")]
    Internal(String),
}

impl RunError {
    pub(crate) fn open(error: concordat_ledger::OpenError) -> Self {
        match error {
            concordat_ledger::OpenError::Store(error) => RunError::Store(error),
            other => RunError::Genesis(other.to_string()),
        }
    }

    pub(crate) fn fatal(error: Fatal) -> Self {
        match error {
            Fatal::Store(error) => RunError::Store(error),
            other => RunError::Fatal(other.to_string()),
        }
    }

    /// A stable code.
    pub fn code(&self) -> &'static str {
        use crate::dir::DirError;
        match self {
            RunError::Dir(DirError::InUse(_)) => "directory_in_use",
            RunError::Dir(_) => "directory",
            RunError::Config(_) => "config",
            RunError::Ceremony(_) => "ceremony",
            RunError::Genesis(_) => "genesis",
            RunError::Bind(_) | RunError::Serve(_) => "listen",
            RunError::Tls(_) => "certificate",
            RunError::Relay(_) => "relay",
            RunError::Store(StoreError::InUse { .. }) => "directory_in_use",
            RunError::Store(_) => "store",
            RunError::Incomplete(_) => "incomplete",
            RunError::Fatal(_) => "fatal",
            RunError::Internal(_) => "internal",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.code() {
            "directory_in_use" => "stop the other process, or give this custodian a directory of its own",
            "directory" => "check the files that the message names",
            "config" => "correct custodian.toml",
            "ceremony" => "all founders start again with the same proposal",
            "listen" => "stop what uses the address, or choose another in custodian.toml",
            "store" => "check the disk; a failed write is never retried",
            "fatal" => "don't restart before the cause is understood; other custodians go on",
            _ => "see the log",
        }
    }
}
