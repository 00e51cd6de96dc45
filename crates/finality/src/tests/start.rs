//! The check at the start and quarantine, each rule with the mutant that breaks it (PROTOCOL 8, 12).

use super::solo::{ME, Solo, founded};
use crate::message::{Body, Kind};
use crate::rules::{Law, Rules};
use crate::{Alarm, Bar, record, wire};

macro_rules! mutant {
    ($name:ident, $switch:ident) => {
        type $name = crate::mutants::Mutant<{ crate::mutants::off::$switch }>;
    };
}
mutant!(SeqRaised, SEQ_STAYS_UNTIL_CHECKED);
mutant!(AnswersReplayed, FRESH_ANSWERS);
mutant!(QuarantinedReport, QUARANTINED_DONT_REPORT);
mutant!(HeadsFromFew, HEADS_FROM_QUORUM);
mutant!(BarOneLower, BAR_IS_TWO_AHEAD);
mutant!(BarForgotten, BAR_PERSISTS);
mutant!(NoQuarantine, QUARANTINE);
mutant!(SendFirst, FLUSH_BEFORE_SEND);

/// T4: one flush was rolled back; others have seen the message that followed it.
fn notices_the_loss_of_one_flush<R: Rules<Scheme = crate::Frost>>() -> bool {
    let mut solo = Solo::<R>::open(founded(), false);
    let seq = solo.decider.status().seq;
    // Peers talk meanwhile, and what they claim is flushed within a second.
    solo.say(1, Kind::Nudge, &wire::Nudge {});
    solo.wait(1_500);
    let kept = record::claims(&solo.store).unwrap();
    assert!(kept.get(&1).is_some_and(|claim| claim.seq > 1 << 40), "claims are durable after a second");
    let highest = Some(solo.claim(ME, seq + 1));
    for from in [1, 2, 3] {
        let highest = highest.clone();
        solo.answer(from, |answer| answer.highest = highest);
    }
    solo.alarms.iter().any(|alarm| matches!(alarm, Alarm::RolledBack { .. }))
}

#[test]
fn the_loss_of_one_flush_is_noticed() {
    assert!(notices_the_loss_of_one_flush::<Law>());
    assert!(!notices_the_loss_of_one_flush::<SeqRaised>(), "the mutant is seen");
    assert!(!notices_the_loss_of_one_flush::<NoQuarantine>(), "the mutant is seen");
}

#[test]
fn nothing_but_questions_and_answers_leaves_before_the_check_is_over() {
    let mut solo = Solo::<Law>::open(founded(), false);
    for sender in [1, 2, 3] {
        solo.say(sender, Kind::Complaint, &wire::Complaint { epoch: 0, cause: 2, next_height: 1 });
        solo.say(sender, Kind::Question, &wire::Question { nonce: vec![7; 32] });
    }
    solo.input(crate::Input::GroupFailed { epoch: 0 });
    solo.wait(5_000);
    assert!(solo.sent.iter().all(|m| matches!(&m.body, Body::Question(_) | Body::Answer(_))));
    assert!(!solo.decider.status().running);
}

#[test]
fn a_liar_silences_nobody_by_its_own_signature() {
    let mut solo = Solo::<Law>::open(founded(), false);
    let highest = Some(solo.claim(1, crate::limits::SEQ_MAX));
    for from in [1, 2, 3] {
        let highest = highest.clone();
        solo.answer(from, |answer| answer.highest = highest);
    }
    assert!(solo.decider.status().running && solo.decider.status().bar == Bar::None);
}

#[test]
fn only_a_higher_seq_than_the_questions_is_shown() {
    let mut solo = Solo::<Law>::running();
    solo.say(1, Kind::Question, &wire::Question { nonce: vec![7; 32] });
    let shown = |solo: &Solo<Law>| {
        let last = solo.sent.iter().rev().find_map(|message| match &message.body {
            Body::Answer(answer) => Some(answer.highest),
            _ => None,
        });
        last.unwrap()
    };
    assert_eq!(shown(&solo), None);
    // Now it is rolled back to a lower one.
    let old = solo.cluster.forge(1, 5, Kind::Question, &wire::Question { nonce: vec![8; 32] }, Vec::new());
    solo.input(crate::Input::Message(old));
    assert!(shown(&solo).is_some_and(|(signer, seq)| signer == 1 && seq > 1 << 40));
}

