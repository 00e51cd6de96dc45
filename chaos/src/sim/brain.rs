//! A decider under any rules, as one type: the law's, a mutant's.

use std::sync::Arc;

use concordat_events::Hash;
use concordat_finality::mutants::{Breaks, Mutant, off};
use concordat_finality::scheme::Frost;
use concordat_finality::{
    Action, Certified, Context, Decider, Fatal, Input, Law, Now, Parts, Published, Rules, Status, each_mutant,
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

/// Rules that custodians may run under.
#[derive(Clone, Copy, Debug)]
pub struct Mind {
    /// Their name.
    pub name: &'static str,
    /// What they break; nothing, if they are the law.
    pub breaks: Option<Breaks>,
    /// Opens a decider on a disk.
    pub open: fn(Kit) -> Result<Box<dyn Brain>, Fatal>,
    /// How messages are read under them.
    pub context: fn(&Context) -> Context,
}

fn open<R: Rules<Scheme = Frost>>(kit: Kit) -> Result<Box<dyn Brain>, Fatal> {
    Ok(Box::new(Decider::<MemoryStore, R>::open(kit)?))
}

fn context<R: Rules<Scheme = Frost>>(context: &Context) -> Context {
    context.under::<R>()
}

/// The rules as they are.
pub const LAW: Mind = Mind { name: "law", breaks: None, open: open::<Law>, context: context::<Law> };

macro_rules! minds {
    ($($name:literal breaks $breaks:ident without [$($switch:ident),+];)+) => {
        /// The mutants of PROTOCOL 12 that can be simulated.
        pub const MUTANTS: &[Mind] = &[$(Mind {
            name: $name,
            breaks: Some(Breaks::$breaks),
            open: open::<Mutant<{ $(off::$switch)|+ }>>,
            context: context::<Mutant<{ $(off::$switch)|+ }>>,
        }),+];
    };
}
each_mutant!(minds);

/// The rules of a name.
pub fn mind(name: &str) -> Option<Mind> {
    std::iter::once(&LAW).chain(MUTANTS).find(|mind| mind.name == name).copied()
}
