//! The image, the compose text and the gate use the commands and names that others promise.

use super::tree::{block, none, packages, read};

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table of what the two files must say"
)]
fn the_image_runs_the_binary_that_it_builds() {
    let dockerfile = read("Dockerfile");
    let lines = |word: &str| {
        dockerfile
            .lines()
            .filter(|l| l.starts_with(word))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let [build] = &lines("RUN cargo build ")[..] else {
        panic!("Dockerfile: expected one 'RUN cargo build' line")
    };
    for option in [
        "--release",
        "--locked",
        "--no-default-features",
        "--bin synod",
    ] {
        assert!(
            build.contains(option),
            "Dockerfile: expected {option} in {build:?}"
        );
    }
    assert_eq!(
        lines("COPY --from="),
        ["COPY --from=build /build/target/release/synod /synod"]
    );
    assert_eq!(lines("ENTRYPOINT"), ["ENTRYPOINT [\"/synod\", \"node\"]"]);
    let defaults = lines("ARG ")
        .into_iter()
        .filter(|l| l.contains('='))
        .collect::<Vec<_>>();
    none(
        "base images have no default: a moving tag is nobody's choice",
        &defaults,
    );

    let binaries = packages()
        .into_iter()
        .find(|p| p["name"] == "synod")
        .unwrap()["targets"]
        .clone();
    assert!(
        binaries
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["name"] == "synod" && t["kind"][0] == "bin"),
        "no binary synod in Cargo.toml"
    );
    let compose = read("app-compose.yaml");
    assert!(
        compose.contains("\n    entrypoint: [\"/synod\", \"node\"]\n"),
        "app-compose.yaml starts another binary than the Dockerfile"
    );
    assert!(
        compose.contains("\n    image: \"synod@sha256:"),
        "app-compose.yaml: expected the image by digest, as a literal"
    );
    assert!(
        !compose.contains('\t'),
        "app-compose.yaml: a tab is no YAML"
    );
    let config = read("src/node/config.rs");
    let names: Vec<_> = compose
        .lines()
        .filter_map(|l| l.strip_prefix("      ")?.split_once(": "))
        .map(|(name, _)| name)
        .collect();
    assert!(
        names.len() >= 6,
        "expected the environment's names, found {names:?}"
    );
    let unknown: Vec<_> = names
        .iter()
        .filter(|n| !config.contains(&format!("\"{n}\"")))
        .map(|n| (*n).to_owned())
        .collect();
    none(
        "app-compose.yaml sets only variables that src/node/config.rs reads",
        &unknown,
    );
}

#[test]
fn ci_runs_what_the_readme_promises() {
    let readme = read("README.md");
    let [command] = &block(&readme, "<!-- ci:test -->")[..] else {
        panic!("README.md: expected one command after the marker")
    };
    assert!(
        command.starts_with("cargo test --release --workspace"),
        "README.md: found {command:?} after the marker"
    );
    assert!(
        block(&readme, "<!-- start -->").contains(&"cargo run --release -- up".to_owned()),
        "README.md: the first command is gone"
    );
    let [command] = &block(&readme, "<!-- ci:anvil -->")[..] else {
        panic!("README.md: expected one command after the second marker")
    };
    assert!(
        command.starts_with("SYNOD_TEST_CHAIN=anvil cargo test --release"),
        "README.md: found {command:?} after the second marker"
    );
    let ci = read(".ci/run");
    assert!(
        ci.contains("readme_command ci:test")
            && ci.contains("readme_command ci:anvil")
            && !ci.contains("cargo test"),
        ".ci/run reads the test commands from README.md and repeats none"
    );
    for part in [
        "cargo fmt --all --check",
        "clippy",
        "-D warnings",
        "contracts/tools/gate",
        "cargo deny",
        "Dockerfile",
        ".ci/campaign",
    ] {
        assert!(ci.contains(part), ".ci/run: expected {part:?}");
    }
}
