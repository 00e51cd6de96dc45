//! `backup` and `restore`: one sealed file that brings a custodian back, into quarantine.

use std::path::PathBuf;

use clap::Args;
use concordat_node::backup::{self, BackupError, Subject};
use concordat_node::interrupted::Earlier;
use serde_json::json;

use crate::failure::Failure;
use crate::ui::Ui;

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The custodian's configuration; it may be running
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The new file, sealed under the custodian's passphrase
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The file that `backup` wrote
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// The file with the passphrase that the backup was made under
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: PathBuf,
    /// The custodian's new directory; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Runs `backup`.
pub fn backup(args: &BackupArgs, ui: Ui) -> Result<(), Failure> {
    let (subject, earlier) = backup::backup(&args.config, &args.out).map_err(failure)?;
    let file = args.out.display();
    ui.result(&said(&subject, earlier, &args.out), || {
        format!("{} (custodian {}) is in {file}", subject.name, subject.number)
    })?;
    if let Some(note) = earlier.note() {
        ui.note(note);
    }
    ui.note(
        "it opens with the passphrase only: keep that somewhere else; the safety record is never in a backup",
    );
    Ok(())
}

/// Runs `restore`.
pub fn restore(args: &RestoreArgs, ui: Ui) -> Result<(), Failure> {
    let (subject, earlier) =
        backup::restore(&args.from, &args.passphrase_file, &args.dir).map_err(failure)?;
    let dir = args.dir.display();
    ui.result(&said(&subject, earlier, &args.dir), || {
        format!("{} (custodian {}) is restored in {dir}", subject.name, subject.number)
    })?;
    if let Some(note) = earlier.note() {
        ui.note(note);
    }
    ui.note("make sure that the old one never runs again: two of one custodian count as a liar");
    ui.note("it starts in quarantine and takes part again after two more heads");
    Ok(())
}

fn said(subject: &Subject, earlier: Earlier, path: &std::path::Path) -> serde_json::Value {
    let Subject { name, number, group } = subject;
    json!({"name": name, "number": number, "group": group, "path": path, "earlier": earlier.word()})
}

/// A backup's error as the shell's.
pub fn failure(error: BackupError) -> Failure {
    let text = error.to_string();
    match error {
        BackupError::NotEmpty(_) => Failure::usage("not_empty", text, "name a new directory with --dir"),
        BackupError::NotFounded(_) => Failure::not_ready("not_founded", text, ""),
        BackupError::Contents { .. } | BackupError::Mixed(_) => Failure::check("backup", text, ""),
        BackupError::Dir(_) => Failure::not_ready("custodian_dir", text, ""),
    }
}
