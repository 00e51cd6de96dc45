//! The guard's rules as pure functions, each with what it lets through and what it refuses; and the bytes of its
//! messages, pinned.

use proptest::prelude::*;

use super::guard::{Held, Identity, Refusals, SentAppend, Tip, ask_reply, first_entry, walk};
use super::wire::{Append, AppendReply, Ask, AskReply, At, Content, Item, Vote};
use super::*;
use crate::limits;

const ME: Identity = Identity { epoch: 4, me: 2, leader: 1 };

/// A log as a list of entries.
struct Items(Vec<Item>);

impl Held for Items {
    fn item(&self, index: u64) -> Result<Option<Item>, Reason> {
        Ok(self.0.get(index as usize).cloned())
    }

    fn position(&self, index: u64) -> u64 {
        self.0.iter().take(index as usize).filter(|item| matches!(item.content, Content::Wrapper(_))).count()
            as u64
    }
}

fn at(term: u64, index: u64) -> At {
    At { term, index }
}

/// Members, a blank of term 1, then `batches` of the chain.
fn log(batches: &[Bytes]) -> Vec<Item> {
    let mut items =
        vec![first_entry(&BTreeSet::from([1, 2, 3])), Item { at: at(1, 1), content: Content::Blank }];
    for (bytes, index) in batches.iter().zip(2..) {
        items.push(Item { at: at(1, index), content: Content::Wrapper(bytes.clone()) });
    }
    items
}

fn append(previous: Option<At>, items: Vec<Item>, committed: Option<At>) -> Append {
    Append { epoch: 4, vote: Vote { term: 1, node: 1, committed: true }, previous, items, committed }
}

fn judge(held: &[Item], append: &Append) -> Result<Tip, Reason> {
    let check = Chained::default();
    let tip = walk(Tip::default(), 4, held, &check).unwrap();
    ME.append(1, append)?;
    ME.append_to(append, tip, 0, &check, &Items(held.to_vec()))
}

#[test]
fn an_honest_log_passes_in_any_cut_and_any_repetition() {
    let chain = chain(4, 8);
    let full = log(&chain);
    let end = walk(Tip::default(), 4, &full, &Chained::default()).unwrap();
    for held in 1..=full.len() {
        for from in 1..=held {
            for to in from..=full.len() {
                let request =
                    append(Some(full[from - 1].at), full[from..to].to_vec(), Some(full[held - 1].at));
                let tip = judge(&full[..held], &request).unwrap();
                let expected = walk(Tip::default(), 4, &full[..to.max(held)], &Chained::default()).unwrap();
                assert_eq!(tip, expected, "{held} {from} {to}");
                if to == full.len() {
                    assert_eq!(tip, end);
                }
                // A leader commits what the others acknowledged, sent or not.
                for committed in &full {
                    let request =
                        append(Some(full[from - 1].at), full[from..to].to_vec(), Some(committed.at));
                    let claimed = Some(committed.at).filter(|at| at.index as usize >= to.max(held));
                    assert_eq!(judge(&full[..held], &request), Ok(Tip { claimed, ..expected }));
                }
            }
        }
    }
    // From the very beginning, the first entry included, and one that finds no place.
    assert_eq!(judge(&full[..1], &append(None, full.clone(), None)), Ok(end));
    let early = walk(Tip::default(), 4, &full[..2], &Chained::default()).unwrap();
    assert_eq!(judge(&full[..2], &append(Some(full[4].at), full[5..].to_vec(), None)), Ok(early));
}

