//! Files and stdin, read with a bound. `-` is stdin.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::failure::{Failure, unreadable};

/// Reads a text of at most `most` bytes from a file, or from stdin if the path is `-`.
pub fn text(path: &Path, most: u64) -> Result<String, Failure> {
    let read = |mut source: Box<dyn Read>| {
        let mut bytes = Vec::new();
        source.by_ref().take(most + 1).read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = if path == Path::new("-") {
        read(Box::new(std::io::stdin()))
    } else {
        File::open(path).and_then(|file| read(Box::new(file)))
    }
    .map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > most {
        return Err(Failure::usage(
            "file_too_large",
            format!("{}: more than {most} bytes", path.display()),
            "check that it is the right file",
        ));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(
            "not_text",
            format!("{}: not UTF-8 text", path.display()),
            "check that it is the right file",
        )
    })
}
