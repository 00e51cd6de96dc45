//! Seeds by hand: a message of every kind that the shell's decoders read.

use std::collections::BTreeSet;

use bytes::Bytes;
use concordat_node::ceremony::{Bundle, Card, Proposal};
use concordat_node::keys::CustodianKeys;
use concordat_node::order::wire::{Append, AppendReply, Ask, AskReply, At, Content, Item, Vote};
use prost::Message as _;

/// A target's input by name.
pub struct Seed {
    pub target: &'static str,
    pub name: String,
    pub input: Vec<u8>,
}

/// All seeds.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target, name: &str, which: u8, bytes: &[u8]| {
        seeds.push(Seed { target, name: format!("seed-{name}"), input: [&[which][..], bytes].concat() });
    };
    let at = |index| At { term: 1, index };
    let vote = Vote { term: 1, node: 3, committed: true };
    let items = vec![
        Item { at: at(0), content: Content::Members(BTreeSet::from([1, 2, 3, 4])) },
        Item { at: at(1), content: Content::Blank },
        Item { at: at(2), content: Content::Wrapper(Bytes::from_static(b"wrapper")) },
    ];
    add("log_group", "item", 4, &items[2].clone().encode());
    add("log_group", "members", 4, &items[0].clone().encode());
    let append = Append { epoch: 7, vote, previous: Some(at(3)), items, committed: Some(at(2)) };
    add("log_group", "append", 0, &append.encode());
    let ask = Ask { epoch: 7, vote, last: Some(at(3)), transfer: true };
    add("log_group", "ask", 1, &ask.encode());
    let replies = [
        ("success", AppendReply::Success),
        ("partial", AppendReply::Partial(at(1))),
        ("conflict", AppendReply::Conflict),
        ("higher", AppendReply::HigherVote(vote)),
    ];
    for (name, reply) in replies {
        add("log_group", name, 2, &reply.encode());
    }
    add("log_group", "granted", 3, &AskReply { vote, granted: true, last: Some(at(9)) }.encode());

    let cards: Vec<Card> = (1..=4)
        .map(|number| {
            let (keys, certificate) = CustodianKeys::generate().unwrap();
            let name = format!("founder {number}");
            Card::make(&keys, &name, certificate.der(), &format!("127.0.0.1:{}", 7000 + number)).unwrap()
        })
        .collect();
    let text = cards[0].to_json().unwrap();
    add("card", "card", 0, text.as_bytes());
    add("card", "mended", 4, text.as_bytes());
    let relays = vec!["wss://relay.example".to_owned()];
    let proposal = Proposal::from_cards("four", "four founders", 1, &cards, relays, Default::default());
    add("card", "proposal", 1, proposal.unwrap().to_json().unwrap().as_bytes());
    let mut bundle = Bundle::default();
    (bundle.run, bundle.attempt) = (vec![1; 32], vec![2; 32]);
    (bundle.messages, bundle.genesis) = (vec![vec![3; 40], vec![4; 40]], "{}".into());
    add("card", "bundle", 6, &bundle.encode_to_vec());

    let keys = nostr::Keys::generate();
    let event = nostr::EventBuilder::new(nostr::Kind::from_u16(7501), "1").sign_with_keys(&keys).unwrap();
    let text = serde_json::to_string(&event).unwrap();
    let send = concordat_node::proto::client::SendRequest { event: text }.encode_to_vec();
    add("client", "send", 4, &send);
    add("client", "framed", 0, &[&[0][..], &(send.len() as u32).to_be_bytes(), &send].concat());
    let machine = "07".repeat(32);
    let get = concordat_node::proto::client::GetRequest { machine }.encode_to_vec();
    add("client", "get", 5, &get);
    add("client", "watch", 6, &get);
    add("client", "status", 7, &[]);
    seeds
}
