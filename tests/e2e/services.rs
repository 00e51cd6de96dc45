//! The services of docs/machines, each as its people use it: the command line, a real relay, custodians as real processes. One
//! cluster carries them all; at the end its whole history is verified from the relay's events alone.

use std::time::{SystemTime, UNIX_EPOCH};

use concordat_cli::user::outcome::settle;
use concordat_events::{Hash, Head, ValidEvent};
use nostr::{Alphabet, EventBuilder, Filter, Keys, Kind, SingleLetterTag, Tag};
use serde_json::{Value, json};

use crate::rotation::rotation;
use crate::support::Ran;
use crate::town::{TURN, Town, WAIT};

/// Somebody with a key in a file.
pub struct Person {
    file: String,
    pub key: String,
}

impl Person {
    pub async fn new(town: &Town, name: &str) -> Self {
        let made = town.run(&["key", "new", "--out", name]).await;
        assert_eq!(made.status, 0, "{made}");
        Person { file: name.to_owned(), key: made.lines()[0]["pubkey"].as_str().unwrap().to_owned() }
    }

    /// Sends an input and waits for its outcome: `ok` or the reason.
    pub async fn says(&self, town: &Town, machine: &str, kind: &str, data: Value) -> String {
        let data = data.to_string();
        let ran = town
            .run(&["send", machine, kind, "--data", &data, "--key", &self.file, "--timeout", "120"])
            .await;
        let lines = ran.lines();
        let Some(line) = lines.first() else { panic!("{kind}: {ran}") };
        assert_eq!(ran.status, if line["outcome"] == "ok" { 0 } else { 4 }, "{ran}");
        line["reason"].as_str().unwrap_or("ok").to_owned()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub async fn publish(town: &Town, file: &str, d: &str, input: &Value, more: &[&str]) -> Ran {
    let path = crate::architecture::root().join("docs/machines").join(file);
    let input = input.to_string();
    let arguments =
        [&["publish", path.to_str().unwrap(), "--d", d, "--input", &input, "--timeout", "120"], more]
            .concat();
    town.run(&arguments).await
}

pub fn machine_of(published: &Ran) -> String {
    assert_eq!(published.status, 0, "{published}");
    published.lines()[0]["machine"].as_str().unwrap().to_owned()
}

/// Waits until the group has stated something of this machine; all that it has stated.
pub async fn stated(town: &Town, machine: &str) -> Vec<Value> {
    let began = std::time::Instant::now();
    loop {
        let ran = town.run(&["statement", machine]).await;
        if ran.status == 0 {
            return ran.lines();
        }
        assert_eq!(ran.error()["code"], "no_statement", "{ran}");
        assert!(began.elapsed() < WAIT, "no statement of {machine} in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn walkthrough_of_the_services() {
    let _turn = TURN.lock().await;
    let town = Town::found(4).await;
    // The vote's time passes while the others deal.
    let ballots = cast(&town).await;
    escrow(&town).await;
    rotation(&town).await;
    counted(&town, ballots).await;
    let verified = town.run(&["verify"]).await;
    assert_eq!(verified.status, 0, "{verified}");
    town.cluster.stop().await.unwrap();
}

/// A buyer pays in, the two disagree, two of three arbiters decide, and the group states whose the deposit is.
async fn escrow(town: &Town) {
    let mut people = Vec::new();
    for name in ["buyer", "seller", "anna", "bert", "carl"] {
        people.push(Person::new(town, name).await);
    }
    let [buyer, seller, anna, bert, carl] = &people[..] else { panic!() };
    let input = json!({
        "buyer": buyer.key, "seller": seller.key, "oracles": [], "oracle_quorum": 0,
        "arbiters": [anna.key, bert.key, carl.key], "arbiter_quorum": 2,
        "fund_by": now() + 3_600, "deliver_by": now() + 7_200, "inspection_s": 3_600, "arbiter_timeout_s": 3_600,
    });
    // Without its people it isn't a deal.
    let nobody = publish(town, "escrow.json", "escrow:0", &json!({"buyer": buyer.key}), &[]).await;
    assert_eq!((nobody.status, nobody.error()["code"].as_str()), (4, Some("rejected")), "{nobody}");
    let machine = machine_of(&publish(town, "escrow.json", "escrow:1", &input, &[]).await);
    assert_eq!(seller.says(town, &machine, "FUND", json!({"deposit": "token"})).await, "guard_false");
    assert_eq!(buyer.says(town, &machine, "FUND", json!({"deposit": "token"})).await, "ok");
    assert_eq!(seller.says(town, &machine, "RELEASE", json!({})).await, "guard_false");
    assert_eq!(seller.says(town, &machine, "DELIVERED", json!({})).await, "ok");
    assert_eq!(buyer.says(town, &machine, "DISPUTE", json!({})).await, "ok");
    assert_eq!(anna.says(town, &machine, "RULING", json!({"to": buyer.key})).await, "ok");
    // Not the same word again: within a second that would be the same event, with the same outcome.
    assert_eq!(anna.says(town, &machine, "RULING", json!({"to": seller.key})).await, "guard_false");
    assert_eq!(bert.says(town, &machine, "RULING", json!({"to": seller.key})).await, "ok");
    assert_eq!(carl.says(town, &machine, "RULING", json!({"to": seller.key})).await, "ok");
    assert_eq!(buyer.says(town, &machine, "REFUND", json!({})).await, "done");
    let release = stated(town, &machine).await;
    assert_eq!(release.len(), 1);
    let whose = json!({"outcome": "released", "payouts": [{"deposit": "token", "to": seller.key}]});
    assert_eq!((&release[0]["title"], &release[0]["content"]), (&json!("release"), &whose));
}

/// A vote that is under way.
struct Ballots {
    machine: String,
    poll: String,
    /// How many were told that their vote for red, for blue counts.
    taken: [u64; 2],
}

/// How long a vote is open: its ballots are cast in a few seconds, and the rest passes while others deal.
const OPEN_S: u64 = 25;

/// Two vote here, one answers the poll of another client. On a computer so busy that the time is over before, they are told so.
async fn cast(town: &Town) -> Ballots {
    let ada = Person::new(town, "ada").await;
    let bob = Person::new(town, "bob").await;
    let poll = EventBuilder::new(Kind::from_u16(1068), "Which?")
        .tags(["red", "blue"].map(|option| Tag::parse(["option", option, option]).unwrap()))
        .sign_with_keys(&Keys::generate())
        .unwrap();
    town.group.relays.publish(&poll).await.unwrap();
    let poll = poll.id.to_hex();
    let closes = now() + OPEN_S;
    let input = json!({
        "organiser": ada.key, "question": "Which?", "options": ["red", "blue"], "open": true, "secret": false,
        "change": false, "poll": poll, "opens_at": now() - 60, "closes_at": closes, "reveal_until": closes,
    });
    let filter = json!({"kinds": [1018], "#e": [poll]}).to_string();
    let machine = machine_of(&publish(town, "vote.json", "vote:1", &input, &["--source", &filter]).await);
    let mut taken = [0, 0];
    let mut count = |of: usize, outcome: &str| match outcome {
        "ok" => taken[of] += 1,
        late => assert!(["done", "no_machine", "guard_false"].contains(&late) && now() >= closes, "{late}"),
    };
    // The vote opens with its timer; until then a ballot is too early.
    let began = std::time::Instant::now();
    let first = loop {
        let outcome = ada.says(town, &machine, "VOTE", json!({"choice": "red"})).await;
        if outcome != "unknown_event" {
            break outcome;
        }
        assert!(began.elapsed() < WAIT, "the vote doesn't open");
    };
    count(0, &first);
    let again = ada.says(town, &machine, "VOTE", json!({"choice": "blue"})).await;
    assert!(again == "guard_false" || (again == "done" && now() >= closes), "{again}");
    let response = EventBuilder::new(Kind::from_u16(1018), "")
        .tags([["e", &poll], ["response", "blue"]].map(|tag| Tag::parse(tag).unwrap()))
        .sign_with_keys(&Keys::generate())
        .unwrap();
    let response = ValidEvent::check(response).unwrap();
    // Once the vote is closed nobody listens for responses any more: then there is no outcome.
    let id = Hash::from_hex(&machine).unwrap();
    match settle(&town.group, 400, &response, id, |_| {}).await {
        Ok(settled) => count(1, settled.reason.as_deref().unwrap_or("ok")),
        Err(failure) => {
            assert_eq!(failure.code, "no_outcome", "{failure}");
            assert!(now() >= closes, "{failure}");
        }
    }
    count(1, &bob.says(town, &machine, "VOTE", json!({"choice": "blue"})).await);
    Ballots { machine, poll, taken }
}

/// When the time is over the group states the result, which is what those were told whose votes count, and anybody counts again.
async fn counted(town: &Town, Ballots { machine, poll, taken }: Ballots) {
    let result = stated(town, &machine).await;
    let tally = json!([{"option": "red", "votes": taken[0]}, {"option": "blue", "votes": taken[1]}]);
    assert_eq!(result.len(), 1);
    assert_eq!(
        (&result[0]["title"], &result[0]["content"]),
        (&json!("result"), &json!({"question": "Which?", "tally": tally, "votes": taken[0] + taken[1]}))
    );
    // From public events: what the log says was accepted, and what was in it.
    let logs = Filter::new().kind(Kind::from_u16(400)).author(town.group.key);
    let mut accepted = Vec::new();
    for log in town.group.relays.fetch(logs, WAIT).await.unwrap() {
        let outcomes = Head::from_log_event(&log).unwrap().outcomes;
        accepted.extend(outcomes.into_iter().filter(|(_, outcome)| outcome.reason().is_none()));
    }
    let here = Filter::new().kind(Kind::from_u16(7501)).event(Hash::from_hex(&machine).unwrap().into());
    let there =
        Filter::new().kind(Kind::from_u16(1018)).custom_tag(SingleLetterTag::lowercase(Alphabet::E), &poll);
    let mut recount = [0, 0];
    for filter in [here, there] {
        for event in town.group.relays.fetch(filter, WAIT).await.unwrap() {
            let data: Value = serde_json::from_str(event.content()).unwrap_or_default();
            let choice = event.tag("response").or(data["choice"].as_str()).unwrap();
            recount[usize::from(choice == "blue")] +=
                u64::from(accepted.iter().any(|(id, _)| *id == event.id()));
        }
    }
    assert_eq!(recount, taken);
}
