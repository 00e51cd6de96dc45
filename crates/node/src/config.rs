//! `custodian.toml`: what is local to one custodian. It touches addresses and speed and holds no secret; what decides
//! validity stands in the genesis or in certified state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use concordat_events::limits::NAME_BYTES;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::keys::file::{self, FileError};

/// Where users are served if the file doesn't say: loopback only, so that nobody is exposed by a default.
pub const CLIENT_LISTEN: ClientListen =
    ClientListen::At(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7401));

/// Heartbeat of an epoch's log: far below the leader's timeout, and no load over a WAN.
pub const HEARTBEAT_MS: u64 = 250;

/// First timeout of an epoch: several WAN round trips and a slow disk's flush; it doubles with each failed epoch.
pub const EPOCH_MS: u64 = 1_500;

/// Wait for one relay's answer: relays of strangers take seconds under load.
pub const RELAY_MS: u64 = 10_000;

/// The file's contents, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A name for people; the card carries it.
    pub name: String,
    /// Where other custodians connect to.
    pub listen: SocketAddr,
    /// Where users connect to, or `"off"`.
    #[serde(default = "client_listen")]
    pub client_listen: ClientListen,
    /// The file with the passphrase of `keys.age`; relative to this file.
    pub passphrase_file: PathBuf,
    /// The storage engine.
    #[serde(default)]
    pub storage: Storage,
    /// Addresses of other custodians, by number, where they differ from the proposal's.
    #[serde(default, with = "numbered", skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<u16, String>,
    /// Relays in place of the genesis's, for reading and writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
    /// How long to wait.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// Where users are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientListen {
    /// Nowhere: they use relays.
    Off,
    /// At this address.
    At(SocketAddr),
}

/// The `[storage]` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// The engine; it can't be changed once there is data.
    #[serde(default)]
    pub engine: Engine,
}

/// A storage engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// redb 4.
    #[default]
    Redb,
    /// sled 0.34.
    Sled,
}

/// The `[timeouts]` table, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Heartbeat of an epoch's log.
    pub heartbeat_ms: u64,
    /// First timeout of an epoch.
    pub epoch_ms: u64,
    /// Wait for one relay's answer.
    pub relay_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { heartbeat_ms: HEARTBEAT_MS, epoch_ms: EPOCH_MS, relay_ms: RELAY_MS }
    }
}

impl Timeouts {
    /// [`Timeouts::heartbeat_ms`] as a duration.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// [`Timeouts::epoch_ms`] as a duration.
    pub fn epoch(&self) -> Duration {
        Duration::from_millis(self.epoch_ms)
    }

    /// [`Timeouts::relay_ms`] as a duration.
    pub fn relay(&self) -> Duration {
        Duration::from_millis(self.relay_ms)
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not TOML, an unknown key, or a value of another type; the text names line and key.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, key, what was expected.
        message: String,
    },
    /// A value that can't be.
    #[error("{path}: `{key}` is {got}; expected {expected}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it says.
        got: String,
        /// What it should say.
        expected: &'static str,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = file::read(path, "`concordat dev up` makes one in each custodian's directory")?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| ConfigError::Syntax { path: path.to_owned(), message: "isn't UTF-8 text".into() })?;
        Self::parse(path, text)
    }

    /// Checks a file's text. `path` is for errors, and what relative paths are relative to.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        config.check(path)?;
        config.passphrase_file = file::directory_of(path).join(&config.passphrase_file);
        Ok(config)
    }

    /// The keys that a file's text sets itself, as `table.key`; all others have their default. For `config show --origin`.
    pub fn keys_set(text: &str) -> Vec<String> {
        let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
        let mut keys = Vec::new();
        for (key, value) in &table {
            match value.as_table() {
                Some(inner) => keys.extend(inner.keys().map(|name| format!("{key}.{name}"))),
                None => keys.push(key.clone()),
            }
        }
        keys
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError::Syntax {
            path: PathBuf::from("custodian.toml"),
            message: error.to_string(),
        })
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key: &str, got: String, expected| ConfigError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            got,
            expected,
        };
        if self.name.is_empty() || self.name.len() > NAME_BYTES {
            return Err(wrong("name", format!("{:?}", self.name), "a name of 1 to 256 bytes"));
        }
        for (number, address) in &self.peers {
            check_address(address)
                .map_err(|expected| wrong(&format!("peers.{number}"), format!("{address:?}"), expected))?;
        }
        if let Some(relays) = &self.relays {
            if relays.is_empty() {
                return Err(wrong("relays", "empty".into(), "at least one relay, or no such key"));
            }
            for relay in relays {
                check_relay(relay).map_err(|expected| wrong("relays", format!("{relay:?}"), expected))?;
            }
        }
        let bounds = [
            ("timeouts.heartbeat_ms", self.timeouts.heartbeat_ms, 10..=60_000, "10 ms to a minute"),
            ("timeouts.epoch_ms", self.timeouts.epoch_ms, 100..=600_000, "100 ms to ten minutes"),
            ("timeouts.relay_ms", self.timeouts.relay_ms, 100..=600_000, "100 ms to ten minutes"),
        ];
        for (key, value, range, expected) in bounds {
            if !range.contains(&value) {
                return Err(wrong(key, value.to_string(), expected));
            }
        }
        if self.timeouts.heartbeat_ms.saturating_mul(3) > self.timeouts.epoch_ms {
            return Err(wrong(
                "timeouts.heartbeat_ms",
                self.timeouts.heartbeat_ms.to_string(),
                "at most a third of timeouts.epoch_ms, so that one lost heartbeat ends no epoch",
            ));
        }
        Ok(())
    }
}

