//! The reader against a small history signed with a test key, whole and tampered with in every way.

// `cfg(test)` is what tells clippy that helpers here may unwrap.
#[cfg(test)]
mod verify {
    #[path = "../../../ledger/tests/ledger/world.rs"]
    pub mod world;

    mod proofs;
    mod tampered;
    mod whole;
}
