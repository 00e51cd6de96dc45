//! Directed attacks: a script says who is cut off from whom, who crashes or is restored when, and what the liars say to whom;
//! the seed varies timing and roles. Each was a way to two certified heads of one height, or to a standstill, in a draft of the
//! protocol or in the protocol with one rule missing. The law must pass all of them.
//!
//! Seats are counted from 0, custodians from 1: seat s is custodian s+1, and leads epoch s.

pub mod gate;
mod grants;
mod locks;
mod progress;
mod restores;
pub mod stage;
mod votes;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;
use rand_chacha::ChaCha20Rng;

use super::net::{below, chance};
use super::run::{Outcome, Play};
use gate::Gate;
use stage::{Missed, Scene, Stage};

/// A script that runs.
type Running<'a> = Pin<Box<dyn Future<Output = Scene> + 'a>>;

/// A directed attack.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// How many custodians it is written for.
    pub custodians: usize,
    /// How many liars it has.
    pub liars: usize,
    /// Does the group go on once everything has healed? Where more than f have lost their memory it may stand still.
    pub heals: bool,
    script: for<'a> fn(&'a mut Stage) -> Running<'a>,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! scenarios {
    ($($name:literal of $n:literal with $liars:literal heals $heals:literal = $script:expr;)+) => {
        /// All of them.
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            custodians: $n,
            liars: $liars,
            heals: $heals,
            script: |stage| Box::pin($script(stage)),
        }),+];
    };
}

scenarios! {
    "second-vote" of 4 with 1 heals true = votes::second_vote;
    "lost-share" of 4 with 0 heals true = restores::lost_share;
    "few-answers" of 4 with 0 heals true = restores::few_answers;
    "few-reports" of 4 with 1 heals false = restores::few_reports;
    "old-answers" of 4 with 1 heals false = restores::old_answers;
    "two-restored" of 4 with 1 heals false = restores::two_restored;
    "two-restored-of-seven" of 7 with 2 heals false = restores::two_restored;
    "held-certificate" of 4 with 1 heals false = restores::held_certificate;
    "replayed-grant" of 4 with 1 heals false = grants::replayed_grant;
    "few-grants" of 4 with 1 heals true = grants::few_grants;
    "shown-lock" of 4 with 1 heals true = grants::shown_lock;
    "four-of-seven" of 7 with 2 heals true = grants::four_of_seven;
    "old-lock-shown" of 4 with 1 heals true = locks::old_lock_shown;
    "two-locks" of 4 with 1 heals true = locks::two_locks;
    "granted-again" of 4 with 0 heals true = locks::granted_again;
    "certified-after-grant" of 4 with 0 heals true = locks::certified_after_grant;
    "complaint-before-lock" of 4 with 0 heals true = locks::complaint_before_lock;
    "lock-without-share" of 4 with 1 heals true = locks::lock_without_share;
    "lifted-certificate" of 4 with 1 heals true = locks::lifted_certificate;
    "late-lock" of 4 with 1 heals true = progress::late_lock;
    "prepares-and-withholds" of 4 with 1 heals true = progress::prepares_and_withholds;
    "no-start" of 4 with 1 heals true = progress::no_start;
    "flaky-timer" of 4 with 1 heals true = progress::flaky_timer;
    "accuses-itself" of 4 with 1 heals true = progress::accuses_itself;
    "lost-words" of 4 with 0 heals true = progress::lost_words;
    "laggard" of 4 with 1 heals true = progress::laggard;
    "spoiled-hint" of 4 with 1 heals true = progress::spoiled_hint;
    "two-orders" of 7 with 2 heals true = progress::two_orders;
}

/// A scenario by its name.
pub fn named(name: &str) -> Option<Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
}

/// Every fourth seed plays a scenario that fits the group.
pub fn any(dice: &mut ChaCha20Rng, custodians: usize, liars: usize) -> Option<Scenario> {
    if !chance(dice, 1, 4) {
        return None;
    }
    let fits = |scenario: &&Scenario| scenario.custodians == custodians && scenario.liars <= liars;
    let fitting: Vec<&Scenario> = SCENARIOS.iter().filter(fits).collect();
    let which = usize::try_from(below(dice, fitting.len() as u64)).unwrap_or_default();
    fitting.get(which).map(|scenario| **scenario)
}

/// Plays a scenario to its end.
///
/// # Errors
/// None that isn't a defect.
pub async fn play(scenario: Scenario, mut play: Play, seed: u64) -> Result<Outcome> {
    play.world.gate = Some(Gate::default());
    play.world.note(format_args!("scenario {}", scenario.name));
    let mut stage = Stage { play };
    let result = (scenario.script)(&mut stage).await;
    let mut play = stage.play;
    match result {
        Ok(()) => play.world.counters.count("scenario played"),
        Err(Missed(what)) => {
            play.world.note(format_args!("scenario: it never came to this: {what}"));
            play.world.counters.count("scenario broken off");
        }
    }
    if let Some(gate) = &mut play.world.gate {
        gate.open();
    }
    if scenario.heals {
        play.healed().await;
    }
    Ok(play.end(seed))
}
