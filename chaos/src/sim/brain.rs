//! A decider under any rules, as one type: the law's, a mutant's.

use std::cell::Cell;
use std::sync::Arc;

use concordat_events::Hash;
use concordat_finality::mutants::ALL;
use concordat_finality::rules::Rule;
use concordat_finality::scheme::Frost;
use concordat_finality::{
    Action, Certified, Context, Decider, Fatal, Input, Law, Now, Parts, Published, Rules, Status,
};
use concordat_store::memory::MemoryStore;
use nostr::Filter;

/// The parts of a simulated custodian.
pub type Kit = Parts<Arc<MemoryStore>>;

/// See the module's header.
pub trait Brain: Send {
    /// See [`Decider::handle`].
    fn handle(&mut self, now: Now, input: Input, sink: &mut dyn FnMut(Action)) -> Result<(), Fatal>;
    /// See [`Decider::next_wake`].
    fn next_wake(&self) -> u64;
    /// See [`Decider::status`].
    fn status(&self) -> Status;
    /// See [`Decider::published`].
    fn published(&self, height: u64) -> Result<Option<Certified<Published>>, Fatal>;
    /// The machines that run, with their sources.
    fn machines(&self) -> Result<Vec<(Hash, Vec<Filter>)>, Fatal>;
}

impl<R: Rules> Brain for Decider<MemoryStore, R> {
    fn handle(&mut self, now: Now, input: Input, sink: &mut dyn FnMut(Action)) -> Result<(), Fatal> {
        Decider::handle(self, now, input, sink)
    }

    fn next_wake(&self) -> u64 {
        Decider::next_wake(self)
    }

    fn status(&self) -> Status {
        Decider::status(self)
    }

    fn published(&self, height: u64) -> Result<Option<Certified<Published>>, Fatal> {
        Decider::published(self, height)
    }

    fn machines(&self) -> Result<Vec<(Hash, Vec<Filter>)>, Fatal> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.ledger().machines(after.as_ref(), 256)?;
            let Some(last) = page.last() else { return Ok(all) };
            after = Some(last.id);
            for machine in page {
                all.push((machine.id, self.ledger().sources(&machine.id)?));
            }
        }
    }
}

thread_local! {
    /// The rules that the custodian whose turn it is doesn't keep.
    static OFF: Cell<u64> = const { Cell::new(0) };
}

/// Rules that are switched off while the program runs: one type for all mutants, so that the core is compiled once for them.
enum Switched {}

impl Rules for Switched {
    type Scheme = Frost;

    fn keeps(rule: Rule) -> bool {
        OFF.with(Cell::get) & rule.bit() == 0
    }
}

/// A decider that keeps some rules only.
struct Mutated {
    off: u64,
    decider: Decider<MemoryStore, Switched>,
}

fn without<T>(off: u64, act: impl FnOnce() -> T) -> T {
    let before = OFF.with(|held| held.replace(off));
    let result = act();
    OFF.with(|held| held.set(before));
    result
}

impl Brain for Mutated {
    fn handle(&mut self, now: Now, input: Input, sink: &mut dyn FnMut(Action)) -> Result<(), Fatal> {
        without(self.off, || self.decider.handle(now, input, sink))
    }

    fn next_wake(&self) -> u64 {
        without(self.off, || self.decider.next_wake())
    }

    fn status(&self) -> Status {
        without(self.off, || self.decider.status())
    }

    fn published(&self, height: u64) -> Result<Option<Certified<Published>>, Fatal> {
        without(self.off, || self.decider.published(height))
    }

    fn machines(&self) -> Result<Vec<(Hash, Vec<Filter>)>, Fatal> {
        Brain::machines(&self.decider)
    }
}

/// Rules that custodians may run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mind {
    /// Their name.
    pub name: &'static str,
    /// The bits of the rules that aren't kept; none under the law.
    pub off: u64,
}

impl Mind {
    /// Opens a decider on a disk.
    ///
    /// # Errors
    /// See [`Decider::open`].
    pub fn open(self, kit: Kit) -> Result<Box<dyn Brain>, Fatal> {
        let off = self.off;
        Ok(match off {
            0 => Box::new(Decider::<MemoryStore, Law>::open(kit)?),
            _ => Box::new(Mutated { off, decider: without(off, || Decider::open(kit))? }),
        })
    }

    /// How messages are read under these rules.
    pub fn context(self, context: &Context) -> Context {
        without(self.off, || context.under::<Switched>())
    }

    /// These rules without some more.
    pub fn without(self, off: u64) -> Self {
        Mind { off: self.off | off, ..self }
    }
}

/// The rules as they are.
pub const LAW: Mind = Mind { name: "law", off: 0 };

/// The rules of a name: the law, a mutant of PROTOCOL 12, or several mutants joined by `+` in one.
pub fn mind(name: &str) -> Option<Mind> {
    name.split('+').try_fold(None, |joined: Option<Mind>, name| {
        let mutant = ALL.iter().find(|mutant| mutant.name == name);
        let one = mutant.map(|mutant| Mind { name: mutant.name, off: mutant.off });
        let one = one.or_else(|| (name == LAW.name).then_some(LAW))?;
        Some(Some(joined.map_or(one, |joined| joined.without(one.off))))
    })?
}

/// The rules under which a mutant's run must break nothing: the law, or what else is switched off beside the mutant because
/// it would mask it.
pub fn control_of(name: &str) -> Mind {
    name.split_once('+').and_then(|(_, beside)| mind(beside)).unwrap_or(LAW)
}
