//! The TLS certificate that a running custodian shows: looked for in its directory, shown to whoever connects from then on, its end
//! told ahead of time; and the newest ones of others, kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::desk::Clock;
use super::life::Life;
use crate::certificate::{self, FILE};
use crate::dir::{CustodianDir, DirError};
use crate::keys::{CustodianKeys, file};
use crate::transport::{Certificate, Peers, Pin, Shown, Term, TlsError};

/// How often the directory is looked at: it is in memory anyway.
const LOOK: Duration = Duration::from_millis(500);

/// Seconds between two warnings of the same.
const WARN_AGAIN: u64 = 86_400;

/// What is shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Current {
    pub pin: Pin,
    /// `None` if it has no dates that can be read.
    pub term: Option<Term>,
}

impl Current {
    pub fn of(certificate: &Certificate) -> Self {
        Current { pin: certificate.pin(), term: certificate.term() }
    }

    /// For the status.
    pub fn to_json(self, now: u64) -> serde_json::Value {
        let expiry = self.term.map(|term| term.at(now));
        serde_json::json!({
            "pin": self.pin.to_string(),
            "since": self.term.map(|term| term.since),
            "until": self.term.map(|term| term.until),
            "state": expiry.map(|expiry| expiry.word()),
            "warning": expiry.and_then(|expiry| expiry.warning()),
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    Clock::start().now().wall_ms / 1000
}

/// Everything that shows the certificate.
pub(super) struct Doors {
    /// For peers and for users who connect.
    pub shown: Shown,
    /// The ways to peers.
    pub peers: Peers,
    /// What the status says.
    pub current: watch::Sender<Current>,
    /// For whoever watches: the event that says where it listens, with another pin.
    pub listening: Box<dyn Fn(Pin) -> Life + Send + Sync>,
}

impl Doors {
    fn show(&self, certificate: &Certificate) -> Result<(), TlsError> {
        // Who connects is shown the new one before anybody is told of it.
        self.shown.show(certificate)?;
        self.peers.show(certificate)?;
        self.current.send_replace(Current::of(certificate));
        Ok(())
    }
}

/// Shows what the operator puts into the directory, and warns ahead of the end, until it is dropped.
pub(super) async fn watch(
    dir: Arc<CustodianDir>,
    keys: Arc<CustodianKeys>,
    doors: Doors,
    life: mpsc::UnboundedSender<Life>,
) {
    let mut known: Option<Vec<u8>> = None;
    let mut warned = None;
    loop {
        let expiry = doors.current.borrow().term.map(|term| term.at(now()));
        if let Some(message) = expiry.and_then(|expiry| expiry.warning())
            && warned.is_none_or(|at: u64| now().saturating_sub(at) >= WARN_AGAIN)
        {
            tracing::warn!("{message}");
            let _ = life.send(Life::Alarm { message });
            warned = Some(now());
        }
        let (dir, keys, before) = (dir.clone(), keys.clone(), known.clone());
        let looked = tokio::task::spawn_blocking(move || look(&dir, &keys, before.as_deref())).await;
        match looked {
            Ok(Ok(None)) | Err(_) => {}
            Ok(Ok(Some((bytes, certificate)))) => {
                known = Some(bytes);
                if certificate.pin() != doors.current.borrow().pin {
                    match doors.show(&certificate) {
                        Ok(()) => {
                            warned = None;
                            tracing::info!(pin = %certificate.pin(), "another TLS certificate is shown from now on");
                            let _ = life.send((doors.listening)(certificate.pin()));
                        }
                        Err(error) => tracing::warn!(%error, "the new TLS certificate isn't shown"),
                    }
                }
            }
            Ok(Err((bytes, error))) => {
                // Said once for each content of the file.
                known = bytes;
                tracing::warn!(%error, "the new TLS certificate can't be read; the one before is shown");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

type Looked = Result<Option<(Vec<u8>, Certificate)>, (Option<Vec<u8>>, DirError)>;

/// The certificate, if the file isn't what it was.
fn look(dir: &CustodianDir, keys: &CustodianKeys, before: Option<&[u8]>) -> Looked {
    let bytes = match file::read(&dir.file(FILE), "") {
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err((before.map(<[u8]>::to_vec), error.into())),
        Ok(bytes) if before == Some(&bytes[..]) => return Ok(None),
        Ok(bytes) => bytes,
    };
    match dir.certificate(keys) {
        Ok(certificate) => Ok(Some((bytes, certificate))),
        Err(error) => Err((Some(bytes), error)),
    }
}

/// Keeps what is seen of others' certificates, so that a restart takes no older ones again.
pub(super) async fn keep(dir: Arc<CustodianDir>, mut newest: watch::Receiver<BTreeMap<u16, u64>>) {
    while newest.changed().await.is_ok() {
        let seen = newest.borrow_and_update().clone();
        let dir = dir.clone();
        let kept = tokio::task::spawn_blocking(move || certificate::keep_seen(&dir, &seen)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "what was seen of others' certificates isn't kept");
        }
    }
}
