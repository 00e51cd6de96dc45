//! Targets: from `sibling`, `.child`, `#id`, `#id.path` to a state, by XState's own rules.

use crate::admit::Admission;
use crate::definition::{Kind, Node};
use crate::guard::state_path;
use crate::quote::quote;

/// The state that a target of state `from` names.
///
/// # Errors
/// There is none.
pub(crate) fn resolve(a: &Admission<'_>, from: usize, target: &str) -> Result<usize, String> {
    if target.starts_with('#') {
        return by_id(a, target);
    }
    let node = a.nodes.get(from);
    let parent = node.and_then(|n| n.parent);
    match (target.strip_prefix('.'), parent) {
        (Some(rest), None) => by_path(a, from, rest),
        (Some(_), Some(parent)) => {
            let key = node.map_or("", |n| n.key.as_str());
            by_path(a, parent, &format!("{key}{target}"))
        }
        (None, Some(parent)) => by_path(a, parent, target),
        (None, None) => Err(format!(
            "{} is not a target from the machine itself: did you mean {}?",
            quote(target),
            quote(&format!(".{target}"))
        )),
    }
}

/// `#id` or `#id.path`.
pub(crate) fn by_id(a: &Admission<'_>, target: &str) -> Result<usize, String> {
    let path = state_path(target);
    let (head, rest) = path.split_first().ok_or("an empty target")?;
    let id = head.strip_prefix('#').unwrap_or(head);
    let start = a.ids.get(id).ok_or_else(|| format!("no state has the id {}", quote(id)))?;
    walk(a, *start, rest)
}

/// A path of keys from a state.
pub(crate) fn by_path(a: &Admission<'_>, from: usize, path: &str) -> Result<usize, String> {
    if path.starts_with('#')
        && let Ok(found) = by_id(a, path)
    {
        return Ok(found);
    }
    walk(a, from, &state_path(path))
}

fn walk(a: &Admission<'_>, from: usize, path: &[String]) -> Result<usize, String> {
    let mut at = from;
    for key in path {
        // XState stops at an empty segment.
        if key.is_empty() {
            break;
        }
        at = if let Some(id) = key.strip_prefix('#') {
            *a.ids.get(id).ok_or_else(|| format!("no state has the id {}", quote(id)))?
        } else {
            child(&a.nodes, at, key).ok_or_else(|| {
                let id = a.nodes.get(at).map_or("", |n| n.id.as_str());
                format!("there is no state {} in {}", quote(key), quote(id))
            })?
        };
    }
    Ok(at)
}

/// The child with this key.
pub(crate) fn child(nodes: &[Node], parent: usize, key: &str) -> Option<usize> {
    let node = nodes.get(parent)?;
    node.children.iter().copied().find(|&c| nodes.get(c).is_some_and(|n| n.key == key))
}

/// Can these states be active together? Each pair must lie in different regions of a parallel
/// state; a history state counts as its parent's inside.
pub(crate) fn compatible(nodes: &[Node], targets: &[usize]) -> bool {
    let within = |i: usize, a: usize| nodes.get(a).is_some_and(|n| i >= a && i < n.end);
    targets.iter().enumerate().all(|(n, &x)| {
        targets.iter().skip(n + 1).all(|&y| {
            let mut common = Some(x);
            while let Some(c) = common
                && !within(y, c)
            {
                common = nodes.get(c).and_then(|n| n.parent);
            }
            common.is_some_and(|c| {
                c != x
                    && c != y
                    && nodes.get(c).is_some_and(|n| n.kind == Kind::Parallel)
                    && [x, y].iter().all(|&t| {
                        // A history state right below would bring back all regions.
                        !nodes
                            .get(t)
                            .is_some_and(|n| matches!(n.kind, Kind::History { .. }) && n.parent == common)
                    })
            })
        })
    })
}
