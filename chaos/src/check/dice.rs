//! Randomness that is a function of where a custodian stands: two histories that lead to the same state draw the same nonces,
//! and no two votes draw the same one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concordat_events::hash::{Hash, tagged};
use rand_core::{CryptoRng, Error, RngCore};

/// One custodian's randomness, shared between it and the explorer.
#[derive(Clone, Default)]
pub struct Dice(Arc<Mutex<Thrown>>);

#[derive(Clone, Default)]
struct Thrown {
    seed: Hash,
    draws: u64,
}

impl Dice {
    /// A copy that goes its own way.
    pub fn fork(&self) -> Self {
        Dice(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// Says where the custodian stands: its number, its run, its epoch, the height it votes on.
    pub fn aim(&self, me: u16, run: u32, epoch: u64, height: u64) {
        let parts = [u64::from(me), u64::from(run), epoch, height].map(u64::to_be_bytes);
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
        let seed = tagged("chaos/dice", &parts);
        let mut thrown = self.lock();
        if thrown.seed != seed {
            *thrown = Thrown { seed, draws: 0 };
        }
    }

    /// How often it was drawn where the custodian stands now.
    pub fn draws(&self) -> u64 {
        self.lock().draws
    }

    fn lock(&self) -> MutexGuard<'_, Thrown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        let mut thrown = self.lock();
        for (place, chunk) in dest.chunks_mut(32).enumerate() {
            let block = tagged(
                "chaos/throw",
                &[thrown.seed.as_bytes(), &thrown.draws.to_be_bytes(), &(place as u64).to_be_bytes()],
            );
            let bytes = block.as_bytes();
            chunk.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        }
        thrown.draws += 1;
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Dice {}
