//! What a custodian reads back from its disk, which may be damaged. Input: a byte (1: mend; the rest: which of it), then
//! the bytes that lie there.

use concordat_finality::Record;
use concordat_finality::record::{self, RECORD};
use concordat_finality::wire;
use concordat_store::memory::MemoryStore;
use concordat_store::{Store, StoreError, WriteBatch};
use prost::Message;

use super::world::world;
use super::{bounded, mend};

pub fn run(data: &[u8]) -> bool {
    let Some((flags, bytes)) = data.split_first() else { return false };
    let mended = flags & 1 == 1;
    let context = &world().context;
    let store = MemoryStore::default();
    let put = |key: &[u8], value: Vec<u8>| {
        let mut batch = WriteBatch::new();
        batch.put(key, value);
        store.apply(batch).unwrap();
    };
    match flags >> 1 & 7 {
        0 | 1 => {
            put(RECORD, bytes.to_vec());
            let glance = record::glance(Some(bytes));
            accepted(Record::load(&store, context)).flatten().is_some_and(|read| {
                let glance = glance.unwrap();
                assert_eq!(
                    (glance.seq, glance.epoch, glance.prepared),
                    (read.seq, read.epoch, read.prepared)
                );
                assert_eq!(glance.lock, read.lock.as_ref().map(|lock| lock.vote));
                let mut batch = WriteBatch::new();
                read.save(&mut batch);
                store.apply(batch).unwrap();
                let again = Record::load(&store, context).unwrap().unwrap();
                assert_eq!(format!("{again:?}"), format!("{read:?}"), "a record changes by being written");
                true
            })
        }
        2 | 3 => {
            let bytes = match wire::CertifiedHead::decode(bytes) {
                Ok(mut head) if mended => {
                    mend::certified_head(&mut head);
                    head.encode_to_vec()
                }
                _ => bytes.to_vec(),
            };
            put(&record::height_key(3), bytes);
            let published = accepted(record::published(&store, context, 3)).flatten();
            let hashes = accepted(record::batches_of(&store, 3)).flatten();
            let last = accepted(record::last_head(&store, context)).flatten();
            let head = accepted(record::get_head(&store, context, 3)).flatten();
            assert_eq!(format!("{last:?}"), format!("{head:?}"));
            if let Some(published) = &published {
                assert!(published.events.iter().all(|event| event.author() == context.group()));
                assert!(head.is_some() && hashes.is_some());
            }
            head.is_some()
        }
        4 => {
            let bytes = if mended { mend::stored_batch(bytes) } else { bytes.to_vec() };
            let hash = concordat_events::Hash::ZERO;
            put(&[&b"f/b/"[..], hash.as_bytes()].concat(), bytes);
            accepted(record::get_batch(&store, context, &hash)).flatten().is_some_and(|batch| {
                let mut writes = WriteBatch::new();
                record::put_batch(&mut writes, &batch);
                store.apply(writes).unwrap();
                assert_eq!(record::get_batch(&store, context, &batch.hash()).unwrap(), Some(batch));
                true
            })
        }
        5 => {
            put(b"f/c/1", bytes.to_vec());
            accepted(record::claims(&store)).is_some()
        }
        _ => {
            let bytes = match wire::Evidence::decode(bytes) {
                Ok(mut evidence) if mended => {
                    mend::evidence(&mut evidence);
                    evidence.encode_to_vec()
                }
                _ => bytes.to_vec(),
            };
            put(b"f/e/1", bytes);
            let Some(all) = accepted(record::evidence(&store, context)) else { return false };
            for (culprit, evidence) in &all {
                assert_eq!(*culprit, evidence.finding.culprit);
                let exported = evidence.export();
                let finding = concordat_finality::evidence::check(context, &exported);
                assert_eq!(finding.as_ref(), Ok(&evidence.finding), "evidence that convinces nobody else");
            }
            !all.is_empty()
        }
    }
}

fn accepted<T>(read: Result<T, StoreError>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            bounded(&error);
            None
        }
    }
}
