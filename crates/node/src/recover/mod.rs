//! The `recover` ceremony (PROTOCOL 8) as operators hold it: for the case that more custodians were rolled back or restored at once than
//! can come out of quarantine by themselves. The processes are stopped; each operator writes a report, all plan alike from the same
//! reports, q of them sign the plan, and each keeps the q signatures, on which its custodian goes on at the next start.
//!
//! Promises: nothing is signed that the own disk contradicts, nor while relays hold a newer head of the group than anybody has shown;
//! who has signed votes for nothing below the plan's epoch. Refuses: to run beside a running custodian, and to guess.
//!
//! What stays a risk, and can't be computed away: a head that only those know who aren't there may be lost.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use concordat_events::Hash;
use concordat_events::head::Head;
use concordat_finality::message::{Body, MessageError};
use concordat_finality::recover::{self, Attached, Plan, RecoverError, Replay};
use concordat_finality::{Message, Msg};
use nostr::{Filter, Kind};

use self::file::{ReportFile, SignatureFile};
use crate::custodian::RunError;
use crate::custodian::db::Db;
use crate::custodian::offline::Offline;
use crate::interrupted::Earlier;
use crate::keys::FileError;
use crate::keys::file::{forget, was_interrupted};
use crate::relay::{LinkOptions, NostrLink, RelayLink};

pub use self::file::RECOVER_BYTES;
pub use concordat_finality::message::Vote;

/// Bytes of certified heads that go with a report unless more are asked for: what one custodian is usually behind another, in a file
/// that mail takes.
const HEADS_BYTES: usize = 256 * 1024;

/// How often a relay is asked for the group's newest log event before it counts as one that can't be asked.
const LOOKS: u32 = 3;

/// Between two of these.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a step of the ceremony isn't done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverFailure {
    /// The own custodian can't be opened.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A file of the ceremony that isn't one.
    #[error("{path} {what}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Of another group.
    #[error("{path} belongs to cluster {found}, this custodian to {expected}")]
    OtherCluster {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: Hash,
        /// Whose it should be.
        expected: Hash,
    },
    /// Under another roster.
    #[error(
        "{path} was written under the roster of head {found}, the newest one known here is that of head {own}"
    )]
    OtherRoster {
        /// Which file.
        path: PathBuf,
        /// Under which.
        found: u64,
        /// The own one.
        own: u64,
    },
    /// What a file holds isn't signed as it says.
    #[error("{path}: {error}")]
    Message {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: MessageError,
    },
    /// Not in office, or without its share.
    #[error("{0}")]
    NoVote(String),
    /// Two different reports of one custodian.
    #[error(
        "{first} and {second} are different reports of custodian {number}: all must plan with the newer one"
    )]
    TwoReports {
        /// Whose.
        number: u16,
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Signatures of different plans.
    #[error("the signatures are of different plans: {0}")]
    TwoPlans(String),
    /// Relays hold more than those who have reported.
    #[error("{relay} holds head {relayed} of the group; the newest that anybody has reported is {}", known.map_or("none".to_owned(), |height| height.to_string()))]
    RelaysAhead {
        /// Which relay.
        relay: String,
        /// The height of the head that it holds.
        relayed: u64,
        /// The highest reported.
        known: Option<u64>,
    },
    /// The ceremony's own rules.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

impl RecoverFailure {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            RecoverFailure::Run(error) => error.code(),
            RecoverFailure::Io(_) => "file",
            RecoverFailure::File { .. } | RecoverFailure::Message { .. } => "bad_file",
            RecoverFailure::OtherCluster { .. } => "other_group",
            RecoverFailure::OtherRoster { .. } => "other_roster",
            RecoverFailure::NoVote(_) => "no_vote",
            RecoverFailure::TwoReports { .. } => "two_reports",
            RecoverFailure::TwoPlans(_) => "two_plans",
            RecoverFailure::RelaysAhead { .. } => "relays_ahead",
            RecoverFailure::Recover(error) => match error {
                RecoverError::TooFew { .. } => "too_few",
                RecoverError::OtherRecord => "report_again",
                RecoverError::Signed { .. } => "signed_another",
                RecoverError::Behind { .. } => "behind",
                RecoverError::TwoLocks { .. } => "two_locks",
                RecoverError::NoBatch { .. } | RecoverError::Diverged { .. } => "damaged",
                RecoverError::Store(_) => "store",
                _ => "recover",
            },
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.code() {
            "directory_in_use" => {
                "stop `serve` first: what a running custodian shows isn't true a moment later"
            }
            "bad_file" => "have it sent again",
            "other_roster" => {
                "who is behind starts `serve` beside the others until `status` shows the newest roster's head, stops it, and reports again"
            }
            "two_reports" => "leave the older one out, here and at the others'",
            "two_plans" => "plan again from the same reports and compare the words by voice",
            "relays_ahead" => {
                "the report of a custodian that has that head is missing; without it what the group has signed would be contradicted"
            }
            "too_few" => "bring the reports or signatures of more custodians",
            "report_again" => "report again, send it to all, and plan anew",
            "signed_another" => {
                "report again, send it to all, and plan anew: the next plan has a later epoch"
            }
            "behind" => "`recover report --heads-from HEIGHT` writes more heads into a report",
            "two_locks" => "don't go on: look for what was restored twice or runs twice",
            "damaged" => "leave this custodian out and replace it later",
            _ => "",
        }
    }
}

