//! The rules that are explored: the law, and mutants of it (PROTOCOL 12). A check that finds nothing in a mutant doesn't look.

use std::cell::Cell;
use std::marker::PhantomData;

use anyhow::{Context as _, Result};
use concordat_finality::mutants::off;
use concordat_finality::rules::Rule;
use concordat_finality::{Record, Rules};

use super::custodian::Explored;
use super::explore::{Bounds, Report, Search};
use crate::standin::{FewShares, Flaw, SharesCombine, Sound, StandIn};

thread_local! {
    /// The rules that the search on this thread doesn't keep.
    static OFF: Cell<u64> = const { Cell::new(0) };
}

/// The law over a stand-in for the threshold signatures, but for what is switched off: one type, so that the core is compiled
/// once for all mutants.
pub struct Stood<F: Flaw>(PhantomData<fn() -> F>);

impl<F: Flaw> Rules for Stood<F> {
    type Scheme = StandIn<F>;

    fn keeps(rule: Rule) -> bool {
        OFF.with(Cell::get) & rule.bit() == 0
    }

    // Two histories of one run that differ in nothing else are one state.
    fn next_seq(record: &Record) -> u64 {
        record.run
    }
}

impl<F: Flaw> Explored for Stood<F> {
    type Flaw = F;
}

/// Rules by name.
pub struct Law {
    /// The name: where it stands for one mutant of `concordat_finality::mutants`, that one's.
    pub name: &'static str,
    off: u64,
    explore: fn(Bounds) -> Result<Report>,
}

fn search<F: Flaw>(bounds: Bounds) -> Result<Report> {
    Search::<Stood<F>>::new(bounds)?.run()
}

const fn sound(name: &'static str, off: u64) -> Law {
    Law { name, off, explore: search::<Sound> }
}

/// All rules that can be explored.
pub const ALL: &[Law] = &[
    sound("law", 0),
    sound("value-and-own-share-rules-dropped", off::OWN_SHARE_RULE | off::VALUE_RULE),
    sound("value-rule-dropped", off::VALUE_RULE),
    sound("own-share-rule-dropped", off::OWN_SHARE_RULE),
    Law { name: "shares-combine", off: 0, explore: search::<SharesCombine> },
    Law { name: "threshold-f-plus-1", off: 0, explore: search::<FewShares> },
    sound("flush-after-send", off::FLUSH_BEFORE_SEND),
    sound("share-before-certificate", off::LOCK_BEFORE_SHARE),
    sound("prepare-not-persisted", off::PREPARED_PERSISTS),
    sound("epoch-not-persisted", off::EPOCH_PERSISTS),
    sound("lock-not-persisted", off::LOCK_PERSISTS),
    sound("lock-flushed-after-share", off::LOCK_FLUSHED_FIRST),
    sound("lock-falls", off::LOCK_NEVER_FALLS),
    sound("share-after-grant", off::EPOCH_ENDS_SHARES),
    sound("grant-reads-lock-early", off::GRANT_READS_LOCK_LAST),
    sound("grant-hides-lock", off::GRANT_SHOWS_LOCK),
    sound("not-the-highest-lock", off::HIGHEST_LOCK_DECIDES),
    sound("adopted-lock-frees", off::ADOPTED_LOCK_FREES_NOT | off::VALUE_RULE),
    sound("prepare-without-epoch", off::PREPARE_BINDS_EPOCH),
    sound("grant-quorum-f-plus-1", off::GRANTS_OPEN_BY_QUORUM),
    sound("two-votes-per-height", off::ONE_VOTE_PER_HEIGHT),
];

/// Explores the rules of this name; `unmasked` drops the own-share rule too, which hides several mutants from I1.
///
/// # Errors
/// When there are none, or the explorer itself is at fault.
pub fn explore(name: &str, unmasked: bool, bounds: Bounds) -> Result<Report> {
    let law =
        ALL.iter().find(|law| law.name == name).with_context(|| format!("no rules are called {name}"))?;
    OFF.set(law.off | if unmasked { off::OWN_SHARE_RULE } else { 0 });
    (law.explore)(bounds)
}
