//! The rules of the SCXML recommendation's algorithm (its appendix D), each where it decides.
//!
//! Every definition writes down what it does, in order: `+` entry, `-` exit, anything else the
//! actions of a transition. Where XState departs from the recommendation, XState's way is expected
//! (`tests/machine/xstate.rs`); here they agree.
//!
//! | procedure of appendix D | test |
//! |---|---|
//! | `mainEventLoop`, macrostep: eventless, then internal in the order of raising, then external events | `eventless_come_before_internal_events_and_these_before_external_ones` |
//! | `exitInterpreter` | `a_machine_that_ends_leaves_all_its_states` |
//! | `selectTransitions` | `the_first_enabled_transition_of_a_state_wins`, `a_child_decides_before_its_parent_and_the_parent_if_it_does_not`, `a_transition_of_a_common_ancestor_is_taken_once` |
//! | `selectEventlessTransitions` | `eventless_transitions_of_a_child_come_before_its_parents` |
//! | `removeConflictingTransitions` | `of_conflicting_regions_the_first_in_document_order_wins`, `a_deeper_source_preempts_the_ancestor`, `a_transition_that_leaves_nothing_preempts_nothing` |
//! | `microstep`, `executeTransitionContent` | `exits_come_before_the_transitions_actions_and_entries_after`, `transitions_of_several_regions_act_in_document_order` |
//! | `exitStates`, `computeExitSet` | `states_are_entered_in_document_order_and_left_in_its_reverse`, `history_is_recorded_before_the_exits` |
//! | `enterStates`, `computeEntrySet` | `states_are_entered_in_document_order_and_left_in_its_reverse`, `actions_of_an_initial_transition_run_between_parent_and_child`, `several_targets_are_entered_in_document_order` |
//! | `enterStates`: done events, `isInFinalState` | `a_final_child_makes_its_parent_done_and_all_regions_make_the_parallel_state_done` |
//! | `addDescendantStatesToEnter` | `shallow_history_brings_back_the_child_and_deep_the_leaves`, `deep_history_of_a_parallel_state_brings_back_each_region`, `without_a_history_its_default_is_entered` |
//! | `addAncestorStatesToEnter` | `regions_that_no_target_names_are_entered_by_default` |
//! | `getTransitionDomain`, `findLCCA`, `getProperAncestors` | `a_transition_stays_within_the_least_common_ancestor`, `internal_transitions_keep_their_source_and_external_ones_leave_it` |
//! | `getEffectiveTargetStates` | `without_a_history_its_default_is_entered` |
//!
//! `invoke`, `finalize` and `cancel` have no place here: definitions with them are refused.

use concordat_machine::{Definition, Effect, Event, State};
use serde_json::{Map, Value, json};

fn says(text: &str) -> Value {
    json!({"type": "publish", "params": {"kind": 1, "content": text}})
}

fn raises(kind: &str) -> Value {
    json!({"type": "raise", "params": {"type": kind}})
}

/// Gives every state an entry and an exit that say its key.
fn loud(mut node: Value, key: &str) -> Value {
    let map = node.as_object_mut().unwrap();
    if map.get("type") == Some(&json!("history")) {
        return node;
    }
    for (at, sign) in [("entry", '+'), ("exit", '-')] {
        let mut list = vec![says(&format!("{sign}{key}"))];
        list.extend(map.remove(at));
        map.insert(at.to_owned(), json!(list));
    }
    if let Some(Value::Object(states)) = map.remove("states") {
        let states: Map<String, Value> = states.into_iter().map(|(k, v)| (k.clone(), loud(v, &k))).collect();
        map.insert("states".to_owned(), Value::Object(states));
    }
    node
}

/// A machine and what it has said since it was last asked. Its keys are in the order of the alphabet,
/// which is then their order in the document.
struct Machine {
    definition: Definition,
    state: State,
    said: Vec<String>,
}

impl Machine {
    fn new(definition: Value) -> Self {
        let text = loud(definition, "root").to_string();
        let definition = Definition::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"));
        let step = definition.start(0, None).unwrap();
        Self { definition, state: step.state, said: contents(&step.effects) }
    }

    fn said(&mut self) -> String {
        std::mem::take(&mut self.said).join(" ")
    }

    /// What one event makes it say.
    fn on(&mut self, kind: &str) -> String {
        self.said.clear();
        let step = self.definition.send(&self.state, &Event::new(kind), 0).unwrap();
        self.said = contents(&step.effects);
        self.state = step.state;
        self.said()
    }

