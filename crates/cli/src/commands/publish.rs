//! `publish DEF`: signs a definition (kind 7500) that names the group as its custodian, publishes it and waits until the
//! group has admitted it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use concordat_events::kinds::DEFINITION;
use concordat_events::limits::NAME_BYTES;
use concordat_events::request::definition_tags;
use concordat_events::{Hash, Mode};
use nostr::{Filter, JsonUtil};
use serde::Serialize;

use super::machine;
use super::send::{payload, sign};
use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::GroupArgs;
use crate::user::keys::KeyArgs;
use crate::user::machine::log_kind;
use crate::user::outcome::{Settled, settle};

/// Arguments of `publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// File with the definition (XState v5 JSON); - reads it from stdin
    pub definition: PathBuf,
    /// The machine's `d`, unique within the group (the definition's id and eight random digits if not given)
    #[arg(long, value_name = "NAME")]
    pub d: Option<String>,
    /// A title for people
    #[arg(long)]
    pub title: Option<String>,
    /// How inputs are ordered (sequenced if not given)
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,
    /// What the machine is started with: `input` in the expressions of its context; @FILE reads it from a file, @- from stdin
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
    /// Other events that are inputs too, as a Nostr filter, for example {"kinds":[1018],"#e":["ID"]}; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub source: Vec<String>,
    /// Who signs
    #[command(flatten)]
    pub key: KeyArgs,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// How a machine's inputs are ordered.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeArg {
    /// An input names the last accepted one (compare and swap)
    Strict,
    /// The group gives the order
    Sequenced,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Strict => Mode::Strict,
            ModeArg::Sequenced => Mode::Sequenced,
        }
    }
}

/// A published machine and what became of it.
#[derive(Serialize)]
struct Admitted<'a> {
    machine: Hash,
    d: &'a str,
    #[serde(flatten)]
    settled: &'a Settled,
}

/// Runs the command.
pub async fn run(args: PublishArgs, ui: Ui) -> Result<(), Failure> {
    let (text, definition) = machine::read(&args.definition)?;
    let d = match args.d {
        Some(d) => d,
        None => {
            let id = definition.id().trim_matches(['(', ')']);
            format!("{id}-{:08x}", rand::random::<u32>())
        }
    };
    if d.is_empty() || d.len() > NAME_BYTES {
        return Err(Failure::usage(
            "d",
            format!("a machine's `d` has 1 to {NAME_BYTES} bytes"),
            "give another --d",
        ));
    }
    let mode = args.mode.map_or(Mode::Sequenced, Mode::from);
    let mut more = Vec::new();
    if let Some(input) = args.input.as_deref() {
        more.push(vec!["input".to_owned(), payload("--input", Some(input))?]);
    }
    for filter in &args.source {
        more.push(vec!["source".to_owned(), source(filter)?]);
    }
    let keys = args.key.load()?;
    let group = args.group.connect().await?;
    let mut tags = definition_tags(&group.key, &d, args.title.as_deref(), mode);
    tags.extend(more);
    let request = sign(&keys, DEFINITION, tags, &text)?;
    let kind = log_kind(&group.relays, group.key, group.wait).await?;
    let settled = settle(&group, kind, &request, request.id(), |text| ui.warn(text)).await?;
    group.relays.close().await;
    let admitted = Admitted { machine: request.id(), d: &d, settled: &settled };
    ui.result(&admitted, || format!("machine: {}\nd:       {d}\n{}", request.id(), settled.text()))?;
    settled.refusal().map_or(Ok(()), Err)
}

/// A filter as a custodian will read it.
fn source(text: &str) -> Result<String, Failure> {
    let wrong = |message: String| {
        Failure::usage(
            "source",
            format!("--source: {message}"),
            r#"expected a filter such as {"kinds":[1018]}"#,
        )
    };
    let filter = Filter::from_json(text).map_err(|error| wrong(error.to_string()))?;
    if filter.is_empty() {
        return Err(wrong("the filter matches everything".to_owned()));
    }
    Ok(text.trim().to_owned())
}
