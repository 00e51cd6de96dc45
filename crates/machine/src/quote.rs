//! Words of a definition in words of ours: what came from outside stands in faults and rejections at a fixed length at most.

use crate::limits::QUOTE_BYTES;

/// The text in quotation marks, or its beginning and how long it is if it is longer than [`QUOTE_BYTES`].
pub(crate) fn quote(text: &str) -> String {
    match text.get(..text.floor_char_boundary(QUOTE_BYTES)) {
        Some(short) if short.len() < text.len() => format!("{short:?}... ({} bytes)", text.len()),
        _ => format!("{text:?}"),
    }
}

/// The text, cut after `most` bytes: the last resort for what a library says.
pub(crate) fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let short = text.get(..text.floor_char_boundary(most)).unwrap_or_default();
    format!("{short}... ({} bytes)", text.len())
}
