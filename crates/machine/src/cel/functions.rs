//! The functions beside those of plain CEL: hashes, encodings, signatures, times, records.
//!
//! Promises: the same answer everywhere; each charges its fixed cost ([`limits`]) and the bytes that
//! it handles before it works. Refuses wrong encodings with an error, never with a guess.

use super::Func;
use super::bip340::verify;
use super::eval::{Failure, Run, bytes, error};
use super::value::Val;
use crate::limits;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

impl<'a> Run<'a, '_> {
    pub(super) fn function(&mut self, func: &Func, args: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
        self.meter.charge(cost(func))?;
        match (func, args.as_slice()) {
            (Func::Bytes, [a]) => Ok(Val::bytes(self.raw(a)?)),
            (Func::Sha256, [a]) => {
                let raw = self.raw(a)?;
                self.meter.charge(bytes(raw.len()) * 4)?;
                Ok(Val::bytes(Sha256::digest(raw).to_vec()))
            }
            (Func::HexEncode, [Val::Bytes(b)]) => {
                self.fits(b.len().saturating_mul(2))?;
                Ok(Val::text(&hex::encode(b)))
            }
            (Func::HexDecode, [Val::Str(s)]) => {
                self.fits(s.as_str().len())?;
                hex::decode(s.as_str()).map_or_else(|_| error("not hex"), |b| Ok(Val::bytes(b)))
            }
            (Func::Base64Encode, [Val::Bytes(b)]) => {
                self.fits(b.len().saturating_mul(2))?;
                Ok(Val::text(&STANDARD.encode(b)))
            }
            (Func::Base64Decode, [Val::Str(s)]) => {
                self.fits(s.as_str().len())?;
                STANDARD.decode(s.as_str()).map_or_else(|_| error("not base64"), |b| Ok(Val::bytes(b)))
            }
            (Func::NpubEncode, [Val::Str(s)]) => {
                self.fits(s.as_str().len())?;
                let key = hex::decode(s.as_str()).ok().filter(|k| k.len() == 32);
                let key = key.map_or_else(|| error("a public key has 64 hex digits"), Ok)?;
                let hrp = bech32::Hrp::parse_unchecked("npub");
                match bech32::encode::<bech32::Bech32>(hrp, &key) {
                    Ok(npub) => Ok(Val::text(&npub)),
                    Err(_) => error("not a public key"),
                }
            }
            (Func::NpubDecode, [Val::Str(s)]) => {
                self.fits(s.as_str().len())?;
                let checked = bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(s.as_str());
                let key: Option<Vec<u8>> = checked
                    .ok()
                    .filter(|c| c.hrp().to_lowercase() == "npub")
                    .map(|c| c.byte_iter().collect())
                    .filter(|key: &Vec<u8>| key.len() == 32);
                key.map_or_else(|| error("not an npub"), |key| Ok(Val::text(&hex::encode(key))))
            }
            (Func::SchnorrVerify, [key, message, signature]) => {
                let key = self.fixed(key, 32, "a public key")?;
                let message = self.message(message)?;
                let signature = self.fixed(signature, 64, "a signature")?;
                Ok(Val::Bool(verify(&key, &message, &signature)))
            }
            (Func::NostrEvent, [Val::Map(event)]) => self.signed_event(event),
            (Func::Refuse(code), _) => Err(Failure::Refused(*code)),
            (Func::DlcAnnouncement, [Val::List(expected), Val::Str(text)]) => {
                self.announcement(expected, text.as_str())
            }
            (Func::DlcAttestation, [Val::List(announcements), Val::Str(text)]) => {
                self.attestation(announcements, text.as_str())
            }
            (Func::Timestamp, [Val::Str(s)]) => timestamp(s.as_str()).map_or_else(error, |n| Ok(Val::Int(n))),
            (Func::Duration, [Val::Str(s)]) => duration(s.as_str()).map_or_else(error, |n| Ok(Val::Int(n))),
            (Func::Distinct, [Val::List(list)]) => {
                let mut kept: Vec<Val<'a>> = Vec::new();
                for i in 0..list.len() {
                    let Some(item) = list.get(i) else { break };
                    let mut known = false;
                    for other in &kept {
                        known = known || self.equal(&item, other)?;
                    }
                    if !known {
                        kept.push(item);
                    }
                }
                Ok(Val::list(kept))
            }
            (Func::RecordHas(name), [Val::Str(key)]) => {
                Ok(Val::Bool(self.scope.records.get(name, key.as_str()).is_some()))
            }
            (Func::RecordGet(name), [Val::Str(key)]) => {
                let Some(value) = self.scope.records.get(name, key.as_str()) else {
                    return error(format!("records.{name} has no such key"));
                };
                self.meter.charge(bytes(crate::json::size(&value)))?;
                Ok(Val::owned(&value))
            }
            (Func::RecordCount(name), []) => {
                Ok(Val::Int(i64::try_from(self.scope.records.count(name)).unwrap_or(i64::MAX)))
            }
            (func, args) => {
                let kinds: Vec<_> = args.iter().map(Val::kind).collect();
                error(format!("no {func:?} of {}", kinds.join(", ")))
            }
        }
    }

    /// The bytes of a string or of bytes, paid for.
    fn raw(&mut self, value: &Val<'a>) -> Result<Vec<u8>, Failure> {
        let raw: &[u8] = match value {
            Val::Str(s) => s.as_str().as_bytes(),
            Val::Bytes(b) => b,
            other => return error(format!("no bytes of {}", other.kind())),
        };
        self.fits(raw.len())?;
        Ok(raw.to_vec())
    }

    /// Bytes of this length, given so or in hex.
    fn fixed(&mut self, value: &Val<'a>, len: usize, what: &str) -> Result<Vec<u8>, Failure> {
        let got = match value {
            Val::Bytes(b) => Some(b.to_vec()),
            Val::Str(s) if s.as_str().len() == len * 2 => hex::decode(s.as_str()).ok(),
            _ => None,
        };
        got.filter(|g| g.len() == len)
            .map_or_else(|| error(format!("{what} has {len} bytes, or {} hex digits", len * 2)), Ok)
    }

    /// A signed message: bytes, or hex, of any length. It is hashed.
    fn message(&mut self, value: &Val<'a>) -> Result<Vec<u8>, Failure> {
        let raw = self.raw(value)?;
        self.meter.charge(bytes(raw.len()) * 4)?;
        match value {
            Val::Str(_) => hex::decode(raw).or_else(|_| error("a message is bytes or hex")),
            _ => Ok(raw),
        }
    }

    /// May an expression make so many bytes? Pays for them.
    pub(super) fn fits(&mut self, len: usize) -> Result<(), Failure> {
        if len > limits::STRING_BYTES {
            return Err(Failure::Cost(format!("a string has at most {} bytes", limits::STRING_BYTES)));
        }
        self.meter.charge(bytes(len))
    }
}

