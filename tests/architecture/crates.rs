//! Who may depend on whom and on what; who may touch the world.

use super::tree::{block, dependencies, folder, none, packages, read, rows, rust_files, short};
use std::collections::{BTreeMap, BTreeSet};

/// Who may depend on whom; the picture in ARCHITECTURE.md says the same, and a package that is missing here is refused.
const ARROWS: &[(&str, &[&str])] = &[
    ("synod", &["cli"]),
    (
        "cli",
        &[
            "node",
            "chain",
            "agent",
            "attest",
            "wire",
            "simulator",
            "devchain",
        ],
    ),
    (
        "node",
        &[
            "counter", "cluster", "ledger", "chain", "agent", "attest", "wire",
        ],
    ),
    ("counter", &["ledger", "wire"]),
    ("cluster", &["wire"]),
    ("ledger", &["wire"]),
    ("chain", &["wire"]),
    ("agent", &[]),
    ("attest", &[]),
    ("wire", &[]),
    ("simulator", &[]),
    ("devchain", &[]),
];

/// Told what happened, answer what to do.
const PURE: &[&str] = &["wire", "attest", "cluster", "ledger"];

/// What a pure crate may use: arithmetic, text and signatures, nothing that can reach the world.
const PURE_DEPENDENCIES: &[&str] = &[
    "hex",
    "k256",
    "pem-rfc7468",
    "serde",
    "serde_json",
    "sha2",
    "sha3",
    "thiserror",
    "zeroize",
];

#[test]
fn arrows_between_crates_point_down() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in packages() {
        let name = short(package["name"].as_str().unwrap()).to_owned();
        let Some(may) = allowed.get(name.as_str()) else {
            faults.push(format!(
                "{name}: not in ARROWS of tests/architecture/crates.rs; a new crate is a decision"
            ));
            continue;
        };
        for (target, _) in dependencies(&package, false)
            .iter()
            .filter(|(_, ours)| *ours)
        {
            if !may.contains(&short(target)) {
                faults.push(format!("{name} → {}: expected only {may:?}", short(target)));
            }
        }
        // tests may stand on the simulated world and on pure crates; the root's tests on everything
        for (target, _) in dependencies(&package, true)
            .iter()
            .filter(|(_, ours)| *ours && name != "synod")
        {
            let target = short(target);
            if !["simulator", "devchain", &name].contains(&target)
                && !PURE.contains(&target)
                && !may.contains(&target)
            {
                faults.push(format!("{name} (tests) → {target}: expected only the simulated world, {PURE:?} or {may:?}"));
            }
        }
    }
    none("arrows between crates point down", &faults);
}

#[test]
fn the_picture_in_architecture_is_the_table_that_is_checked() {
    let drawn: BTreeMap<String, BTreeSet<String>> =
        block(&read("ARCHITECTURE.md"), "<!-- arrows -->")
            .iter()
            .map(|line| {
                line.split_once('→')
                    .unwrap_or_else(|| panic!("expected 'a → b c', found {line:?}"))
            })
            .map(|(from, to)| {
                (
                    from.trim().to_owned(),
                    to.split_whitespace()
                        .filter(|w| *w != "–")
                        .map(str::to_owned)
                        .collect(),
                )
            })
            .collect();
    let checked: BTreeMap<String, BTreeSet<String>> = ARROWS
        .iter()
        .map(|(from, to)| {
            (
                (*from).to_owned(),
                to.iter().map(|t| (*t).to_owned()).collect(),
            )
        })
        .collect();
    assert_eq!(
        drawn, checked,
        "ARCHITECTURE.md (left) and ARROWS (right) differ"
    );
}

#[test]
fn pure_crates_cannot_reach_the_world() {
    // the words escape the lint: a unit struct by its full path, randomness re-exported by k256
    let words = [
        "OsRng",
        "getrandom",
        "thread_rng",
        "std::net::Tcp",
        "std::net::Udp",
        "std::fs",
        "std::process",
        "async fn",
    ];
    let mut faults = Vec::new();
    for package in packages() {
        let name = short(package["name"].as_str().unwrap()).to_owned();
        if !PURE.contains(&name.as_str()) {
            continue;
        }
        if folder(&package).join("clippy.toml").exists() {
            faults.push(format!(
                "src/{name}/clippy.toml: a pure crate lives under the root's rules"
            ));
        }
        for (dependency, ours) in dependencies(&package, false) {
            if !ours && !PURE_DEPENDENCIES.contains(&dependency.as_str()) {
                faults.push(format!(
                    "{name} → {dependency}: expected only {PURE_DEPENDENCIES:?}"
                ));
            }
        }
        let sources = rust_files()
            .into_iter()
            .filter(|(f, _)| f.starts_with(&format!("src/{name}/")) && !f.contains("/tests/"));
        for (file, text) in sources {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let found = words.iter().filter(|word| code.contains(**word));
            faults.extend(found.map(|word| format!("{file}: {word}")));
        }
    }
    none(
        "a pure crate has no clock, socket, file, task or randomness",
        &faults,
    );
}

#[test]
fn a_crate_that_touches_the_world_says_why() {
    let mut faults = Vec::new();
    for package in packages() {
        let name = short(package["name"].as_str().unwrap()).to_owned();
        if name == "synod" || PURE.contains(&name.as_str()) {
            continue;
        }
        let text =
            std::fs::read_to_string(folder(&package).join("clippy.toml")).unwrap_or_default();
        if !text.starts_with("# ") {
            faults.push(format!(
                "{name}: expected a clippy.toml that opens with a comment, found {:?}",
                text.lines().next()
            ));
        }
        if package["manifest_path"]
            .as_str()
            .is_some_and(|p| !read_manifest(p).contains("[lints]\nworkspace = true"))
        {
            faults.push(format!(
                "{name}: expected '[lints] workspace = true' in its manifest"
            ));
        }
    }
    none(
        "whoever is not pure carries a clippy.toml with the reason",
        &faults,
    );
}

fn read_manifest(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn no_second_tls_stack_is_in_the_tree() {
    let lock = read("Cargo.lock");
    let banned = [
        "aws-lc-rs",
        "aws-lc-sys",
        "openssl",
        "openssl-sys",
        "native-tls",
    ];
    let found: Vec<_> = banned
        .iter()
        .filter(|n| lock.contains(&format!("name = \"{n}\"\n")))
        .map(|n| (*n).to_owned())
        .collect();
    none("ring and rustls are the only TLS in Cargo.lock", &found);
}

#[test]
fn every_dependency_is_a_decision_and_every_decision_a_dependency() {
    let manifest = read("Cargo.toml");
    let table = manifest
        .split_once("[workspace.dependencies]\n")
        .unwrap()
        .1
        .split("\n[")
        .next()
        .unwrap();
    let lines = table
        .lines()
        .filter(|l| !l.starts_with('#') && !l.contains("path = \""));
    let used: BTreeSet<String> = lines
        .filter_map(|l| Some(l.split_once('=')?.0.trim().to_owned()))
        .collect();
    let told: BTreeSet<String> = rows(&read("docs/decisions.md"), "## Dependencies")
        .iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    none(
        "each crate of [workspace.dependencies] has a line in docs/decisions.md",
        &used.difference(&told).cloned().collect::<Vec<_>>(),
    );
    none(
        "no line in docs/decisions.md speaks of a crate that left",
        &told.difference(&used).cloned().collect::<Vec<_>>(),
    );
}
