//! What this computer could do at most: every custodian checks the signature of every request, every head needs a FROST
//! session, and what is promised is flushed first. All are measured here, in the same run as the load, with the code that the custodians run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use concordat_events::{Hash, ValidEvent};
use concordat_threshold::dkg::{Ceremony, Message, Params, To};
use concordat_threshold::{KeyShare, aggregate, commit, sign};
use nostr::{EventBuilder, Keys, Kind};
use rand::rngs::OsRng;

use crate::failure::Failure;
use crate::limits::WALL_TIME;

/// The measured costs, in seconds of one core.
#[derive(Clone, Copy, Debug)]
pub struct Walls {
    /// Checking one request's id and signature.
    pub check: f64,
    /// One message signed by the group: what all its signers and the one who aggregates compute together.
    pub message: f64,
    /// Making a small write durable where the custodians have their stores.
    pub flush: f64,
}

impl Walls {
    /// Measures all, a moment each, on the calling thread. `place` is a directory on the custodians' disk.
    pub fn measure(custodians: u16, threshold: u16, place: &Path) -> Result<Self, Failure> {
        Ok(Walls { check: check()?, message: message(custodians, threshold)?, flush: flush(place)? })
    }
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::check("measure", format!("the measurement failed: {error}"), "")
}

/// Seconds that one call takes, on average over [`WALL_TIME`].
fn cost(mut work: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut calls = 0u32;
    while began.elapsed() < WALL_TIME {
        work()?;
        calls += 1;
    }
    Ok(began.elapsed().as_secs_f64() / f64::from(calls.max(1)))
}

fn check() -> Result<f64, Failure> {
    let event = EventBuilder::new(Kind::from_u16(7501), r#"{"by":1}"#)
        .sign_with_keys(&Keys::generate())
        .map_err(wrong)?;
    let copy = || event.clone();
    let cloning = cost(|| {
        std::hint::black_box(copy());
        Ok(())
    })?;
    let both = cost(|| ValidEvent::check(copy()).map(drop).map_err(wrong))?;
    Ok((both - cloning).max(f64::EPSILON))
}

/// A page appended and made durable, as stores do it.
fn flush(place: &Path) -> Result<f64, Failure> {
    let mut file = tempfile::tempfile_in(place).map_err(wrong)?;
    cost(|| {
        file.write_all(&[0; 4096]).map_err(wrong)?;
        file.sync_data().map_err(wrong)
    })
}

fn message(custodians: u16, threshold: u16) -> Result<f64, Failure> {
    let shares = ceremony(custodians, threshold)?;
    let signers: Vec<&KeyShare> = shares.iter().take(usize::from(threshold)).collect();
    let keys = signers.first().ok_or_else(|| wrong("there are no shares"))?.keys();
    let message = *Hash::ZERO.as_bytes();
    cost(|| {
        let (nonces, session): (Vec<_>, BTreeMap<_, _>) = signers
            .iter()
            .map(|share| {
                let (nonce, commitment) = commit(share, &mut OsRng);
                (nonce, (share.number(), commitment))
            })
            .unzip();
        let mut made = BTreeMap::new();
        for (share, nonce) in signers.iter().zip(nonces) {
            made.insert(share.number(), sign(share, nonce, &message, &session).map_err(wrong)?);
        }
        aggregate(keys, &message, &session, &made).map(drop).map_err(wrong)
    })
}

/// A key ceremony of throw-away keys, all members in this function.
fn ceremony(custodians: u16, threshold: u16) -> Result<Vec<KeyShare>, Failure> {
    let roster: BTreeSet<u16> = (1..=custodians).collect();
    let mut members = BTreeMap::new();
    let mut waiting = VecDeque::new();
    let deliver = |from: u16, out: Vec<_>, waiting: &mut VecDeque<_>| {
        waiting.extend(out.into_iter().map(|message| (from, message)));
    };
    for own in &roster {
        let params = Params::new(Hash::ZERO, roster.clone(), *own, threshold).map_err(wrong)?;
        let (member, first) = Ceremony::new(params, &mut OsRng).map_err(wrong)?;
        members.insert(*own, member);
        deliver(*own, first, &mut waiting);
    }
    while let Some((from, out)) = waiting.pop_front() {
        for (own, member) in &mut members {
            let meant = match out.to {
                To::All => *own != from,
                To::One(to) => *own == to,
            };
            if meant {
                let message = Message::decode(&out.message.encode()).map_err(wrong)?;
                let next = member
                    .on_message(from, message, &mut OsRng)
                    .map_err(|alarm| wrong(alarm.reason().code()))?;
                deliver(*own, next, &mut waiting);
            }
        }
    }
    let done = members.into_values().map(|member| member.finish().map(|outcome| outcome.share));
    done.collect::<Result<_, _>>().map_err(|_| wrong("the key ceremony didn't end"))
}

/// What `cores` cores do in a second of something that costs `seconds` of one, `times` over.
pub fn per_second(cores: usize, seconds: f64, times: usize) -> f64 {
    let cores = u32::try_from(cores).map_or(1.0, f64::from);
    let times = u32::try_from(times.max(1)).map_or(1.0, f64::from);
    cores / (seconds.max(f64::EPSILON) * times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walls_are_measured_with_the_real_thing() {
        let place = tempfile::tempdir().unwrap();
        let walls = Walls::measure(4, 3, place.path()).unwrap();
        assert!(walls.flush > 0.0 && walls.check > 0.0 && walls.message > walls.check, "{walls:?}");
        assert_eq!(per_second(2, 0.001, 4).round(), 500.0);
    }
}