proptest! {
    /// Whatever is changed in an honest append, it is refused or it leaves the same log.
    #[test]
    fn a_changed_append_never_changes_the_log(
        held in 2_usize..8, from in 1_usize..8, which in 0_usize..8, term in 0_u64..4, index in 0_u64..12, kind in 0..5,
    ) {
        let chain = chain(4, 8);
        let full = log(&chain);
        let from = from.min(held);
        let mut request = append(Some(full[from - 1].at), full[from..].to_vec(), None);
        request.vote.term = 3;
        let which = which % request.items.len();
        match kind {
            0 => request.items[which].at = at(term, index),
            1 => request.items[which].content = Content::Wrapper(wrap(4, index, None, b"forged")),
            2 => request.items[which].content = Content::Members(BTreeSet::from([1])),
            3 => request.previous = Some(at(term, index)),
            _ => { request.items.remove(which); }
        }
        let held = &full[..held];
        if let Ok(tip) = judge(held, &request) {
            // It may only have added honest batches to the end.
            let start = held.len();
            let added: Vec<_> = request.items.iter().filter(|item| item.at.index as usize >= start).cloned().collect();
            let mut after = held.to_vec();
            if tip.last != held.last().map(|item| item.at) {
                after.extend(added);
            }
            for (own, honest) in after.iter().zip(&full) {
                prop_assert_eq!(&own.content, &honest.content);
            }
            for item in held {
                let again = request.items.iter().find(|offered| offered.at.index == item.at.index);
                prop_assert!(again.is_none_or(|offered| offered == item) || tip.last == held.last().map(|i| i.at));
            }
        }
    }

    /// Bytes from a peer are a message or an error, never a panic; and a message comes back as it was.
    #[test]
    fn bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = epoch_of(&bytes);
        if let Ok(append) = Append::parse(bytes.clone()) {
            prop_assert_eq!(Append::parse(append.clone().encode()), Ok(append.clone()));
            let _ = ME.append(1, &append).map(|()| judge(&log(&[]), &append));
        }
        if let Ok(ask) = Ask::parse(bytes.clone()) {
            let _ = ME.ask(1, &ask);
        }
        let _ = AppendReply::parse(bytes.clone());
        let _ = AskReply::parse(bytes);
    }
}

#[test]
fn what_is_called_committed_must_be_able_to_stand_there() {
    let chain = chain(4, 4);
    let held = log(&chain[..2]);
    let check = Chained::default();
    let tip = walk(Tip::default(), 4, &held, &check).unwrap();
    let say = |tip, previous: At, items: Vec<Item>, committed| {
        let request = Append {
            vote: Vote { term: 9, node: 1, committed: true },
            ..append(Some(previous), items, committed)
        };
        ME.append(1, &request)?;
        ME.append_to(&request, tip, 0, &check, &Items(held.clone()))
    };
    let last = at(1, 3);
    let next = |term, index: u64| {
        let bytes = chain[index as usize - 2].clone();
        Item { at: at(term, index), content: Content::Wrapper(bytes) }
    };
    // Ahead of what is sent, and whatever of it comes next.
    let claimed = say(tip, last, vec![], Some(at(2, 6))).unwrap();
    assert_eq!(claimed.claimed, Some(at(2, 6)));
    for item in [next(1, 4), next(2, 4)] {
        assert_eq!(say(claimed, last, vec![item], None).unwrap().claimed, Some(at(2, 6)));
    }
    let torn = |index, term| Err(Reason::Commit { index, term });
    assert_eq!(say(claimed, last, vec![next(3, 4)], None), torn(6, 2));
    // Claims among themselves, also in a message that finds no place.
    for previous in [last, at(2, 20)] {
        assert_eq!(say(claimed, previous, vec![], Some(at(3, 5))), torn(5, 3));
        assert_eq!(say(claimed, previous, vec![], Some(at(3, 6))), torn(6, 3));
        assert_eq!(say(claimed, previous, vec![], Some(at(1, 7))), torn(7, 1));
        assert_eq!(say(claimed, previous, vec![], Some(at(2, 5))).unwrap().claimed, Some(at(2, 6)));
        assert_eq!(say(claimed, previous, vec![], Some(at(3, 7))).unwrap().claimed, Some(at(3, 7)));
    }
    // Beyond the end and of a term that is over.
    assert_eq!(say(tip, last, vec![], Some(at(0, 4))), torn(4, 0));
    assert_eq!(say(tip, last, vec![next(5, 4)], Some(at(3, 10))), torn(10, 3));
    // Once the log is there, the claim is settled.
    let exact = say(tip, last, vec![], Some(at(2, 4))).unwrap();
    assert_eq!(say(exact, last, vec![next(1, 4)], None), torn(4, 2));
    assert_eq!(say(exact, last, vec![next(2, 4)], None).unwrap().claimed, None);
}