/// What one custodian has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Its certified height.
    pub height: Option<u64>,
    /// The epoch that it has entered.
    pub epoch: u64,
    /// What it last voted for.
    pub prepared: Option<Vote>,
    /// Its lock.
    pub lock: Option<Vote>,
}

/// A plan and what it stands on.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What follows from the reports.
    pub plan: Plan,
    /// Those who have reported.
    pub shown: Vec<Shown>,
    /// Relays that couldn't be asked for a newer head.
    pub unasked: Vec<String>,
}

/// How far the keeping of a plan is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which plan.
    pub plan: Hash,
    /// Who has signed it.
    pub signers: Vec<u16>,
    /// Is the own custodian one of them?
    pub own: bool,
}

/// A stopped custodian that takes part.
pub struct Recovery {
    own: Offline,
    reports: BTreeMap<u16, (PathBuf, Msg)>,
    attached: Vec<Attached>,
}

impl Recovery {
    /// Opens a stopped custodian.
    ///
    /// # Errors
    /// It runs, or it has no vote under the roster that its disk knows.
    pub fn open(config: &Path) -> Result<Self, RecoverFailure> {
        let own = Offline::open(config)?;
        let since = own.context.office.since;
        if !own.context.votes(own.me) {
            return Err(RecoverFailure::NoVote(format!(
                "custodian {} isn't in office under the roster of head {since}, the newest one that its disk knows",
                own.me
            )));
        }
        if let Some(path) = &own.lost_share {
            return Err(RecoverFailure::NoVote(format!(
                "{} isn't here: either that share is lost, or this disk doesn't know the newest roster (it knows that of head {since}): \
                 start `serve` beside the others first, it takes in the heads up to that",
                path.display()
            )));
        }
        Ok(Recovery { own, reports: BTreeMap::new(), attached: Vec::new() })
    }

    /// Writes what this custodian's disk holds into a new file, with the certified heads from a height on or the newest ones.
    ///
    /// # Errors
    /// See [`RecoverFailure`].
    pub fn report(&self, out: &Path, heads_from: Option<u64>) -> Result<Shown, RecoverFailure> {
        let own = &self.own;
        let message = recover::report(&own.db, &own.context, own.keys.keypair(), own.me)?;
        let Body::Report(report) = &message.body else {
            return Err(RecoverError::Stray { sender: own.me }.into());
        };
        let attached = recover::attach(&own.db, &own.context, report, heads_from, HEADS_BYTES)?;
        let shown = self.shown(&message);
        let file = ReportFile {
            cluster: own.context.cluster,
            since: own.context.office.since,
            report: message.envelope().clone(),
            heads: attached.heads,
            batches: attached.batches,
        };
        file.write(out)?;
        shown.ok_or(RecoverError::Stray { sender: own.me }.into())
    }

