//! Words of others in words of ours: what came from outside is quoted in errors and logs at a fixed length at most, in one
//! line, with nothing in it that a terminal would obey.

use std::borrow::Cow;

use crate::limits::QUOTE_BYTES;

/// The text, or its beginning and how long it is if it is longer than [`QUOTE_BYTES`]. Control characters become spaces.
pub fn quote(text: &str) -> Cow<'_, str> {
    let short = text.get(..text.floor_char_boundary(QUOTE_BYTES)).unwrap_or_default();
    let plain = |shown: &str| shown.replace(char::is_control, " ");
    match (short.len() == text.len(), short.contains(char::is_control)) {
        (true, false) => Cow::Borrowed(text),
        (true, true) => Cow::Owned(plain(short)),
        (false, _) => Cow::Owned(format!("{}... ({} bytes)", plain(short), text.len())),
    }
}

/// [`quote`] of what something says about itself: for errors of libraries, which may repeat what they were given.
pub fn quoted(value: impl std::fmt::Display) -> String {
    quote(&value.to_string()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!(quote("short"), "short");
        let fits = "x".repeat(QUOTE_BYTES);
        assert_eq!(quote(&fits), fits);
        assert_eq!(quote("two\nlines\u{1b}[31m"), "two lines [31m");
        assert!(!quote(&"\n".repeat(1_000)).contains('\n'));
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "\u{1f98a}".repeat(1_000_000));
            let cut = quote(&long);
            assert!(cut.len() <= QUOTE_BYTES + 32, "{}", cut.len());
            assert!(cut.starts_with(long.get(..shift + 4).unwrap()));
            assert!(cut.ends_with(&format!("({} bytes)", long.len())), "{cut}");
            assert_eq!(quoted(&long), cut);
        }
    }
}
