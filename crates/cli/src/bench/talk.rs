//! What a head costs in messages: the custodians' own counters, read before and after.
//!
//! Promises: what is counted is what the custodians' transport sent, by kind; what time alone costs (heartbeats, signs of
//! life) is measured on a quiet cluster and kept apart. Bytes are those of the messages, without the frames of TLS and HTTP.

use std::collections::BTreeMap;
use std::time::Instant;

use concordat_node::client::Client;
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::user::custodians::failure;

/// Messages and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// Messages; requests and their answers count one each.
    pub messages: f64,
    /// Bytes.
    pub bytes: f64,
}

/// A custodian's counter of one kind, as its status shows it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Count {
    messages: u64,
    bytes: u64,
    answers: u64,
    answer_bytes: u64,
}

/// What the custodians had sent at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    height: u64,
    leader: u16,
    sent: BTreeMap<u16, BTreeMap<String, Count>>,
}

impl Reading {
    /// Asks all custodians.
    pub async fn take(clients: &[Client]) -> Result<Self, Failure> {
        let statuses = try_join_all(clients.iter().map(Client::status)).await.map_err(failure)?;
        let (mut height, mut epoch, mut leader, mut sent) = (0, 0, 0, BTreeMap::new());
        for status in statuses {
            height = height.max(status.height);
            if status.epoch >= epoch {
                (epoch, leader) = (status.epoch, status.leader);
            }
            sent.insert(status.number, counters(&status.details)?);
        }
        Ok(Reading { at: Instant::now(), height, leader, sent })
    }

    /// What was sent since an earlier reading, by whom and of which kind, and how many seconds that took.
    fn since(&self, earlier: &Reading) -> (BTreeMap<u16, BTreeMap<String, Amount>>, f64) {
        let grown = |number: &u16, kind: &String, now: &Count| {
            let then =
                earlier.sent.get(number).and_then(|kinds| kinds.get(kind)).copied().unwrap_or_default();
            let less = |now: u64, then: u64| now.saturating_sub(then) as f64;
            Amount {
                messages: less(now.messages, then.messages) + less(now.answers, then.answers),
                bytes: less(now.bytes, then.bytes) + less(now.answer_bytes, then.answer_bytes),
            }
        };
        let all = self.sent.iter().map(|(number, kinds)| {
            let kinds = kinds.iter().map(|(kind, now)| (kind.clone(), grown(number, kind, now))).collect();
            (*number, kinds)
        });
        (all.collect(), self.at.duration_since(earlier.at).as_secs_f64())
    }
}

fn counters(details: &str) -> Result<BTreeMap<String, Count>, Failure> {
    #[derive(Deserialize)]
    struct Details {
        sent: BTreeMap<String, Count>,
    }
    let details: Details = serde_json::from_str(details).map_err(|error| {
        Failure::check("status", format!("a custodian's status has no counters: {error}"), "")
    })?;
    Ok(details.sent)
}

/// Kinds that time costs, whether there are heads or not.
const PULSES: [&str; 2] = ["raft_pulse", "sign_of_life"];

/// Kinds of the log group and of the process; all others are consensus messages.
const OTHERS: [&str; 5] = ["raft_entries", "raft_pulse", "raft_vote", "sign_of_life", "key_ceremony"];

/// What a quiet cluster sends in a second.
#[derive(Clone, Debug, Default)]
pub struct Quiet(BTreeMap<String, Amount>);

impl Quiet {
    /// Between two readings without load.
    pub fn between(earlier: &Reading, later: &Reading) -> Self {
        let (sent, seconds) = later.since(earlier);
        let per_second = |amount: Amount| Amount {
            messages: amount.messages / seconds.max(f64::EPSILON),
            bytes: amount.bytes / seconds.max(f64::EPSILON),
        };
        Quiet(by_kind(&sent).into_iter().map(|(kind, amount)| (kind, per_second(amount))).collect())
    }

    /// All of it.
    pub fn total(&self) -> Amount {
        sum(self.0.values().copied())
    }
}

fn by_kind(sent: &BTreeMap<u16, BTreeMap<String, Amount>>) -> BTreeMap<String, Amount> {
    let mut kinds: BTreeMap<String, Amount> = BTreeMap::new();
    for (kind, amount) in sent.values().flatten() {
        let all = kinds.entry(kind.clone()).or_default();
        *all = sum([*all, *amount]);
    }
    kinds
}

fn sum(amounts: impl IntoIterator<Item = Amount>) -> Amount {
    amounts.into_iter().fold(Amount::default(), |all, one| Amount {
        messages: all.messages + one.messages,
        bytes: all.bytes + one.bytes,
    })
}

/// What one head costs.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Heads that were certified meanwhile.
    pub heads: u64,
    /// Consensus messages of all custodians.
    pub consensus: Amount,
    /// The leader's part of them.
    pub leader: Amount,
    /// The log group's traffic, without its heartbeats.
    pub raft: Amount,
    /// Everything that is per head, by kind.
    pub kinds: BTreeMap<String, Amount>,
    /// How many custodians there are.
    pub custodians: usize,
}

