//! Users: each asks, waits for the answer, and writes both down with their times. Some go to a custodian's port, some through the relay;
//! some read.
//!
//! Promises: a call stands in the history before it is made, and its answer only if it came; what is read was proven against the group's
//! key. When they are told to stop they fetch everything that the relay has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use concordat_cli::user::Group;
use concordat_cli::user::custodians::proven;
use concordat_cli::user::outcome::settle;
use concordat_cli::user::relays::Relays;
use concordat_events::{Hash, Head, Mode, PublicKey, ValidEvent, kinds, request};
use concordat_node::client::{Client, CustodianAddress};
use nostr::{EventBuilder, Filter, Keys, Kind, Tag};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::wall_ms;

/// A machine that adds.
pub const COUNTER: &str = r#"{"id":"counter","initial":"on","context":{"n":0},"states":{"on":{"on":{
  "ADD":{"guard":{"type":"cel","params":{"expr":"event.data.by > 0"}},
         "actions":{"type":"cel.assign","params":{"n":"context.n + event.data.by"}}}}}}}"#;

/// Machines that users share: few, so that they meet.
const MACHINES: usize = 3;

/// The log's kind that a new group has.
const LOG: u16 = 400;

/// Longest wait for one answer.
const WAIT: Duration = Duration::from_secs(25);

/// Why there is no answer, where a call was made and waited for in vain.
pub const UNANSWERED: &str = "no answer in time";

/// Longest pause of a user between two calls, ms: two cores carry the custodians too.
const PAUSE_MS: u64 = 400;

/// Longest wait for the first machines and for everything that the relay has.
const PATIENT: Duration = Duration::from_secs(120);

/// One call and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who.
    pub user: u32,
    /// The machine.
    pub machine: Hash,
    /// What was asked.
    pub ask: Ask,
    /// A custodian's address; none through the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// When it was asked, ms since 1970.
    pub began_ms: u64,
    /// When the answer was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// The answer; none came as long as there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// An input that adds.
    Add {
        /// The event.
        request: Hash,
        /// How much.
        by: i64,
    },
    /// The machine's state.
    Read,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The input is in the log.
    Settled {
        /// Of which head.
        height: u64,
        /// Why it was rejected, if so.
        rejected: Option<String>,
    },
    /// The state, proven.
    Value {
        /// At which head.
        height: u64,
        /// Its sum.
        n: i64,
    },
    /// No answer that says anything: the call may have had its effect or not.
    Nothing {
        /// Why.
        why: String,
    },
}

/// What users are told.
#[derive(clap::Args, Clone, Debug)]
pub struct Users {
    /// The group's key.
    #[arg(long)]
    pub group: String,
    /// The relay.
    #[arg(long)]
    pub relay: String,
    /// The custodians' doors.
    #[arg(long, value_delimiter = ',')]
    pub custodians: Vec<String>,
    /// How many users.
    #[arg(long)]
    pub users: u32,
    /// The seed of what they do.
    #[arg(long)]
    pub seed: u64,
    /// Where the history and the relay's events go.
    #[arg(long)]
    pub dir: PathBuf,
}

/// The file of calls in a run's directory.
pub fn calls_file(dir: &Path) -> PathBuf {
    dir.join("calls.jsonl")
}

/// The file of the relay's events in a run's directory.
pub fn events_file(dir: &Path) -> PathBuf {
    dir.join("events.jsonl")
}

struct Town {
    group: Group,
    addresses: Vec<CustodianAddress>,
    machines: Vec<Hash>,
    calls: Mutex<Vec<Call>>,
}

fn event(kind: u16, tags: Vec<Vec<String>>, content: &str) -> Result<ValidEvent> {
    let tags = tags.iter().map(Tag::parse).collect::<Result<Vec<Tag>, _>>()?;
    let signed =
        EventBuilder::new(Kind::from_u16(kind), content).tags(tags).sign_with_keys(&Keys::generate())?;
    Ok(ValidEvent::check(signed)?)
}

/// What a custodian's answer shows of a request.
fn shown(group: PublicKey, log: &ValidEvent, request: Hash) -> Result<Answer> {
    if log.author() != group {
        bail!("a log event of somebody else");
    }
    let head = Head::from_log_event(log).map_err(|error| anyhow!("{error}"))?;
    let outcome = head.outcomes.iter().find(|(id, _)| *id == request);
    let (_, outcome) = outcome.context("a log event without the request")?;
    Ok(Answer::Settled { height: head.height, rejected: outcome.reason().map(str::to_owned) })
}

impl Town {
    /// Writes a call down before it is made.
    fn asks(&self, call: Call) -> usize {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(call);
        calls.len() - 1
    }

