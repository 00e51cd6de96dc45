//! `key new`: a new identity. The secret goes to a file that only its owner reads; what is printed is public.
//! `key passphrase` and `key certificate`: what a custodian's operator renews by itself.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use concordat_node::certificate::{RenewError, renew};
use nostr::nips::nip19::ToBech32;
use serde_json::json;

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::keys;

/// Commands on identities.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Makes a new identity; its nsec goes to a file with mode 0600, its npub to stdout
    New(NewArgs),
    /// Seals a custodian's keys under another passphrase; it must not be running
    Passphrase(PassphraseArgs),
    /// Makes another TLS certificate for a custodian, vouched for by its identity; a running one shows it at once
    Certificate(CertificateArgs),
}

/// Arguments of `key certificate`.
#[derive(Args, Debug)]
pub struct CertificateArgs {
    /// The custodian's configuration; it may be running
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `key passphrase`.
#[derive(Args, Debug)]
pub struct PassphraseArgs {
    /// The custodian's configuration; its `passphrase_file` is changed last
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The file with the new passphrase
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: PathBuf,
}

/// Arguments of `key new`.
#[derive(Args, Debug)]
pub struct NewArgs {
    /// The file for the secret (concordat/key in the user's configuration directory if not given); it must not exist
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: KeyCommand, ui: Ui) -> Result<(), Failure> {
    let out = match command {
        KeyCommand::New(NewArgs { out }) => out,
        KeyCommand::Passphrase(args) => return passphrase(&args, ui),
        KeyCommand::Certificate(args) => return certificate(&args, ui),
    };
    let path = out.or_else(keys::default_file).ok_or_else(|| {
        Failure::usage(
            "no_file",
            "there is no home directory to put the key in",
            "name a file with --out FILE",
        )
    })?;
    let public = keys::create(&path)?.public_key();
    let npub = public
        .to_bech32()
        .map_err(|_| Failure::check("key", "the public key can't be written as npub", ""))?;
    let text = npub.clone();
    ui.result(&json!({"npub": npub, "pubkey": public.to_hex(), "file": path}), || text)?;
    ui.note(&format!("the secret is in {}", path.display()));
    Ok(())
}

fn passphrase(args: &PassphraseArgs, ui: Ui) -> Result<(), Failure> {
    let earlier = concordat_node::backup::change_passphrase(&args.config, &args.new_passphrase_file)
        .map_err(super::backup::failure)?;
    let file = &args.new_passphrase_file;
    let value = json!({"config": args.config, "passphrase_file": file, "earlier": earlier.word()});
    ui.result(&value, || file.display().to_string())?;
    if let Some(note) = earlier.note() {
        ui.note(note);
    }
    ui.note("backups made before open with the old passphrase only: make a new one");
    Ok(())
}

fn certificate(args: &CertificateArgs, ui: Ui) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let made = renew(&args.config, now).map_err(|error| {
        let text = error.to_string();
        match error {
            RenewError::NotFounded(_) => Failure::not_ready(
                "not_founded",
                text,
                "`ceremony join` in a new directory makes another card",
            ),
            RenewError::Make(_) => Failure::check("certificate", text, ""),
            RenewError::Dir(_) => Failure::not_ready("custodian_dir", text, ""),
        }
    })?;
    let pin = made.pin.to_string();
    let days = made.term.until.saturating_sub(now) / 86_400;
    ui.result(
        &json!({"pin": pin, "since": made.term.since, "until": made.term.until, "earlier": made.earlier.word()}),
        || format!("{pin}, to be renewed within {days} days"),
    )?;
    if let Some(note) = made.earlier.note() {
        ui.note(note);
    }
    ui.note("users know this custodian by its pin: give them the new one; then make a new backup");
    Ok(())
}
