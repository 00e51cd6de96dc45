//! Messages of a key ceremony, which come before there is a cluster. Input: a message's bytes.

use concordat_threshold::dkg::Message;

use super::bounded;

pub fn run(data: &[u8]) -> bool {
    match Message::decode(data) {
        Ok(message) => {
            assert_eq!(message.encode().as_slice(), data, "a second encoding was accepted");
            let debug = format!("{message:?}");
            assert!(debug.len() < 200, "a message prints more than its kind");
            true
        }
        Err(error) => {
            bounded(&error);
            false
        }
    }
}