/// Runs after two answers; the third comes late and shows an own message.
fn after_a_late_answer(shown: impl Fn(u64, u64) -> u64) -> Solo<Law> {
    let mut solo = Solo::<Law>::open(founded(), true);
    let read = solo.decider.status().seq;
    solo.answer(1, |_| {});
    solo.answer(2, |_| {});
    assert!(solo.decider.status().running && solo.decider.status().bar == Bar::None);
    // By now it has flushed more than what it is about to be shown.
    for sender in [1, 2, 3] {
        solo.complain(sender, 0);
    }
    let highest = Some(solo.claim(ME, shown(read, solo.decider.status().seq)));
    solo.answer(3, |answer| answer.highest = highest);
    solo
}

#[test]
fn an_answer_that_comes_late_still_shows_a_rollback() {
    for lost in [1, 2, 9_000] {
        let solo = after_a_late_answer(|read, _| read + lost);
        assert_ne!(solo.decider.status().bar, Bar::None, "flush {lost} after what was read");
    }
    let solo = after_a_late_answer(|_, now| now + 1);
    assert_ne!(solo.decider.status().bar, Bar::None, "somebody else runs with this key");
}

/// Whoever answers late may have heard of this run already.
#[test]
fn what_this_run_has_said_itself_shows_no_rollback() {
    for back in [0, 1] {
        let solo = after_a_late_answer(|_, now| now - back);
        assert_eq!(solo.decider.status().bar, Bar::None);
    }
}

/// The bar is above all that one rollback took back: a liar that shows it piece by piece begins no quarantine anew.
#[test]
fn one_rollback_is_one_quarantine() {
    let rolled_back = |solo: &Solo<Law>| {
        solo.alarms.iter().filter(|alarm| matches!(alarm, Alarm::RolledBack { .. })).count()
    };
    let mut solo = after_a_late_answer(|read, _| read + 1);
    assert_eq!((rolled_back(&solo), solo.decider.status().bar), (1, Bar::Until(2)));
    let mut other = Solo::<Law>::open(founded(), true);
    let more = Some(other.lost(9_000));
    solo.answer(1, |answer| answer.highest = more);
    assert_eq!((rolled_back(&solo), solo.decider.status().bar), (1, Bar::Until(2)));
    let solo = &mut other;
    let (some, more) = (solo.lost(5_000), solo.lost(9_000));
    for (from, claim) in [(1, &some), (2, &some), (3, &some), (1, &more)] {
        let highest = Some(claim.clone());
        solo.answer(from, |answer| answer.highest = highest);
    }
    assert_eq!((rolled_back(solo), solo.decider.status().bar), (1, Bar::Until(2)));
}

/// Rolled back to an image from its quarantine: it may have left that and voted before, so the old bar says nothing.
#[test]
fn a_bar_that_an_earlier_loss_has_set_is_found_out_again() {
    let solo = Solo::<Law>::open(founded(), true);
    let mut record = record::Record::load(solo.store.as_ref(), &solo.cluster.context).unwrap().unwrap();
    record.bar = Bar::Until(1);
    let mut writes = concordat_store::WriteBatch::new();
    record.save(&mut writes);
    concordat_store::Store::apply(solo.store.as_ref(), writes).unwrap();
    concordat_store::Store::flush(solo.store.as_ref()).unwrap();
    let start = |highest: Option<wire::Claim>| {
        let mut solo = Solo::<Law>::open(solo.store.snapshot(), true);
        for from in [1, 2] {
            let highest = highest.clone();
            solo.answer(from, |answer| answer.highest = highest);
        }
        solo.decider.status().bar
    };
    assert_eq!(start(None), Bar::Until(1), "a crash in quarantine");
    assert_eq!(start(Some(solo.lost(5_000))), Bar::Unknown, "it is known again when q others have answered");
}

/// T8: answers to another start count for nothing.
fn runs_on_replayed_answers<R: Rules<Scheme = crate::Frost>>() -> bool {
    let mut solo = Solo::<R>::open(founded(), false);
    for from in [1, 2, 3] {
        solo.answer(from, |answer| answer.nonce = vec![1; 32]);
    }
    solo.decider.status().running
}

