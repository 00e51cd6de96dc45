//! Mermaid's `stateDiagram-v2`.

use super::{Edge, edges, name};
use crate::definition::{Definition, Kind};
use std::fmt::Write;

/// The statechart as mermaid text.
pub fn mermaid(def: &Definition) -> String {
    let mut out = String::from("stateDiagram-v2\n");
    let edges = edges(def);
    let _ = writeln!(out, "    %% {}", escape(&name(def, 0)));
    body(def, 0, &edges, 1, &mut out);
    out
}

/// What stands inside a state: its children, where it begins, and the transitions among them.
fn body(def: &Definition, i: usize, edges: &[Edge], depth: usize, out: &mut String) {
    let pad = "    ".repeat(depth);
    let Some(node) = def.node(i) else { return };
    for (n, &child) in node.children.iter().enumerate() {
        if node.kind == Kind::Parallel && n > 0 {
            let _ = writeln!(out, "{pad}--");
        }
        let label = escape(&name(def, child));
        if def.node(child).is_some_and(|c| c.children.is_empty()) {
            let _ = writeln!(out, "{pad}state \"{label}\" as s{child}");
        } else {
            let _ = writeln!(out, "{pad}state \"{label}\" as s{child} {{");
            body(def, child, edges, depth + 1, out);
            let _ = writeln!(out, "{pad}}}");
        }
        if node.kind == Kind::Parallel && !def.is_history(child) {
            let _ = writeln!(out, "{pad}[*] --> s{child}");
        }
        if def.kind(child) == Kind::Final {
            let _ = writeln!(out, "{pad}s{child} --> [*]");
        }
    }
    if let Some(initial) = node.initial {
        let _ = writeln!(out, "{pad}[*] --> s{initial}");
    }
    for edge in edges {
        let targets = if edge.to.is_empty() { std::slice::from_ref(&edge.from) } else { &edge.to };
        for &to in targets {
            if home(def, edge.from, to) == i {
                // The machine itself has no box: what leads from or to it is written at its child.
                let (from, to) = (shown(def, edge.from), shown(def, to));
                let colon = if edge.label.is_empty() { "" } else { ": " };
                let _ = writeln!(out, "{pad}s{from} --> s{to}{colon}{}", escape(&edge.label));
            }
        }
    }
}

/// The state in whose body a transition is written: the nearest that contains both ends.
fn home(def: &Definition, from: usize, to: usize) -> usize {
    let above = |i: usize, a: usize| def.is_descendant(i, Some(a));
    def.ancestors(from, None).into_iter().find(|&a| above(from, a) && above(to, a)).unwrap_or(0)
}

fn shown(def: &Definition, i: usize) -> usize {
    match i {
        0 => def.node(0).and_then(|n| n.initial.or(n.children.first().copied())).unwrap_or(0),
        i => i,
    }
}

/// Mermaid's entities for what means something to its parser or to HTML.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_alphanumeric()
            || matches!(c, ' ' | '.' | '_' | '-' | '*' | '(' | ')' | '=' | ',' | '!' | '?' | '+' | '/')
        {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}
