//! A custodian that is stopped, as its operator's commands meet it: everything opened as at a start, and nothing begun.

use std::path::Path;
use std::sync::Arc;

use concordat_finality::Context;

use super::db::Db;
use super::life::RunError;
use super::office::Standing;
use crate::config::Config;
use crate::dir::{CustodianDir, DirError};
use crate::handover::Accepted;
use crate::keys::{CustodianKeys, file};

/// See the module's header. Its directory is held as long as this lives.
pub(crate) struct Offline {
    /// Its configuration.
    pub config: Config,
    /// Its keys.
    pub keys: CustodianKeys,
    /// The cluster under the roster that its own state puts in force.
    pub context: Arc<Context>,
    /// Its number.
    pub me: u16,
    /// Its store.
    pub db: Db,
    /// The file with its share in force, if that isn't there.
    pub lost_share: Option<std::path::PathBuf>,
    _dir: CustodianDir,
}

impl Offline {
    /// Opens the directory of a founded custodian that isn't running.
    pub fn open(config: &Path) -> Result<Self, RunError> {
        let dir = CustodianDir::open(file::directory_of(config))?;
        let config = Config::read(config)?;
        let genesis = dir.genesis()?.ok_or_else(|| {
            RunError::Incomplete("this directory has no genesis: there is no group to recover".into())
        })?;
        let keys = dir.keys(&config)?;
        let accepted = Accepted::read(dir.path())?;
        let addresses = match dir.proposal() {
            Err(DirError::File(error)) if error.is_missing() => Default::default(),
            proposal => proposal?.addresses,
        };
        dir.bind(genesis.genesis.ceremony)?;
        let db = Db::open(&config, &dir.db())?;
        let standing = Standing::read(&dir, &keys, &db, &genesis.genesis, accepted.as_ref(), addresses)?;
        let Standing { context, me, share, .. } = standing;
        let lost_share = share.is_none().then(|| dir.share_file(context.office.transcript));
        Ok(Offline { config, keys, context: Arc::new(context), me, db, lost_share, _dir: dir })
    }
}
