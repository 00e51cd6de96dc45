//! `statement MACHINE`: what a machine has said of itself under the group's key (kind 7511), such as who gets a bet's stakes.
//!
//! Promises: each statement shown is signed by the group and names the machine where only the ledger can put a name, so a
//! payer's software may act on it. It is one event with one id for ever: who has paid for that id pays no more. Refuses a
//! machine that has stated two releases.

use clap::Args;
use concordat_events::kinds::STATEMENT;
use concordat_events::{Hash, PublicKey, ValidEvent, json};
use nostr::{Filter, Kind};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::{GroupArgs, parse_machine};

/// What says whose each deposit is: a machine states it once.
const RELEASE: &str = "release";

/// Arguments of `statement`.
#[derive(Args, Debug)]
pub struct StatementArgs {
    /// The machine's id
    pub machine: String,
    /// Only statements of this title, for example release or result
    #[arg(long)]
    pub title: Option<String>,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// A machine's statement.
#[derive(Debug, PartialEq, Serialize)]
struct Statement {
    machine: Hash,
    /// The event.
    statement: Hash,
    title: Option<String>,
    /// Time of the head that it follows from, seconds since 1970.
    created_at: u64,
    content: Value,
}

impl Statement {
    /// Reads a statement; none if it isn't the group's, or another machine's.
    fn read(event: &ValidEvent, group: &PublicKey, machine: Hash) -> Option<Self> {
        // The ledger's tag is the first of all, and any other that names an event would be refused.
        let first = event.event().tags.iter().next()?.as_slice();
        let named = first.first().is_some_and(|name| name == "e").then(|| first.get(1)).flatten()?;
        let ours =
            event.kind() == STATEMENT && event.author() == *group && Hash::from_hex(named) == Some(machine);
        ours.then(|| Statement {
            machine,
            statement: event.id(),
            title: event.tag("title").map(str::to_owned),
            created_at: event.created_at(),
            content: json::parse(event.content()).unwrap_or_else(|_| Value::from(event.content())),
        })
    }
}

/// Runs the command.
pub async fn run(args: StatementArgs, ui: Ui) -> Result<(), Failure> {
    let machine = parse_machine(&args.machine)?;
    let group = args.group.connect().await?;
    let filter = Filter::new().kind(Kind::from_u16(STATEMENT)).author(group.key).event(machine.into());
    let events = group.relays.fetch(filter, group.wait).await?;
    let names = group.relays.names();
    group.relays.close().await;
    let mut all: Vec<Statement> =
        events.iter().filter_map(|event| Statement::read(event, &group.key, machine)).collect();
    all.sort_unstable_by_key(|statement| (statement.created_at, statement.statement));
    if all.iter().filter(|statement| statement.title.as_deref() == Some(RELEASE)).count() > 1 {
        return Err(Failure::check(
            "two_releases",
            format!("machine {machine} has stated more than one release: none is to be trusted"),
            "pay nothing, keep the events and look at its definition",
        ));
    }
    if let Some(title) = &args.title {
        all.retain(|statement| statement.title.as_ref() == Some(title));
    }
    if all.is_empty() {
        return Err(Failure::not_ready(
            "no_statement",
            format!("no relay of {names} holds such a statement of machine {machine} by this group"),
            "a machine makes its statements when it comes to them: `concordat get` shows where it is",
        ));
    }
    all.iter().try_for_each(|statement| {
        ui.result(statement, || {
            format!(
                "statement: {}\ntitle:     {}\ncontent:   {}",
                statement.statement,
                statement.title.as_deref().unwrap_or("(none)"),
                statement.content
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use nostr::{EventBuilder, Keys, Tag};

    use super::*;

    /// A relay may answer with anything: only the group's own words under the machine's own name count.
    #[test]
    fn only_the_ledgers_tag_names_the_machine() {
        let (group, other) = (Keys::generate(), Keys::generate());
        let (machine, another) = (Hash::from_bytes([1; 32]), Hash::from_bytes([2; 32]));
        let event = |keys: &Keys, kind: u16, tags: &[[&str; 2]]| {
            let tags = tags.iter().map(|tag| Tag::parse(*tag).unwrap());
            let event = EventBuilder::new(Kind::from_u16(kind), r#"{"outcome":"won"}"#).tags(tags);
            ValidEvent::check(event.sign_with_keys(keys).unwrap()).unwrap()
        };
        let (own, foreign) = (machine.to_hex(), another.to_hex());
        let release = ["title", "release"];
        let good = event(&group, STATEMENT, &[["e", &own], release]);
        let read = Statement::read(&good, &group.public_key(), machine).unwrap();
        assert_eq!((read.title.as_deref(), &read.content["outcome"]), (Some("release"), &Value::from("won")));
        for wrong in [
            event(&other, STATEMENT, &[["e", &own], release]),
            event(&group, 7512, &[["e", &own], release]),
            event(&group, STATEMENT, &[["e", &foreign], ["e", &own], release]),
            event(&group, STATEMENT, &[release, ["e", &own]]),
            event(&group, STATEMENT, &[["p", &own]]),
            event(&group, STATEMENT, &[]),
        ] {
            assert_eq!(Statement::read(&wrong, &group.public_key(), machine), None, "{}", wrong.json());
        }
    }
}
