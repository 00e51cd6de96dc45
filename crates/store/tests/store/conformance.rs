//! The conformance functions, for each engine and for each engine under a prefix.

use crate::engines::{RedbDisk, SledDisk};
use concordat_store::conformance::{self, MemoryDisk, PrefixedDisk};

/// A prefix whose end isn't found by adding one to its last byte.
fn prefixed<D>(below: D) -> PrefixedDisk<D> {
    PrefixedDisk { below, prefix: vec![1, 0xff] }
}

macro_rules! conform {
    ($($engine:ident: $disk:expr;)*) => {
        $(conform!(@ $engine, $disk, [
            reads_what_was_written,
            overwrites_and_deletes,
            a_batch_has_an_order,
            deletes_ranges,
            scans_within_bounds,
            scans_prefixes,
            batches_are_seen_whole,
            keeps_what_was_flushed,
            flushes_from_many_threads,
        ]);)*
    };
    (@ $engine:ident, $disk:expr, [$($check:ident,)*]) => {
        mod $engine {
            use super::*;
            $(#[test]
            fn $check() {
                conformance::$check($disk);
            })*
        }
    };
}

conform! {
    memory: MemoryDisk::default();
    redb: RedbDisk::default();
    sled: SledDisk::default();
    prefixed_memory: prefixed(MemoryDisk::default());
    prefixed_redb: prefixed(RedbDisk::default());
    prefixed_sled: prefixed(SledDisk::default());
}