#[test]
fn only_the_leader_of_the_epoch_is_heard() {
    let good = append(None, vec![], None);
    assert_eq!(ME.append(1, &good), Ok(()));
    let names = |from, append: &Append| ME.append(from, append).map_err(|reason| reason.name());
    assert_eq!(names(3, &good), Err("not_leader"));
    assert_eq!(names(2, &good), Err("not_leader"));
    assert_eq!(names(1, &Append { epoch: 5, ..good.clone() }), Err("epoch"));
    let voted = |term, node, committed| Append { vote: Vote { term, node, committed }, ..good.clone() };
    assert_eq!(names(1, &voted(1, 3, true)), Err("names"));
    assert_eq!(names(1, &voted(0, 1, true)), Err("term"));
    assert_eq!(names(1, &voted(limits::MAX_TERM, 1, true)), Ok(()));
    assert_eq!(names(1, &voted(limits::MAX_TERM + 1, 1, true)), Err("term"));
    assert_eq!(names(1, &voted(1, 1, false)), Err("standing"));
    assert_eq!(names(1, &append(Some(at(1, limits::MAX_INDEX + 1)), vec![], None)), Err("index"));
    assert_eq!(names(1, &append(Some(at(2, 1)), vec![], None)), Err("order"));
    assert_eq!(names(1, &append(None, vec![], Some(at(1, u64::MAX)))), Err("index"));
    let leader = Identity { me: 1, ..ME };
    assert_eq!(leader.append(1, &good).map_err(|reason| reason.name()), Err("not_leader"));

    let ask = Ask {
        epoch: 4,
        vote: Vote { term: 1, node: 1, committed: false },
        last: Some(at(0, 0)),
        transfer: false,
    };
    let names = |from, ask: Ask| ME.ask(from, &ask).map_err(|reason| reason.name());
    assert_eq!(names(1, ask), Ok(()));
    assert_eq!(names(3, ask), Err("not_leader"));
    assert_eq!(names(1, Ask { epoch: 3, ..ask }), Err("epoch"));
    assert_eq!(names(1, Ask { transfer: true, ..ask }), Err("transfer"));
    assert_eq!(names(1, Ask { vote: Vote { committed: true, ..ask.vote }, ..ask }), Err("standing"));
    assert_eq!(names(1, Ask { vote: Vote { term: u64::MAX, ..ask.vote }, ..ask }), Err("term"));
    assert_eq!(names(1, Ask { vote: Vote { node: 2, ..ask.vote }, ..ask }), Err("names"));
    assert_eq!(names(1, Ask { last: Some(at(0, u64::MAX)), ..ask }), Err("index"));
    assert_eq!(names(1, Ask { last: Some(at(2, 3)), ..ask }), Err("order"));
}

#[test]
fn replies_are_bound_to_what_was_sent() {
    let chain = chain(4, 3);
    let full = log(&chain);
    let sent = SentAppend::of(&append(Some(full[1].at), full[2..4].to_vec(), None));
    let names = |reply, acknowledged| sent.reply(&reply, acknowledged).map_err(|reason| reason.name());
    assert_eq!(sent.last(), Some(full[3].at));
    assert_eq!(names(AppendReply::Success, None), Ok(()));
    for (partial, expected) in [
        (full[1].at, Ok(())),
        (full[2].at, Ok(())),
        (full[4].at, Err("not_sent")),
        (at(2, 2), Err("not_sent")),
        (full[0].at, Err("not_sent")),
    ] {
        assert_eq!(names(AppendReply::Partial(partial), None), expected);
    }
    assert_eq!(names(AppendReply::Conflict, None), Ok(()));
    assert_eq!(names(AppendReply::Conflict, Some(full[0].at)), Ok(()));
    assert_eq!(names(AppendReply::Conflict, Some(full[1].at)), Err("taken_back"));
    for node in [1, 4] {
        let vote = Vote { term: 2, node, committed: true };
        assert_eq!(names(AppendReply::HigherVote(vote), None), Err("other_vote"));
    }
    // openraft panics on a conflict where nothing comes before, and nobody lacks the first entry.
    for previous in [None, Some(at(0, 0))] {
        let sent = SentAppend::of(&append(previous, vec![], None));
        assert_eq!(
            sent.reply(&AppendReply::Conflict, None).map_err(|reason| reason.name()),
            Err("taken_back")
        );
    }

    let vote = Vote { term: 3, node: 1, committed: false };
    let ask = Ask { epoch: 4, vote, last: Some(at(1, 5)), transfer: false };
    let good = AskReply { vote, granted: true, last: Some(at(1, 5)) };
    let names = |reply| ask_reply(&ask, &reply).map_err(|reason| reason.name());
    assert_eq!(names(good), Ok(()));
    assert_eq!(names(AskReply { granted: false, ..good }), Err("not_granted"));
    assert_eq!(names(AskReply { last: Some(at(1, 6)), ..good }), Err("not_granted"));
    assert_eq!(names(AskReply { vote: Vote { term: 4, ..vote }, ..good }), Err("other_vote"));
    assert_eq!(names(AskReply { vote: Vote { node: 3, ..vote }, ..good }), Err("other_vote"));
    assert_eq!(names(AskReply { vote: Vote { committed: true, ..vote }, ..good }), Err("other_vote"));
}

