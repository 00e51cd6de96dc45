//! The ledger as a custodian uses it: heads executed, signed with a test key, installed and written.

// `cfg(test)` is what tells clippy that helpers here may unwrap.
#[cfg(test)]
mod ledger {
    #[path = "../../../machine/tests/machine/dlc_oracle.rs"]
    mod dlc_oracle;
    pub mod world;

    mod admission;
    mod charter;
    mod effects;
    mod heads;
    mod inputs;
    mod mail;
    mod oracles;
    mod records;
    mod registry;
    mod services;
    mod snapshots;
    mod starts;
    mod sync;
    mod timers;
}
