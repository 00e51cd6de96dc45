//! The network: a namespace for each custodian, for the relay and for the users, joined by a bridge.
//!
//! A cut in one direction is a wrong hardware address for the other end in the sender's neighbour table: what is sent is lost without
//! a word, as on a broken line, and nothing but iproute2 is needed. (A kernel may have neither netem nor nftables.)
//!
//! Promises: it is taken down when it is dropped, and what an earlier run of the same name left behind before it is built.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:fe";

/// Where somebody is in the land. Custodians have their numbers, from 1.
pub type Place = u16;

/// The place of the relay.
pub const RELAY: Place = 200;

/// The place of the users.
pub const USERS: Place = 201;

/// See the module's header.
pub struct Land {
    name: String,
    net: [u8; 2],
    places: Vec<Place>,
    /// Cuts in force: from, to.
    cut: BTreeSet<(Place, Place)>,
}

fn ip(words: &[&str]) -> Result<()> {
    let ran = Command::new("ip").args(words).output().context("`ip` of iproute2 can't be run")?;
    if !ran.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(())
}

impl Land {
    /// Builds it for custodians 1 to `n`, a relay and users.
    ///
    /// # Errors
    /// No right to, no iproute2, or a kernel without namespaces: in the words of the tool.
    pub fn build(n: u16) -> Result<Self> {
        // Two runs at once have lands of their own.
        let id = std::process::id();
        let net = [100 + u8::try_from(id % 100)?, u8::try_from(id / 100 % 250)?];
        let places = (1..=n).chain([RELAY, USERS]).collect();
        let land = Land { name: format!("cc{id}"), net, places, cut: BTreeSet::new() };
        land.make().context(
            "no network of namespaces: this needs root, iproute2, and a kernel with namespaces, veth and bridges",
        )?;
        Ok(land)
    }

    /// Can one be built here? The smallest there is comes and goes.
    ///
    /// # Errors
    /// As [`Land::build`].
    pub fn probe() -> Result<()> {
        Land::build(0).map(drop)
    }

    fn make(&self) -> Result<()> {
        let bridge = self.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "up"])?;
        for place in &self.places {
            let (space, outer) = (self.space(*place), self.outer(*place));
            let address = format!("{}/24", self.address(*place));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["link", "set", &outer, "master", &bridge, "up"])?;
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn space(&self, place: Place) -> String {
        format!("{}-{place}", self.name)
    }

    fn outer(&self, place: Place) -> String {
        format!("{}v{place}", self.name)
    }

    /// The address of a place.
    pub fn address(&self, place: Place) -> IpAddr {
        let [a, b] = self.net;
        Ipv4Addr::new(10, a, b, u8::try_from(place).unwrap_or(u8::MAX)).into()
    }

    /// The command that runs a program at a place.
    pub fn through(&self, place: Place) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.space(place)].map(OsString::from).to_vec()
    }

    /// What one sends the other is lost from now on.
    ///
    /// # Errors
    /// Of the tool.
    pub fn cut(&mut self, from: Place, to: Place) -> Result<()> {
        if self.cut.insert((from, to)) {
            let (space, to) = (self.space(from), self.address(to).to_string());
            ip(&[
                "-n",
                &space,
                "neigh",
                "replace",
                &to,
                "lladdr",
                NOBODY,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ])?;
        }
        Ok(())
    }

    /// What one sends the other arrives again.
    ///
    /// # Errors
    /// Of the tool.
    pub fn join(&mut self, from: Place, to: Place) -> Result<()> {
        if self.cut.remove(&(from, to)) {
            ip(&["-n", &self.space(from), "neigh", "del", &self.address(to).to_string(), "dev", "eth0"])?;
        }
        Ok(())
    }

    /// Nothing is cut any more and all links are up.
    ///
    /// # Errors
    /// Of the tool.
    pub fn heal(&mut self) -> Result<()> {
        for (from, to) in self.cut.clone() {
            self.join(from, to)?;
        }
        for place in self.places.clone() {
            self.plug(place, true)?;
        }
        Ok(())
    }

    /// Pulls a place's cable out, or puts it in.
    ///
    /// # Errors
    /// Of the tool.
    pub fn plug(&self, place: Place, up: bool) -> Result<()> {
        ip(&["link", "set", &self.outer(place), if up { "up" } else { "down" }])
    }
}

impl Drop for Land {
    fn drop(&mut self) {
        for place in &self.places {
            // A namespace that is gone takes its end of the cable with it.
            let _ = ip(&["netns", "del", &self.space(*place)]);
            let _ = ip(&["link", "del", &self.outer(*place)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}
