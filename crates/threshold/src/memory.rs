//! What a computation with secrets leaves behind.
//!
//! Types that hold a secret wipe it when they are dropped, and hold it on the heap,
//! so that moving them copies a pointer. What no type can wipe are the copies on the
//! stack that arithmetic makes (scalars are `Copy`, in every library): they stay
//! until something else is called that deep. So each computation here runs in a frame
//! of its own, below which the stack is overwritten when it has returned.

use std::ops::Deref;

use zeroize::Zeroize;

/// A secret of the library, on the heap and surely wiped when dropped. The library
/// wipes nonces and scalars with ordinary stores, which the compiler drops because
/// nobody reads them before the memory is freed: they were found there.
pub(crate) struct Wiped<T: Zeroize>(Box<T>);

impl<T: Zeroize> Wiped<T> {
    pub(crate) fn new(secret: T) -> Self {
        Self(Box::new(secret))
    }
}

impl<T: Zeroize> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0.zeroize();
        std::hint::black_box(&mut self.0);
    }
}

/// Bytes overwritten: more than any computation here needs. The deepest are tables of
/// multiples of a point, about 20 kB unoptimised; a thread's stack has 2 MiB.
const DEPTH: usize = 128 * 1024;

/// Runs `work`, then overwrites the stack that it used. What it returns must hold its
/// secrets on the heap.
pub(crate) fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    let result = below(work);
    overwrite();
    result
}

#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut stack = [0_u8; DEPTH];
    // Who looks at it may not be optimised away.
    std::hint::black_box(&mut stack);
}
