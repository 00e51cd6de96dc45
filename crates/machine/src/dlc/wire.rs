//! The encoding of dlcspecs (Messaging.md, "Fundamental types"): BigSize numbers, strings, TLVs.
//!
//! Promises: reads within the bytes it is given, allocates no more than [`limits`] say, and accepts one spelling of each
//! number. Refuses whatever is left over.

use super::Fault;
use crate::limits;

/// What is left to read.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Fault::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.bytes(N)?.try_into().map_err(|_| Fault::Malformed("it ends too early"))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Fault> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Fault> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Fault::Malformed("a flag is 0 or 1")),
        }
    }

    /// A number in the fewest bytes that hold it.
    pub(super) fn bigsize(&mut self) -> Result<u64, Fault> {
        let [first] = self.array()?;
        let (value, least) = match first {
            0xfd => (u64::from(self.u16()?), 0xfd),
            0xfe => (u64::from(self.u32()?), 0x1_0000),
            0xff => (u64::from_be_bytes(self.array()?), 0x1_0000_0000),
            small => (u64::from(small), 0),
        };
        if value < least {
            return Err(Fault::Malformed("a number takes more bytes than it needs"));
        }
        Ok(value)
    }

    /// A string: its length, then UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str, Fault> {
        let len = usize::try_from(self.bigsize()?).unwrap_or(usize::MAX);
        if len > limits::DLC_STRING_BYTES {
            return Err(Fault::Malformed("a string is too long"));
        }
        std::str::from_utf8(self.bytes(len)?).map_err(|_| Fault::Malformed("a string isn't UTF-8"))
    }

    /// So many strings and then the end.
    pub(super) fn strings(mut self, count: usize) -> Result<Vec<String>, Fault> {
        let mut strings = Vec::new();
        for _ in 0..count {
            strings.push(self.string()?.to_owned());
        }
        self.end()?;
        Ok(strings)
    }

    /// A record of any type: its type and what is in it.
    pub(super) fn tlv(&mut self) -> Result<(u64, Reader<'a>), Fault> {
        let kind = self.bigsize()?;
        let len = usize::try_from(self.bigsize()?).unwrap_or(usize::MAX);
        Ok((kind, Reader(self.bytes(len)?)))
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::Malformed("something follows its end")) }
    }
}

/// What is in a message that may stand as a TLV of its type or by itself: some oracles leave the TLV's head away. Nothing
/// that stands by itself begins with such a head and exactly the length that follows, unless somebody works for it; then the
/// signatures are wrong.
pub(super) fn body(bytes: &[u8], kind: u64) -> Reader<'_> {
    let mut whole = Reader::new(bytes);
    match whole.tlv() {
        Ok((found, inner)) if found == kind && whole.end().is_ok() => inner,
        _ => Reader::new(bytes),
    }
}
