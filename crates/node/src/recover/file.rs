//! The files that operators exchange in the `recover` ceremony: lines of text, so that a mail program does them no harm, with a hash at
//! the end, so that one that was cut off isn't taken for whole.
//!
//! Nothing in them is secret. What they say is worth what is signed in it: the report and the signature by the custodian, heads by the
//! group; batches are named by their hashes.

use std::path::Path;

use concordat_events::Hash;
use concordat_events::hash::tagged;
use concordat_finality::wire;
use prost::Message as _;

use super::RecoverFailure;
use crate::keys::file;

/// Largest file that is read: some ten thousand heads, twice as large in text as they are. Who needs more fetches the state from a
/// running custodian.
pub const RECOVER_BYTES: u64 = 256 << 20;

/// What a stopped custodian shows.
pub struct ReportFile {
    /// The cluster.
    pub cluster: Hash,
    /// The height of the head that put the roster in force under which it signs.
    pub since: u64,
    /// The signed report.
    pub report: wire::Envelope,
    /// Certified heads.
    pub heads: Vec<wire::CertifiedHead>,
    /// The batches behind its vote and its lock.
    pub batches: Vec<wire::Batch>,
}

/// A signature of a plan.
pub struct SignatureFile {
    /// The cluster.
    pub cluster: Hash,
    /// The height of the head that put the roster in force under which it signs.
    pub since: u64,
    /// The signature.
    pub signature: wire::Envelope,
}

const REPORT: &str = "concordat recover report 1";
const SIGNATURE: &str = "concordat recover signature 1";

impl ReportFile {
    /// Writes a new file.
    pub fn write(&self, path: &Path) -> Result<(), RecoverFailure> {
        let mut text = begin(REPORT, self.cluster, self.since);
        line(&mut text, "report", &self.report.encode_to_vec());
        for head in &self.heads {
            line(&mut text, "head", &head.encode_to_vec());
        }
        for batch in &self.batches {
            line(&mut text, "batch", &batch.encode_to_vec());
        }
        end(path, text)
    }

    /// Reads one. Nothing in it is checked but its form.
    pub fn read(path: &Path) -> Result<Self, RecoverFailure> {
        let text = whole(path)?;
        let mut lines = Lines::begin(path, &text, REPORT)?;
        let (cluster, since) = lines.head()?;
        let report = lines.named("report")?;
        let mut file = ReportFile {
            cluster,
            since,
            report: lines.decode(report)?,
            heads: Vec::new(),
            batches: Vec::new(),
        };
        for line in lines.rest() {
            match line.split_once(' ') {
                Some(("head", bytes)) => file.heads.push(lines.decode(bytes)?),
                Some(("batch", bytes)) => file.batches.push(lines.decode(bytes)?),
                _ => return Err(lines.wrong("has a line that no report has")),
            }
        }
        Ok(file)
    }
}

impl SignatureFile {
    /// Writes a new file.
    pub fn write(&self, path: &Path) -> Result<(), RecoverFailure> {
        let mut text = begin(SIGNATURE, self.cluster, self.since);
        line(&mut text, "signature", &self.signature.encode_to_vec());
        end(path, text)
    }

    /// Reads one. Nothing in it is checked but its form.
    pub fn read(path: &Path) -> Result<Self, RecoverFailure> {
        let text = whole(path)?;
        let mut lines = Lines::begin(path, &text, SIGNATURE)?;
        let (cluster, since) = lines.head()?;
        let signature = lines.named("signature")?;
        let file = SignatureFile { cluster, since, signature: lines.decode(signature)? };
        if lines.rest().next().is_some() {
            return Err(lines.wrong("has a line that no signature has"));
        }
        Ok(file)
    }
}

fn begin(header: &str, cluster: Hash, since: u64) -> String {
    format!("{header}\ncluster {cluster}\nroster {since}\n")
}

fn line(text: &mut String, name: &str, bytes: &[u8]) {
    text.push_str(name);
    text.push(' ');
    text.push_str(&hex::encode(bytes));
    text.push('\n');
}

fn seal_of(text: &str) -> Hash {
    tagged("concordat/recover file", &[text.as_bytes()])
}

fn end(path: &Path, mut text: String) -> Result<(), RecoverFailure> {
    let hash = seal_of(&text);
    text.push_str(&format!("end {hash}\n"));
    Ok(file::write_new(path, text.as_bytes())?)
}

