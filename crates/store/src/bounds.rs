//! Ranges that hold nothing, which some maps answer with a panic.

use std::ops::Bound;

/// True if no key can lie between `from` and `to`.
///
/// `BTreeMap::range` panics on such a range and engines differ, so every engine asks here first.
pub(crate) fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, Bound::Unbounded | Bound::Included(_)) | (_, Bound::Unbounded) => false,
        // The empty key is the smallest.
        (Bound::Unbounded, Bound::Excluded(to)) => to.is_empty(),
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to))
        | (Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
    }
}

/// The same for the half-open range of a [`crate::Op::DeleteRange`].
pub(crate) fn is_empty_span(from: &[u8], to: &[u8]) -> bool {
    is_empty(Bound::Included(from), Bound::Excluded(to))
}