/// Is this `host:port`? The error says what was expected.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "host:port, such as alice.example.org:7400";
    let (host, port) = address.rsplit_once(':').ok_or(EXPECTED)?;
    let plain = !host.is_empty()
        && host.len() <= NAME_BYTES
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte));
    match port.parse::<u16>() {
        Ok(port) if port != 0 && plain => Ok(()),
        _ => Err(EXPECTED),
    }
}

/// Is this a relay's URL? The error says what was expected.
pub fn check_relay(url: &str) -> Result<(), &'static str> {
    match nostr::RelayUrl::parse(url) {
        Ok(_) if url.len() <= NAME_BYTES => Ok(()),
        _ => Err("a relay's URL, such as wss://relay.example.org"),
    }
}

fn client_listen() -> ClientListen {
    CLIENT_LISTEN
}

impl<'de> Deserialize<'de> for ClientListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(ClientListen::Off),
            text => text.parse().map(ClientListen::At).map_err(|_| {
                D::Error::custom(format!(
                    "client_listen is {text:?}; expected \"off\" or an address such as \"127.0.0.1:7401\""
                ))
            }),
        }
    }
}

impl Serialize for ClientListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ClientListen::Off => serializer.serialize_str("off"),
            ClientListen::At(address) => serializer.collect_str(address),
        }
    }
}

/// TOML's keys are text; custodians' are numbers.
pub(crate) mod numbered {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(map: &BTreeMap<u16, String>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(map.iter().map(|(number, value)| (number.to_string(), value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, String>, D::Error> {
        let map = BTreeMap::<String, String>::deserialize(from)?;
        map.into_iter()
            .map(|(key, value)| match key.parse::<u16>() {
                // One spelling each: "01" would hide an entry for 1.
                Ok(number) if number != 0 && number.to_string() == key => Ok((number, value)),
                _ => Err(D::Error::custom(format!("`{key}` is no custodian's number (1, 2, ...)"))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "name = \"alice\"\nlisten = \"0.0.0.0:7400\"\npassphrase_file = \"pass\"\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/data/custodian.toml"), text)
    }

    #[test]
    fn defaults_are_spelled_out_and_safe() {
        let config = parse(MINIMAL).unwrap();
        let ClientListen::At(address) = config.client_listen else { panic!() };
        assert!(address.ip().is_loopback());
        assert_eq!(config.storage.engine, Engine::Redb);
        assert_eq!(config.passphrase_file, Path::new("/data/pass"));
        assert_eq!((config.timeouts.heartbeat_ms, config.timeouts.epoch_ms), (250, 1_500));
    }

    #[test]
    fn what_is_written_is_read() {
        let text = format!(
            "{MINIMAL}client_listen = \"off\"\nrelays = [\"wss://relay.example.org\"]\n[storage]\nengine = \"sled\"\n[peers]\n2 = \"b:7400\"\n"
        );
        let config = parse(&text).unwrap();
        assert_eq!(config.client_listen, ClientListen::Off);
        assert_eq!(config.storage.engine, Engine::Sled);
        assert_eq!(config.peers.get(&2).map(String::as_str), Some("b:7400"));
        assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
        assert_eq!(
            Config::keys_set(&text),
            ["client_listen", "listen", "name", "passphrase_file", "peers.2", "relays", "storage.engine"]
        );
    }

    #[test]
    fn errors_name_file_key_and_what_was_expected() {
        let cases = [
            ("colour = \"red\"\n", "colour"),
            ("client_listen = \"everywhere\"\n", "client_listen"),
            ("relays = []\n", "relays"),
            ("relays = [\"http://x\"]\n", "relays"),
            ("[storage]\nengine = \"paper\"\n", "engine"),
            ("[peers]\n0 = \"b:7400\"\n", "`0`"),
            ("[peers]\n01 = \"b:7400\"\n", "`01`"),
            ("[peers]\n2 = \"b\"\n", "peers.2"),
            ("[timeouts]\nheartbeat_ms = 1000\n", "timeouts.heartbeat_ms"),
            ("[timeouts]\nepoch_ms = 1\n", "timeouts.epoch_ms"),
        ];
        for (line, expected) in cases {
            let error = parse(&format!("{MINIMAL}{line}")).unwrap_err().to_string();
            assert!(error.contains("/data/custodian.toml") && error.contains(expected), "{line}: {error}");
        }
        let error = parse("listen = \"0.0.0.0:1\"\npassphrase_file = \"p\"\n").unwrap_err().to_string();
        assert!(error.contains("name"), "{error}");
    }
}
