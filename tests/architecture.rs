//! The rules of the house, executed: arrows between crates point down, pure crates stay pure, the pages name what exists,
//! nothing is left undone. Each test reads the tree as text and says file, line and remedy. It judges no behaviour.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test that reads the tree as files

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on whom; the picture in ARCHITECTURE.md says the same, and a package that is missing here is refused.
const ARROWS: &[(&str, &[&str])] = &[
    ("synod", &["cli"]),
    ("cli", &["node", "chain", "agent", "attest", "wire", "simulator", "devchain"]),
    ("node", &["counter", "cluster", "chain", "agent", "attest", "wire"]),
    ("counter", &["wire"]),
    ("cluster", &["wire"]),
    ("chain", &["wire"]),
    ("agent", &[]),
    ("attest", &[]),
    ("wire", &[]),
    ("simulator", &[]),
    ("devchain", &[]),
];

/// Told what happened, answer what to do: `ledger` joins them with the Trade spine issue.
const PURE: &[&str] = &["wire", "attest", "cluster"];

/// What a pure crate may use: arithmetic, text and signatures, nothing that can reach the world.
const PURE_DEPENDENCIES: &[&str] = &["hex", "k256", "pem-rfc7468", "serde", "serde_json", "sha2", "sha3", "thiserror", "zeroize"];

/// Files that are longer than one idea should be, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[(
    "contracts/src/DstackMembershipNFT.sol",
    "one leaf contract by the house style; its key chain is a library already",
)];
const LINES_MAX: usize = 500;

/// The words of the glossary; types, logs, metrics, API and prose use them in this meaning.
const GLOSSARY: &[&str] = &[
    "token", "owner", "operator", "node", "member", "peer", "wallet key", "session key", "incarnation", "evidence",
    "endorsements", "appraisal policy", "verdict", "leader", "coordinator", "term", "office", "ballot", "certificate",
    "promise", "seated", "muted", "cold start", "Members entry", "frame", "link", "received", "delivered",
    "causal message", "settlement", "checkpoint",
];

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: expected a text file, found {why}"))
}

/// Every text file that is committed or would be; without git, every file outside the folders of outputs.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output();
    let names: BTreeSet<String> = match listed {
        Ok(out) if out.status.success() => {
            String::from_utf8_lossy(&out.stdout).split('\0').filter(|n| !n.is_empty()).map(str::to_owned).collect()
        }
        _ => walk(&root(), ""),
    };
    let read = |name: String| Some((name.clone(), std::fs::read_to_string(root().join(name)).ok()?));
    let files: Vec<_> = names.into_iter().filter_map(read).collect();
    assert!(files.len() > 50, "expected the whole tree, found {} files", files.len());
    files
}

fn walk(dir: &Path, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if ["target", "node_modules", "out", "cache", ".solc-cache", ".git"].contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path(), &format!("{path}/")));
        } else {
            found.insert(path);
        }
    }
    found
}

fn rust_files() -> Vec<(String, String)> {
    files().into_iter().filter(|(name, _)| name.ends_with(".rs")).collect()
}

/// The packages of the workspace, as cargo reads the manifests.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// `synod-wire` is `wire`, `dstack-simulator` is `simulator`.
fn short(name: &str) -> &str {
    name.strip_prefix("synod-").or_else(|| name.strip_prefix("dstack-")).unwrap_or(name)
}

/// Names of dependencies; `dev` chooses between those of tests and all others (normal and build).
fn dependencies(package: &Value, dev: bool) -> Vec<(String, bool)> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|d| (d["kind"] == "dev") == dev)
        .map(|d| (d["name"].as_str().unwrap().to_owned(), d["path"].is_string()))
        .collect()
}

fn folder(package: &Value) -> PathBuf {
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}; found {}:\n  {}", found.len(), found.join("\n  "));
}

/// Lines of the fenced block that follows `marker`.
fn block(text: &str, marker: &str) -> Vec<String> {
    let after = text.split_once(marker).unwrap_or_else(|| panic!("expected the marker {marker}, found none")).1;
    let lines = after.lines().skip_while(|l| !l.starts_with("```")).skip(1);
    lines.take_while(|l| !l.starts_with("```")).filter(|l| !l.trim().is_empty()).map(str::to_owned).collect()
}

