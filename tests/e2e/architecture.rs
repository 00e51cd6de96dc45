//! Who may know what: the invariants of docs/ARCHITECTURE.md that can be read off the sources and the dependency tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates that simulator and readers run without any outside.
const PURE: &[&str] = &["events", "finality", "ledger", "machine", "threshold", "verify"];

/// Crates that open sockets, run tasks or talk to disks. None may be below a pure crate.
const OUTSIDE: &[&str] = &[
    "tokio",
    "tonic",
    "hyper",
    "mio",
    "socket2",
    "openraft",
    "nostr-sdk",
    "nostr-relay-pool",
    "redb",
    "sled",
    "rustls",
];

/// What a pure crate's own code must not name: the clock, the system's randomness, files, sockets, the environment.
const NAMES: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "OsRng",
    "thread_rng",
    "rand::random",
    "getrandom",
    "Keys::generate",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "tokio",
    "tonic",
];

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below `dir` whose name ends in `extension`, apart from build output.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|ending| ending == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of a source file that are compiled into the crate: no comments, nothing from the unit tests at its end on.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let numbered = lines.enumerate().map(|(index, line)| (index + 1, line.to_owned()));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

fn breaches(crates: &[&str], names: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for name in crates {
        let src = root().join("crates").join(name).join("src");
        let sources = files(&src, "rs");
        assert!(!sources.is_empty(), "crates/{name} has no sources");
        // Modules called `tests` are compiled for tests only.
        let compiled = |path: &&PathBuf| {
            let inside = path.strip_prefix(&src).unwrap();
            !inside.with_extension("").components().any(|part| part.as_os_str() == "tests")
        };
        for path in sources.iter().filter(compiled) {
            for (number, line) in code(path) {
                let named = names.iter().filter(|name| line.contains(**name));
                found.extend(named.map(|name| format!("{}:{number}: {name}", path.display())));
            }
        }
    }
    found
}

/// The packages below `package` that are part of its build, tests and build scripts apart.
fn tree(package: &str) -> Vec<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "tree",
            "--offline",
            "--locked",
            "-e",
            "normal",
            "--prefix",
            "none",
            "-f",
            "{p}",
            "-p",
            package,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_pure_crates_know_no_outside() {
    assert_eq!(breaches(PURE, NAMES), Vec::<String>::new());
    for name in PURE {
        let package = format!("concordat-{name}");
        let below = tree(&package);
        assert!(below.contains(&package), "{package}: an empty tree proves nothing");
        let found: Vec<&String> = below.iter().filter(|name| OUTSIDE.contains(&name.as_str())).collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
}

#[test]
fn only_the_node_names_openraft() {
    let crates: Vec<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "node")
        .collect();
    let names: Vec<&str> = crates.iter().map(String::as_str).collect();
    assert_eq!(breaches(&names, &["openraft"]), Vec::<String>::new());
    for name in &crates {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains("openraft"), "crates/{name}/Cargo.toml names openraft");
    }
}

#[test]
fn nothing_of_the_simulator_is_in_the_program() {
    let below = tree("concordat");
    assert!(below.contains(&"concordat-node".to_owned()), "an empty tree proves nothing");
    let found: Vec<&String> =
        below.iter().filter(|name| ["chaos", "openraft-rt-sim"].contains(&name.as_str())).collect();
    assert!(found.is_empty(), "concordat depends on {found:?}");
    assert!(tree("chaos").contains(&"openraft-rt-sim".to_owned()));
    // Rules that are switched off have a module of their own, which no crate of the program names.
    let shipped: Vec<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "finality")
        .collect();
    let names: Vec<&str> = shipped.iter().map(String::as_str).collect();
    assert_eq!(breaches(&names, &["finality::mutants", "Mutant<"]), Vec::<String>::new());
}

#[test]
fn what_is_looked_for_is_found_where_it_is() {
    // The checks above look at real lines: the shell does name all this.
    assert!(!breaches(&["cli"], &["tokio", "SystemTime::now", "std::fs"]).is_empty());
    assert!(tree("concordat").iter().any(|name| name == "tokio"));
}