    fn active(&self) -> String {
        self.definition.active(&self.state).join(" ").replace("(machine).", "")
    }
}

fn contents(effects: &[Effect]) -> Vec<String> {
    let content = |e: &Effect| match e {
        Effect::Publish { content, .. } => content.clone(),
        other => panic!("{other:?}"),
    };
    effects.iter().map(content).collect()
}

#[test]
fn states_are_entered_in_document_order_and_left_in_its_reverse() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"type": "parallel", "on": {"GO": "b"}, "states": {
            "x": {"initial": "x1", "states": {"x1": {}}}, "y": {"initial": "y1", "states": {"y1": {}}}}},
        "b": {"initial": "c", "states": {"c": {}}}}}));
    assert_eq!(m.said(), "+root +a +x +x1 +y +y1");
    assert_eq!(m.on("GO"), "-y1 -y -x1 -x -a +b +c");
}

#[test]
fn exits_come_before_the_transitions_actions_and_entries_after() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"on": {"GO": {"target": "b", "actions": says("go")}}}, "b": {}}}));
    m.said();
    assert_eq!(m.on("GO"), "-a go +b");
}

#[test]
fn actions_of_an_initial_transition_run_between_parent_and_child() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"initial": {"target": "b", "actions": says("first")}, "states": {"b": {}}}}}));
    assert_eq!(m.said(), "+root +a first +b");
}

#[test]
fn transitions_of_several_regions_act_in_document_order() {
    let region = |name: &str| {
        json!({"initial": "p", "states": {
        "p": {"on": {"GO": {"target": "q", "actions": says(name)}}}, "q": {}}})
    };
    let mut m = Machine::new(json!({"type": "parallel", "states": {"a": region("1"), "b": region("2")}}));
    m.said();
    // All exits, then all actions, then all entries.
    assert_eq!(m.on("GO"), "-p -p 1 2 +q +q");
}

#[test]
fn the_first_enabled_transition_of_a_state_wins() {
    let mut m = Machine::new(json!({"initial": "a", "states": {"a": {"on": {"GO": [
        {"guard": {"type": "cel", "params": {"expr": "false"}}, "actions": says("1")},
        {"actions": says("2")}, {"actions": says("3")}]}}}}));
    m.said();
    assert_eq!(m.on("GO"), "2");
}

#[test]
fn a_child_decides_before_its_parent_and_the_parent_if_it_does_not() {
    let mut m = Machine::new(json!({"initial": "a", "states": {"a": {
        "on": {"GO": {"actions": says("parent")}, "UP": {"actions": says("parent")}},
        "initial": "b", "states": {"b": {"on": {
            "GO": {"actions": says("child")},
            "UP": {"guard": {"type": "cel", "params": {"expr": "false"}}, "actions": says("child")}}}}}}}));
    m.said();
    assert_eq!(m.on("GO"), "child");
    assert_eq!(m.on("UP"), "parent");
}

/// Two regions whose transitions would leave the same states: the first in document order stays.
#[test]
fn of_conflicting_regions_the_first_in_document_order_wins() {
    let out = |to: &str| json!({"initial": "p", "states": {"p": {"on": {"GO": format!("#{to}")}}}});
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"type": "parallel", "states": {"r": out("one"), "s": out("two")}},
        "one": {"id": "one"}, "two": {"id": "two"}}}));
    m.said();
    assert_eq!(m.on("GO"), "-p -s -p -r -a +one");
}

/// A transition further in preempts one further out, though its region comes later.
#[test]
fn a_deeper_source_preempts_the_ancestor() {
    // `a` has the transition for region x, whose states have none; y's own leaves only y's state.
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"type": "parallel", "always": {"target": "z", "guard": {"type": "cel", "params": {"expr": "event.type == 'GO'"}}},
            "states": {
                "x": {"initial": "p", "states": {"p": {}}},
                "y": {"initial": "q", "states": {
                    "q": {"always": {"target": "r", "guard": {"type": "cel", "params": {"expr": "event.type == 'GO'"}}}},
                    "r": {}}}}},
        "z": {}}}));
    m.said();
    // First the deeper one alone; then nothing deeper is left and the ancestor's.
    assert_eq!(m.on("GO"), "-q +r -r -y -p -x -a +z");
}

