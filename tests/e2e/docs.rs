//! What the documents name exists: files, links, crates, commands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use concordat_cli::args::Cli;

use crate::architecture::{files, root};

fn documents() -> Vec<PathBuf> {
    let mut found = files(&root().join("docs"), "md");
    found.push(root().join("README.md"));
    found.push(root().join("tests/SKIPS.md"));
    found
}

/// Texts between backticks, code blocks apart.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Commands of code blocks and quotes: what follows `concordat ` or `cargo run --release -- `.
fn commands(text: &str) -> Vec<String> {
    let plain = text.replace('`', "\n");
    let lines = plain.lines().map(str::trim);
    let started = lines.filter_map(|line| {
        let line = line.trim_start_matches("$ ");
        line.strip_prefix("concordat ").or_else(|| line.strip_prefix("cargo run --release -- "))
    });
    started.map(str::to_owned).collect()
}

#[test]
fn paths_exist() {
    let top = ["crates/", "docs/", "tests/", "proto/", "deploy/", "chaos/", ".ci/"];
    let mut wrong = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for name in quoted(&text) {
            let path = name.split([' ', ',', ':']).next().unwrap_or_default();
            let pattern = path.contains(['*', '<', '{', '$', '…']);
            if top.iter().any(|start| path.starts_with(start)) && !pattern && !root().join(path).exists() {
                wrong.push(format!("{}: `{path}`", document.display()));
            }
        }
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = target.starts_with("http") || path.is_empty() || path.contains(' ');
            if !outside && !document.parent().unwrap_or(Path::new(".")).join(path).exists() {
                wrong.push(format!("{}: link to {path}", document.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn crates_exist() {
    let mut wrong = Vec::new();
    for document in documents() {
        for name in quoted(&fs::read_to_string(&document).unwrap()) {
            let Some(short) = name.strip_prefix("concordat-") else { continue };
            let plain = short.bytes().all(|byte| byte.is_ascii_lowercase());
            if plain && !root().join("crates").join(short).exists() {
                wrong.push(format!("{}: `{name}`", document.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_crate_is_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("`crates/{name}`")), "README.md doesn't name crates/{name}");
    }
}

#[test]
fn commands_exist() {
    let document = root().join("README.md");
    let text = fs::read_to_string(&document).unwrap();
    let found = commands(&text);
    assert!(!found.is_empty());
    for line in found {
        let mut command = Cli::command();
        for word in line.split_whitespace() {
            let next = command.find_subcommand(word).cloned();
            match next {
                Some(next) => command = next,
                // The first word is always a command; later ones may be arguments.
                None if command.get_name() == "concordat" || command.has_subcommands() => {
                    panic!("{}: no command `{word}` in `concordat {line}`", document.display());
                }
                None => break,
            }
        }
        for flag in line.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
            let flag = flag.split('=').next().unwrap_or_default();
            let known =
                flag == "json" || command.get_arguments().any(|argument| argument.get_long() == Some(flag));
            assert!(known, "{}: no flag --{flag} in `concordat {line}`", document.display());
        }
    }
}
