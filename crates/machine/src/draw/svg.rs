//! SVG: nested boxes, and arrows between them.
//!
//! The layout is integer arithmetic, so that it is the same everywhere. Children of a compound state
//! stand in rows; regions of a parallel state stand below each other behind dashed lines.

use super::{edges, name};
use crate::definition::{Definition, Kind};
use std::fmt::Write;

const CHAR: i64 = 7;
const LINE: i64 = 18;
const PAD: i64 = 14;
/// Between neighbours: room for arrows and what is written on them.
const GAP: i64 = 70;

/// A state's box, in pixels.
#[derive(Clone, Copy, Default)]
struct Rect {
    x: i64,
    y: i64,
    w: i64,
    h: i64,
}

impl Rect {
    fn middle(self) -> (i64, i64) {
        (self.x + self.w / 2, self.y + self.h / 2)
    }

    /// Where the line from the middle towards a point leaves the box.
    fn border(self, (px, py): (i64, i64)) -> (i64, i64) {
        let (cx, cy) = self.middle();
        let (dx, dy) = (px - cx, py - cy);
        if dx == 0 && dy == 0 {
            return (cx, self.y);
        }
        if dx.abs() * self.h > dy.abs() * self.w {
            let x = if dx > 0 { self.w / 2 } else { -self.w / 2 };
            (cx + x, cy + dy * x / dx)
        } else {
            let y = if dy > 0 { self.h / 2 } else { -self.h / 2 };
            (cx + dx * y / dy, cy + y)
        }
    }
}

/// The statechart as an SVG document.
pub fn svg(def: &Definition) -> String {
    let edges = edges(def);
    // What leads nowhere is written in its state.
    let inside: Vec<Vec<&str>> = (0..def.nodes.len())
        .map(|i| edges.iter().filter(|e| e.from == i && e.to.is_empty()).map(|e| e.label.as_str()).collect())
        .collect();
    let mut layout = Layout { def, inside, rects: vec![Rect::default(); def.nodes.len()] };
    let (w, h) = layout.size(0);
    layout.place(0, PAD, PAD);
    let Layout { inside, rects, .. } = layout;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" \
         refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto-start-reverse\">\
         <path d=\"M0 0L10 5L0 10z\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        w + 2 * PAD,
        h + 2 * PAD
    );
    for (i, &r) in rects.iter().enumerate() {
        state(def, i, r, inside.get(i).map(Vec::as_slice).unwrap_or_default(), &mut out);
    }
    for edge in &edges {
        for &to in &edge.to {
            if let (Some(&a), Some(&b)) = (rects.get(edge.from), rects.get(to)) {
                arrow(a, b, edge.from == to, &edge.label, &mut out);
            }
        }
    }
    for node in &def.nodes {
        if let Some(r) = node.initial.and_then(|i| rects.get(i)) {
            let (x, y) = (r.x - 22, r.y + 10);
            let _ = writeln!(
                out,
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"5\"/><path d=\"M{x} {y}H{}\" stroke=\"black\" \
                 marker-end=\"url(#arrow)\"/>",
                r.x
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

struct Layout<'d> {
    def: &'d Definition,
    inside: Vec<Vec<&'d str>>,
    rects: Vec<Rect>,
}

impl Layout<'_> {
    fn header(&self, i: usize) -> i64 {
        let lines = self.inside.get(i).map_or(0, Vec::len);
        LINE * (1 + i64::try_from(lines).unwrap_or(0)) + PAD
    }

    /// Rows of children: about as many in a row as there are rows; regions one in each.
    fn rows(&self, i: usize) -> Vec<Vec<usize>> {
        let Some(node) = self.def.node(i) else { return Vec::new() };
        let in_row = match node.kind {
            Kind::Parallel => 1,
            _ => (1..).find(|n| n * n >= node.children.len()).unwrap_or(1),
        };
        node.children.chunks(in_row.max(1)).map(<[usize]>::to_vec).collect()
    }

    fn size(&mut self, i: usize) -> (i64, i64) {
        let texts = std::iter::once(name(self.def, i).chars().count())
            .chain(self.inside.get(i).into_iter().flatten().map(|t| t.chars().count()));
        let widest = i64::try_from(texts.max().unwrap_or(0)).unwrap_or(0) * CHAR + 2 * PAD;
        let (mut w, mut h) = (widest.max(60), self.header(i));
        for row in self.rows(i) {
            let sizes: Vec<(i64, i64)> = row.into_iter().map(|c| self.size(c)).collect();
            w = w.max(sizes.iter().map(|(w, _)| w + GAP).sum::<i64>() + GAP);
            h += sizes.iter().map(|(_, h)| *h).max().unwrap_or(0) + GAP / 2;
        }
        if let Some(rect) = self.rects.get_mut(i) {
            (rect.w, rect.h) = (w, h);
        }
        (w, h)
    }

    fn place(&mut self, i: usize, x: i64, y: i64) {
        if let Some(rect) = self.rects.get_mut(i) {
            (rect.x, rect.y) = (x, y);
        }
        let mut below = y + self.header(i);
        for row in self.rows(i) {
            let (mut right, mut tallest) = (x + GAP, 0);
            for child in row {
                self.place(child, right, below);
                let rect = self.rects.get(child).copied().unwrap_or_default();
                right += rect.w + GAP;
                tallest = tallest.max(rect.h);
            }
            below += tallest + GAP / 2;
        }
    }
}

fn state(def: &Definition, i: usize, r: Rect, lines: &[&str], out: &mut String) {
    let Some(node) = def.node(i) else { return };
    let region = node.parent.is_some_and(|p| def.kind(p) == Kind::Parallel);
    let dash = if region { " stroke-dasharray=\"6 4\"" } else { "" };
    let stroke = if node.kind == Kind::Final { 4 } else { 1 };
    let round = if matches!(node.kind, Kind::History { .. }) { r.h / 2 } else { 8 };
    let Rect { x, y, w, h } = r;
    let title = escape(&node.id);
    let _ = writeln!(
        out,
        "<g><title>{title}</title><rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{round}\" \
         fill=\"black\" fill-opacity=\"0.03\" stroke=\"black\" stroke-width=\"{stroke}\"{dash}/>\
         <text x=\"{}\" y=\"{}\" font-weight=\"bold\">{}</text></g>",
        x + PAD,
        y + LINE,
        escape(&name(def, i))
    );
    for (line, at) in lines.iter().zip(2..) {
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", x + PAD, y + LINE * at, escape(line));
    }
}

fn arrow(a: Rect, b: Rect, own: bool, label: &str, out: &mut String) {
    let ((x1, y1), (x2, y2)) = if own {
        ((a.x + a.w - 30, a.y), (a.x + a.w - 10, a.y))
    } else {
        (a.border(b.middle()), b.border(a.middle()))
    };
    // Bent to one side, so that there and back are two lines.
    let (dx, dy) = (x2 - x1, y2 - y1);
    let (mx, my) = if own {
        (i64::midpoint(x1, x2), y1 - 40)
    } else {
        (i64::midpoint(x1, x2) - dy / 6, i64::midpoint(y1, y2) + dx / 6)
    };
    let _ = writeln!(
        out,
        "<path d=\"M{x1} {y1}Q{mx} {my} {x2} {y2}\" fill=\"none\" stroke=\"#345\" marker-end=\"url(#arrow)\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#345\">{}</text>",
        (x1 + 2 * mx + x2) / 4,
        (y1 + 2 * my + y2) / 4 - 3,
        escape(label)
    );
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