#[test]
fn a_transition_that_leaves_nothing_preempts_nothing() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"type": "parallel", "states": {
            "x": {"initial": "p", "states": {"p": {"on": {"GO": {"actions": says("stay")}}}}},
            "y": {"initial": "q", "states": {"q": {"on": {"GO": "#z"}}}}}},
        "z": {"id": "z"}}}));
    m.said();
    assert_eq!(m.on("GO"), "-q -y -p -x -a stay +z");
}

#[test]
fn a_transition_of_a_common_ancestor_is_taken_once() {
    let mut m = Machine::new(json!({"type": "parallel", "on": {"GO": {"actions": says("once")}}, "states": {
        "x": {"initial": "p", "states": {"p": {}}}, "y": {"initial": "q", "states": {"q": {}}}}}));
    m.said();
    assert_eq!(m.on("GO"), "once");
}

fn with_history(history: &str, extra: Value) -> Machine {
    let mut inner = json!({"initial": "b", "on": {"OUT": "z"}, "states": {
        "b": {"on": {"N": "c"}},
        "c": {"initial": "d", "states": {"d": {"on": {"N": "e"}}, "e": {}}},
        "h": {"type": "history", "history": history}}});
    inner["states"]["h"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Machine::new(json!({"initial": "z", "states": {"a": inner, "z": {"on": {"IN": "a.h"}}}}))
}

#[test]
fn shallow_history_brings_back_the_child_and_deep_the_leaves() {
    for (history, back) in [("shallow", "-z +a +c +d"), ("deep", "-z +a +c +e")] {
        let mut m = with_history(history, json!({}));
        for kind in ["IN", "N", "N", "OUT"] {
            m.on(kind);
        }
        assert_eq!(m.on("IN"), back, "{history}");
    }
}

#[test]
fn without_a_history_its_default_is_entered() {
    assert_eq!(with_history("deep", json!({})).on("IN"), "-z +a +b");
    assert_eq!(with_history("deep", json!({"target": "c.e"})).on("IN"), "-z +a +c +e");
    assert_eq!(with_history("shallow", json!({"target": "c"})).on("IN"), "-z +a +c +d");
}

/// What is remembered is what was active before any state was left.
#[test]
fn history_is_recorded_before_the_exits() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"type": "parallel", "on": {"OUT": "z"}, "states": {
            "h": {"type": "history", "history": "deep"},
            "x": {"initial": "p", "states": {"p": {"on": {"N": "q"}}, "q": {}}},
            "y": {"initial": "r", "states": {"r": {}, "s": {}}}}},
        "z": {"on": {"IN": "a.h"}}}}));
    m.on("N");
    m.on("OUT");
    assert_eq!(m.on("IN"), "-z +a +x +q +y +r");
}

#[test]
fn internal_transitions_keep_their_source_and_external_ones_leave_it() {
    let mut m = Machine::new(
        json!({"initial": "a", "states": {"a": {"initial": "b", "states": {"b": {}, "c": {}},
        "on": {"IN": {"target": ".c"}, "EX": {"target": ".c", "reenter": true},
               "SELF": {"target": "a"}, "AGAIN": {"target": "a", "reenter": true}, "NONE": {"actions": says("none")}}}}}),
    );
    m.said();
    assert_eq!(m.on("IN"), "-b +c");
    assert_eq!(m.on("EX"), "-c -a +a +c");
    assert_eq!(m.on("SELF"), "-c +b");
    assert_eq!(m.on("AGAIN"), "-b -a +a +b");
    assert_eq!(m.on("NONE"), "none");
}

#[test]
fn eventless_come_before_internal_events_and_these_before_external_ones() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"on": {"GO": {"target": "b", "actions": [raises("R1"), raises("R2"), says("go")]}}},
        "b": {"always": {"target": "c", "actions": says("always")},
              "on": {"R1": {"actions": says("R1 in b")}}},
        "c": {"on": {"R1": {"target": "d", "actions": says("R1")}, "R2": {"actions": says("R2 in c")}}},
        "d": {"always": {"target": "e", "actions": says("always again")},
              "on": {"R2": {"actions": says("R2 in d")}, "NEXT": {"actions": says("NEXT in d")}}},
        "e": {"on": {"R2": {"actions": says("R2")}, "NEXT": {"actions": says("NEXT")}}}}}));
    m.said();
    assert_eq!(m.on("GO"), "-a go +b -b always +c -c R1 +d -d always again +e R2");
    assert_eq!(m.on("NEXT"), "NEXT");
}

