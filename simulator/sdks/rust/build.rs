//! Takes the Rust hello out of the simulator's page, so that what the page shows is what is compiled and run.

use std::{env, error::Error, fs, path::Path};

const PAGE: &str = "../../README.md";
const MARKER: &str = "<!-- hello:rust -->\n```rust\n";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PAGE}");
    let page = fs::read_to_string(PAGE)?;
    let after = page
        .split_once(MARKER)
        .ok_or_else(|| format!("expected {MARKER:?} in {PAGE}, found none"))?
        .1;
    let block = after
        .split_once("```\n")
        .ok_or("expected the end of the block, found none")?
        .0;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("hello.rs"), block)?;
    Ok(())
}
