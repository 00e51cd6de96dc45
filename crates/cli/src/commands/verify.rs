//! `verify`: replays a group's whole history from public events, out of a file or from relays, and checks every signature,
//! root, rejection and effect. Knows nothing but the group's public key.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use concordat_events::{Head, PublicKey, ValidEvent};
use concordat_verify::Reader;
use serde_json::json;

use crate::failure::{Failure, unreadable};
use crate::limits::{EVENTS_FILE_BYTES, INPUT_BYTES};
use crate::ui::Ui;
use crate::user::{GroupArgs, history};

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// File with an event of JSON per line; - reads it from stdin. Without a file the events come from the relays
    pub file: Option<PathBuf>,
    /// Which group (the one whose first head is in the file, if not given) and from which relays
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command.
pub async fn run(args: VerifyArgs, ui: Ui) -> Result<(), Failure> {
    say(&read(&args, ui).await?, ui)
}

/// Reads a history from where the arguments say.
pub async fn read(args: &VerifyArgs, ui: Ui) -> Result<Reader, Failure> {
    let reader = match &args.file {
        Some(path) => {
            if args.group.group.is_some() {
                let mut reader = Reader::new(args.group.group_key()?);
                lines(path, |line| reader.line(line))?;
                reader
            } else {
                let mut read = Vec::new();
                lines(path, |line| read.push(line.to_owned()))?;
                let group = founded(&read, path)?;
                ui.warn(&format!("no group is given: trusting the file's own, {}", group.to_hex()));
                let mut reader = Reader::new(group);
                read.iter().for_each(|line| reader.line(line));
                reader
            }
        }
        None => {
            let group = args.group.connect().await?;
            let progress = ui.progress();
            let events = history::fetch(&group.relays, group.key, group.wait, |count| {
                progress.doing(&format!("{count} events fetched"));
            })
            .await?;
            progress.finish();
            group.relays.close().await;
            let mut reader = Reader::new(group.key);
            events.into_iter().for_each(|event| reader.event(event));
            reader
        }
    };
    Ok(reader)
}

/// Replays and reports.
pub fn say(reader: &Reader, ui: Ui) -> Result<(), Failure> {
    match reader.check() {
        Ok(report) => {
            let value = json!({
                "ok": true,
                "heads": report.heads,
                "requests": report.requests,
                "machines": report.machines,
                "state_root": report.state_root,
                "head": report.head,
                "rubbish": report.rubbish,
            });
            ui.result(&value, || {
                format!(
                    "verified: {} heads, {} requests, {} machines\nstate root {}\nnewest head {}",
                    report.heads, report.requests, report.machines, report.state_root, report.head
                )
            })
        }
        Err(failure) => {
            let value = json!({
                "ok": false,
                "height": failure.height,
                "machine": failure.machine,
                "error": failure.code.as_str(),
                "message": failure.message,
            });
            ui.result(&value, || "not verified".to_owned())?;
            Err(refuted(&failure))
        }
    }
}

/// A history that doesn't verify.
pub fn refuted(failure: &concordat_verify::Failure) -> Failure {
    let place = failure.height.map(|height| format!(" at height {height}")).unwrap_or_default();
    Failure::check(
        failure.code.as_str(),
        format!("{}{place}", failure.message),
        "events that are missing may be on another relay; a contradiction isn't mended by more of them",
    )
}

/// Takes the file line by line. One that is longer than any event can be comes in pieces, and so is no event.
pub fn lines(path: &Path, mut take: impl FnMut(&str)) -> Result<(), Failure> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| unreadable(path, &error))?)
    };
    let mut source = BufReader::new(source.take(EVENTS_FILE_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = source.by_ref().take(INPUT_BYTES + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| unreadable(path, &error))? == 0 {
            return Ok(());
        }
        take(&String::from_utf8_lossy(&line));
    }
}

/// The group of the one Head(0) in the file.
fn founded(lines: &[String], path: &Path) -> Result<PublicKey, Failure> {
    let mut groups: Vec<PublicKey> = lines
        .iter()
        .filter(|line| line.contains("state_root"))
        .filter_map(|line| ValidEvent::parse(line.trim().as_bytes()).ok())
        .filter_map(|event| Head::from_log_event(&event).ok()?.genesis.map(|genesis| genesis.group_key))
        .collect();
    groups.sort();
    groups.dedup();
    match groups.as_slice() {
        [group] => Ok(*group),
        [] => Err(Failure::usage(
            "no_group",
            format!("{}: no first head in it, and no group is given", path.display()),
            "give --group KEY; a history begins with the log event at height 0",
        )),
        _ => Err(Failure::usage(
            "no_group",
            format!("{}: first heads of {} groups in it", path.display(), groups.len()),
            "say which one with --group KEY",
        )),
    }
}
