//! [`Certified`]: the only thing that may be published, acknowledged or have effects.

use std::ops::Deref;

use concordat_events::ValidEvent;
use concordat_events::head::Head;

/// A value that the group's signature covers. Only this crate makes one, and only from a verified certificate.
///
/// Anybody may read one:
/// ```
/// fn read(certified: concordat_finality::Certified<u8>) -> u8 {
///     certified.into_inner()
/// }
/// ```
/// Nobody else makes one, neither whole, nor by its field, nor by the function that this crate uses:
/// ```compile_fail,E0423
/// let forged = concordat_finality::Certified(7);
/// ```
/// ```compile_fail,E0451
/// let forged = concordat_finality::Certified { value: 7 };
/// ```
/// ```compile_fail,E0624
/// let forged = concordat_finality::Certified::new(7);
/// ```
#[derive(Clone, Debug)]
pub struct Certified<T> {
    value: T,
}

impl<T> Certified<T> {
    pub(crate) fn new(value: T) -> Self {
        Certified { value }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Certified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A head with everything that it lets out.
#[derive(Clone, Debug)]
pub struct Published {
    /// The head.
    pub head: Head,
    /// All its events, signed by the group: the log event first.
    pub events: Vec<ValidEvent>,
    /// Its requests in order, which a replay needs.
    pub requests: Vec<ValidEvent>,
}

impl Published {
    /// The head's log event.
    pub fn log(&self) -> Option<&ValidEvent> {
        self.events.first()
    }
}
