//! Protobuf's wire form, looked at before it is decoded.
//!
//! A decoder makes a value for every element that it meets: an empty nested message takes two bytes on the wire and a hundred
//! in memory, before anybody could count it. [`Shape::check`] counts first, without making anything, so that what a decoder
//! may need is bounded whatever comes in. The shapes are made from the `.proto` files at build time (`proto/shapes.rs`).
//!
//! Promises: one pass over the bytes and no allocation; refuses whatever the decoder would refuse half-way through, or counts
//! all that it would make. Refuses: groups, which no message of ours has.

/// What bytes of a field hold, if not just bytes.
#[derive(Debug)]
pub enum Part {
    /// A message of its own.
    Message(&'static Shape),
    /// Numbers, one after the other: each byte may be one.
    Packed,
}

/// Where a message has others inside: fields by number.
#[derive(Debug)]
pub struct Shape(pub &'static [(u32, Part)]);

/// A message type whose [`Shape`] is known.
pub trait Shaped {
    /// It.
    const SHAPE: Shape;
}

/// Why bytes aren't to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not protobuf's wire form.
    #[error("not in protobuf's form at its field {at}")]
    Form {
        /// How many fields were read before.
        at: usize,
    },
    /// More fields than a message may have, all nested ones counted.
    #[error("a message of more than {most} fields")]
    Fields {
        /// The limit.
        most: usize,
    },
}

/// Deepest nesting that is looked into: more than any shape has.
const DEPTH: usize = 16;

impl Shape {
    /// How many fields the bytes hold, with those of nested messages and elements of packed numbers.
    ///
    /// # Errors
    /// [`Unfit`] if they are more than `most`, or in no form that could be decoded.
    pub fn check(&self, bytes: &[u8], most: usize) -> Result<usize, Unfit> {
        let mut count = 0;
        self.count(bytes, &mut count, most, DEPTH)?;
        Ok(count)
    }

    fn count(&self, bytes: &[u8], count: &mut usize, most: usize, depth: usize) -> Result<(), Unfit> {
        for field in Fields::of(bytes) {
            let field = field.ok_or(Unfit::Form { at: *count })?;
            *count += 1;
            let part = self.0.iter().find(|(number, _)| *number == field.number).map(|(_, part)| part);
            match (part, field.value) {
                (Some(Part::Message(shape)), Value::Bytes(inside)) => {
                    let depth = depth.checked_sub(1).ok_or(Unfit::Form { at: *count })?;
                    shape.count(inside, count, most, depth)?;
                }
                (Some(Part::Packed), Value::Bytes(inside)) => *count += inside.len(),
                _ => {}
            }
            if *count > most {
                return Err(Unfit::Fields { most });
            }
        }
        Ok(())
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Bytes, text, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// A number of four or eight bytes.
    Fixed,
}

/// A field of a message as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number.
    pub number: u32,
    /// What it holds.
    pub value: Value<'a>,
}

/// The fields of a message in their order; `None` inside, once, where the bytes are in no form that could be read.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Of these bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Fields { rest: Some(bytes) }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.filter(|rest| !rest.is_empty())?;
        let read = field(rest);
        self.rest = read.map(|(_, rest)| rest);
        Some(read.map(|(field, _)| field))
    }
}

fn field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let key = u32::try_from(key).ok()?;
    let number = key >> 3;
    if number == 0 {
        return None;
    }
    let (value, rest) = match key & 7 {
        0 => varint(rest).map(|(value, rest)| (Value::Varint(value), rest))?,
        1 => (Value::Fixed, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let (inside, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(inside), rest)
        }
        5 => (Value::Fixed, rest.get(4..)?),
        // Groups, and what never was.
        _ => return None,
    };
    Some((Field { number, value }, rest))
}

/// A number of variable length: at most ten bytes, of which the tenth holds one bit.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        if place == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `message Leaf {}`, `message Node { repeated Leaf leaves = 2; repeated uint32 numbers = 3; }`, `message Root { Node = 1 }`.
    const LEAF: Shape = Shape(&[]);
    const NODE: Shape = Shape(&[(2, Part::Message(&LEAF)), (3, Part::Packed)]);
    const ROOT: Shape = Shape(&[(1, Part::Message(&NODE))]);

    fn bytes(number: u8, inside: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inside.len();
        while length > 0x7f {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inside);
        out
    }

    #[test]
    fn what_is_nested_counts_and_bytes_do_not() {
        let leaves: Vec<u8> = std::iter::repeat_n(bytes(2, &[]), 1_000).flatten().collect();
        assert_eq!(NODE.check(&leaves, 5_000), Ok(1_000));
        assert_eq!(ROOT.check(&bytes(1, &leaves), 5_000), Ok(1_001));
        assert_eq!(ROOT.check(&bytes(1, &leaves), 1_000), Err(Unfit::Fields { most: 1_000 }));
        // The same bytes in a field that is nothing but bytes.
        assert_eq!(ROOT.check(&bytes(4, &leaves), 1), Ok(1));
        // Twice the same field is merged by a decoder, and counted twice.
        let twice = [bytes(1, &leaves), bytes(1, &leaves)].concat();
        assert_eq!(ROOT.check(&twice, 5_000), Ok(2_002));
        assert_eq!(NODE.check(&bytes(3, &[1; 500]), 5_000), Ok(501));
        assert_eq!(NODE.check(&bytes(3, &[1; 500]), 100), Err(Unfit::Fields { most: 100 }));
        assert_eq!(ROOT.check(&[], 0), Ok(0));
    }

    #[test]
    fn what_no_decoder_reads_is_refused() {
        let refused = [
            vec![0x00, 0x01],                                                       // field 0
            vec![0x0a],                                                             // no length
            vec![0x0a, 0x05, 1, 2],                                                 // bytes that end early
            vec![0x0b],                                                             // a group
            vec![0x0e],                                                             // wire type 6
            vec![0x08],                                                             // no number
            vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], // 65 bits
            vec![0x0d, 1, 2, 3],                                                    // three of four bytes
            [vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], vec![0; 9]].concat(),
        ];
        for bytes in refused {
            assert!(matches!(ROOT.check(&bytes, 100), Err(Unfit::Form { .. })), "{bytes:?}");
        }
        let fine = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(ROOT.check(&fine, 100), Ok(1));
        let mut fields = Fields::of(&fine);
        assert_eq!(fields.next(), Some(Some(Field { number: 2, value: Value::Varint(u64::MAX) })));
        assert_eq!(fields.next(), None);
        let mut fields = Fields::of(&[0x08, 0x01, 0x00]);
        assert!(fields.next().is_some_and(|field| field.is_some()));
        assert_eq!((fields.next(), fields.next()), (Some(None), None));
    }
}
