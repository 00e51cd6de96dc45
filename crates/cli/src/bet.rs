//! The bet that `demo` settles: two bettors, an oracle, an arbiter, each with a key made at run time, all talking to the group
//! through a relay like any other user.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use concordat_events::kinds::{DEFINITION, INPUT, SNAPSHOT};
use concordat_events::request::{definition_tags, input_tags};
use concordat_events::{Hash, Mode};
use nostr::{Filter, Keys, Kind};
use serde_json::{Value, json};

use crate::commands::send::sign;
use crate::failure::Failure;
use crate::limits::{BET_DISPUTE, BET_TIMEOUT};
use crate::user::Group;
use crate::user::machine::log_kind;
use crate::user::outcome::{Pending, Settled, settle};

/// The standard bet (docs/machines/README.md), whose context is filled in here.
const DEFINITION_JSON: &str = include_str!("../../../docs/machines/bet.json");

/// A bet and its people.
pub struct Bet {
    /// The machine: the id of its definition. Zero before it is published.
    pub machine: Hash,
    bettors: [Keys; 2],
    oracle: Keys,
    arbiter: Keys,
    start: Duration,
    log_kind: u16,
}

impl Bet {
    /// Makes the keys of a bet in this group. The match begins `start` after the definition is published.
    pub async fn new(group: &Group, start: Duration) -> Result<Self, Failure> {
        Ok(Bet {
            machine: Hash::ZERO,
            bettors: [Keys::generate(), Keys::generate()],
            oracle: Keys::generate(),
            arbiter: Keys::generate(),
            start,
            log_kind: log_kind(&group.relays, group.key, group.wait).await?,
        })
    }

    /// Publishes the definition. The result may be disputed for [`BET_DISPUTE`].
    pub async fn publish(&mut self, group: &Group) -> Result<Settled, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let content = self.definition((now + self.start).as_secs())?;
        let tags =
            definition_tags(&group.key, "bet:demo", Some("A bet between two strangers"), Mode::Sequenced);
        let request = sign(&self.bettors[0], DEFINITION, tags, &content)?;
        self.machine = request.id();
        settle(group, self.log_kind, &request, self.machine, |_| {}).await
    }

    /// What the relay shows of its states.
    pub fn snapshots(&self, group: &Group) -> Filter {
        Filter::new().kind(Kind::from_u16(SNAPSHOT)).author(group.key).event(self.machine.into())
    }

    /// One of the two (0 or 1) loads its stake: a reference to a deposit that somebody else keeps.
    pub async fn load<'g>(&self, group: &'g Group, bettor: usize) -> Result<Pending<'g>, Failure> {
        let keys = self.bettors.get(bettor).unwrap_or(&self.bettors[0]);
        self.send(
            group,
            keys,
            "LOAD",
            &json!({"deposit": format!("token of {}", keys.public_key().to_hex())}),
        )
        .await
    }

    /// The oracle says that the first bettor has won.
    pub async fn result<'g>(&self, group: &'g Group) -> Result<Pending<'g>, Failure> {
        self.send(group, &self.oracle, "RESULT", &json!({"winner": self.winner()})).await
    }

    /// A bettor tries to give the result, which is the oracle's to give: the group rejects it.
    pub async fn false_result<'g>(&self, group: &'g Group) -> Result<Pending<'g>, Failure> {
        let [_, other] = &self.bettors;
        self.send(group, other, "RESULT", &json!({"winner": other.public_key().to_hex()})).await
    }

    /// Who wins: the first bettor's key, hex.
    pub fn winner(&self) -> String {
        let [first, _] = &self.bettors;
        first.public_key().to_hex()
    }

    async fn send<'g>(
        &self,
        group: &'g Group,
        keys: &Keys,
        kind: &str,
        data: &Value,
    ) -> Result<Pending<'g>, Failure> {
        let request = sign(keys, INPUT, input_tags(self.machine, kind, None), &data.to_string())?;
        Pending::begin(group, self.log_kind, &request, self.machine, |_| {}).await
    }

    /// The definition with this bet's people and times. The text's own order of keys is kept outside the context: it is the
    /// order of the states.
    fn definition(&self, match_time: u64) -> Result<String, Failure> {
        let wrong =
            || Failure::check("bet", "docs/machines/bet.json isn't the machine that this build knows", "");
        let [first, second] = &self.bettors;
        let mut text = DEFINITION_JSON.to_owned();
        let original: Value = serde_json::from_str(DEFINITION_JSON).map_err(|_| wrong())?;
        let context = original.get("context").ok_or_else(wrong)?;
        let mut put = |place: &str, new: String| {
            let old = context.pointer(place).ok_or_else(wrong)?.to_string();
            // Each value stands once in the text; one that doesn't would be a change of the file that this code must follow.
            if text.matches(&old).count() != 1 {
                return Err(wrong());
            }
            text = text.replace(&old, &new);
            Ok(())
        };
        let key = |keys: &Keys| Value::from(keys.public_key().to_hex()).to_string();
        put("/bettors/0", key(first))?;
        put("/bettors/1", key(second))?;
        put("/oracles/0", key(&self.oracle))?;
        put("/arbiters/0", key(&self.arbiter))?;
        put("/match_time", match_time.to_string())?;
        put("/oracle_timeout_s", seconds(BET_TIMEOUT))?;
        put("/dispute_window_s", seconds(BET_DISPUTE))?;
        Ok(text)
    }
}

fn seconds(duration: Duration) -> String {
    duration.as_secs().to_string()
}

#[cfg(test)]
mod tests {
    use concordat_machine::Definition;
    use concordat_machine::run::{Line, Runner};

    use super::*;

    fn bet() -> Bet {
        let key = Keys::generate;
        Bet {
            machine: Hash::ZERO,
            bettors: [key(), key()],
            oracle: key(),
            arbiter: key(),
            start: Duration::ZERO,
            log_kind: 400,
        }
    }

    #[test]
    fn the_definition_runs_to_the_payout() {
        let bet = bet();
        let definition = Definition::parse(&bet.definition(1_000).unwrap()).unwrap();
        let (mut runner, start) = Runner::start(definition, 900_000, None, &serde_json::Value::Null).unwrap();
        assert_eq!(start.active, ["bet.created"]);
        let mut line = |value: Value| runner.line(Line::parse(&value.to_string()).unwrap()).pop().unwrap();
        for bettor in &bet.bettors {
            let key = bettor.public_key().to_hex();
            assert!(
                line(json!({"type": "LOAD", "pubkey": key, "data": {"deposit": "x"}, "now": 901})).accepted
            );
        }
        let early = json!({"type": "RESULT", "pubkey": bet.oracle.public_key().to_hex(), "data": {"winner": bet.winner()}, "now": 902});
        assert!(!line(early.clone()).accepted, "before the match");
        let mut late = early;
        late["now"] = 1_001.into();
        assert_eq!(line(late).active, ["bet.decided"]);
        let rows = runner.advance(1_002_000 + u64::try_from(BET_DISPUTE.as_millis()).unwrap());
        let end = &rows.last().unwrap().snapshot;
        assert_eq!(
            (end["status"].as_str(), end["output"]["winner"].as_str()),
            (Some("done"), Some(&*bet.winner()))
        );
    }
}
