//! What the pages promise exists: paths, words, tests.

use super::tree::{files, none, quoted, read, root, rows};
use std::collections::BTreeSet;

/// The words of the glossary; types, logs, metrics, API and prose use them in this meaning.
const GLOSSARY: &[&str] = &[
    "token",
    "owner",
    "operator",
    "node",
    "member",
    "peer",
    "wallet key",
    "session key",
    "incarnation",
    "evidence",
    "endorsements",
    "appraisal policy",
    "verdict",
    "leader",
    "coordinator",
    "term",
    "office",
    "ballot",
    "certificate",
    "promise",
    "seated",
    "muted",
    "cold start",
    "Members entry",
    "frame",
    "link",
    "received",
    "delivered",
    "causal message",
    "settlement",
    "checkpoint",
];

#[test]
fn the_readme_finds_what_it_names() {
    let rows = rows(&read("README.md"), "## Find it");
    assert!(
        rows.len() >= 12,
        "expected a table of at least 12 questions, found {}",
        rows.len()
    );
    let mut faults = Vec::new();
    for row in &rows {
        let [question, file, words] = row.as_slice() else {
            panic!("expected question | file | words, found {row:?}")
        };
        let file = file.trim_matches('`');
        let Ok(text) = std::fs::read_to_string(root().join(file)) else {
            faults.push(format!("{question} {file}: no such file"));
            continue;
        };
        let missing = quoted(words).filter(|word| !text.contains(*word));
        faults.extend(missing.map(|word| format!("{question} {file}: does not contain {word:?}")));
    }
    none("README's table leads to files that hold the words", &faults);
}

#[test]
fn the_pages_name_paths_that_exist() {
    let roots = [
        "src/",
        "tests/",
        "simulator/",
        "contracts/",
        "docs/",
        ".ci/",
    ];
    let mut faults = Vec::new();
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/decisions.md",
        "docs/measured/README.md",
    ] {
        for path in read(page)
            .lines()
            .filter(|l| !l.starts_with("```"))
            .flat_map(quoted)
        {
            let path = path.split_whitespace().next().unwrap_or_default();
            let concrete = roots.iter().any(|r| path.starts_with(r))
                && !path.contains(['*', '<', '…', '{', ':']);
            if concrete && !root().join(path).exists() {
                faults.push(format!("{page}: {path}"));
            }
        }
    }
    none("a path in a page exists", &faults);
}

#[test]
fn the_glossary_is_complete() {
    let told: BTreeSet<String> = rows(&read("ARCHITECTURE.md"), "## Glossary")
        .iter()
        .map(|row| row[0].clone())
        .collect();
    let missing: Vec<_> = GLOSSARY
        .iter()
        .filter(|w| !told.contains(**w))
        .map(|w| (*w).to_owned())
        .collect();
    none(
        "ARCHITECTURE.md explains each word of the glossary",
        &missing,
    );
}

#[test]
fn each_promise_names_the_test_that_tries_to_break_it() {
    let rows = rows(&read("ARCHITECTURE.md"), "## Promises");
    let named: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(named, ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"]);
    let sources = files();
    let sources: Vec<_> = sources
        .iter()
        .filter(|(f, _)| f.ends_with(".rs") || f.ends_with(".sol"))
        .collect();
    let mut faults = Vec::new();
    for row in &rows {
        let tests: Vec<_> = quoted(&row[2]).collect();
        if tests.is_empty() && !row[2].contains("later") {
            faults.push(format!(
                "{}: expected a test or the word later, found {:?}",
                row[0], row[2]
            ));
        }
        let exists = |test: &str| {
            sources.iter().any(|(_, text)| {
                ["fn", "function"]
                    .iter()
                    .any(|f| text.contains(&format!("{f} {test}(")))
            })
        };
        faults.extend(
            tests
                .iter()
                .filter(|t| !exists(t))
                .map(|t| format!("{}: no test is called {t}", row[0])),
        );
    }
    none("a promise names tests that exist, or says later", &faults);
}
