//! What no committed file may hold, and what each has to say.

use super::tree::{files, none, read, rust_files};

/// Files that are longer than one idea should be, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[(
    "contracts/src/DstackMembershipNFT.sol",
    "one leaf contract by the house style; its key chain is a library already",
)];

const LINES_MAX: usize = 500;
/// A suite is a list of sentences over one world; cut by length it would need that world twice.
const SUITE_LINES_MAX: usize = 700;

#[test]
fn nothing_is_ignored_or_left_undone() {
    let needles = [
        concat!("#[ign", "ore"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
    ];
    let mut faults = Vec::new();
    for (file, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if needles.iter().any(|needle| line.contains(needle)) {
                faults.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none(
        "what is unfinished refuses loudly; it is not marked and left",
        &faults,
    );
}

#[test]
fn a_skipped_test_is_seen_by_whoever_runs_it() {
    // cargo test swallows print! and eprintln! of a test that passes; writeln!(std::io::stderr(), …) goes through
    let mut faults = Vec::new();
    for (file, text) in rust_files()
        .into_iter()
        .filter(|(f, _)| f != "tests/architecture/text.rs")
    {
        let lines: Vec<_> = text.lines().collect();
        for number in (0..lines.len()).filter(|n| lines[*n].contains("\"SKIPPED ")) {
            let swallowed = ["print!(", "println!("].iter().any(|call| {
                lines[number.saturating_sub(2)..=number]
                    .iter()
                    .any(|l| l.contains(call))
            });
            if swallowed {
                faults.push(format!(
                    "{file}:{}: use writeln!(std::io::stderr(), …)",
                    number + 1
                ));
            }
        }
    }
    none(
        "a skipped test is listed, so its line bypasses the capture",
        &faults,
    );
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let needles = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
    ];
    let mut faults = Vec::new();
    for (file, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let absolute = |needle: &&str| {
                line.match_indices(*needle).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c))
                })
            };
            if needles.iter().any(absolute) {
                faults.push(format!("{file}:{}: a path of one machine", number + 1));
            }
            let registry = match file.rsplit('/').next().unwrap_or_default() {
                "Cargo.lock" => {
                    line.starts_with("source = ")
                        && !line.contains("github.com/rust-lang/crates.io-index\"")
                }
                "package-lock.json" => line.contains("\"resolved\":"),
                ".npmrc" | "config.toml" | "pip.conf" => line.contains("://"),
                _ => false,
            };
            if registry {
                faults.push(format!("{file}:{}: a registry host", number + 1));
            }
        }
    }
    none("committed text works on every machine", &faults);
}

#[test]
fn a_file_is_one_idea_long() {
    let roots = ["src/", "simulator/", "tests/", "contracts/src/"];
    let is_code = |file: &str| {
        roots.iter().any(|r| file.starts_with(r))
            && [".rs", ".sol"].iter().any(|e| file.ends_with(e))
    };
    let mut faults = Vec::new();
    for (file, text) in files().into_iter().filter(|(file, _)| is_code(file)) {
        let suite =
            file.contains("tests/") || file.ends_with("/tests.rs") || file.ends_with("/suite.rs");
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let (lines, most) = if suite {
            (text.lines().count(), SUITE_LINES_MAX)
        } else {
            (code.lines().count(), LINES_MAX)
        };
        if lines > most && !LONG_FILES.iter().any(|(f, _)| *f == file) {
            faults.push(format!("{file}: {lines} lines, at most {most}"));
        }
    }
    for (file, reason) in LONG_FILES {
        if read(file).lines().count() <= LINES_MAX {
            faults.push(format!(
                "{file}: short again, take it off the list ({reason})"
            ));
        }
    }
    none("a file is one idea", &faults);
}

#[test]
fn every_file_says_what_it_is() {
    let mut faults = Vec::new();
    for (file, text) in files() {
        let fits = match file.rsplit('.').next().unwrap_or_default() {
            "rs" => text.starts_with("//! "),
            "sol" => {
                let mut head = text.lines().take_while(|l| {
                    !["contract ", "abstract ", "library ", "interface "]
                        .iter()
                        .any(|k| l.starts_with(k))
                });
                head.any(|l| l.starts_with("/// ") || (l.starts_with("// ") && !l.contains("SPDX")))
            }
            "toml" if file.ends_with("clippy.toml") => text.starts_with("# "),
            _ if text.starts_with("#!/usr/bin/env bash") => {
                text.lines().nth(1).is_some_and(|l| l.starts_with("# "))
            }
            _ => true,
        };
        if !fits {
            faults.push(format!(
                "{file}: {:?}",
                text.lines().next().unwrap_or_default()
            ));
        }
    }
    none("a file opens with one to ten lines on what it is", &faults);
}