#[test]
fn refusals_are_counted_by_peer_and_reason() {
    let refusals = Refusals::default();
    for _ in 0..3 {
        assert_eq!(refusals.count(7, Reason::Flood), Refused { peer: 7, reason: Reason::Flood });
    }
    refusals.count(8, Reason::Transfer);
    assert_eq!(refusals.snapshot(), BTreeMap::from([((7, "flood"), 3), ((8, "transfer"), 1)]));
}

#[test]
fn the_bytes_of_messages_and_entries_are_pinned() {
    let batch = Item { at: at(1, 2), content: Content::Wrapper(Bytes::from_static(b"batch")) };
    assert_eq!(hex::encode(first_entry(&BTreeSet::from([1, 2, 300])).encode()), "0a0022060a040102ac02");
    assert_eq!(hex::encode(batch.clone().encode()), "0a04080110021a056261746368");
    let request = append(Some(at(1, 1)), vec![batch], Some(at(0, 0)));
    let pinned = "0804120608011001180 11a0408011001220d0a04080110021a0562617463682a00".replace(' ', "");
    assert_eq!(hex::encode(request.clone().encode()), pinned);
    assert_eq!(Append::parse(request.clone().encode()), Ok(request));
    assert_eq!(epoch_of(&hex::decode(pinned).unwrap()), Ok(4));
    assert_eq!(hex::encode(AppendReply::Success.encode()), "0a00");
}

#[test]
fn oversized_messages_are_no_messages() {
    let wrapper = Bytes::from(vec![0; limits::MAX_WRAPPER_BYTES + 1]);
    let large = append(None, vec![Item { at: at(1, 1), content: Content::Wrapper(wrapper) }], None);
    assert!(matches!(
        Append::parse(large.encode()),
        Err(wire::Malformed::TooMuch { what: "bytes of a wrapper", .. })
    ));
    let blank = |index| Item { at: at(1, index), content: Content::Blank };
    let many = append(None, (0..=limits::MAX_APPEND_ENTRIES as u64).map(blank).collect(), None);
    assert!(matches!(
        Append::parse(many.encode()),
        Err(wire::Malformed::TooMuch { what: "entries of an append", .. })
    ));
}

/// Two bytes a piece, as many as fit: an empty entry took 70 bytes in memory, a member's number four.
#[test]
fn entries_are_counted_before_they_are_decoded() {
    let entries = Bytes::from([0x22, 0].repeat(limits::MAX_MESSAGE_BYTES / 2 - 8));
    let mut members = vec![0x22];
    let numbers = vec![1; limits::MAX_MESSAGE_BYTES - 64];
    // An entry, in it its members, in them their numbers.
    prost::encode_length_delimiter(numbers.len() + 10, &mut members).unwrap();
    members.push(0x22);
    prost::encode_length_delimiter(numbers.len() + 5, &mut members).unwrap();
    members.push(0x0a);
    prost::encode_length_delimiter(numbers.len(), &mut members).unwrap();
    members.extend(numbers);
    for bytes in [entries, members.into()] {
        assert!(bytes.len() <= limits::MAX_MESSAGE_BYTES);
        match Append::parse(bytes) {
            Err(wire::Malformed::Form(text)) if text.contains("fields") => {}
            other => panic!("{:.200}", format!("{other:?}")),
        }
    }
    let blank = |index| Item { at: at(1, index), content: Content::Blank };
    let most = append(None, (1..=limits::MAX_APPEND_ENTRIES as u64).map(blank).collect(), None);
    assert_eq!(Append::parse(most.clone().encode()), Ok(most));
}
