//! One run as a picture: time from left to right; faults, what each custodian said, heads, and how long each call took.

use std::fmt::Write as _;

use super::users::{Answer, Ask, Call};
use super::{Note, What};

/// Width of the picture, and of the part with the names.
const WIDE: f64 = 1200.0;
const NAMES: f64 = 110.0;
/// Height of a lane, of the bars and of the cloud of calls.
const LANE: f64 = 24.0;
const BARS: f64 = 50.0;
const CLOUD: f64 = 150.0;
/// The shortest and the longest time of a call that the cloud tells apart, ms, as powers of ten.
const POWERS: (f64, f64) = (1.0, 4.5);

/// The picture of a run.
struct Picture {
    from_ms: u64,
    to_ms: u64,
    svg: String,
    y: f64,
}

impl Picture {
    fn x(&self, ms: u64) -> f64 {
        let span = self.to_ms.saturating_sub(self.from_ms).max(1) as f64;
        NAMES + (WIDE - NAMES - 10.0) * (ms.saturating_sub(self.from_ms) as f64 / span).min(1.0)
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing into a string can't fail.
        let _ = self.svg.write_fmt(text);
        self.svg.push('\n');
    }

    fn bar(&mut self, from: u64, to: u64, high: f64, class: &str, title: &str) {
        let (x, y) = (self.x(from), self.y);
        let wide = (self.x(to) - x).max(1.0);
        let title = escaped(title);
        self.put(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{high:.1}"><title>{title}</title></rect>"#
        ));
    }

    fn name(&mut self, text: &str, high: f64) {
        let y = self.y + high / 2.0 + 4.0;
        let text = escaped(text);
        self.put(format_args!(r#"<text x="4" y="{y:.1}">{text}</text>"#));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// Draws a run.
pub fn draw(title: &str, custodians: u16, notes: &[Note], calls: &[Call]) -> String {
    let times = notes.iter().map(|note| note.at_ms).chain(calls.iter().map(|call| call.began_ms));
    let from_ms = times.clone().min().unwrap_or_default();
    let to_ms = times.chain(calls.iter().filter_map(|call| call.ended_ms)).max().unwrap_or_default();
    let mut picture = Picture { from_ms, to_ms, svg: String::new(), y: 34.0 };
    faults(&mut picture, notes);
    for number in 1..=custodians {
        custodian(&mut picture, number, notes);
    }
    heads(&mut picture, notes);
    cloud(&mut picture, calls);
    axis(&mut picture);
    let (high, body, title) = (picture.y + 10.0, picture.svg, escaped(title));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high:.0}" font-family="sans-serif" font-size="12">
<style>
svg{{background:#fff}} text{{fill:#222}} .fault{{fill:#d9480f;opacity:.75}} .span{{fill:#fff4e6}} .e0{{fill:#a5d8ff}} .e1{{fill:#b2f2bb}} .e2{{fill:#eebefa}}
.e3{{fill:#ffec99}} .leads{{fill:#1864ab}} .down{{fill:#495057}} .head{{fill:#2b8a3e}} .custodian{{fill:#1971c2}} .relay{{fill:#9c36b5}}
.read{{fill:#868e96}} .none{{fill:#e03131}} .grid{{stroke:#ced4da;stroke-width:.5}}
</style>
<text x="4" y="20" font-size="15">{title}</text>
{body}</svg>
"##
    )
}

/// Faults, and their shadow over all lanes.
fn faults(picture: &mut Picture, notes: &[Note]) {
    picture.name("faults", LANE);
    let mut began = None;
    for note in notes {
        match &note.what {
            What::Fault { fault } => began = Some((note.at_ms, fault)),
            What::Healed { .. } => {
                let Some((from, fault)) = began.take() else { continue };
                picture.bar(from, note.at_ms, LANE - 6.0, "fault", fault);
                let (x, y) = (picture.x(from) + 2.0, picture.y + LANE - 10.0);
                let word = fault.split(' ').next().unwrap_or_default().to_owned();
                picture.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" font-size="9">{word}</text>"#));
            }
            _ => {}
        }
    }
    picture.y += LANE;
}

/// One custodian: its epochs, when it led, when it was away.
fn custodian(picture: &mut Picture, number: u16, notes: &[Note]) {
    picture.name(&format!("custodian {number}"), LANE);
    let (mut epoch, mut down, mut kept) = (None::<(u64, u64, u64)>, None::<u64>, None);
    let end = picture.to_ms;
    let close = |picture: &mut Picture, epoch: &mut Option<(u64, u64, u64)>, at: u64| {
        if let Some((from, number_of, leader)) = epoch.take() {
            let title = format!("epoch {number_of}, led by custodian {leader}");
            picture.bar(from, at, LANE - 6.0, &format!("e{}", number_of % 4), &title);
            if leader == u64::from(number) {
                picture.bar(from, at, 4.0, "leads", &title);
            }
        }
    };
    for note in notes.iter().filter(|note| note.custodian == Some(number)) {
        match &note.what {
            What::Epoch { epoch: entered, leader } => {
                close(picture, &mut epoch, note.at_ms);
                epoch = Some((note.at_ms, *entered, *leader));
            }
            What::Down | What::Paused => {
                kept = epoch;
                close(picture, &mut epoch, note.at_ms);
                down = down.or(Some(note.at_ms));
            }
            What::Up | What::Resumed => {
                if let Some(from) = down.take() {
                    picture.bar(from, note.at_ms, LANE - 6.0, "down", "away");
                }
                // Who stood still is in its epoch still; who was started says in which it is.
                let resumed = kept.take().filter(|_| note.what == What::Resumed);
                epoch = resumed.map(|(_, number_of, leader)| (note.at_ms, number_of, leader)).or(epoch);
            }
            _ => {}
        }
    }
    close(picture, &mut epoch, end);
    if let Some(from) = down {
        picture.bar(from, end, LANE - 6.0, "down", "away");
    }
    picture.y += LANE;
}

/// Heads of each second.
fn heads(picture: &mut Picture, notes: &[Note]) {
    picture.name("heads/s", BARS);
    let mut first = std::collections::BTreeMap::new();
    for note in notes {
        if let What::Certified { height } = note.what {
            let at = first.entry(height).or_insert(note.at_ms);
            *at = note.at_ms.min(*at);
        }
    }
    let mut by_second = std::collections::BTreeMap::<u64, u64>::new();
    for at in first.values() {
        *by_second.entry(at.saturating_sub(picture.from_ms) / 1_000).or_default() += 1;
    }
    let most = by_second.values().max().copied().unwrap_or(1).max(1) as f64;
    let bottom = picture.y + BARS - 4.0;
    for (second, count) in by_second {
        let from = picture.from_ms + second * 1_000;
        let high = (BARS - 8.0) * count as f64 / most;
        let top = picture.y;
        picture.y = bottom - high;
        picture.bar(from, from + 900, high, "head", &format!("{count} heads in second {second}"));
        picture.y = top;
    }
    picture.y += BARS;
}

/// Each call: when it was asked, and how long its answer took.
fn cloud(picture: &mut Picture, calls: &[Call]) {
    let (least, most) = POWERS;
    let level = |ms: u64| {
        let power = (ms.max(1) as f64).log10().clamp(least, most);
        CLOUD * (1.0 - (power - least) / (most - least))
    };
    let top = picture.y + 6.0;
    for (ms, name) in [(10, "10 ms"), (100, "100 ms"), (1_000, "1 s"), (10_000, "10 s")] {
        let y = top + level(ms);
        picture.put(format_args!(r#"<line class="grid" x1="{NAMES}" x2="{WIDE}" y1="{y:.1}" y2="{y:.1}"/>"#));
        let y = y + 4.0;
        picture.put(format_args!(r#"<text x="4" y="{y:.1}">{name}</text>"#));
    }
    for call in calls {
        let (class, ms) = match (&call.answer, call.ended_ms) {
            (Some(Answer::Settled { .. } | Answer::Value { .. }), Some(ended)) => {
                let class = match (&call.ask, &call.at) {
                    (Ask::Read, _) => "read",
                    (Ask::Add { .. }, Some(_)) => "custodian",
                    (Ask::Add { .. }, None) => "relay",
                };
                (class, ended.saturating_sub(call.began_ms))
            }
            (_, ended) => ("none", ended.unwrap_or(picture.to_ms).saturating_sub(call.began_ms)),
        };
        let (x, y) = (picture.x(call.began_ms), top + level(ms));
        picture.put(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="1.6"><title>{class}, {:.2} s</title></circle>"#,
            seconds(ms)
        ));
    }
    picture.y = top + CLOUD + 10.0;
    let y = picture.y;
    let mut x = NAMES;
    for (class, name) in [
        ("custodian", "input at a custodian's port"),
        ("relay", "input through the relay"),
        ("read", "proven read"),
        ("none", "no answer"),
    ] {
        let (cy, tx) = (y - 4.0, x + 8.0);
        picture.put(format_args!(
            r#"<circle class="{class}" cx="{x}" cy="{cy:.1}" r="4"/><text x="{tx}" y="{y:.1}">{name}</text>"#
        ));
        x += 190.0;
    }
    picture.y += 8.0;
}

fn axis(picture: &mut Picture) {
    let span = picture.to_ms.saturating_sub(picture.from_ms) / 1_000;
    let step = [5, 10, 15, 30, 60, 120, 300, 600].into_iter().find(|step| span / step <= 20).unwrap_or(1_200);
    let y = picture.y + 12.0;
    for second in (0..=span).step_by(step as usize) {
        let x = picture.x(picture.from_ms + second * 1_000);
        picture.put(format_args!(
            r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="34" y2="{:.1}"/>"#,
            y - 12.0
        ));
        picture.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}">{second} s</text>"#));
    }
    picture.y = y;
}
