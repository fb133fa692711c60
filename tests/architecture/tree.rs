//! The tree as text: committed files, manifests as cargo reads them, tables and blocks of the pages.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn root() -> PathBuf {
    PathBuf::from(
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()),
    )
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|why| panic!("{path}: expected a text file, found {why}"))
}

/// Every text file that is committed or would be; without git, every file outside the folders of outputs.
pub fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root())
        .output();
    let names: BTreeSet<String> = match listed {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout)
            .split('\0')
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect(),
        _ => walk(&root(), ""),
    };
    let read = |name: String| {
        Some((
            name.clone(),
            std::fs::read_to_string(root().join(name)).ok()?,
        ))
    };
    let files: Vec<_> = names.into_iter().filter_map(read).collect();
    assert!(
        files.len() > 50,
        "expected the whole tree, found {} files",
        files.len()
    );
    files
}

pub fn walk(dir: &Path, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if [
            "target",
            "node_modules",
            "out",
            "cache",
            ".solc-cache",
            ".git",
        ]
        .contains(&name.as_str())
        {
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

pub fn rust_files() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .collect()
}

/// The packages of the workspace, as cargo reads the manifests.
pub fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args([
            "metadata",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// `synod-wire` is `wire`, `dstack-simulator` is `simulator`.
pub fn short(name: &str) -> &str {
    name.strip_prefix("synod-")
        .or_else(|| name.strip_prefix("dstack-"))
        .unwrap_or(name)
}

/// Names of dependencies; `dev` chooses between those of tests and all others (normal and build).
pub fn dependencies(package: &Value, dev: bool) -> Vec<(String, bool)> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|d| (d["kind"] == "dev") == dev)
        .map(|d| {
            (
                d["name"].as_str().unwrap().to_owned(),
                d["path"].is_string(),
            )
        })
        .collect()
}

pub fn folder(package: &Value) -> PathBuf {
    Path::new(package["manifest_path"].as_str().unwrap())
        .parent()
        .unwrap()
        .to_owned()
}

pub fn none(rule: &str, found: &[String]) {
    assert!(
        found.is_empty(),
        "{rule}; found {}:\n  {}",
        found.len(),
        found.join("\n  ")
    );
}

/// Lines of the fenced block that follows `marker`.
pub fn block(text: &str, marker: &str) -> Vec<String> {
    let after = text
        .split_once(marker)
        .unwrap_or_else(|| panic!("expected the marker {marker}, found none"))
        .1;
    let lines = after.lines().skip_while(|l| !l.starts_with("```")).skip(1);
    lines
        .take_while(|l| !l.starts_with("```"))
        .filter(|l| !l.trim().is_empty())
        .map(str::to_owned)
        .collect()
}

/// Cells of the table rows under a heading, until the next heading of any level.
pub fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let mut lines = text.lines().skip_while(|l| *l != heading);
    assert!(
        lines.next().is_some(),
        "expected the heading {heading:?}, found none"
    );
    let rows = lines
        .take_while(|l| !l.starts_with('#'))
        .filter(|l| l.starts_with('|'));
    rows.skip(2)
        .map(|l| {
            l.trim_matches('|')
                .split('|')
                .map(|c| c.trim().to_owned())
                .collect()
        })
        .collect()
}

/// What stands between backticks.
pub fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