#[test]
fn replayed_answers_count_for_nothing() {
    assert!(!runs_on_replayed_answers::<Law>());
    assert!(runs_on_replayed_answers::<AnswersReplayed>(), "the mutant is seen");
}

/// T1: those in quarantine report to each other.
fn runs_on_answers_from_quarantine<R: Rules<Scheme = crate::Frost>>() -> bool {
    let mut solo = Solo::<R>::open(founded(), false);
    for from in [1, 2, 3] {
        solo.answer(from, |answer| answer.quarantined = true);
    }
    solo.decider.status().running
}

#[test]
fn answers_from_quarantine_count_for_nothing() {
    assert!(!runs_on_answers_from_quarantine::<Law>());
    assert!(runs_on_answers_from_quarantine::<QuarantinedReport>(), "the mutant is seen");
}

#[test]
fn who_is_starting_counts_if_its_mark_holds() {
    for (intact, runs) in [(true, true), (false, false)] {
        let mut solo = Solo::<Law>::open(founded(), true);
        for from in [1, 2] {
            solo.answer(from, |answer| (answer.starting, answer.intact) = (true, intact));
        }
        assert_eq!(solo.decider.status().running, runs);
    }
}

/// Rolled back, with so many answers.
fn bar_after<R: Rules<Scheme = crate::Frost>>(answers: &[u16]) -> Bar {
    let mut solo = Solo::<R>::open(founded(), true);
    let highest = Some(solo.lost(5_000));
    for from in answers {
        let highest = highest.clone();
        solo.answer(*from, |answer| answer.highest = highest);
    }
    solo.decider.status().bar
}

/// T7, and the arithmetic: Head(0) is the highest, so a certificate of height 2 ends it.
#[test]
fn the_bar_is_two_above_the_heads_of_a_quorum_of_others() {
    assert_eq!(bar_after::<Law>(&[1, 2]), Bar::Unknown);
    assert_eq!(bar_after::<HeadsFromFew>(&[1, 2]), Bar::Until(2), "the mutant is seen");
    assert_eq!(bar_after::<Law>(&[1, 2, 3]), Bar::Until(2));
    assert_eq!(bar_after::<BarOneLower>(&[1, 2, 3]), Bar::Until(1), "the mutant is seen");
}

/// T5: a crash in quarantine; nobody holds a higher seq by now.
fn in_quarantine_after_a_crash<R: Rules<Scheme = crate::Frost>>() -> bool {
    let mut solo = Solo::<R>::open(founded(), true);
    let highest = Some(solo.lost(5_000));
    for from in [1, 2] {
        let highest = highest.clone();
        solo.answer(from, |answer| answer.highest = highest);
    }
    assert_ne!(solo.decider.status().bar, Bar::None);
    solo.restart();
    solo.decider.status().bar != Bar::None
}

#[test]
fn quarantine_outlives_a_crash() {
    assert!(in_quarantine_after_a_crash::<Law>());
    assert!(!in_quarantine_after_a_crash::<BarForgotten>(), "the mutant is seen");
}

#[test]
fn who_is_in_quarantine_votes_for_nothing() {
    let mut solo = Solo::<Law>::open(founded(), true);
    let highest = Some(solo.lost(5_000));
    for from in [1, 2] {
        let highest = highest.clone();
        solo.answer(from, |answer| answer.highest = highest);
    }
    let (batch, id) = solo.head(0);
    solo.start_epoch(0, None);
    solo.propose(0, &batch, id);
    solo.enter(1, None);
    let (batch, id) = solo.head(7);
    solo.propose(1, &batch, id);
    assert!(!solo.sent.iter().any(|m| m.prepare().is_some() || (m.grant().is_some() && m.sender == ME)));
}

/// The row of quarantine in PROTOCOL 7: with the swap, messages leave that no durable record stands behind.
#[test]
fn quarantine_is_durable_before_anything_else_leaves() {
    fn early<R: Rules<Scheme = crate::Frost>>() -> Vec<String> {
        let mut solo = Solo::<R>::open(founded(), true);
        let highest = Some(solo.lost(5_000));
        for from in [1, 2] {
            let highest = highest.clone();
            solo.answer(from, |answer| answer.highest = highest);
        }
        solo.early
    }
    assert!(early::<Law>().is_empty());
    assert!(!early::<SendFirst>().is_empty(), "the mutant is seen");
}
