//! `send MACHINE EVENT`: signs an input (kind 7501), publishes it and waits for the head that settles it.

use std::path::PathBuf;

use clap::Args;
use concordat_events::kinds::INPUT;
use concordat_events::limits::NAME_BYTES;
use concordat_events::request::input_tags;
use concordat_events::{Mode, ValidEvent, json};
use nostr::{EventBuilder, Keys, Kind, Tag};

use crate::failure::Failure;
use crate::limits::INPUT_BYTES;
use crate::ui::Ui;
use crate::user::keys::KeyArgs;
use crate::user::machine::{Published, Seen, log_kind};
use crate::user::outcome::settle;
use crate::user::{GroupArgs, input, parse_machine};

/// Arguments of `send`.
#[derive(Args, Debug)]
pub struct SendArgs {
    /// The machine's id
    pub machine: String,
    /// The event's type, for example LOAD
    pub event: String,
    /// The event's payload as JSON; @FILE reads it from a file, @- from stdin
    #[arg(long, value_name = "JSON")]
    pub data: Option<String>,
    /// The last accepted input that this one follows (compare and swap); a strict machine's is looked up if not given
    #[arg(long, value_name = "ID")]
    pub transition: Option<String>,
    /// Who signs
    #[command(flatten)]
    pub key: KeyArgs,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command.
pub async fn run(args: SendArgs, ui: Ui) -> Result<(), Failure> {
    let machine = parse_machine(&args.machine)?;
    if args.event.is_empty() || args.event.len() > NAME_BYTES {
        return Err(Failure::usage("event_type", format!("an event's type has 1 to {NAME_BYTES} bytes"), ""));
    }
    let data = payload("--data", args.data.as_deref())?;
    let transition = args.transition.as_deref().map(parse_machine).transpose()?;
    let keys = args.key.load()?;
    let group = args.group.connect().await?;
    let published = Published::of(&group, machine).await?;
    let transition = match (transition, published.definition.mode) {
        (None, Mode::Strict) => Seen::of(&group, machine).await?.snapshot.transition,
        (given, _) => given,
    };
    let request = sign(&keys, INPUT, input_tags(machine, &args.event, transition), &data)?;
    let kind = log_kind(&group.relays, group.key, group.wait).await?;
    let settled = settle(&group, kind, &request, machine, |text| ui.warn(text)).await?;
    group.relays.close().await;
    ui.result(&settled, || settled.text())?;
    settled.refusal().map_or(Ok(()), Err)
}

/// What `option` holds as canonical JSON; empty if nothing is given.
pub fn payload(option: &'static str, data: Option<&str>) -> Result<String, Failure> {
    let Some(data) = data else { return Ok(String::new()) };
    let text = match data.strip_prefix('@') {
        Some(path) => input::text(&PathBuf::from(path), INPUT_BYTES)?,
        None => data.to_owned(),
    };
    let wrong = |error: json::JsonError| {
        Failure::usage(
            option.trim_start_matches('-'),
            format!("{option}: {error}"),
            "expected JSON such as '{\"amount\":5}', numbers as integers",
        )
    };
    let value = json::parse(&text).map_err(wrong)?;
    json::canonical(&value).map_err(wrong)
}

/// Signs a request with the user's key and checks what came out as a custodian would.
pub fn sign(keys: &Keys, kind: u16, tags: Vec<Vec<String>>, content: &str) -> Result<ValidEvent, Failure> {
    let wrong = |error: String| Failure::usage("request", format!("the request can't be made: {error}"), "");
    let tags = tags
        .iter()
        .map(Tag::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    let event = EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .sign_with_keys(keys)
        .map_err(|error| wrong(error.to_string()))?;
    ValidEvent::check(event).map_err(|error| wrong(error.to_string()))
}