    fn answered(&self, at: usize, answer: Answer) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = calls.get_mut(at) {
            (call.ended_ms, call.answer) = (Some(wall_ms()), Some(answer));
        }
    }

    async fn call(&self, user: u32, dice: &mut ChaCha20Rng) -> Result<()> {
        let mut below = |end: usize| usize::try_from(dice.next_u64() % end.max(1) as u64).unwrap_or_default();
        let machine = *self.machines.get(below(self.machines.len())).context("no machine")?;
        let address = self.addresses.get(below(self.addresses.len())).context("no custodian")?;
        let through_relay = below(5) == 0;
        let call = Call {
            user,
            machine,
            ask: Ask::Read,
            at: Some(address.address.clone()),
            began_ms: wall_ms(),
            ended_ms: None,
            answer: None,
        };
        if below(5) == 0 {
            let at = self.asks(call);
            let read =
                timeout(WAIT, proven(std::slice::from_ref(address), self.group.key, LOG, machine)).await;
            let answer = match read {
                Ok(Ok(proven)) => {
                    let record = proven.record.context("a machine that was certified is gone")?;
                    let n = record.state.snapshot().pointer("/context/n").and_then(serde_json::Value::as_i64);
                    let n = n.context("a counter without n")?;
                    Answer::Value { height: proven.head.height, n }
                }
                Ok(Err(failure)) => Answer::Nothing { why: failure.to_string() },
                Err(_) => Answer::Nothing { why: UNANSWERED.into() },
            };
            self.answered(at, answer);
            return Ok(());
        }
        let by = i64::try_from(1 + below(9))?;
        let data = format!(r#"{{"by":{by}}}"#);
        let request = event(kinds::INPUT, request::input_tags(machine, "ADD", None), &data)?;
        let ask = Ask::Add { request: request.id(), by };
        let began_ms = wall_ms();
        let answer = if through_relay {
            let at = self.asks(Call { ask, at: None, began_ms, ..call });
            let settled = timeout(WAIT, settle(&self.group, LOG, &request, machine, |_| {})).await;
            let answer = match settled {
                Ok(Ok(settled)) => Answer::Settled { height: settled.height, rejected: settled.reason },
                Ok(Err(failure)) => Answer::Nothing { why: failure.to_string() },
                Err(_) => Answer::Nothing { why: UNANSWERED.into() },
            };
            (at, answer)
        } else {
            let at = self.asks(Call { ask, began_ms, ..call });
            let sent = timeout(WAIT, async { Client::connect(address.clone()).await?.send(&request).await });
            let answer = match sent.await {
                Ok(Ok(outcome)) => shown(self.group.key, &outcome.log_event, request.id())?,
                Ok(Err(error)) => Answer::Nothing { why: error.to_string() },
                Err(_) => Answer::Nothing { why: UNANSWERED.into() },
            };
            (at, answer)
        };
        self.answered(answer.0, answer.1);
        Ok(())
    }
}

impl Users {
    /// They ask until this process's stdin is closed, then everything is written down.
    ///
    /// # Errors
    /// No machine can be founded, an answer shows what can't be, the relay doesn't give its events.
    pub async fn run(self) -> Result<()> {
        let failed = |failure: concordat_cli::failure::Failure| anyhow!("{failure}");
        let key = PublicKey::from_hex(&self.group).map_err(|error| anyhow!("{error}"))?;
        let relays = Relays::connect(std::slice::from_ref(&self.relay), PATIENT).await.map_err(failed)?;
        let addresses = CustodianAddress::list(&self.custodians.join(","))?;
        let group = Group { key, relays, custodians: Vec::new(), wait: WAIT };
        let mut machines = Vec::new();
        for number in 0..MACHINES {
            let tags = request::definition_tags(&key, &format!("counter {number}"), None, Mode::Sequenced);
            let definition = event(kinds::DEFINITION, tags, COUNTER)?;
            let first = addresses.first().context("no custodian")?.clone();
            let founded = async { Client::connect(first).await?.send(&definition).await };
            timeout(PATIENT, founded).await.context("no machine was founded in time")??;
            machines.push(definition.id());
        }
        let town = Arc::new(Town { group, addresses, machines, calls: Mutex::default() });
        super::listening(&self.relay)?;

        let (tell, told) = watch::channel(false);
        let mut busy = tokio::task::JoinSet::new();
        for user in 0..self.users {
            let (town, mut told) = (Arc::clone(&town), told.clone());
            let mut dice = ChaCha20Rng::seed_from_u64(self.seed ^ (u64::from(user) << 32));
            busy.spawn(async move {
                while !*told.borrow() {
                    town.call(user, &mut dice).await?;
                    let pause = Duration::from_millis(dice.next_u64() % PAUSE_MS);
                    tokio::select! { () = sleep(pause) => {}, _ = told.changed() => {} }
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        let mut nothing = Vec::new();
        tokio::io::stdin().read_to_end(&mut nothing).await?;
        tell.send_replace(true);
        while let Some(done) = busy.join_next().await {
            done??;
        }
        self.write(&town).await
    }

    async fn write(&self, town: &Town) -> Result<()> {
        let calls = town.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut file = File::create(calls_file(&self.dir))?;
        for call in &calls {
            writeln!(file, "{}", serde_json::to_string(call)?)?;
        }
        // What was certified is on its way to the relay; the log event of everything that was answered must come.
        let mut waits: BTreeMap<u64, ()> = BTreeMap::new();
        for call in &calls {
            if let Some(Answer::Settled { height, .. } | Answer::Value { height, .. }) = &call.answer {
                waits.insert(*height, ());
            }
        }
        let top = waits.keys().max().copied().unwrap_or_default();
        let fetched = async {
            loop {
                let events = town.group.relays.fetch(Filter::new(), PATIENT).await;
                let events = events.map_err(|failure| anyhow!("{failure}"))?;
                let logs =
                    events.iter().filter(|event| event.author() == town.group.key && event.kind() == LOG);
                let heights =
                    logs.filter_map(|event| Head::from_log_event(event).ok()).map(|head| head.height);
                if heights.max() >= Some(top) {
                    return Ok::<_, anyhow::Error>(events);
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        let events =
            timeout(PATIENT, fetched).await.context("the relay doesn't get what was certified")??;
        let mut file = File::create(events_file(&self.dir))?;
        for event in events {
            writeln!(file, "{}", event.json())?;
        }
        Ok(())
    }
}
