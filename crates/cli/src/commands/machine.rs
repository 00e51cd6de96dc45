//! `machine check`, `machine run`, `machine draw` and `machine schema`: definitions, offline.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use concordat_machine::run::{Line, Row, Runner, seconds_to_ms};
use concordat_machine::{Definition, Fault, SCHEMA, draw as drawing, run as offline};
use serde_json::json;

use crate::failure::Failure;
use crate::limits::{INPUT_BYTES, RUN_FILE_BYTES};
use crate::ui::Ui;
use crate::user::{input, parse_public_key};

/// Commands on definitions.
#[derive(Subcommand, Debug)]
pub enum MachineCommand {
    /// Would this definition be admitted? Names every fault with its place
    Check(CheckArgs),
    /// Runs a definition offline: a line of JSON per step, first the start
    Run(RunArgs),
    /// Draws the statechart of a definition, as mermaid text or SVG
    Draw(DrawArgs),
    /// Prints the JSON Schema of definitions, for editors
    Schema,
}

/// Arguments of `machine check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// File with the definition (XState v5 JSON); - reads it from stdin
    pub definition: PathBuf,
}

/// Runs the command.
pub fn run(command: MachineCommand, ui: Ui) -> Result<(), Failure> {
    match command {
        MachineCommand::Check(args) => check(&args, ui),
        MachineCommand::Run(args) => run_offline(&args, ui),
        MachineCommand::Draw(args) => draw(&args, ui),
        MachineCommand::Schema => ui.stdout(SCHEMA.trim_end()),
    }
}

/// Arguments of `machine draw`.
#[derive(Args, Debug)]
pub struct DrawArgs {
    /// File with the definition (XState v5 JSON); - reads it from stdin
    pub definition: PathBuf,
    /// What to draw it as
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    pub format: Format,
}

/// What a statechart is drawn as.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for mermaid, which many sites and editors show as a picture
    Mermaid,
    /// A picture
    Svg,
}

/// Arguments of `machine run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// File with the definition (XState v5 JSON)
    pub definition: PathBuf,
    /// File with a line {"type","data","pubkey","now"} per event, all but type optional; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    pub events: PathBuf,
    /// Time of the start in seconds since 1970 (that of the first event that has one, else the clock's, if not given)
    #[arg(long, value_name = "SECS")]
    pub now: Option<String>,
    /// Who signs the start and the events that name nobody
    #[arg(long, value_name = "HEX")]
    pub pubkey: Option<String>,
    /// What the machine is started with: `input` in the expressions of its context
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
}

fn check(args: &CheckArgs, ui: Ui) -> Result<(), Failure> {
    let text = input::text(&args.definition, INPUT_BYTES)?;
    let check = offline::check(&text);
    ui.result(&check, || {
        if check.ok { format!("{}: admitted", args.definition.display()) } else { lines(&check.errors) }
    })?;
    if check.ok { Ok(()) } else { Err(not_admitted(&args.definition, &check.errors)) }
}

fn draw(args: &DrawArgs, ui: Ui) -> Result<(), Failure> {
    let (_, definition) = read(&args.definition)?;
    let (format, drawn) = match args.format {
        Format::Mermaid => ("mermaid", drawing::mermaid(&definition)),
        Format::Svg => ("svg", drawing::svg(&definition)),
    };
    ui.result(&json!({ "format": format, "drawing": drawn }), || drawn.trim_end().to_owned())
}

fn run_offline(args: &RunArgs, ui: Ui) -> Result<(), Failure> {
    let (_, definition) = read(&args.definition)?;
    let lines = event_lines(&args.events)?;
    let start = match &args.now {
        Some(text) => {
            seconds_to_ms(text).map_err(|message| Failure::usage("now", format!("--now: {message}"), ""))?
        }
        None => lines.iter().find_map(|line| line.now).unwrap_or_else(clock_ms),
    };
    let pubkey = match args.pubkey.as_deref() {
        Some(npub) if npub.starts_with("npub") => Some(parse_public_key(npub)?.to_hex()),
        other => other.map(str::to_owned),
    };
    let input = match args.input.as_deref().map(serde_json::from_str) {
        None => serde_json::Value::Null,
        Some(Ok(input)) => input,
        Some(Err(error)) => {
            return Err(Failure::usage("input", format!("--input: {error}"), "expected JSON"));
        }
    };
    let (mut runner, row) = Runner::start(definition, start, pubkey, &input).map_err(|rejection| {
        Failure::check(
            "start_rejected",
            format!("{}: {rejection}", args.definition.display()),
            "mend the definition",
        )
    })?;
    show(&row, ui)?;
    for line in lines {
        for row in runner.line(line) {
            show(&row, ui)?;
        }
    }
    Ok(())
}

/// All lines are read before the first is run: bad input leaves nothing on stdout.
fn event_lines(path: &Path) -> Result<Vec<Line>, Failure> {
    let text = input::text(path, RUN_FILE_BYTES)?;
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(index, line)| {
            Line::parse(line).map_err(|error| {
                Failure::usage(
                    "event_line",
                    format!("{}, line {}: {error}", path.display(), index + 1),
                    r#"expected {"type":"GO","data":{},"pubkey":"..","now":1700000000}, all but type optional"#,
                )
            })
        })
        .collect()
}

fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn show(row: &Row, ui: Ui) -> Result<(), Failure> {
    ui.result(row, || {
        let event = row.event.as_deref().unwrap_or("(start)");
        let outcome = row.reason.as_deref().unwrap_or("ok");
        format!("{event:<24} {outcome:<14} {}", row.active.join(" "))
    })
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn not_admitted(path: &Path, faults: &[Fault]) -> Failure {
    Failure::check(
        "definition",
        format!("{}: {} fault(s) in the definition", path.display(), faults.len()),
        "each is named with its place (a JSON pointer)",
    )
}

/// Reads a definition that the group would admit, as text: its key order is the order of its states, so it isn't rewritten.
pub fn read(path: &Path) -> Result<(String, Definition), Failure> {
    let text = input::text(path, INPUT_BYTES)?;
    match Definition::parse(&text) {
        Ok(definition) => Ok((text.trim().to_owned(), definition)),
        Err(faults) => {
            let mut failure = not_admitted(path, &faults);
            failure.message = format!("{}\n{}", failure.message, lines(&faults));
            Err(failure)
        }
    }
}
