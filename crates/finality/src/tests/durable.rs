//! What PROTOCOL 7 demands of every action, checked at the moment at which it leaves.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use concordat_store::Store;
use concordat_store::memory::MemoryStore;

use crate::message::Body;
use crate::record::glance;
use crate::{Action, Context};

/// A store, its operations so far, and what would be left of it.
type Seen = (Weak<MemoryStore>, u64, Arc<MemoryStore>);

/// What would be left of this store if the power went now. Kept until the store is used again.
fn durable(store: &Arc<MemoryStore>) -> Arc<MemoryStore> {
    thread_local! {
        static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
    }
    let (of, ops) = (Arc::downgrade(store), store.ops());
    LAST.with_borrow_mut(|last| match last {
        Some((known, at, image)) if known.ptr_eq(&of) && *at == ops => image.clone(),
        _ => {
            let image = Arc::new(MemoryStore::restore(store.snapshot()));
            *last = Some((of, ops, image.clone()));
            image
        }
    })
}

fn holds(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    condition.then_some(()).ok_or(otherwise)
}

/// PROTOCOL 7: what an action promises stands in the durable image at the moment it leaves. An error says what doesn't.
pub fn check_durable(
    store: &Arc<MemoryStore>,
    context: &Context,
    me: u16,
    action: &Action,
) -> Result<(), &'static str> {
    let durable = durable(store);
    let stored = Store::get(&durable, crate::record::RECORD).unwrap();
    let record = glance(stored.as_deref()).unwrap_or_default();
    match action {
        Action::Send { message, .. } if message.sender == me => match &message.body {
            Body::Prepare(prepare) => {
                let newer = record.prepared.is_some_and(|p| {
                    p == prepare.vote || (p.epoch, p.height) > (prepare.vote.epoch, prepare.vote.height)
                });
                holds(newer, "PROTOCOL 7: a prepare left before it was durable")?;
            }
            Body::Share(share) => {
                let shared = record.shared.is_some_and(|vote| {
                    vote == share.vote || vote.height > share.vote.height || vote.epoch > share.vote.epoch
                });
                holds(shared, "PROTOCOL 7: a share left before `shared` was durable")?;
                let certified = concordat_ledger::Ledger::open(durable.clone(), context.genesis.clone())
                    .unwrap()
                    .tip()
                    .is_some_and(|tip| tip.height >= share.vote.height);
                let locked = record
                    .lock
                    .is_some_and(|lock| lock.height == share.vote.height && lock.epoch >= share.vote.epoch);
                holds(certified || locked, "I4: a share left without a durable lock")?;
            }
            Body::Grant(grant) => {
                holds(record.epoch >= grant.epoch, "PROTOCOL 7: a grant left before its epoch was durable")?;
            }
            Body::Propose(_) => {
                let stored = Store::get(&durable, b"f/proposal").unwrap();
                let kept = stored.is_some() && record.seq >= message.seq;
                holds(kept, "PROTOCOL 7: a proposal left before it was durable")?;
            }
            _ => {}
        },
        Action::Append { entry, .. } => {
            let stored = Store::get(&durable, b"f/entry").unwrap();
            holds(
                stored.is_some() && record.seq >= entry.seq,
                "PROTOCOL 7: a batch was replicated before it was durable",
            )?;
        }
        Action::Certified(head) => {
            let ledger = concordat_ledger::Ledger::open(durable.clone(), context.genesis.clone()).unwrap();
            let tip = ledger.tip().map(|tip| tip.height);
            holds(
                tip.is_some_and(|tip| tip >= head.head.height),
                "PROTOCOL 7: a head was published before certificate and state were durable",
            )?;
        }
        _ => {}
    }
    if let Action::Send { message, .. } = action
        && message.sender == me
    {
        holds(record.seq >= message.seq, "PROTOCOL 7: a message left before its seq was durable")?;
    }
    Ok(())
}