    /// Takes in the reports of all.
    ///
    /// # Errors
    /// See [`RecoverFailure`].
    pub fn take(&mut self, paths: &[PathBuf]) -> Result<(), RecoverFailure> {
        for path in paths {
            let file = ReportFile::read(path)?;
            let message = self.check(path, file.cluster, file.since, file.report)?;
            if !matches!(message.body, Body::Report(_)) {
                return Err(RecoverFailure::File { path: path.clone(), what: "holds no report".into() });
            }
            let sender = message.sender;
            if let Some((first, known)) = self.reports.get(&sender)
                && known.envelope().body != message.envelope().body
            {
                let (first, second) = (first.clone(), path.clone());
                return Err(RecoverFailure::TwoReports { number: sender, first, second });
            }
            self.reports.insert(sender, (path.clone(), message));
            self.attached.push(Attached { heads: file.heads, batches: file.batches });
        }
        Ok(())
    }

    fn check(
        &self,
        path: &Path,
        cluster: Hash,
        since: u64,
        envelope: concordat_finality::wire::Envelope,
    ) -> Result<Msg, RecoverFailure> {
        let context = &self.own.context;
        let path = || path.to_owned();
        if cluster != context.cluster {
            return Err(RecoverFailure::OtherCluster {
                path: path(),
                found: cluster,
                expected: context.cluster,
            });
        }
        if since != context.office.since {
            let own = context.office.since;
            return Err(RecoverFailure::OtherRoster { path: path(), found: since, own });
        }
        Message::check(context, envelope).map_err(|error| RecoverFailure::Message { path: path(), error })
    }

    fn shown(&self, message: &Msg) -> Option<Shown> {
        let Body::Report(report) = &message.body else { return None };
        let member = self.own.context.roster.get(message.sender)?;
        Some(Shown {
            number: message.sender,
            name: member.name.clone(),
            height: report.certified.as_ref().map(|(_, head)| head.height),
            epoch: report.epoch,
            prepared: report.prepared,
            lock: report.lock.as_ref().map(|lock| lock.vote),
        })
    }

    fn messages(&self) -> Vec<Msg> {
        self.reports.values().map(|(_, message)| message.clone()).collect()
    }

    fn replay(&self) -> Result<Replay<Arc<Db>>, RecoverFailure> {
        Ok(Replay::open(Arc::new(self.own.db.clone()), &self.own.context, &self.attached)?)
    }

    /// What follows from the reports. Relays are asked for a newer head than anybody has shown.
    ///
    /// # Errors
    /// See [`RecoverFailure`].
    pub async fn plan(&self) -> Result<Planned, RecoverFailure> {
        let (context, reports, replay) = (&self.own.context, self.messages(), self.replay()?);
        let plan = recover::plan(context, &reports, |vote, hashes| replay.rebuilds(vote, hashes))?;
        let unasked = self.relays_know_no_more(plan.certified).await?;
        let shown = reports.iter().filter_map(|message| self.shown(message)).collect();
        Ok(Planned { plan, shown, unasked })
    }

    /// Signs the plan and writes the signature into a new file. What was signed for this epoch before is signed again; a file that
    /// holds just this is what an earlier call has written.
    ///
    /// # Errors
    /// See [`RecoverFailure`].
    pub fn sign(&self, out: &Path) -> Result<(Hash, Earlier), RecoverFailure> {
        let (own, reports, replay) = (&self.own, self.messages(), self.replay()?);
        let judge = |vote: &Vote, hashes: &[Hash]| replay.rebuilds(vote, hashes);
        let plan = recover::plan(&own.context, &reports, judge)?;
        let earlier = Earlier::left_behind(was_interrupted(out));
        // Before the signature: whoever counts on it finds the batches here.
        replay.keep_batches(&plan).map_err(RecoverError::from)?;
        let signature = recover::sign(&own.db, &own.context, own.keys.keypair(), own.me, &reports, judge)?;
        // Only now, when the own record holds it.
        if let Ok(file) = SignatureFile::read(out) {
            let there = self.check(out, file.cluster, file.since, file.signature)?;
            if there.sender == own.me && recover::signed_hash(&there) == Some(plan.hash()) {
                forget(out)?;
                return Ok((plan.hash(), Earlier::Resumed));
            }
        }
        let file = SignatureFile {
            cluster: own.context.cluster,
            since: own.context.office.since,
            signature: signature.envelope().clone(),
        };
        file.write(out)?;
        Ok((plan.hash(), earlier))
    }