/// What a call costs beside the bytes that it handles.
fn cost(func: &Func) -> u64 {
    match func {
        Func::SchnorrVerify | Func::NostrEvent => limits::COST_SCHNORR,
        Func::Sha256 => limits::COST_SHA256,
        Func::RecordHas(_) | Func::RecordGet(_) => limits::COST_RECORD_READ,
        Func::NpubEncode | Func::NpubDecode => limits::COST_NPUB,
        Func::Bytes
        | Func::HexEncode
        | Func::DlcAnnouncement
        | Func::DlcAttestation
        | Func::HexDecode
        | Func::Refuse(_)
        | Func::Base64Encode
        | Func::Base64Decode
        | Func::Timestamp
        | Func::Duration
        | Func::Distinct
        | Func::RecordCount(_) => limits::COST_FUNCTION,
    }
}

/// RFC 3339 without fractions, as seconds since 1970.
///
/// # Errors
/// What was expected.
pub(super) fn timestamp(text: &str) -> Result<i64, String> {
    let wrong = || {
        format!(
            "expected a time like 2027-01-31T12:00:00Z, got {:?}",
            text.chars().take(40).collect::<String>()
        )
    };
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let mark = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|b| allowed.contains(b));
    let marks = mark(4, b"-") && mark(7, b"-") && mark(10, b"Tt") && mark(13, b":") && mark(16, b":");
    let parts = (number(0..4), number(5..7), number(8..10), number(11..13), number(14..16), number(17..19));
    let (true, (Some(y), Some(m), Some(d), Some(h), Some(min), Some(s))) = (marks, parts) else {
        return Err(wrong());
    };
    let offset = match (text.get(19..), text.len()) {
        (Some("Z" | "z"), _) => 0,
        (Some(_), 25) if mark(19, b"+-") && mark(22, b":") => match (number(20..22), number(23..25)) {
            (Some(h @ 0..=23), Some(m @ 0..=59)) => (h * 60 + m) * if mark(19, b"-") { -60 } else { 60 },
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let days = match m {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&m) || !(1..=days).contains(&d) || h > 23 || min > 59 || s > 59 {
        return Err(wrong());
    }
    // Days since 1970 by the civil calendar, years counted from March.
    let (y, m) = if m <= 2 { (y - 1, m + 9) } else { (y, m - 3) };
    let era = y.div_euclid(400);
    let year = y.rem_euclid(400);
    let day = (153 * m + 2) / 5 + d - 1;
    let since = era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468;
    Ok(since * 86_400 + h * 3_600 + min * 60 + s - offset)
}

/// `1h30m`, `90s`, `-2d`, as seconds.
///
/// # Errors
/// What was expected.
pub(super) fn duration(text: &str) -> Result<i64, String> {
    let wrong = || {
        format!("expected a duration like 1h30m or 45s, got {:?}", text.chars().take(40).collect::<String>())
    };
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let mut total: i64 = 0;
    let mut last = i64::MAX;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let unit = match tail.chars().next() {
            Some('d') => 86_400,
            Some('h') => 3_600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        // Each unit once, the largest first: `1m1m` is a slip.
        if unit >= last {
            return Err(wrong());
        }
        last = unit;
        let part: i64 = number.parse().map_err(|_| wrong())?;
        total = part.checked_mul(unit).and_then(|p| total.checked_add(p)).ok_or_else(wrong)?;
        rest = tail.get(1..).unwrap_or_default();
    }
    Ok(total * sign)
}