/// Cells of the table rows under a heading, until the next heading of any level.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let mut lines = text.lines().skip_while(|l| *l != heading);
    assert!(lines.next().is_some(), "expected the heading {heading:?}, found none");
    let rows = lines.take_while(|l| !l.starts_with('#')).filter(|l| l.starts_with('|'));
    rows.skip(2).map(|l| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect()).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn arrows_between_crates_point_down() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in packages() {
        let name = short(package["name"].as_str().unwrap()).to_owned();
        let Some(may) = allowed.get(name.as_str()) else {
            faults.push(format!("{name}: not in ARROWS of tests/architecture.rs; a new crate is a decision"));
            continue;
        };
        for (target, _) in dependencies(&package, false).iter().filter(|(_, ours)| *ours) {
            if !may.contains(&short(target)) {
                faults.push(format!("{name} → {}: expected only {may:?}", short(target)));
            }
        }
        // tests may stand on the simulated world and on pure crates; the root's tests on everything
        for (target, _) in dependencies(&package, true).iter().filter(|(_, ours)| *ours && name != "synod") {
            let target = short(target);
            if !["simulator", "devchain", &name].contains(&target) && !PURE.contains(&target) && !may.contains(&target) {
                faults.push(format!("{name} (tests) → {target}: expected only the simulated world, {PURE:?} or {may:?}"));
            }
        }
    }
    none("arrows between crates point down", &faults);
}

#[test]
fn the_picture_in_architecture_is_the_table_that_is_checked() {
    let drawn: BTreeMap<String, BTreeSet<String>> = block(&read("ARCHITECTURE.md"), "<!-- arrows -->")
        .iter()
        .map(|line| line.split_once('→').unwrap_or_else(|| panic!("expected 'a → b c', found {line:?}")))
        .map(|(from, to)| (from.trim().to_owned(), to.split_whitespace().filter(|w| *w != "–").map(str::to_owned).collect()))
        .collect();
    let checked: BTreeMap<String, BTreeSet<String>> =
        ARROWS.iter().map(|(from, to)| ((*from).to_owned(), to.iter().map(|t| (*t).to_owned()).collect())).collect();
    assert_eq!(drawn, checked, "ARCHITECTURE.md (left) and ARROWS (right) differ");
}

#[test]
fn pure_crates_cannot_reach_the_world() {
    // the words escape the lint: a unit struct by its full path, randomness re-exported by k256
    let words = ["OsRng", "getrandom", "thread_rng", "std::net::Tcp", "std::net::Udp", "std::fs", "std::process", "async fn"];
    let mut faults = Vec::new();
    for package in packages() {
        let name = short(package["name"].as_str().unwrap()).to_owned();
        if !PURE.contains(&name.as_str()) {
            continue;
        }
        if folder(&package).join("clippy.toml").exists() {
            faults.push(format!("src/{name}/clippy.toml: a pure crate lives under the root's rules"));
        }
        for (dependency, ours) in dependencies(&package, false) {
            if !ours && !PURE_DEPENDENCIES.contains(&dependency.as_str()) {
                faults.push(format!("{name} → {dependency}: expected only {PURE_DEPENDENCIES:?}"));
            }
        }
        let sources = rust_files().into_iter().filter(|(f, _)| f.starts_with(&format!("src/{name}/")) && !f.contains("/tests/"));
        for (file, text) in sources {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let found = words.iter().filter(|word| code.contains(**word));
            faults.extend(found.map(|word| format!("{file}: {word}")));
        }
    }
    none("a pure crate has no clock, socket, file, task or randomness", &faults);
}