    /// Puts the signatures of at least q custodians where the next start finds them.
    ///
    /// # Errors
    /// See [`RecoverFailure`].
    pub fn keep(&self, paths: &[PathBuf]) -> Result<Kept, RecoverFailure> {
        let own = &self.own;
        let (mut by, mut plans) = (BTreeMap::new(), BTreeMap::new());
        for path in paths {
            let file = SignatureFile::read(path)?;
            let message = self.check(path, file.cluster, file.since, file.signature)?;
            let plan = recover::signed_hash(&message).ok_or_else(|| RecoverFailure::File {
                path: path.clone(),
                what: "holds no signature of a plan".into(),
            })?;
            plans.insert(message.sender, plan);
            by.insert(message.sender, message);
        }
        let first = plans.values().next().copied().unwrap_or_default();
        if plans.values().any(|plan| *plan != first) {
            let named: Vec<String> = plans
                .iter()
                .map(|(number, plan)| format!("custodian {number}: {}", crate::ceremony::words(plan)))
                .collect();
            return Err(RecoverFailure::TwoPlans(named.join("; ")));
        }
        let signatures: Vec<Msg> = by.into_values().collect();
        recover::keep(&own.db, &own.context, &signatures)?;
        Ok(Kept { plan: first, own: plans.contains_key(&own.me), signers: plans.into_keys().collect() })
    }

    /// Asks all relays for the group's newest head. Gives those that couldn't be asked.
    async fn relays_know_no_more(&self, known: Option<u64>) -> Result<Vec<String>, RecoverFailure> {
        let context = &self.own.context;
        let relays = self.own.config.relays.clone().unwrap_or_else(|| context.genesis.relays.clone());
        let deadline: Duration = self.own.config.timeouts.relay();
        let options = LinkOptions { deadline, ..LinkOptions::default() };
        let link = NostrLink::connect(&relays, options).await.map_err(RunError::from)?;
        let asked = link.relays().into_iter().map(|relay| {
            let link = &link;
            async move { (relay.clone(), self.newest_of(link, &relay, deadline).await) }
        });
        let answers = futures::future::join_all(asked).await;
        link.shutdown().await;
        let mut unasked = Vec::new();
        for (relay, answer) in answers {
            match answer {
                Some(relayed) => {
                    if let Some(relayed) = relayed.filter(|height| known.is_none_or(|known| *height > known))
                    {
                        return Err(RecoverFailure::RelaysAhead { relay, relayed, known });
                    }
                }
                None => unasked.push(relay),
            }
        }
        Ok(unasked)
    }

    /// The height of the newest head of the group that a relay holds, if it holds one; `None` if it doesn't answer. It is asked again
    /// a few times: what it would have said decides where the group goes on.
    async fn newest_of(&self, link: &NostrLink, relay: &str, deadline: Duration) -> Option<Option<u64>> {
        let context = &self.own.context;
        let kind = context.genesis.kinds.log;
        let newest = Filter::new().author(context.group()).kind(Kind::from_u16(kind)).limit(1);
        for _ in 0..LOOKS {
            // The connection has only just been begun.
            link.connected_within(relay, deadline).await;
            match link.fetch(relay, newest.clone(), deadline).await {
                Ok(events) => {
                    let ours =
                        events.iter().filter(|log| log.author() == context.group() && log.kind() == kind);
                    let heads = ours.filter_map(|log| Head::from_log_event(log).ok());
                    return Some(
                        heads.filter(|head| head.cluster == context.cluster).map(|head| head.height).max(),
                    );
                }
                Err(error) => tracing::debug!(%error, "no look at the newest head"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}
