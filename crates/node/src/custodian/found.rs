//! From a directory to a founded custodian: configuration, keys, store, and the key ceremony where it hasn't been held.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use concordat_events::Genesis;
use concordat_finality::Record;
use concordat_store::Store;
use tokio::sync::mpsc;

use super::db::Db;
use super::life::{Life, RunError};
use crate::ceremony::Session;
use crate::config::Config;
use crate::dir::{CustodianDir, DirError, STATUS};
use crate::handover::Accepted;
use crate::keys::{CustodianKeys, file};
use crate::transport::{Certificate, Listener};

/// How long a custodian that has finished its ceremony goes on answering nothing else.
const LINGER: Duration = Duration::from_secs(5);

/// Everything that consensus starts with.
pub(crate) struct Founded {
    pub dir: Arc<CustodianDir>,
    pub config: Config,
    pub keys: Arc<CustodianKeys>,
    /// What its operator has accepted.
    pub accepted: Option<Accepted>,
    pub genesis: Genesis,
    pub addresses: BTreeMap<u16, String>,
    pub certificate: Certificate,
    pub db: Db,
    pub session: Option<Arc<Session>>,
}

/// How long what a stopped consensus was still doing may hold directory and store: a ceremony's arithmetic and a seal's scrypt run to
/// their end on threads of their own.
const RELEASE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What one consensus holds and the next one needs.
pub(crate) struct Holds {
    dir: Weak<CustodianDir>,
    db: Weak<dyn Store>,
}

impl Holds {
    /// Resolves when both are free. After [`RELEASE`] it gives up: then opening them says who is in the way.
    pub async fn released(self) {
        let free = async {
            while self.dir.strong_count() > 0 || self.db.strong_count() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(RELEASE, free).await;
    }
}

impl Founded {
    /// What it holds.
    pub fn holds(&self) -> Holds {
        Holds { dir: Arc::downgrade(&self.dir), db: self.db.weak() }
    }
}

/// The kernel's boot id: the intact mark of a process restart (PROTOCOL 8). Empty where there is none.
pub(crate) fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").map(|id| id.trim_ascii().to_vec()).unwrap_or_default()
}

/// Opens a custodian's directory, and holds the ceremony if there is a proposal and no genesis.
pub(crate) async fn found(config: &Path, life: &mpsc::UnboundedSender<Life>) -> Result<Founded, RunError> {
    let path = config.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Arc::new(CustodianDir::open(path)?);
    let config = Config::read(config)?;
    let (opened, settings) = (dir.clone(), config.clone());
    // scrypt takes a while on purpose.
    let keys = tokio::task::spawn_blocking(move || opened.keys(&settings))
        .await
        .map_err(|error| RunError::Internal(error.to_string()))??;
    let keys = Arc::new(keys);
    let certificate = dir.certificate(&keys)?;
    let (genesis, accepted) = (dir.genesis()?, Accepted::read(dir.path())?);
    // Who came into office later never had the founders' proposal.
    let proposal = match dir.proposal() {
        Err(DirError::File(error)) if error.is_missing() && genesis.is_some() => None,
        proposal => Some(proposal?),
    };
    let addresses = proposal.as_ref().map(|proposal| proposal.addresses.clone()).unwrap_or_default();
    match &genesis {
        Some(genesis) => {
            dir.bind(genesis.genesis.ceremony)?;
            // Shares of attempts: a process that ended when it had written the genesis couldn't clear them away.
            crate::ceremony::clear(&dir)?;
        }
        None => {
            let proposal = proposal.as_ref().ok_or_else(none_proposed)?;
            let id = proposal.id().map_err(|error| RunError::Incomplete(error.to_string()))?;
            dir.begin(id)?;
        }
    }
    let db = Db::open(&config, &dir.db())?;

    let mut session = None;
    let genesis = match (genesis, proposal) {
        (Some(genesis), _) => genesis,
        (None, None) => return Err(none_proposed()),
        (None, Some(proposal)) => {
            // The first record is made here and nowhere else; it stands before there is a share, so a share without a record
            // always means a lost disk.
            if db.get(concordat_finality::record::RECORD)?.is_none() {
                db.apply(Record::first(boot_id()))?;
                db.flush()?;
            }
            let held = Session::begin(dir.clone(), keys.clone(), proposal)?;
            session = Some(held.clone());
            let listener = Listener::bind(&config.listen.to_string()).await?;
            let mut status = held.status();
            let (reporter, shown) = (life.clone(), dir.file(STATUS));
            let reporting = tokio::spawn(async move {
                loop {
                    let (event, text) = {
                        let status = status.borrow_and_update();
                        let event = Life::Ceremony {
                            stage: status.stage.to_string(),
                            waiting_on: status.waiting_on.clone(),
                        };
                        (event, status.to_json().to_string())
                    };
                    // For `ceremony status`. It decides nothing; a disk that refuses is found by what does.
                    let path = shown.clone();
                    let _ = tokio::task::spawn_blocking(move || file::replace(&path, text.as_bytes())).await;
                    if reporter.send(event).is_err() || status.changed().await.is_err() {
                        return;
                    }
                }
            });
            let genesis = held.run_on(listener, &config.peers, LINGER).await;
            reporting.abort();
            genesis?
        }
    };
    // One who comes into office later: there is no share yet, so nothing of this disk can have been lost.
    let invited = accepted.as_ref().is_some_and(|accepted| accepted.invited.is_some());
    if invited && db.get(concordat_finality::record::RECORD)?.is_none() && !dir.has_shares()? {
        db.apply(Record::first(boot_id()))?;
        db.flush()?;
    }
    let genesis = genesis.genesis;
    Ok(Founded { dir, config, keys, accepted, genesis, addresses, certificate, db, session })
}

fn none_proposed() -> RunError {
    RunError::Incomplete("there is neither a genesis nor a proposal of one".into())
}
