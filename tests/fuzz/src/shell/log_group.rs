//! Messages of an epoch's log group, requests and replies, and its entries as they are stored. Input: a byte (which), then
//! the bytes of a message.

use bytes::Bytes;
use concordat_node::limits::{MAX_APPEND_ENTRIES, MAX_MEMBERS, MAX_WRAPPER_BYTES};
use concordat_node::order::epoch_of;
use concordat_node::order::wire::{Append, AppendReply, Ask, AskReply, Content, Item, Malformed};

use super::bounded;

pub fn run(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    let bytes = Bytes::copy_from_slice(bytes);
    match which % 5 {
        0 => {
            let read = same(&bytes, Append::parse, Append::encode);
            if let Some(append) = &read {
                assert_eq!(epoch_of(&bytes), Ok(append.epoch), "another epoch than the group's");
                assert!(append.items.len() <= MAX_APPEND_ENTRIES);
                append.items.iter().for_each(small);
            }
            read.is_some()
        }
        1 => {
            let read = same(&bytes, Ask::parse, Ask::encode);
            if let Some(ask) = &read {
                assert_eq!(epoch_of(&bytes), Ok(ask.epoch), "another epoch than the group's");
            }
            read.is_some()
        }
        2 => same(&bytes, AppendReply::parse, AppendReply::encode).is_some(),
        3 => same(&bytes, AskReply::parse, AskReply::encode).is_some(),
        _ => {
            let read = same(&bytes, Item::parse, |item| Bytes::from(item.encode()));
            if let Some(item) = &read {
                small(item);
            }
            read.is_some()
        }
    }
}

fn small(item: &Item) {
    match &item.content {
        Content::Blank => {}
        Content::Wrapper(bytes) => assert!(bytes.len() <= MAX_WRAPPER_BYTES),
        Content::Members(members) => assert!(members.len() <= MAX_MEMBERS),
    }
}

/// What is read is written and read again as the same.
fn same<T: Clone + PartialEq + std::fmt::Debug>(
    bytes: &Bytes,
    parse: impl Fn(Bytes) -> Result<T, Malformed>,
    encode: impl Fn(T) -> Bytes,
) -> Option<T> {
    let first = parse(bytes.clone());
    assert_eq!(first, parse(bytes.clone()), "the same bytes, another answer");
    match first {
        Ok(value) => {
            assert_eq!(parse(encode(value.clone())).as_ref(), Ok(&value));
            Some(value)
        }
        Err(error) => {
            bounded(&error);
            None
        }
    }
}