fn whole(path: &Path) -> Result<String, RecoverFailure> {
    let bytes = file::read_most(path, "name a file that `recover` has written", RECOVER_BYTES)?;
    String::from_utf8(bytes)
        .map_err(|_| RecoverFailure::File { path: path.to_owned(), what: "isn't text".into() })
}

/// The lines of a whole file, one after the other.
struct Lines<'a> {
    path: &'a Path,
    left: std::str::Lines<'a>,
}

impl<'a> Lines<'a> {
    fn begin(path: &'a Path, text: &'a str, header: &str) -> Result<Self, RecoverFailure> {
        let file = |what: &str| RecoverFailure::File { path: path.to_owned(), what: what.to_owned() };
        let cut = || file("is cut off or was changed on its way; have it sent again");
        // A mail program's line ends and blank lines at the end say nothing.
        let body = text.trim_end();
        let last = body.rfind("\nend ").ok_or_else(cut)?;
        let (body, end) = (body.get(..=last).unwrap_or_default(), body.get(last + 5..).unwrap_or_default());
        if Hash::from_hex(end) != Some(seal_of(&body.replace("\r\n", "\n"))) {
            return Err(cut());
        }
        let mut left = body.lines();
        match left.next() {
            Some(first) if first == header => Ok(Lines { path, left }),
            _ => Err(file(&format!("doesn't begin with `{header}`"))),
        }
    }

    fn wrong(&self, what: &str) -> RecoverFailure {
        RecoverFailure::File { path: self.path.to_owned(), what: what.to_owned() }
    }

    fn named(&mut self, name: &str) -> Result<&'a str, RecoverFailure> {
        let found = self.left.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.ok_or_else(|| self.wrong(&format!("lacks the line `{name}`")))
    }

    fn head(&mut self) -> Result<(Hash, u64), RecoverFailure> {
        let (cluster, since) = (self.named("cluster")?, self.named("roster")?);
        let cluster = Hash::from_hex(cluster).ok_or_else(|| self.wrong("names no cluster"))?;
        Ok((cluster, since.parse().map_err(|_| self.wrong("names no roster"))?))
    }

    fn rest(&self) -> std::str::Lines<'a> {
        self.left.clone()
    }

    fn decode<T>(&self, text: &str) -> Result<T, RecoverFailure>
    where
        T: prost::Message + Default + concordat_events::protobuf::Shaped,
    {
        let bytes = hex::decode(text).map_err(|error| self.wrong(&error.to_string()))?;
        wire::decode(&bytes).map_err(|error| self.wrong(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> wire::Envelope {
        wire::Envelope {
            sender: 2,
            seq: 7,
            kind: 1,
            body: vec![3; 40],
            signature: vec![4; 64],
            attachment: Vec::new(),
        }
    }

    fn written() -> (tempfile::TempDir, std::path::PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("report");
        let batch = wire::Batch { time_ms: 5, requests: vec![b"{}".to_vec()] };
        let file = ReportFile {
            cluster: Hash::from_bytes([9; 32]),
            since: 17,
            report: envelope(),
            heads: vec![wire::CertifiedHead::default()],
            batches: vec![batch],
        };
        file.write(&path).unwrap();
        (temp, path)
    }

    #[test]
    fn a_file_is_read_as_written_and_never_replaced() {
        let (temp, path) = written();
        let file = ReportFile::read(&path).unwrap();
        assert_eq!((file.cluster, file.since), (Hash::from_bytes([9; 32]), 17));
        assert_eq!((file.report, file.heads.len(), file.batches.len()), (envelope(), 1, 1));
        assert!(SignatureFile::read(&path).is_err(), "a report is no signature");
        let signature = SignatureFile { cluster: Hash::ZERO, since: 0, signature: envelope() };
        assert!(signature.write(&path).is_err(), "what is there stays");
        let other = temp.path().join("signature");
        signature.write(&other).unwrap();
        assert_eq!(SignatureFile::read(&other).unwrap().signature, envelope());
    }

    #[test]
    fn one_that_was_cut_off_or_changed_is_refused_and_what_mail_does_is_not() {
        let (_temp, path) = written();
        let text = std::fs::read_to_string(&path).unwrap();
        for end in 0..text.trim_end().len() {
            std::fs::write(&path, &text[..end]).unwrap();
            assert!(ReportFile::read(&path).is_err(), "cut at {end}");
        }
        let without = text.replace("batch ", "batch 00");
        std::fs::write(&path, without).unwrap();
        assert!(ReportFile::read(&path).is_err());
        std::fs::write(&path, text.replace('\n', "\r\n") + "\r\n\r\n").unwrap();
        assert!(ReportFile::read(&path).is_ok());
    }
}
