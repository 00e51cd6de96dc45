//! The user's signing key: made, written to a file that only its owner reads, and loaded from a file, stdin or a descriptor.
//!
//! Refuses: a secret on the command line, an existing file as the place for a new key, and a key file that others may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use nostr::nips::nip19::ToBech32;
use nostr::{Keys, SecretKey};
use zeroize::Zeroizing;

use crate::failure::{Failure, unreadable};
use crate::limits::KEY_FILE_BYTES;

/// Where the signing key comes from.
#[derive(Args, Clone, Debug, Default)]
pub struct KeyArgs {
    /// File with an nsec or 64 hex digits; `-` reads it from stdin
    #[arg(long, env = "CONCORDAT_KEY_FILE", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Open file descriptor to read the key from
    #[arg(long, value_name = "FD", conflicts_with = "key")]
    pub key_fd: Option<u32>,
}

impl KeyArgs {
    /// Loads the key; without arguments from the default file.
    pub fn load(&self) -> Result<Keys, Failure> {
        if let Some(fd) = self.key_fd {
            let path = PathBuf::from(format!("/dev/fd/{fd}"));
            let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
            return parse(read(file, &path)?, &path);
        }
        let path = match &self.key {
            Some(path) => path.clone(),
            None => default_file().filter(|path| path.exists()).ok_or_else(no_key)?,
        };
        if path == Path::new("-") {
            return parse(read(std::io::stdin(), &path)?, &path);
        }
        let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
        private(&file, &path)?;
        parse(read(file, &path)?, &path)
    }
}

fn no_key() -> Failure {
    Failure::usage(
        "no_key",
        "no signing key is given",
        "give --key FILE or set CONCORDAT_KEY_FILE; `concordat key new` makes one",
    )
}

/// Where `key new` puts a key and where it is looked for if nothing says otherwise: `concordat/key` under the user's
/// configuration directory.
pub fn default_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(base.join("concordat").join("key"))
}

/// A pipe has no owner's permissions worth checking; a regular file that others may read is no secret any more.
fn private(file: &File, path: &Path) -> Result<(), Failure> {
    let data = file.metadata().map_err(|error| unreadable(path, &error))?;
    if data.is_dir() {
        return Err(Failure::usage("key_file", format!("{}: is a directory", path.display()), "name a file"));
    }
    let mode = data.permissions().mode();
    if data.is_file() && mode & 0o077 != 0 {
        return Err(Failure::refused(
            "key_file_open",
            format!("{}: mode {:03o} lets others read this secret", path.display(), mode & 0o777),
            format!("chmod 600 {}", path.display()),
        ));
    }
    Ok(())
}

fn read(source: impl Read, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES as usize));
    source.take(KEY_FILE_BYTES).read_to_string(&mut text).map_err(|error| unreadable(path, &error))?;
    Ok(text)
}

fn parse(text: Zeroizing<String>, path: &Path) -> Result<Keys, Failure> {
    // The library's error could repeat what it was given: it isn't passed on.
    SecretKey::parse(text.trim()).map(Keys::new).map_err(|_| {
        Failure::usage(
            "key_file",
            format!("{}: doesn't hold a secret key", path.display()),
            "expected an nsec or 64 hex digits",
        )
    })
}

/// Writes a new key to a new file with mode 0600, flushes it and reads it back before saying that it is there.
pub fn create(path: &Path) -> Result<Keys, Failure> {
    let keys = Keys::generate();
    let wrong = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::refused(
            "file_exists",
            format!("{}: exists already", path.display()),
            "a key is never overwritten; name another file with --out",
        ),
        _ => Failure::not_ready(
            "key_file",
            format!("{}: {error}", path.display()),
            "choose another file with --out",
        ),
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(wrong)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(wrong)?;
    let text = Zeroizing::new(
        keys.secret_key()
            .to_bech32()
            .map_err(|_| Failure::check("key", "the key can't be written as nsec", ""))?,
    );
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(wrong)?;
    file.sync_all().map_err(wrong)?;
    let back = KeyArgs { key: Some(path.to_owned()), key_fd: None }.load()?;
    if back.public_key() != keys.public_key() {
        return Err(Failure::check("key_file", format!("{}: another key was read back", path.display()), ""));
    }
    Ok(keys)
}
