//! A group's history as any reader takes it from relays. Input: a byte (1: sign what isn't; 2: make heads of log events),
//! then an event a line.

use concordat_events::ValidEvent;
use concordat_verify::{Code, verify};

use super::{bounded, mend};

pub fn run(data: &[u8]) -> bool {
    let Some((flags, bytes)) = data.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let lines: Vec<String> = text.lines().map(|line| mended(*flags, line)).collect();
    let group = mend::group();
    let answer = verify(&group, &lines);
    assert_eq!(verify(&group, &lines), answer, "the same lines, another answer");
    // Relays send in any order. Which forgery is named first depends on it, that there is one doesn't.
    let other = verify(&group, lines.iter().rev());
    match &answer {
        Ok(report) => {
            assert_eq!(other.as_ref(), Ok(report));
            assert!(report.heads >= 1);
            true
        }
        Err(failure) => {
            bounded(failure);
            let other = other.unwrap_err();
            assert_eq!(other.code, failure.code, "another order, another verdict");
            assert!(failure.code == Code::BadSignature || other == *failure, "{other:?} and {failure:?}");
            false
        }
    }
}

fn mended(flags: u8, line: &str) -> String {
    if flags & 1 == 0 || ValidEvent::parse(line.as_bytes()).is_ok() {
        return line.to_owned();
    }
    let log = mend::template(line.as_bytes()).is_some_and(|template| template.kind == 400);
    let event =
        if flags & 2 == 2 && log { mend::logged(line.as_bytes()) } else { mend::signed(line.as_bytes()) };
    event.map_or_else(|| line.to_owned(), |event| event.json().to_owned())
}
