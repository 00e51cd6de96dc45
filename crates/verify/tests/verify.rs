//! The reader against a small history signed with a test key, whole and tampered with in every way; and the corpus of the
//! fuzz targets, replayed.

// `cfg(test)` is what tells clippy that helpers here may unwrap.
#[cfg(test)]
mod verify {
    #[path = "../../../ledger/tests/ledger/world.rs"]
    pub mod world;

    #[path = "../../../../tests/fuzz/src/lib.rs"]
    mod fuzz;

    mod corpus;
    mod proofs;
    mod registry;
    mod tampered;
    mod whole;
}