#[test]
fn a_crate_that_touches_the_world_says_why() {
    let mut faults = Vec::new();
    for package in packages() {
        let name = short(package["name"].as_str().unwrap()).to_owned();
        if name == "synod" || PURE.contains(&name.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(folder(&package).join("clippy.toml")).unwrap_or_default();
        if !text.starts_with("# ") {
            faults.push(format!("{name}: expected a clippy.toml that opens with a comment, found {:?}", text.lines().next()));
        }
        if package["manifest_path"].as_str().is_some_and(|p| !read_manifest(p).contains("[lints]\nworkspace = true")) {
            faults.push(format!("{name}: expected '[lints] workspace = true' in its manifest"));
        }
    }
    none("whoever is not pure carries a clippy.toml with the reason", &faults);
}

fn read_manifest(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn no_second_tls_stack_is_in_the_tree() {
    let lock = read("Cargo.lock");
    let banned = ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"];
    let found: Vec<_> = banned.iter().filter(|n| lock.contains(&format!("name = \"{n}\"\n"))).map(|n| (*n).to_owned()).collect();
    none("ring and rustls are the only TLS in Cargo.lock", &found);
}

#[test]
fn every_dependency_is_a_decision_and_every_decision_a_dependency() {
    let manifest = read("Cargo.toml");
    let table = manifest.split_once("[workspace.dependencies]\n").unwrap().1.split("\n[").next().unwrap();
    let lines = table.lines().filter(|l| !l.starts_with('#') && !l.contains("path = \""));
    let used: BTreeSet<String> = lines.filter_map(|l| Some(l.split_once('=')?.0.trim().to_owned())).collect();
    let told: BTreeSet<String> =
        rows(&read("docs/decisions.md"), "## Dependencies").iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    none("each crate of [workspace.dependencies] has a line in docs/decisions.md", &used.difference(&told).cloned().collect::<Vec<_>>());
    none("no line in docs/decisions.md speaks of a crate that left", &told.difference(&used).cloned().collect::<Vec<_>>());
}

#[test]
fn the_readme_finds_what_it_names() {
    let rows = rows(&read("README.md"), "## Find it");
    assert!(rows.len() >= 12, "expected a table of at least 12 questions, found {}", rows.len());
    let mut faults = Vec::new();
    for row in &rows {
        let [question, file, words] = row.as_slice() else { panic!("expected question | file | words, found {row:?}") };
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
    let roots = ["src/", "tests/", "simulator/", "contracts/", "docs/", ".ci/"];
    let mut faults = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/decisions.md", "docs/measured/README.md"] {
        for path in read(page).lines().filter(|l| !l.starts_with("```")).flat_map(quoted) {
            let path = path.split_whitespace().next().unwrap_or_default();
            let concrete = roots.iter().any(|r| path.starts_with(r)) && !path.contains(['*', '<', '…', '{', ':']);
            if concrete && !root().join(path).exists() {
                faults.push(format!("{page}: {path}"));
            }
        }
    }
    none("a path in a page exists", &faults);
}

#[test]
fn the_glossary_is_complete() {
    let told: BTreeSet<String> = rows(&read("ARCHITECTURE.md"), "## Glossary").iter().map(|row| row[0].clone()).collect();
    let missing: Vec<_> = GLOSSARY.iter().filter(|w| !told.contains(**w)).map(|w| (*w).to_owned()).collect();
    none("ARCHITECTURE.md explains each word of the glossary", &missing);
}

#[test]
fn each_promise_names_the_test_that_tries_to_break_it() {
    let rows = rows(&read("ARCHITECTURE.md"), "## Promises");
    let named: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(named, ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"]);
    let sources = files();
    let sources: Vec<_> = sources.iter().filter(|(f, _)| f.ends_with(".rs") || f.ends_with(".sol")).collect();
    let mut faults = Vec::new();
    for row in &rows {
        let tests: Vec<_> = quoted(&row[2]).collect();
        if tests.is_empty() && !row[2].contains("later") {
            faults.push(format!("{}: expected a test or the word later, found {:?}", row[0], row[2]));
        }
        let exists = |test: &str| sources.iter().any(|(_, text)| ["fn", "function"].iter().any(|f| text.contains(&format!("{f} {test}("))));
        faults.extend(tests.iter().filter(|t| !exists(t)).map(|t| format!("{}: no test is called {t}", row[0])));
    }
    none("a promise names tests that exist, or says later", &faults);
}

#[test]
fn nothing_is_ignored_or_left_undone() {
    let needles = [concat!("#[ign", "ore"), concat!("to", "do!("), concat!("unimpl", "emented!("), concat!("FIX", "ME"), concat!("dbg", "!(")];
    let mut faults = Vec::new();
    for (file, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if needles.iter().any(|needle| line.contains(needle)) {
                faults.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("what is unfinished refuses loudly; it is not marked and left", &faults);
}

#[test]
fn a_skipped_test_is_seen_by_whoever_runs_it() {
    // cargo test swallows print! and eprintln! of a test that passes; writeln!(std::io::stderr(), …) goes through
    let mut faults = Vec::new();
    for (file, text) in rust_files().into_iter().filter(|(f, _)| f != "tests/architecture.rs") {
        let lines: Vec<_> = text.lines().collect();
        for number in (0..lines.len()).filter(|n| lines[*n].contains("\"SKIPPED ")) {
            let swallowed = ["print!(", "println!("].iter().any(|call| lines[number.saturating_sub(2)..=number].iter().any(|l| l.contains(call)));
            if swallowed {
                faults.push(format!("{file}:{}: use writeln!(std::io::stderr(), …)", number + 1));
            }
        }
    }
    none("a skipped test is listed, so its line bypasses the capture", &faults);
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let needles = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let mut faults = Vec::new();
    for (file, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let absolute = |needle: &&str| line.match_indices(*needle).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c)));
            if needles.iter().any(|n| absolute(n)) {
                faults.push(format!("{file}:{}: a path of one machine", number + 1));
            }
            let registry = match file.rsplit('/').next().unwrap_or_default() {
                "Cargo.lock" => line.starts_with("source = ") && !line.contains("github.com/rust-lang/crates.io-index\""),
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
    let mut faults = Vec::new();
    for (file, text) in files() {
        let code = ["src/", "simulator/", "tests/", "contracts/src/"].iter().any(|r| file.starts_with(r));
        let lines = text.lines().count();
        if code && (file.ends_with(".rs") || file.ends_with(".sol")) && lines > LINES_MAX && !LONG_FILES.iter().any(|(f, _)| *f == file) {
            faults.push(format!("{file}: {lines} lines"));
        }
    }
    for (file, reason) in LONG_FILES {
        if read(file).lines().count() <= LINES_MAX {
            faults.push(format!("{file}: short again, take it off the list ({reason})"));
        }
    }
    none("a file has at most 500 lines", &faults);
}

#[test]
fn every_file_says_what_it_is() {
    let mut faults = Vec::new();
    for (file, text) in files() {
        let fits = match file.rsplit('.').next().unwrap_or_default() {
            "rs" => text.starts_with("//! "),
            "sol" => {
                let mut head = text.lines().take_while(|l| !["contract ", "abstract ", "library ", "interface "].iter().any(|k| l.starts_with(k)));
                head.any(|l| l.starts_with("/// ") || (l.starts_with("// ") && !l.contains("SPDX")))
            }
            "toml" if file.ends_with("clippy.toml") => text.starts_with("# "),
            _ if text.starts_with("#!/usr/bin/env bash") => text.lines().nth(1).is_some_and(|l| l.starts_with("# ")),
            _ => true,
        };
        if !fits {
            faults.push(format!("{file}: {:?}", text.lines().next().unwrap_or_default()));
        }
    }
    none("a file opens with one to ten lines on what it is", &faults);
}

#[test]
fn the_image_runs_the_binary_that_it_builds() {
    let dockerfile = read("Dockerfile");
    let lines = |word: &str| dockerfile.lines().filter(|l| l.starts_with(word)).map(str::to_owned).collect::<Vec<_>>();
    let [build] = &lines("RUN cargo build ")[..] else { panic!("Dockerfile: expected one 'RUN cargo build' line") };
    for option in ["--release", "--locked", "--no-default-features", "--bin synod"] {
        assert!(build.contains(option), "Dockerfile: expected {option} in {build:?}");
    }
    assert_eq!(lines("COPY --from="), ["COPY --from=build /build/target/release/synod /synod"]);
    assert_eq!(lines("ENTRYPOINT"), ["ENTRYPOINT [\"/synod\", \"node\"]"]);
    let defaults = lines("ARG ").into_iter().filter(|l| l.contains('=')).collect::<Vec<_>>();
    none("base images have no default: a moving tag is nobody's choice", &defaults);

    let binaries = packages().into_iter().find(|p| p["name"] == "synod").unwrap()["targets"].clone();
    assert!(binaries.as_array().unwrap().iter().any(|t| t["name"] == "synod" && t["kind"][0] == "bin"), "no binary synod in Cargo.toml");
    let compose = read("app-compose.yaml");
    assert!(compose.contains("\n    entrypoint: [\"/synod\", \"node\"]\n"), "app-compose.yaml starts another binary than the Dockerfile");
    assert!(compose.contains("\n    image: \"synod@sha256:"), "app-compose.yaml: expected the image by digest, as a literal");
    assert!(!compose.contains('\t'), "app-compose.yaml: a tab is no YAML");
    let config = read("src/node/config.rs");
    let names: Vec<_> = compose.lines().filter_map(|l| l.strip_prefix("      ")?.split_once(": ")).map(|(name, _)| name).collect();
    assert!(names.len() >= 6, "expected the environment's names, found {names:?}");
    let unknown: Vec<_> = names.iter().filter(|n| !config.contains(&format!("\"{n}\""))).map(|n| (*n).to_owned()).collect();
    none("app-compose.yaml sets only variables that src/node/config.rs reads", &unknown);
}

#[test]
fn ci_runs_what_the_readme_promises() {
    let readme = read("README.md");
    let [command] = &block(&readme, "<!-- ci:test -->")[..] else { panic!("README.md: expected one command after the marker") };
    assert!(command.starts_with("cargo test --release --workspace"), "README.md: found {command:?} after the marker");
    assert!(block(&readme, "<!-- start -->").contains(&"cargo run --release -- up".to_owned()), "README.md: the first command is gone");
    let ci = read(".ci/run");
    assert!(ci.contains("<!-- ci:test -->") && !ci.contains("cargo test"), ".ci/run reads the test command from README.md and repeats none");
    for part in ["cargo fmt --all --check", "clippy", "-D warnings", "contracts/tools/gate", "cargo deny", "Dockerfile", ".ci/campaign"] {
        assert!(ci.contains(part), ".ci/run: expected {part:?}");
    }
}
