//! The user's side: talks to relays, signs requests, waits for certified outcomes and checks what it is shown.
//!
//! Promises: nothing a relay says is believed before its signature and its head have been checked; every wait is bounded, and
//! an error names the relay. Refuses: to trust an `OK` as an outcome; only a log event signed by the group is one.

pub mod custodians;
pub mod history;
pub mod input;
pub mod keys;
pub mod machine;
pub mod outcome;
pub mod pages;
pub mod relays;

use std::time::Duration;

use clap::Args;
use concordat_events::{Hash, PublicKey};
use concordat_node::client::CustodianAddress;

use crate::failure::Failure;
use crate::limits::{ASKED, MOST_TIMEOUT_SECONDS, RELAYS, TIMEOUT};
use relays::Relays;

/// Which group, and where to find it.
#[derive(Args, Clone, Debug, Default)]
pub struct GroupArgs {
    /// The group's public key, npub or 64 hex digits
    #[arg(long, env = "CONCORDAT_GROUP", value_name = "KEY")]
    pub group: Option<String>,
    /// A relay; may stand several times or hold several, separated by commas
    #[arg(long = "relay", env = "CONCORDAT_RELAYS", value_delimiter = ',', value_name = "URL")]
    pub relays: Vec<String>,
    /// A custodian that serves users, HOST:PORT#PIN; may stand several times or hold several, separated by commas
    #[arg(long = "custodian", env = "CONCORDAT_CUSTODIANS", value_delimiter = ',', value_name = "ADDRESS")]
    pub custodians: Vec<String>,
    /// Seconds to wait for an answer or an outcome (30 if not given)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

impl GroupArgs {
    /// The group's key; an error says how to give one.
    pub fn group_key(&self) -> Result<PublicKey, Failure> {
        let text = self.group.as_deref().filter(|text| !text.is_empty()).ok_or_else(|| {
            Failure::usage("no_group", "no group is given", "give --group KEY or set CONCORDAT_GROUP")
        })?;
        parse_public_key(text)
    }

    /// How long to wait.
    pub fn wait(&self) -> Result<Duration, Failure> {
        match self.timeout {
            None => Ok(TIMEOUT),
            Some(seconds) if (1..=MOST_TIMEOUT_SECONDS).contains(&seconds) => {
                Ok(Duration::from_secs(seconds))
            }
            Some(seconds) => Err(Failure::usage(
                "timeout",
                format!("--timeout {seconds}: expected 1 to {MOST_TIMEOUT_SECONDS} seconds"),
                "",
            )),
        }
    }

    /// The relays' addresses.
    pub fn urls(&self) -> Result<Vec<String>, Failure> {
        let urls: Vec<String> =
            self.relays.iter().map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect();
        if urls.is_empty() {
            return Err(Failure::usage(
                "no_relay",
                "no relay is given",
                "give --relay URL or set CONCORDAT_RELAYS",
            ));
        }
        if urls.len() > RELAYS {
            return Err(Failure::usage(
                "relays",
                format!("{} relays are given; at most {RELAYS} are used at once", urls.len()),
                "",
            ));
        }
        Ok(urls)
    }

    /// The custodians' addresses; there need be none.
    pub fn custodian_addresses(&self) -> Result<Vec<CustodianAddress>, Failure> {
        let given = self.custodians.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let addresses: Vec<CustodianAddress> =
            given.map(|text| text.parse().map_err(custodians::failure)).collect::<Result<_, Failure>>()?;
        if addresses.len() > ASKED {
            return Err(Failure::usage(
                "custodians",
                format!("{} custodians are given; at most {ASKED} are asked", addresses.len()),
                "",
            ));
        }
        Ok(addresses)
    }

    /// The custodians' addresses, for what only they can answer.
    pub fn some_custodians(&self) -> Result<Vec<CustodianAddress>, Failure> {
        let addresses = self.custodian_addresses()?;
        if addresses.is_empty() {
            return Err(Failure::usage(
                "no_custodian",
                "no custodian is given",
                "give --custodian HOST:PORT#PIN or set CONCORDAT_CUSTODIANS; `concordat dev up` prints them",
            ));
        }
        Ok(addresses)
    }

    /// Connects to the group's relays.
    pub async fn connect(&self) -> Result<Group, Failure> {
        let (key, wait, urls) = (self.group_key()?, self.wait()?, self.urls()?);
        let custodians = self.custodian_addresses()?;
        let relays = Relays::connect(&urls, wait).await?;
        Ok(Group { key, relays, custodians, wait })
    }
}

/// A group and a connection to its relays.
pub struct Group {
    /// The group's key.
    pub key: PublicKey,
    /// Its relays.
    pub relays: Relays,
    /// Custodians that serve users directly; perhaps none.
    pub custodians: Vec<CustodianAddress>,
    /// How long to wait for anything.
    pub wait: Duration,
}

/// Reads a public key, npub or hex.
pub fn parse_public_key(text: &str) -> Result<PublicKey, Failure> {
    PublicKey::parse(text.trim()).map_err(|_| {
        Failure::usage(
            "public_key",
            format!("`{text}` isn't a public key"),
            "expected an npub or 64 hex digits",
        )
    })
}

/// Reads a machine's id: 64 hex digits, `note1..` or `nevent1..`.
pub fn parse_machine(text: &str) -> Result<Hash, Failure> {
    let id = concordat_events::EventId::parse(text.trim()).map_err(|_| {
        Failure::usage(
            "machine_id",
            format!("`{text}` isn't a machine's id"),
            "expected the id of its definition: 64 hex digits, note1.. or nevent1..; `concordat list` shows them",
        )
    })?;
    Ok(id.into())
}
