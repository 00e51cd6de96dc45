//! The statechart as a picture: mermaid text and SVG, straight from the admitted definition.
//!
//! Promises: every state, transition, timer and guard that the engine runs is in it, and nothing
//! else; the same definition gives the same bytes. Nothing of the definition reaches the output
//! unescaped, so a hostile one can't put markup into a page.

mod mermaid;
mod svg;

pub use mermaid::mermaid;
pub use svg::svg;

use crate::definition::{Definition, Kind};
use crate::guard::Guard;

/// Characters of a label; the rest is cut.
const LABEL: usize = 60;

/// A transition as it is drawn.
struct Edge {
    from: usize,
    /// Empty: the active states stay.
    to: Vec<usize>,
    label: String,
}

/// All transitions, in document order.
fn edges(def: &Definition) -> Vec<Edge> {
    let mut found = Vec::new();
    for (i, node) in def.nodes.iter().enumerate() {
        let done = format!("xstate.done.state.{}", node.id);
        let named = node.on.iter().map(|(descriptor, transitions)| {
            let name = match descriptor.strip_prefix("xstate.after.") {
                Some(rest) => {
                    let delay = rest.strip_suffix(&node.id).unwrap_or(rest).trim_end_matches('.');
                    let unit = if delay.bytes().all(|b| b.is_ascii_digit()) { " ms" } else { "" };
                    format!("after {delay}{unit}")
                }
                None if *descriptor == done => "done".to_owned(),
                None => descriptor.clone(),
            };
            (name, transitions)
        });
        let always = std::iter::once(("always".to_owned(), &node.always));
        for (name, transitions) in named.chain(always) {
            for t in transitions.iter().filter_map(|&t| def.transitions.get(t)) {
                let guard = t.guard.as_ref().map_or_else(String::new, |g| format!(" [{}]", words(g)));
                let again = if t.reenter { " (reenter)" } else { "" };
                found.push(Edge {
                    from: i,
                    to: t.targets.clone(),
                    label: cut(&format!("{name}{guard}{again}")),
                });
            }
        }
        if matches!(node.kind, Kind::History { .. }) && !node.history_default.is_empty() {
            found.push(Edge { from: i, to: node.history_default.clone(), label: String::new() });
        }
    }
    found
}

/// A guard in words.
fn words(guard: &Guard) -> String {
    let all = |guards: &[Guard], by: &str| match guards {
        [] => if by == " and " { "true" } else { "false" }.to_owned(),
        guards => guards.iter().map(words).collect::<Vec<_>>().join(by),
    };
    match guard {
        Guard::Cel(_, source) => source.clone(),
        Guard::Role(role) => format!("{role:?}"),
        Guard::And(guards) => all(guards, " and "),
        Guard::Or(guards) => format!("({})", all(guards, " or ")),
        Guard::Not(guard) => format!("not {}", words(guard)),
        Guard::StateIn(_) => "state in".to_owned(),
    }
}

/// The name that a state is shown by.
fn name(def: &Definition, i: usize) -> String {
    let Some(node) = def.node(i) else { return String::new() };
    match node.kind {
        Kind::History { deep: true } => "H*".to_owned(),
        Kind::History { deep: false } => "H".to_owned(),
        _ if i == 0 => cut(&node.id),
        _ => cut(&node.key),
    }
}

fn cut(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= LABEL {
        return line;
    }
    line.chars().take(LABEL - 1).chain(['\u{2026}']).collect()
}