impl Talk {
    /// Between two readings under load.
    pub fn between(earlier: &Reading, later: &Reading, quiet: &Quiet) -> Result<Self, Failure> {
        let (sent, seconds) = later.since(earlier);
        let heads = later.height.saturating_sub(earlier.height);
        if heads == 0 {
            return Err(Failure::check("no_heads", "no head was certified under load".to_owned(), ""));
        }
        let per_head = |amount: Amount| Amount {
            messages: amount.messages / heads as f64,
            bytes: amount.bytes / heads as f64,
        };
        let kinds: BTreeMap<String, Amount> = by_kind(&sent)
            .into_iter()
            .map(|(kind, mut amount)| {
                // What the time alone has cost isn't the heads'.
                if PULSES.contains(&kind.as_str())
                    && let Some(rate) = quiet.0.get(&kind)
                {
                    amount.messages = (amount.messages - rate.messages * seconds).max(0.0);
                    amount.bytes = (amount.bytes - rate.bytes * seconds).max(0.0);
                }
                (kind, per_head(amount))
            })
            .filter(|(kind, amount)| kind != "sign_of_life" && amount.messages > 0.0)
            .collect();
        let consensus = |kind: &&str| !OTHERS.contains(kind);
        let of = |wanted: &dyn Fn(&str) -> bool, kinds: &BTreeMap<String, Amount>| {
            sum(kinds.iter().filter(|(kind, _)| wanted(kind)).map(|(_, amount)| *amount))
        };
        let leader = sent.get(&later.leader).map(|kinds| of(&|kind| consensus(&kind), kinds));
        Ok(Talk {
            heads,
            consensus: of(&|kind| consensus(&kind), &kinds),
            leader: per_head(leader.unwrap_or_default()),
            raft: of(&|kind| kind.starts_with("raft"), &kinds),
            kinds,
            custodians: sent.len(),
        })
    }

    /// The consensus messages of one custodian on average.
    pub fn each(&self) -> Amount {
        let n = self.custodians.max(1) as f64;
        Amount { messages: self.consensus.messages / n, bytes: self.consensus.bytes / n }
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "custodians": self.custodians,
            "heads": self.heads,
            "per_head": amount(self.consensus),
            "per_head_and_custodian": amount(self.each()),
            "per_head_of_leader": amount(self.leader),
            "raft_per_head": amount(self.raft),
            "kinds_per_head": self.kinds.iter().map(|(kind, one)| (kind.clone(), amount(*one)))
                .collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// An amount as JSON.
pub fn amount(amount: Amount) -> Value {
    json!({"messages": (amount.messages * 10.0).round() / 10.0, "bytes": amount.bytes.round()})
}

/// How something grows with the number of others, n - 1: as its power of this exponent, by least squares of the logarithms.
/// `None` with fewer than two sizes.
pub fn exponent(points: &[(usize, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points
        .iter()
        .filter(|(n, value)| *n > 1 && *value > 0.0)
        .map(|(n, value)| (((n - 1) as f64).ln(), value.ln()))
        .collect();
    let count = logs.len() as f64;
    let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (above, below) = logs.iter().fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    (below > 0.0).then(|| above / below)
}

/// Exponents up to this count as linear: f and with it the quorum rise in steps.
pub const LINEAR: f64 = 1.15;

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(seconds: u64, height: u64, sent: &[(u16, &str, u64, u64)]) -> Reading {
        let mut all: BTreeMap<u16, BTreeMap<String, Count>> = BTreeMap::new();
        for (number, kind, messages, bytes) in sent {
            let (answers, answer_bytes) = if kind.starts_with("raft") { (*messages, 10) } else { (0, 0) };
            let count = Count { messages: *messages, bytes: *bytes, answers, answer_bytes };
            all.entry(*number).or_default().insert((*kind).to_owned(), count);
        }
        let at = Instant::now() + std::time::Duration::from_secs(seconds);
        Reading { at, height, leader: 1, sent: all }
    }

    #[test]
    fn a_head_pays_for_what_it_caused_and_not_for_the_time() {
        let none = reading(0, 5, &[(1, "raft_pulse", 100, 1_000), (2, "Share", 7, 70)]);
        let quiet = reading(10, 5, &[(1, "raft_pulse", 140, 1_400), (2, "Share", 7, 70)]);
        let background = Quiet::between(&none, &quiet);
        assert!((background.total().messages - 8.0).abs() < 0.01, "{background:?}");
        let loaded = reading(
            20,
            15,
            &[
                (1, "raft_pulse", 200, 2_000),
                (1, "raft_entries", 30, 9_000),
                (1, "Propose", 30, 3_000),
                (1, "sign_of_life", 500, 0),
                (2, "Share", 17, 1_070),
            ],
        );
        let talk = Talk::between(&quiet, &loaded, &background).unwrap();
        assert_eq!((talk.heads, talk.custodians), (10, 2));
        assert_eq!(talk.consensus, Amount { messages: 4.0, bytes: 400.0 });
        assert_eq!(talk.leader, Amount { messages: 3.0, bytes: 300.0 });
        assert_eq!(talk.each(), Amount { messages: 2.0, bytes: 200.0 });
        // 30 entries and their answers, 60 pulses and theirs less 80 that ten quiet seconds have.
        assert!((talk.raft.messages - 10.0).abs() < 0.1, "{:?}", talk.raft);
        assert!(!talk.kinds.contains_key("sign_of_life"));
        assert!(Talk::between(&quiet, &quiet, &background).is_err());
    }

    #[test]
    fn growth_is_an_exponent() {
        let points = |power: i32| -> Vec<(usize, f64)> {
            [4, 5, 6, 7, 10, 13].into_iter().map(|n| (n, 3.0 * ((n - 1) as f64).powi(power))).collect()
        };
        for power in 0..3 {
            assert!((exponent(&points(power)).unwrap() - f64::from(power)).abs() < 1e-9);
        }
        assert_eq!(exponent(&points(1)[..1]), None);
    }
}