#[test]
fn a_final_child_makes_its_parent_done_and_all_regions_make_the_parallel_state_done() {
    let region = |kind: &str| {
        json!({"initial": "p", "onDone": {"actions": says(&format!("{kind} done"))},
        "states": {"p": {"on": {kind: "f"}}, "f": {"type": "final"}}})
    };
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"type": "parallel", "onDone": {"target": "z", "actions": says("all done")},
              "states": {"x": region("X"), "y": region("Y")}},
        "z": {}}}));
    m.said();
    assert_eq!(m.on("X"), "-p +f X done");
    assert_eq!(m.on("Y"), "-p +f Y done -f -y -f -x -a all done +z");
}

/// The recommendation's `exitInterpreter`: whoever is still active leaves, in reverse order.
#[test]
fn a_machine_that_ends_leaves_all_its_states() {
    let mut m =
        Machine::new(json!({"initial": "a", "states": {"a": {"on": {"END": "f"}}, "f": {"type": "final"}}}));
    m.said();
    assert_eq!(m.on("END"), "-a +f -f -root");
    assert!(m.state.is_done());
}

/// A target inside one region enters the other regions by default.
#[test]
fn regions_that_no_target_names_are_entered_by_default() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"on": {"GO": "#deep"}},
        "b": {"type": "parallel", "states": {
            "x": {"initial": "p", "states": {"p": {}, "q": {"id": "deep"}}},
            "y": {"initial": "r", "states": {"r": {}, "s": {}}}}}}}));
    m.said();
    assert_eq!(m.on("GO"), "-a +b +x +q +y +r");
    assert_eq!(m.active(), "b.y.r deep");
}

#[test]
fn several_targets_are_entered_in_document_order() {
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"on": {"GO": {"target": ["#too", "#deep"]}}},
        "b": {"type": "parallel", "states": {
            "x": {"initial": "p", "states": {"p": {}, "q": {"id": "deep"}}},
            "y": {"initial": "r", "states": {"r": {}, "s": {"id": "too"}}}}}}}));
    m.said();
    assert_eq!(m.on("GO"), "-a +b +x +q +y +s");
}

#[test]
fn eventless_transitions_of_a_child_come_before_its_parents() {
    let when = |kind: &str| json!({"type": "cel", "params": {"expr": format!("event.type == '{kind}'")}});
    let mut m = Machine::new(json!({"initial": "a", "states": {
        "a": {"initial": "b", "always": {"target": "#parents", "guard": when("GO")}, "states": {
            "b": {"always": {"target": "#childs", "guard": when("GO")}}}},
        "c": {"id": "childs", "always": {"target": "d", "guard": when("GO")}},
        "d": {"on": {"NONE": {"actions": says("none")}}},
        "e": {"id": "parents"}}}));
    m.said();
    assert_eq!(m.on("GO"), "-b -a +c -c +d");
    // With no event of their own, they are looked at after every event.
    assert_eq!(m.on("NONE"), "none");
}

/// The domain is the least ancestor of source and target: what lies outside is neither left nor entered.
#[test]
fn a_transition_stays_within_the_least_common_ancestor() {
    let mut m = Machine::new(json!({"type": "parallel", "states": {
        "x": {"initial": "a", "states": {
            "a": {"initial": "b", "states": {
                "b": {"initial": "c", "states": {"c": {"on": {"NEAR": "#d", "FAR": "#e"}}}},
                "d": {"id": "d", "on": {"FAR": "#e"}}}},
            "e": {"id": "e"}}},
        "y": {"initial": "q", "states": {"q": {}}}}}));
    m.said();
    assert_eq!(m.on("NEAR"), "-c -b +d");
    assert_eq!(m.on("FAR"), "-d -a +e");
    assert_eq!(m.active(), "y.q e");
}

#[test]
fn deep_history_of_a_parallel_state_brings_back_each_region() {
    let region = |kind: &str| json!({"initial": "p", "states": {"p": {"on": {kind: "q"}}, "q": {}}});
    let mut m = Machine::new(json!({"initial": "w", "states": {
        "w": {"type": "parallel", "on": {"OUT": "z"}, "states": {
            "h": {"type": "history", "history": "deep"}, "x": region("X"), "y": region("Y")}},
        "z": {"on": {"BACK": "w.h"}}}}));
    m.said();
    m.on("Y");
    assert_eq!(m.on("OUT"), "-q -y -p -x -w +z");
    assert_eq!(m.on("BACK"), "-z +w +x +p +y +q");
}
