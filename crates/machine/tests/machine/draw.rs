//! Pictures: everything is in them, nothing gets out of them.

use concordat_machine::{Definition, draw};
use proptest::prelude::*;
use serde_json::{Value, json};

fn definition(json: &Value) -> Definition {
    Definition::parse(&json.to_string()).unwrap_or_else(|f| panic!("{f:?}"))
}

fn sample() -> Definition {
    definition(&json!({"id": "m", "context": {"n": 0}, "initial": "a", "on": {"STOP": ".z"}, "states": {
        "a": {"on": {"GO": {"target": "p", "guard": {"type": "cel", "params": {"expr": "context.n < 3"}}},
            "STAY": {"actions": {"type": "raise", "params": {"type": "X"}}}}, "after": {"1000": "z"}},
        "p": {"type": "parallel", "onDone": "z", "states": {
            "x": {"initial": "q", "states": {"q": {"always": {"target": "r", "guard": "isCreator"}}, "r": {"type": "final"}}},
            "y": {"initial": "s", "states": {"s": {}, "h": {"type": "history", "history": "deep", "target": "s"}}}}},
        "z": {"type": "final"}}}))
}

#[test]
fn mermaid_is_pinned() {
    let expected = "stateDiagram-v2\n    %% m\n    state \"a\" as s1\n    state \"p\" as s2 {\n        state \"x\" as s3 {\n            \
        state \"q\" as s4\n            state \"r\" as s5\n            s5 --> [*]\n            [*] --> s4\n            \
        s4 --> s5: always #91;Creator#93;\n        }\n        [*] --> s3\n        --\n        state \"y\" as s6 {\n            \
        state \"h\" as s7";
    let drawn = draw::mermaid(&sample());
    // The history state's place follows the order of the keys.
    assert!(drawn.starts_with(&expected.replace("state \"h\" as s7", "state \"H*\" as s7")), "{drawn}");
    for part in [
        "    s1 --> s2: GO #91;context.n #60; 3#93;\n",
        "    s1 --> s1: STAY\n",
        "    s1 --> s9: after 1000 ms\n",
        "    s2 --> s9: done\n",
        "    s1 --> s9: STOP\n",
        "    s9 --> [*]\n",
        "            s7 --> s8\n",
    ] {
        assert!(drawn.contains(part), "{part} is not in {drawn}");
    }
}

#[test]
fn svg_has_every_state_and_transition() {
    let drawn = draw::svg(&sample());
    assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    assert_eq!(drawn.matches("<title>").count(), 10);
    for part in ["GO [context.n &lt; 3]", "after 1000 ms", ">STAY<", "always [Creator]", "done", ">H*<"] {
        assert!(drawn.contains(part), "{part} is not in {drawn}");
    }
    assert_eq!(drawn, draw::svg(&sample()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Keys, ids and event types come from strangers.
    #[test]
    fn nothing_gets_out_of_its_label(key in ".{1,12}", event in ".{1,12}") {
        let drawn = Definition::parse(&json!({"initial": key.clone(), "states": {key: {"on": {event: {}}}}}).to_string());
        if let Ok(definition) = drawn {
            let svg = draw::svg(&definition);
            let tags = svg.matches('<').count();
            // The frame, two states with their texts, one line, the initial arrow.
            prop_assert_eq!(tags, svg.matches('>').count());
            prop_assert!(tags < 40, "{}", svg);
            let mermaid = draw::mermaid(&definition);
            prop_assert_eq!(mermaid.lines().count(), 5, "{}", mermaid);
        }
    }
}
